"""Many processes, one batch: each rank has its rows of it, and what is counted over it is counted over all of them.

A batch of B images lies on N ranks, B/N consecutive rows on each. Sums over the batch go through `total`, whose
gradient is the same sum. So every rank differentiates the sum of the (equal) losses of all ranks: gradients of what all
share are averaged (`averaged`), those of what a rank has alone, its images or latents, are divided by N. That holds for
derivatives of any order. With one process everything here is the identity.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count as numbers
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lenient.core import processes
from lenient.core.errors import MachineError, UsageError

T = TypeVar("T")
_TIMES = numbers()
"""How often this process has joined the others; each of them counts alike."""


def count() -> int:
    """Return the number of ranks, 1 without others."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if count() > 1 else 0


def is_main() -> bool:
    """Whether this is the rank that measures, writes and speaks for all."""
    return rank() == 0


def launched() -> bool:
    """Whether a launcher has started this process as one of several, be the group joined already or not."""
    return count() > 1 or processes.several()


def place(device: torch.device) -> torch.device:
    """Return this rank's device of the kind given: its own GPU.

    Raises:
        UsageError: one GPU was named for all ranks, or there are fewer of them than ranks on this machine.
    """
    if count() == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise UsageError(f"--device {device}: names one GPU for all ranks; write --device cuda")
    own = int(os.environ.get("LOCAL_RANK", rank()))
    if own >= torch.cuda.device_count():
        raise UsageError(f"--devices: this machine has {torch.cuda.device_count()} GPUs")
    return torch.device("cuda", own)


@contextmanager
def joined() -> Iterator[None]:
    """Join the group that torchrun has started this process for, for a while; nothing where there is none.

    A group that the caller has made already is used as it is. All ranks join equally often.
    """
    if not launched() or count() > 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, **_meeting(next(_TIMES)))
    try:
        yield
    except RuntimeError as error:
        if "gloo" in str(error).lower() or "nccl" in str(error).lower():
            raise MachineError(
                f"rank {rank()}: lost the others; a run that has a folder goes on with --resume"
            ) from error
        raise
    finally:
        dist.destroy_process_group()


def _meeting(time: int) -> dict[str, Any]:
    """Return where the ranks meet for the `time`th time, this one's number and how many there are.

    Each time has its own name, since torchrun's store keeps the addresses of a group that has ended, and a rank that
    comes first would take them for new ones.
    """
    from torch.distributed.distributed_c10d import PrefixStore  # not there in a torch without `distributed`

    store, own, several = _found(os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"])
    return {"store": PrefixStore(f"lenient/{time}", store), "rank": own, "world_size": several}


@cache
def _found(host: str, port: str) -> tuple[Any, int, int]:
    """Return the store of all ranks, their own numbers and count; it is kept, since others may come back to it while
    rank 0, where it may lie, still leaves."""
    from torch.distributed.rendezvous import rendezvous

    store, own, several = next(rendezvous("env://"))
    return store, own, several


def mine(rows: Tensor) -> Tensor:
    """Return this rank's rows of a whole batch (B, ...), a view.

    Raises:
        UsageError: B does not divide among the ranks.
    """
    ranks = count()
    if ranks == 1:
        return rows
    if len(rows) % ranks:
        raise UsageError(
            f"--devices {ranks}: {len(rows)} images do not divide among them; "
            "change --batch-size, -s method.batch_images or -s method.replay.share"
        )
    own = len(rows) // ranks
    return rows[rank() * own : (rank() + 1) * own]


@torch.no_grad()
def gather(rows: Tensor) -> Tensor:
    """Return the whole batch (N b, ...) from each rank's rows (b, ...), without gradient."""
    ranks = count()
    if ranks == 1:
        return rows.detach()
    own = rows.detach().contiguous()
    whole = torch.empty(ranks * len(own), *own.shape[1:], dtype=own.dtype, device=own.device)
    dist.all_gather(list(whole.chunk(ranks)), own)
    return whole


def total(values: Tensor) -> Tensor:
    """Return the sum over the ranks, of the same shape; differentiable as often as you like."""
    return values if count() == 1 else _Total.apply(values)


def stacked(values: Tensor) -> Tensor:
    """Return each rank's `values` one above the other, (N, ...); differentiable. For small tensors."""
    ranks = count()
    if ranks == 1:
        return values[None]
    own = torch.arange(ranks, device=values.device) == rank()
    return total(values[None] * own.view(-1, *[1] * values.dim()).to(values.dtype))


def averaged(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return the means over the ranks in one collective; differentiable."""
    given = list(tensors)
    ranks = count()
    if ranks == 1 or not given:
        return given
    flat = total(torch.cat([tensor.reshape(-1) for tensor in given])) / ranks
    parts = flat.split([tensor.numel() for tensor in given])
    return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, given, strict=True)]


@torch.no_grad()
def average_(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their means over the ranks, in place; a tensor has the same layout on every rank."""
    if count() > 1 and tensors:
        rows = [_in_memory(tensor) for tensor in tensors]
        torch._foreach_copy_(rows, averaged(rows))


def _in_memory(tensor: Tensor) -> Tensor:
    """Return the numbers as they lie, (N,), a view: transposing large weights takes longer than sending them."""
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).view(-1)
    return tensor.view(-1) if tensor.is_contiguous() else tensor


def agree(value: T) -> T:
    """Return rank 0's value; it is pickled, from one of our own processes to another."""
    if count() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    agreed: T = box[0]
    return agreed


def any_rank(*wishes: bool) -> tuple[bool, ...]:
    """Return for each wish whether any rank has it: all ranks act at the same update. Asks no accelerator."""
    if count() == 1:
        return wishes
    votes = torch.tensor([float(wish) for wish in wishes])
    dist.all_reduce(votes)
    return tuple(vote > 0 for vote in votes.tolist())


class _Total(torch.autograd.Function):
    """The sum over the ranks, whose gradient is the sum over the ranks."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        summed = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient)
