"""The guard: an update with non-finite numbers leaves networks and optimizers as they were."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lenient.core.errors import UsageError
from lenient.core.optimizers import skips_itself, step_unless

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Guard:
    """Undoes what an update with non-finite numbers did to the networks, without asking the host.

    Buffers, which a forward pass in training mode moves, are put back by selection on the device, all of a type at
    once: hundreds of small ones would keep an accelerator waiting. `step` leaves weights and the optimizer's state as
    they were.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for module in modules:
            for buffer in module.buffers():
                kinds.setdefault((buffer.dtype, buffer.device), []).append(buffer)
        self._kinds = list(kinds.values())

    @contextmanager
    def watch(self) -> Iterator[Callable[[Iterable[Tensor]], Tensor]]:
        """Open a step; call the yielded function with the tensors that must be finite, it returns a 0/1 float `bad`."""
        before = [_flat(kind) for kind in self._kinds]

        def settle(tensors: Iterable[Tensor]) -> Tensor:
            bad = any_nonfinite(tensors)
            for kind, old in zip(self._kinds, before, strict=True):
                parts = torch.where(bad > 0, old, _flat(kind)).split([buffer.numel() for buffer in kind])
                torch._foreach_copy_(kind, [part.view(own.shape) for part, own in zip(parts, kind, strict=True)])
            return bad

        yield settle

    @torch.no_grad()
    def step(self, optimizer: Optimizer, bad: Tensor) -> None:
        """Step, but leave weights and state as they are where `bad` is 1.

        torch's fused optimizers skip by themselves. Others step with gradients of zero there, so that a first step
        makes state without a NaN, and what they have moved is put back; counts that they keep on the host go on.
        """
        if skips_itself(optimizer):
            step_unless(optimizer, bad)
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = torch.where(bad > 0, torch.zeros_like(parameter.grad), parameter.grad)
        weights = [parameter.clone() for parameter in parameters]
        state = {key: value.clone() for key, value in _tensors_of(optimizer) if value.device == bad.device}
        optimizer.step()
        for parameter, old in zip(parameters, weights, strict=True):
            parameter.copy_(torch.where(bad > 0, old, parameter))
        for key, value in _tensors_of(optimizer):  # some optimizers put other tensors there
            if key in state:
                value.copy_(torch.where(bad > 0, state[key], value))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """Return a copy of all values of tensors of one type, (N,)."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _tensors_of(optimizer: Optimizer) -> Iterator[tuple[tuple[Tensor, str], Tensor]]:
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if torch.is_tensor(value):
                yield (parameter, name), value


def check_optimizer(name: str, optimizer: Optimizer) -> None:
    """Refuse an optimizer whose step the loop cannot take.

    Raises:
        UsageError: it wants a function that computes the loss anew (LBFGS).
    """
    wanted = list(inspect.signature(optimizer.step).parameters.values())
    if any(parameter.default is parameter.empty and parameter.kind not in VARIADIC for parameter in wanted):
        kind = type(optimizer).__name__
        raise UsageError(
            f"the optimizer of the {name}: {kind} computes losses in its own step; take SGD, Adam or RMSprop"
        )


@torch.no_grad()
def any_nonfinite(tensors: Iterable[Tensor]) -> Tensor:
    """Return 1.0 where any element of any tensor is NaN or infinite, else 0.0, as a scalar on the device.

    A tensor whose squares overflow, beyond 1e19 in float32, counts as infinite: the Euclidean norm is ten times as fast
    as the largest element on a CPU.
    """
    tensors = [tensor.detach() for tensor in tensors if tensor.numel()]
    if not tensors:
        return torch.zeros(())
    norms = torch._foreach_norm(tensors)
    return (~torch.isfinite(torch.stack([norm.float() for norm in norms]).sum())).float()
