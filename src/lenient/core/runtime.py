"""Device, precision, batch reductions and guards: what the machine can do, kept apart from what the methods want."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lenient.core import ranks
from lenient.core.errors import UsageError


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
    recompute: bool = False
    """Whether networks compute the maps within their blocks anew for the backward pass (`core.recomputing`)."""

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
        """Threads for work ahead of its time: half of torch's where that is wanted, on a CPU, by one process."""
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
        what = "not available here" if name.partition(":")[0] in ("cuda", "mps") else "unknown, or not available here"
        raise UsageError(f"--device {name}: {what}; use --device auto or cpu") from error
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


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch share operators out among so many threads; the caller's number comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def cudnn_algorithms(*, tried: bool) -> Iterator[None]:
    """Take cuDNN's fastest algorithm by a trial for each shape, or only those that give the same bits each time, chosen
    by shape."""
    own = torch.backends.cudnn
    before = own.benchmark, own.deterministic
    own.benchmark, own.deterministic = tried, not tried
    try:
        yield
    finally:
        own.benchmark, own.deterministic = before


def repeatable(device: torch.device) -> AbstractContextManager[None]:
    """Let a device give the same bits each time, so that a run that is taken up again goes on as it would have; CUDA
    alone has to be asked."""
    return cudnn_algorithms(tried=False) if device.type == "cuda" else nullcontext()


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor of the host's on a device, without waiting for what that has still to do.

    A plain `to` would: CUDA copies in the background only what lies in pinned memory.
    """
    target = torch.device(device)
    if target.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(target)
    return tensor.pin_memory().to(target, non_blocking=True)


class Readback:
    """Copies a few numbers to the host one phase late, so that asking for them never stalls the device.

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


def in_parts(values: Tensor, size: int) -> list[Tensor]:
    """Split (N, ...) into parts of `size` and a rest; none of one, which not every network takes, if that can be."""
    while size > 2 and values.shape[0] % size == 1:
        size -= 1
    return list(values.split(size))
