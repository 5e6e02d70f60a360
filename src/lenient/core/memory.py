"""How much memory a device or this process has used at most, how much is left, and what is said when it is short."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lenient.core.errors import MachineError


def reset_peak(device: torch.device) -> None:
    """Start to measure anew; on systems that cannot (other than Linux), the peak is that of the process's life."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return


def peak(device: torch.device) -> int | None:
    """Return the most bytes in use since `reset_peak`, allocated on the accelerator or resident in this process; None
    where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    known = _proc("/proc/self/status", "VmHWM")  # ru_maxrss starts at the size of the process that started this one
    if known is not None:
        return known
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def left(device: torch.device) -> int | None:
    """Return the bytes that could still be taken, None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free_pages = _proc("/proc/meminfo", "MemAvailable")
    limit = _cgroup_left()
    return free_pages if limit is None or free_pages is None else min(free_pages, limit)


def _cgroup_left() -> int | None:
    """What a container may still take."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(int(limit) - used, 0)


def _proc(path: str, name: str) -> int | None:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = next((line.split()[1] for line in lines if line.startswith(f"{name}:")), None)
    return None if found is None else int(found) * 1024


def out_of_memory(error: BaseException) -> bool:
    """Whether torch says by this error that memory does not suffice, on the device or on the CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


@contextmanager
def memory_errors(flag: str = "--batch-size", or_else: str = "") -> Iterator[None]:
    """Turn an out-of-memory error of torch into one line that names the flag to lower, and what else would help."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise MachineError(f"the batch does not fit into memory; lower {flag}{or_else}") from error
        raise
