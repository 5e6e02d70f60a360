"""Device, precision, batch reductions and guards: what the machine can do, kept apart from what the methods want."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from lenient import ranks
from lenient.errors import MachineError, UsageError

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Runtime:
    """Where and how precisely networks run: `32`, `bf16` (autocast), or `64`, everything in float64, for checks.

    Losses, statistics, the mixture and averages are at least float32.
    """

    device: torch.device
    precision: str = "32"
    compile: bool = False
    overlap: bool = False
    layout: torch.memory_format = torch.channels_last
    """How images and the weights of convolutions lie in memory."""
    copies: bool = False
    """Whether a network is handed copies of its inputs, into which it may write."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of weights and images."""
        return torch.float64 if self.precision == "64" else torch.float32

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which networks run forward: bfloat16 autocast, or nothing for full precision."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    @property
    def threads_ahead(self) -> int:
        """Threads for work ahead of its turn: half of torch's where that is wanted, on a CPU, by one process."""
        wanted = self.overlap and self.device.type == "cpu" and ranks.count() == 1
        return torch.get_num_threads() // 2 if wanted else 0

    def place(self, module: nn.Module) -> nn.Module:
        """Move a module to the device, in the runtime's type, its convolution weights in the runtime's layout."""
        placed = module.to(self.device, self.dtype)
        for tensor in chain(placed.parameters(), placed.buffers()):
            tensor.data = self.placed(tensor.data)
        return placed

    def placed(self, tensor: Tensor) -> Tensor:
        """Return a weight or buffer on the device; in the runtime's type and layout where it has such."""
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        return self._laid(tensor, dtype) if tensor.dim() == 4 else tensor.to(self.device, dtype)

    def compiled(self, module: nn.Module, *, constant: bool = False) -> Callable[..., Any]:
        """Return the module's forward, compiled where that is asked for; the module itself stays as it is.

        Hooks that are added to the module later may not be called: armed forwards go to the module. What is `constant`
        never changes its weights: without gradient batch norms are folded into them, and they are laid out once.
        """
        options: dict[str, Any] = {"options": {"freezing": True}} if constant else {}
        return torch.compile(module, dynamic=False, **options) if self.compile else module

    def images(self, images: Tensor) -> Tensor:
        """Lay a batch of images out as the networks want it."""
        return self._laid(images, self.dtype)

    def inputs(self, inputs: Tensor) -> Tensor:
        """Return inputs (N, C, H, W) as one network takes them: contiguous, or a copy, where it needs that."""
        laid = self._laid(inputs, inputs.dtype) if self.layout == torch.contiguous_format else inputs
        return laid.clone() if self.copies and laid is inputs else laid

    def _laid(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return (N, C, H, W) on the device in the runtime's layout. With one channel a tensor has both layouts, but
        convolutions go by its strides: for the contiguous one these must be those of a new tensor."""
        placed = tensor.to(self.device, dtype, memory_format=self.layout)
        if self.layout != torch.contiguous_format or placed.stride() == _new_strides(placed.shape):
            return placed
        return placed.clone(memory_format=torch.contiguous_format)


def _new_strides(shape: Sequence[int]) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides))


def resolve_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda[:i]` or `mps` into a device that is there.

    Raises:
        UsageError: the device is unknown or absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: not available here; use --device auto or cpu") from error
    return device


def check_compiler(device: torch.device) -> None:
    """Compile a trifle.

    Raises:
        UsageError: that does not work here.
    """
    try:
        torch.compile(lambda values: values.cos() + 1)(torch.ones(8, device=device))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"--compile: torch cannot compile here ({reason}); leave it out") from error


def full(values: Tensor) -> Tensor:
    """Return `values` in float32, or as they are in float64: what losses and statistics are computed in."""
    return values if values.dtype == torch.float64 else values.float()


def batch_sum(values: Tensor) -> Tensor:
    """Sum over the first dimension, the batch, of all ranks. Reductions over the batch go through these functions."""
    return ranks.total(values.sum(dim=0))


def batch_size_of(values: Tensor) -> int:
    """Return the number of samples in the whole batch."""
    return values.shape[0] * ranks.count()


def batch_mean(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over the batch of `values` (N, ...), weighted by `weight` (N,) where given.

    A weighted mean over fewer than two accepted samples of several is 0 with zero gradient: it says nothing.
    """
    if weight is None:
        return batch_sum(values) / batch_size_of(values)
    shaped = weight.view(-1, *[1] * (values.dim() - 1))
    total = batch_sum(weight)
    enough = total > min(1.5, batch_size_of(values) - 0.5)
    kept = torch.where(shaped > 0, values, torch.zeros_like(values)) * shaped
    return torch.where(enough, batch_sum(kept) / total.clamp_min(1.0), torch.zeros_like(kept[0]))


def batch_moments(values: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Per-channel mean and biased variance of (N, C, ...) over the batch and all positions, in float32, (C,) each.

    With `weight` (N,), positions of a sample count with its weight.
    """
    if weight is None:
        mean, variance = _Moments.apply(values)
        if ranks.count() == 1:
            return mean, variance
        means, variances = ranks.stacked(torch.stack([mean, variance])).unbind(dim=1)
        mean = means.mean(dim=0)
        return mean, (variances + (means - mean).square()).mean(dim=0)
    flat = full(values).flatten(2) if values.dim() > 2 else full(values).unsqueeze(2)
    total = batch_sum(weight).clamp_min(1e-12) * flat.shape[2]
    mean = batch_sum(torch.einsum("n,ncp->nc", weight, flat)) / total
    centred = flat - mean.view(1, -1, 1)
    return mean, batch_sum(torch.einsum("n,ncp->nc", weight, centred * centred)) / total


class _Moments(torch.autograd.Function):
    """Mean and biased variance per channel, whose gradient is one pass over the values: a x + b with a, b per channel.

    The gradient that torch derives takes four. It is made of differentiable operations, so it can be derived again.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        count = values.numel() // values.shape[1]
        if values.dtype in (torch.bfloat16, torch.float16) and count > 1:  # batch norm's kernel, without a float32 copy
            mean, variance = (torch.zeros(values.shape[1], device=values.device) for _ in range(2))
            torch.batch_norm_update_stats(values, mean, variance, 1.0)
            variance *= (count - 1) / count
        else:
            # plain sums over rows of channels; var_mean takes nine times as long on a CPU for channels-last images
            flat = full(values).movedim(1, -1).reshape(-1, values.shape[1])
            mean = flat.mean(dim=0)
            variance = (flat - mean).square_().mean(dim=0)
        ctx.save_for_backward(values, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, of_mean: Tensor, of_variance: Tensor) -> Tensor:
        values, mean = ctx.saved_tensors
        count = values.numel() // values.shape[1]
        slope = 2 * of_variance / count
        offset = of_mean / count - slope * mean
        # values * slope + offset: batch norm's kernel is the fast one for a factor per channel, ten times in bfloat16
        zeros, ones = torch.zeros_like(mean), torch.ones_like(mean)
        return F.batch_norm(values, zeros, ones, slope, offset, training=False, eps=0.0)


@contextmanager
def one_batch() -> Iterator[None]:
    """Let batch norm in training mode normalise over the batch of all ranks, without a change to any module."""
    with _GlobalBatchNorm() if ranks.count() > 1 else nullcontext():
        yield


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
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    zeros, ones = torch.zeros_like(mean), torch.ones_like(mean)
    return F.batch_norm(values, zeros, ones, scale, shift, training=False, eps=0.0)  # see _Moments


class Readback:
    """Brings a few numbers to the host one phase late, so that asking for them never stalls the device.

    `put` starts the copy at the end of a phase; `get` at the start of the next one finds it done.
    """

    def __init__(self, value: float) -> None:
        self._host = torch.tensor([value], dtype=torch.float32)
        self._event: torch.cuda.Event | None = None

    def put(self, value: Tensor) -> None:
        """Start copying a scalar tensor."""
        if value.device.type == "cuda":
            self._host = torch.empty(1, dtype=torch.float32, pin_memory=True)
            self._host.copy_(value.detach().reshape(1).float(), non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = value.detach().reshape(1).to("cpu", torch.float32, copy=True)

    def get(self) -> float:
        """Return the number put last (or given at the start)."""
        if self._event is not None:
            self._event.synchronize()
        return float(self._host.numpy()[0])


class Guard:
    """Undoes what a turn with non-finite numbers did to the networks, without asking the host.

    Buffers, which a forward pass in training mode moves, are put back by selection on the device; `step` leaves weights
    and the optimizer's state as they were.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._buffers = [buffer for module in modules for buffer in module.buffers()]

    @contextmanager
    def watch(self) -> Iterator[Callable[[Iterable[Tensor]], Tensor]]:
        """Open a turn; call the yielded function with the tensors that must be finite, it returns a 0/1 float `bad`."""
        before = [buffer.clone() for buffer in self._buffers]

        def settle(tensors: Iterable[Tensor]) -> Tensor:
            bad = any_nonfinite(tensors)
            for buffer, old in zip(self._buffers, before, strict=True):
                buffer.copy_(torch.where(bad > 0, old, buffer))
            return bad

        yield settle

    @torch.no_grad()
    def step(self, optimizer: Optimizer, bad: Tensor) -> None:
        """Step, but leave weights and state as they are where `bad` is 1.

        torch's fused optimizers skip by themselves. Others step with gradients of zero there, so that a first step
        makes state without a NaN, and what they have moved is put back; counts that they keep on the host go on.
        """
        if skips_itself(optimizer):
            optimizer.found_inf = bad  # type: ignore[attr-defined]
            optimizer.step()
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


def _tensors_of(optimizer: Optimizer) -> Iterator[tuple[tuple[Tensor, str], Tensor]]:
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if torch.is_tensor(value):
                yield (parameter, name), value


def skips_itself(optimizer: Optimizer) -> bool:
    """Whether an optimizer is one of torch's that take `found_inf`: fused SGD, Adam, AdamW, Adagrad."""
    own = type(optimizer) in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad)
    return own and all(group.get("fused") for group in optimizer.param_groups)


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


def in_parts(values: Tensor, size: int) -> list[Tensor]:
    """Split (N, ...) into parts of `size` and a rest; none of one, which not every network takes, if that can be."""
    while size > 2 and values.shape[0] % size == 1:
        size -= 1
    return list(values.split(size))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was asked to; only for timing and at log lines."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int = 3, *, warm_up: bool = True) -> float:
    """Return the median seconds of `work`, after one time that does not count."""
    times = []
    if warm_up:
        work()
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]


def out_of_memory(error: BaseException) -> bool:
    """Whether torch says by this error that memory does not suffice, on the device or on the CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


@contextmanager
def memory_errors(flag: str = "--batch-size") -> Iterator[None]:
    """Turn an out-of-memory error of torch into one line that names the flag to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise MachineError(f"the batch does not fit into memory; lower {flag}") from error
        raise
