"""Which processors this process may use, how its threads wait, and how busy others keep them. Needs no torch.

torch's threads share each operator out, and one that is done waits for the rest. By default it waits in a loop: in
torch's wheels for Linux, by GNU's OpenMP, for 3 ms or more, by Intel's for 200 ms. Beside another busy process that
takes the very core which the awaited thread needs. OpenMP reads how to wait once, as torch is loaded.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

ROOT = Path("/")
THREADS = "OMP_NUM_THREADS"
WAITING = {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "1"}
"""How threads wait: of libgomp, turns of a loop before a thread sleeps, about 0.1 ms; of Intel's and LLVM's runtimes,
milliseconds."""
SAID = (*WAITING, "OMP_WAIT_POLICY", "KMP_LIBRARY")
"""Where any of these is set, the user has said how threads wait."""

_own_threads: str | None = None


def prepare() -> None:
    """Let the libraries that this process and its children are about to load wait so, with no more threads than
    processors; what the user set stays. For a process of our own, before torch is loaded."""
    global _own_threads
    os.environ.update(waiting(os.environ))
    if THREADS not in os.environ and available() < _affinity():  # which OpenMP sees by itself, and quotas it does not
        _own_threads = os.environ[THREADS] = str(available())


def waiting(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which threads wait as `WAITING` says, unless it says how they wait."""
    return dict(environment) if any(name in environment for name in SAID) else {**environment, **WAITING}


def given() -> bool:
    """Whether the user, or a launcher, has said how many threads there are."""
    return os.environ.get(THREADS, _own_threads) != _own_threads


def available(root: Path = ROOT) -> int:
    """Return how many processors this process may use: by affinity and, rounded up, by the quotas of control groups."""
    allowed = quota(root)
    return _affinity() if allowed is None else max(1, min(_affinity(), math.ceil(allowed)))


def _affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def quota(root: Path = ROOT) -> float | None:
    """Return how many processors' time the control groups of this process allow, those above it too; None: any."""
    allowed = [share for folder in _groups(root) for share in (_second(folder), _first(folder)) if share is not None]
    return min(allowed, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups and of those above. In a container a path may be the host's,
    which is not there, while the container's own group lies at the root."""
    home = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, controllers_path = line.partition(":")
        controllers, _, path = controllers_path.partition(":")
        group = PurePosixPath(path)
        if not group.is_absolute() or ".." in group.parts:
            group = PurePosixPath("/")
        if not controllers:
            homes = [home, home / "unified"]
        elif "cpu" in controllers.split(","):
            homes = [home / controllers, home / "cpu"]
        else:
            continue
        for each in (group, *group.parents):
            yield from (place / each.relative_to("/") for place in homes)


def _second(folder: Path) -> float | None:
    """Return the quota of a group of version 2: `cpu.max` is `max`, or microseconds, of a period."""
    with suppress(ValueError, ZeroDivisionError):
        allowed, period = _read(folder / "cpu.max").split()
        return int(allowed) / int(period)
    return None


def _first(folder: Path) -> float | None:
    """Return the quota of a group of version 1: -1, or microseconds, and the period in a file of its own."""
    with suppress(ValueError, ZeroDivisionError):
        allowed = int(_read(folder / "cpu.cfs_quota_us")) / int(_read(folder / "cpu.cfs_period_us"))
        return allowed if allowed > 0 else None
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


class Others:
    """How busy other processes have kept the processors since it was made, as Linux counts."""

    LEAST = 0.2
    """Seconds that must have gone by: the kernel counts in hundredths."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._start = time.monotonic(), self._busy()

    def _busy(self) -> float | None:
        """Return the seconds that the processors which this process may use were busy with others than it, None where
        nobody counts."""
        with suppress(IndexError, ValueError, AttributeError):
            own = {f"cpu{number}" for number in os.sched_getaffinity(0)}
            lines = (line.split() for line in _read(self._root / "proc/stat").splitlines())
            # user, nice, system, idle, waiting for the disk, interrupts, the same later, stolen by other machines
            counts = [[int(count) for count in line[1:9]] for line in lines if line[:1] and line[0] in own]
            ticks = sum(sum(line) - line[3] - line[4] for line in counts)
            return float(ticks / os.sysconf("SC_CLK_TCK") - time.process_time()) if counts else None
        return None

    def processors(self) -> float | None:
        """Return how many processors they have kept busy in the mean, None where that is not known."""
        began, before = self._start
        seconds, now = time.monotonic() - began, self._busy()
        if before is None or now is None or seconds < self.LEAST:
            return None
        return max((now - before) / seconds, 0.0)
