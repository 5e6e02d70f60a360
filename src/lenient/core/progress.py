"""What a person sees of work that takes a while: a live display on a terminal, a line in a notebook that changes, plain
lines elsewhere, soon and then now and then. Needs no torch.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lenient.core import processes
from lenient.core.errors import UsageError

AFTER, EVERY = 2.0, 10.0
"""Seconds until it is said for the first time what is being done, and between lines."""
ANEW = 1.0
"""Seconds between two states of a line that changes."""


def known(kind: str) -> str:
    """Return the kind of display if there is one of that name; asked before anything is written."""
    if kind not in ("auto", "rich", "plain", "none"):
        raise UsageError(f"--progress {kind}: unknown; there are auto, rich, plain, none")
    return kind


def for_command(kind: str) -> str:
    """Return what a command shows: rich, plain or none; `auto` is rich on a terminal and plain elsewhere."""
    if known(kind) == "auto":
        return "rich" if sys.stderr.isatty() else "plain"
    return kind


def for_function(kind: bool | str) -> str:
    """Return what a function shows: rich, plain, notebook or none.

    `auto`, or True, is a live display where a person is to see it, on a terminal or in a notebook, and nothing
    elsewhere: a program's own output stays its own. Of processes that torchrun started, the first one shows it.
    """
    if isinstance(kind, bool):
        kind = "auto" if kind else "none"
    if known(kind) == "none" or not processes.speaks():
        return "none"
    if kind != "plain" and in_notebook():
        return "notebook"
    return ("rich" if sys.stderr.isatty() else "none") if kind == "auto" else kind


def in_notebook() -> bool:
    """Whether this process computes the cells of a notebook, and no terminal's."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


class NotebookLine:
    """A line below a notebook's cell; each takes the place of the one before."""

    def __init__(self) -> None:
        self._shown: Any = None

    def __call__(self, words: str) -> None:
        """Show it."""
        from IPython.display import display

        if self._shown is None:
            self._shown = display({"text/plain": words}, raw=True, display_id=True)
        else:
            self._shown.update({"text/plain": words}, raw=True)


def say(words: str) -> None:
    """Print a line on stderr."""
    with suppress(OSError, ValueError):  # the terminal is gone; the run goes on, or ends with a checkpoint
        print(words, file=sys.stderr, flush=True)


@contextmanager
def working(
    what: str, kind: str = "auto", *, total: int = 0, after: float | None = None, every: float | None = None
) -> Iterator[Callable[[int], None]]:
    """Say on stderr what is being done where it takes over `after` seconds (AFTER), and again `every` so many (EVERY).

    Yields a function to call with how many of `total` are done, where they can be counted; with `kind` none nothing is
    said. In a notebook it is one line, which says at the end how long it took.
    """
    over, began, done, told = threading.Event(), time.monotonic(), 0, False
    tell = NotebookLine() if kind == "notebook" else say

    def count(number: int) -> None:
        nonlocal done
        done = number

    def speak() -> None:
        nonlocal told
        wait = AFTER if after is None else after
        while not over.wait(wait):
            seconds = time.monotonic() - began
            left = f"{done} of {total}, {seconds / done * (total - done):.0f} s left" if done else ""
            tell(f"{what}, {left or f'{seconds:.0f} s so far'}")
            told, wait = True, (ANEW if kind == "notebook" else EVERY) if every is None else every

    voice = threading.Thread(target=speak, name="progress", daemon=True)
    if kind != "none":
        voice.start()
    try:
        yield count
    finally:
        over.set()
        if voice.is_alive():
            voice.join()
        if kind == "notebook" and told:
            tell(f"{what}: {time.monotonic() - began:.0f} s")
