"""What a person sees while it runs: a live line on a terminal, one plain line per half minute elsewhere."""

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

PLAIN_SECONDS = 30.0
AFTER, EVERY = 2.0, 10.0
"""Seconds until what has no steps says that it is at work, and between its words."""


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


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield what is told how many of `total` there are: a bar on a terminal, elsewhere a line every half minute."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=total)
    began = said = time.monotonic()

    def watch(done: int) -> None:
        nonlocal said
        now = time.monotonic()
        bar.update(task, completed=done)
        if bar.console.is_terminal:
            if now - began >= AFTER:
                bar.start()
        elif now - said >= PLAIN_SECONDS:
            said = now
            _say(f"{done} of {total} {what}, {(now - began) / done * (total - done):.0f} s left")

    try:
        yield watch
    finally:
        if bar.live.is_started:  # elsewhere stopping it prints an empty line
            bar.stop()


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


def _say(words: str) -> None:
    with suppress(OSError, ValueError):  # the terminal is gone; the run goes on, or ends with a checkpoint
        print(words, file=sys.stderr, flush=True)


@contextmanager
def working(what: str, kind: str = "auto", *, after: float | None = None, every: float | None = None) -> Iterator[None]:
    """Say on stderr what is being done where it takes over `after` seconds (AFTER), and again `every` so many (EVERY).

    For what has no steps to count; with `kind` none it says nothing.
    """
    over, began = threading.Event(), time.monotonic()

    def speak() -> None:
        wait = AFTER if after is None else after
        while not over.wait(wait):
            _say(f"{what}, {time.monotonic() - began:.0f} s so far")
            wait = EVERY if every is None else every

    voice = threading.Thread(target=speak, name="progress", daemon=True)
    if kind != "none":
        voice.start()
    try:
        yield
    finally:
        over.set()
        if voice.is_alive():
            voice.join()


class PlainProgress:
    """One line per half minute, and one for each alarm and evaluation."""

    def __init__(self, seconds: float = PLAIN_SECONDS) -> None:
        self.seconds = seconds
        self.total = 0

    def start(self, total_steps: int, step: int) -> None:
        """Open at `step` of `total_steps`."""
        self.total, self.first, self.began, self.last = total_steps, step, time.monotonic(), time.monotonic()
        self.words = ""

    def step(self, step: int, images: int) -> None:
        """Print a line if half a minute has passed."""
        now = time.monotonic()
        if now - self.last < self.seconds and step < self.total:
            return
        self.last = now
        told = [f"step {step}/{self.total}"]
        if step > self.first:
            told.append(f"{(now - self.began) / (step - self.first) * (self.total - step):.0f} s left")
        elif step == 0:
            told.append(f"{images} images made ahead of the student's first step")
        _say(", ".join([*told, *filter(None, [self.words])]))

    def line(self, event: str, values: Mapping[str, Any]) -> None:
        """Remember the newest numbers; print alarms and accuracies."""
        if event == "log":
            self.words = summary(values)
        elif event == "alarm":
            _say(f"alarm at step {values['step']}: {values['message']}")
        elif event == "eval":
            self.accuracy = values["accuracy"]

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
        elif event == "alarm":
            self._print(f"alarm at step {values['step']}: {values['message']}")
        elif event == "eval":
            self._print(f"step {values['step']}: accuracy {values['accuracy']:.2%}")

    def stop(self) -> None:
        """Close the bar."""
        with suppress(OSError, ValueError):
            self.live.stop()

    def _print(self, words: str) -> None:
        with suppress(OSError, ValueError):
            self.live.console.print(words, markup=False)


class Afterwards:
    """Speaks from the last step until `ending` is left: of measures, the student's files and the page."""

    def __init__(self, ending: ExitStack, kind: str) -> None:
        self.ending, self.kind = ending, kind

    def start(self, total_steps: int, step: int) -> None:
        """Nothing to open."""

    def step(self, step: int, images: int) -> None:
        """Others count."""

    def line(self, event: str, values: Mapping[str, Any]) -> None:
        """Others tell it."""

    def stop(self) -> None:
        """Begin to speak."""
        self.ending.enter_context(working("measuring the student, writing files and report", self.kind))
