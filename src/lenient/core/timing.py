"""How long work takes on a device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


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
