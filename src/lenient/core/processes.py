"""Processes: what a launcher says to this one, and how this one starts others. Needs no torch.

Python looks for modules in the working folder first when it is started with `-m` or `-c`, so that a file `threading.py`
of somebody else there would be executed. Processes that we start do not look there; `py:` does, for its own call.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher such as torchrun leaves in the environment of each process."""
_TORCHRUN = "TORCHELASTIC_RUN_ID"
"""What torchrun, and `--devices`, leave there besides."""


def several() -> bool:
    """Whether a launcher has started this process as one of several."""
    rank, count = _numbers()
    return all(name in os.environ for name in _LAUNCHED) and 0 <= rank < count and count > 1


def speaks() -> bool:
    """Whether this process prints what all of them would: not where torchrun started it beside one of rank 0."""
    return not (several() and _TORCHRUN in os.environ and _numbers()[0] > 0)


def _numbers() -> tuple[int, int]:
    """Return rank and number of processes, (-1, -1) where nothing, or no such numbers, are given."""
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return -1, -1


SAFE = "PYTHONSAFEPATH"


def safely(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which Python, and what it starts, does not look for modules in the working folder.

    It stays as it is where the package itself was found there: then that folder is as good as the package.
    """
    return dict(environment) if _at_home() else {**environment, SAFE: "1"}


@contextmanager
def safe_path() -> Iterator[None]:
    """Start processes so, whoever starts them in this block."""
    before = os.environ.get(SAFE)
    os.environ.update(safely({}))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(SAFE, None)
        else:
            os.environ[SAFE] = before


def _at_home() -> bool:
    try:
        return os.path.samefile(Path(__file__).parents[2], os.curdir)
    except OSError:  # the working folder is gone
        return False
