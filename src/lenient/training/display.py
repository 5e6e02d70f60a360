"""What a person sees of a run: a bar on a terminal, a line that changes in a notebook, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from lenient.core import progress
from lenient.core.progress import NotebookLine, say, working

if TYPE_CHECKING:
    from lenient.training.trainer import Observer


@contextmanager
def watching(kind: str, more: Sequence[Observer] = ()) -> Iterator[list[Observer]]:
    """Yield who watches a run: the display (rich, plain, notebook or none), and `more`; what follows its last step is
    shown until this is left."""
    shown: dict[str, type[Observer]] = {"rich": RichProgress, "plain": PlainProgress, "notebook": NotebookProgress}
    with ExitStack() as ending:
        yield [*([shown[kind]()] if kind in shown else []), *more, Afterwards(ending, kind)]


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


def _said_already(event: str) -> bool:
    """Whether Python's last resort says it: these are logged, too, and of a run in memory nobody may keep the log."""
    log = logging.getLogger("lenient")
    return event in ("alarm", "fallback") and log.isEnabledFor(logging.WARNING) and not log.hasHandlers()


class PlainProgress:
    """A line after `AFTER` seconds, then one each `EVERY`, and one for each alarm and evaluation."""

    def __init__(self) -> None:
        self.total, self.tell, self.every = 0, say, progress.EVERY

    def start(self, total_steps: int, step: int) -> None:
        """Open at `step` of `total_steps`."""
        self.total, self.first, self.began, self.last = total_steps, step, time.monotonic(), time.monotonic()
        self.words, self.wait = "", progress.AFTER

    def step(self, step: int, images: int) -> None:
        """Print a line if it is time for one."""
        now = time.monotonic()
        if now - self.last < self.wait and step < self.total:
            return
        self.last, self.wait = now, self.every
        parts = [f"step {step}/{self.total}"]
        if step > self.first:
            parts.append(f"{(now - self.began) / (step - self.first) * (self.total - step):.0f} s left")
        elif step == 0:
            parts.append(f"{images} images made ahead of the student's first step")
        self.tell(", ".join([*parts, *filter(None, [self.words])]))

    def line(self, event: str, values: Mapping[str, Any]) -> None:
        """Remember the newest numbers; print alarms and accuracies."""
        if event == "log":
            self.words = summary(values)
        elif (said := news(event, values)) and not _said_already(event):
            say(said)

    def stop(self) -> None:
        """Nothing to close."""


class NotebookProgress(PlainProgress):
    """The same as one line that changes; alarms and evaluations stay below it."""

    def __init__(self) -> None:
        super().__init__()
        self.tell, self.every = NotebookLine(), progress.ANEW


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
        elif (said := news(event, values)) and not _said_already(event):
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
