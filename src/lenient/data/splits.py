"""Fixed splits that depend on nothing but the labels: no library's random stream, no seed of a run."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def scrambled(count: int, salt: int) -> npt.NDArray[np.intp]:
    """Return a fixed permutation of range(count) for this salt: positions sorted by their SplitMix64 hash."""
    with np.errstate(over="ignore"):
        counters = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(salt << 32)
        bits = counters * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(bits ^ (bits >> np.uint64(31)), kind="stable")


def held_out(labels: Tensor, share: float, salt: int) -> Tensor:
    """Mark the share (0..1) of each class, rounded, that is held out.

    `labels` is int64 (N,); the answer is bool (N,). The same labels in the same order always give the same answer; two
    salts give two unrelated ones.
    """
    order = scrambled(len(labels), salt)
    values = labels.numpy()[order]
    marked = np.zeros(len(labels), dtype=bool)
    for value in np.unique(values):
        members = order[values == value]
        marked[members[: round(share * len(members))]] = True
    return torch.from_numpy(marked)
