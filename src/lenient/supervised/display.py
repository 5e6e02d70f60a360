"""What a person sees while a teacher learns."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lenient.core import progress
from lenient.core.progress import NotebookLine, say
from lenient.supervised.training import Progress


@contextmanager
def watching(kind: str) -> Iterator[Callable[[Progress], None]]:
    """Yield what shows progress: `rich` in a live line, which is gone at the end; `notebook` in a line that changes;
    `plain` in a line now and then; none not at all."""
    if kind == "rich":
        with _live() as show:
            yield lambda now: show(_words(now))
    elif kind == "notebook":
        tell, since = NotebookLine(), time.monotonic()
        yield lambda now: tell(_words(now))
        tell(f"training: {time.monotonic() - since:.0f} s")
    elif kind == "plain":
        following = time.monotonic() + progress.AFTER

        def plain(now: Progress) -> None:
            nonlocal following
            if time.monotonic() >= following:
                following = time.monotonic() + progress.EVERY
                say(_words(now))

        yield plain
    else:
        yield lambda now: None


@contextmanager
def _live() -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    text = Text("training")

    def show(words: str) -> None:
        text.plain = words

    # lines for a file go there, those for the same terminal above the live one
    with Live(text, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()):
        yield show


def _words(now: Progress) -> str:
    left = now.seconds / now.step * (now.steps - now.step)
    return f"epoch {now.epoch} of {now.epochs}, step {now.step} of {now.steps}, loss {now.loss:.4f}, {left:.0f} s left"
