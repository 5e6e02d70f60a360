"""What a person sees while it runs: a live line on a terminal, plain lines elsewhere, soon and then now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from lenient.core.errors import UsageError

if TYPE_CHECKING:
    from lenient.runs.job import Job
    from lenient.training.trainer import Observer

AFTER, EVERY = 2.0, 10.0
"""Seconds until it is said for the first time what is being done, and between lines."""


def known(kind: str) -> str:
    """Return the kind of display if there is one of that name; asked before anything is written."""
    if kind not in ("auto", "rich", "plain", "none"):
        raise UsageError(f"--progress {kind}: unknown; there are auto, rich, plain, none")
    return kind


def observers(kind: str, job: Job, track: Sequence[str] = ()) -> list[Observer]:
    """Return the display asked for (`auto`: rich on a terminal), and the trackers."""
    from lenient.cli.trackers import trackers

    if kind == "auto":
        kind = "rich" if sys.stderr.isatty() else "plain"
    shown: list[Observer] = []
    if kind == "rich":
        shown.append(RichProgress())
    elif kind == "plain":
        shown.append(PlainProgress())
    return shown if job.folder is None else [*shown, *trackers(track, job.folder, job.settings)]


def summary(values: Mapping[str, Any]) -> str:
    """Say in a few words what a log line holds."""
    parts = []
    for key, name, form in (
        ("loss/student", "loss", "{:.4f}"),
        ("health/agreement", "agreement", "{:.0%}"),
        ("health/probe_agreement", "probe", "{:.0%}"),
        ("health/coverage", "classes", "{:.0%}"),
        ("health/kept", "kept", "{:.0%}"),
        ("images_per_second", "", "{:,.0f} images/s"),
    ):
        value = values.get(key)
        if isinstance(value, float):
            parts.append(f"{name} {form.format(value)}".strip())
    return ", ".join(parts)


def news(event: str, values: Mapping[str, Any]) -> str:
    """Say an alarm, a fallback or an evaluation in a line; "" of any other event."""
    if event == "alarm":
        return f"alarm at step {values['step']}: {values['message']}"
    if event == "fallback":
        return f"step {values['step']}: going on with {values['method']} instead of {values['before']}, student anew"
    return f"step {values['step']}: accuracy {values['accuracy']:.2%}" if event == "eval" else ""


def _say(words: str) -> None:
    with suppress(OSError, ValueError):  # the terminal is gone; the run goes on, or ends with a checkpoint
        print(words, file=sys.stderr, flush=True)


@contextmanager
def working(
    what: str, kind: str = "auto", *, total: int = 0, after: float | None = None, every: float | None = None
) -> Iterator[Callable[[int], None]]:
    """Say on stderr what is being done where it takes over `after` seconds (AFTER), and again `every` so many (EVERY).

    Yields a function to call with how many of `total` are done, where they can be counted; with `kind` none nothing is
    said.
    """
    over, began, done = threading.Event(), time.monotonic(), 0

    def count(number: int) -> None:
        nonlocal done
        done = number

    def speak() -> None:
        wait = AFTER if after is None else after
        while not over.wait(wait):
            seconds = time.monotonic() - began
            left = f"{done} of {total}, {seconds / done * (total - done):.0f} s left" if done else ""
            _say(f"{what}, {left or f'{seconds:.0f} s so far'}")
            wait = EVERY if every is None else every

    voice = threading.Thread(target=speak, name="progress", daemon=True)
    if kind != "none":
        voice.start()
    try:
        yield count
    finally:
        over.set()
        if voice.is_alive():
            voice.join()


class PlainProgress:
    """A line after `AFTER` seconds, then one each `EVERY`, and one for each alarm and evaluation."""

    def __init__(self) -> None:
        self.total = 0

    def start(self, total_steps: int, step: int) -> None:
        """Open at `step` of `total_steps`."""
        self.total, self.first, self.began, self.last = total_steps, step, time.monotonic(), time.monotonic()
        self.words, self.wait = "", AFTER

    def step(self, step: int, images: int) -> None:
        """Print a line if it is time for one."""
        now = time.monotonic()
        if now - self.last < self.wait and step < self.total:
            return
        self.last, self.wait = now, EVERY
        parts = [f"step {step}/{self.total}"]
        if step > self.first:
            parts.append(f"{(now - self.began) / (step - self.first) * (self.total - step):.0f} s left")
        elif step == 0:
            parts.append(f"{images} images made ahead of the student's first step")
        _say(", ".join([*parts, *filter(None, [self.words])]))

    def line(self, event: str, values: Mapping[str, Any]) -> None:
        """Remember the newest numbers; print alarms and accuracies."""
        if event == "log":
            self.words = summary(values)
        elif said := news(event, values):
            _say(said)

    def stop(self) -> None:
        """Nothing to close."""


class RichProgress:
    """A live bar: steps and time left, and the newest numbers below it."""

    def start(self, total_steps: int, step: int) -> None:
        """Open at `step` of `total_steps`."""
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.text import Text

        console = Console(stderr=True)
        columns = (TextColumn("distilling"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar, self.words = Progress(*columns, console=console), Text()
        self.task = self.bar.add_task("", total=total_steps, completed=step)
        self.live = Live(Group(self.bar, self.words), console=console)
        self.live.start()

    def step(self, step: int, images: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=step)

    def line(self, event: str, values: Mapping[str, Any]) -> None:
        """Show the newest numbers; print alarms and accuracies above the bar."""
        if event == "log":
            self.words.plain = summary(values)
        elif said := news(event, values):
            self._print(said)

    def stop(self) -> None:
        """Close the bar."""
        with suppress(OSError, ValueError):
            self.live.stop()

    def _print(self, words: str) -> None:
        with suppress(OSError, ValueError):
            self.live.console.print(words, markup=False)


class Afterwards:
    """Says, from the last step until `ending` is left, that measures, the student's files and the page are made."""

    def __init__(self, ending: ExitStack, kind: str) -> None:
        self.ending, self.kind = ending, kind

    def start(self, total_steps: int, step: int) -> None:
        """Nothing to open."""

    def step(self, step: int, images: int) -> None:
        """Others count."""

    def line(self, event: str, values: Mapping[str, Any]) -> None:
        """Others show it."""

    def stop(self) -> None:
        """Say what is being done from now on."""
        self.ending.enter_context(working("measuring the student, writing files and report", self.kind))
