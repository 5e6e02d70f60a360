"""Batch norm over the batch of all ranks: in training mode, and by the batch's statistics in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lenient.core import ranks
from lenient.core.errors import TeacherError
from lenient.core.reductions import batch_moments, own_moments

Statistics = Literal["running", "batch"]
"""What batch norms normalise by in eval mode: what they stored in training, or the batch that they are given."""
OnRun = Callable[[nn.Module, Tensor, Tensor, int], None]
"""Called for each layer that runs, with its mean and biased variance, (channels,) each, and values per channel."""
STORED = ("running_mean", "running_var")


_AS_ONE: ContextVar[bool] = ContextVar("as_one", default=False)


@contextmanager
def one_batch() -> Iterator[None]:
    """Let batch norm in training mode normalise over the batch of all ranks, without a change to any module; the same
    of `extremes`."""
    token = _AS_ONE.set(True)
    try:
        with _GlobalBatchNorm() if ranks.count() > 1 else nullcontext():
            yield
    finally:
        _AS_ONE.reset(token)


def extremes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the largest of `values`; within `one_batch` of those of all ranks, elsewhere of its own."""
    low, high = torch.aminmax(values.detach())
    if not _AS_ONE.get():
        return low, high
    both = ranks.gather(torch.stack([low, high])[None])
    return both[:, 0].amin(), both[:, 1].amax()


@contextmanager
def by_batch(layers: Sequence[nn.Module], on_run: OnRun | None = None, *, alone: bool = False) -> Iterator[None]:
    """Let batch-norm layers in eval mode normalise by mean and biased variance of their batch, that of all ranks.

    While a layer runs, the batch's statistics stand before the stored ones, which are not touched: an attribute of the
    instance hides a buffer, whatever kind of layer it belongs to. Gradients go through the statistics, twice if need
    be. Hooks that were armed before still find what is stored. All else stays in eval mode.

    Args:
        layers: with `running_mean` and `running_var`, as `models.probing.batch_norm_layers` finds them.
        on_run: called at each run of a layer.
        alone: this rank's rows are the batch.

    Raises:
        TeacherError: a layer computes what it has stored, so that nothing can stand before it.
    """
    before: dict[nn.Module, dict[str, Tensor]] = {}
    among = 1 if alone else ranks.count()

    def show(layer: nn.Module, args: tuple[Any, ...]) -> None:
        moments = own_moments(args[0]) if alone else batch_moments(args[0])
        own = vars(layer)
        before[layer] = {name: own[name] for name in STORED if name in own}
        own.update(zip(STORED, moments, strict=True))
        if any(getattr(layer, name) is not own[name] for name in STORED):
            raise TeacherError(
                f"the {type(layer).__name__} layers compute their statistics, so that those of a batch cannot stand in "
                "for them: normalise by running statistics instead"
            )
        if on_run is not None:
            on_run(layer, *moments, args[0].numel() // args[0].shape[1] * among)

    def hide(layer: nn.Module, *_: Any) -> None:
        for name in STORED if layer in before else ():
            del vars(layer)[name]
        vars(layer).update(before.pop(layer, {}))

    with ExitStack() as armed:
        for layer in layers:
            armed.callback(hide, layer)  # a forward that failed leaves them there
            armed.callback(layer.register_forward_pre_hook(show).remove)
            armed.callback(layer.register_forward_hook(hide).remove)
        armed.enter_context(_Differentiable() if torch.is_grad_enabled() else nullcontext())
        yield


class _Differentiable(TorchFunctionMode):
    """Stands in for `F.batch_norm` in eval mode, whose stored statistics are given no gradient."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is F.batch_norm:
            return _by_given(*args, **given)
        return func(*args, **given)


def _by_given(
    values: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or mean is None or variance is None or not (mean.requires_grad or variance.requires_grad):
        return F.batch_norm(values, mean, variance, weight, bias, training, momentum, eps)
    return _normalised(values, mean, variance, weight, bias, eps)


class _GlobalBatchNorm(TorchFunctionMode):
    """Stands in for `F.batch_norm`; torch's SyncBatchNorm knows neither CPUs nor second derivatives."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def _batch_norm(
    values: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(values, running_mean, running_var, weight, bias, training, momentum, eps)
    mean, variance = batch_moments(values)
    if running_mean is not None and running_var is not None:
        count = values.numel() // values.shape[1] * ranks.count()
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * (count / max(count - 1, 1))).to(running_var.dtype), momentum)
    return _normalised(values, mean, variance, weight, bias, eps)


def _normalised(
    values: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Normalise (N, C, ...) by statistics of its own, to which gradients go."""
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    zeros, ones = torch.zeros_like(mean), torch.ones_like(mean)
    return F.batch_norm(values, zeros, ones, scale, shift, training=False, eps=0.0)  # see _Moments
