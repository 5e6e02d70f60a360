"""`lenient train-teacher`: train a classifier on real data."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lenient.cli import flags, options
from lenient.cli.options import takes
from lenient.core.progress import for_command, say, working
from lenient.core.signals import save_on_signals
from lenient.core.text import visible

if TYPE_CHECKING:
    from lenient.supervised import Progress


@takes(options.TRAIN_TEACHER)
def train_teacher(
    data: str,
    arch: str,
    output: Path,
    epochs: int | None,
    seed: int,
    keep: int,
    keep_above: str | None,
    setting: list[str],
    data_root: str | None,
    input_size: str | None,
    split: str,
    device: str,
    precision: str,
    overwrite: bool,
    progress: str,
) -> None:
    """Train a classifier on real data, to distil from. With --keep, FILE becomes FILE-e012.safetensors and so on."""
    from lenient.core.config import parse_overrides
    from lenient.supervised.job import TeacherJob

    kind = for_command(progress)
    with working(f"reading {visible(data)}", kind):
        job = TeacherJob.open(
            data,
            arch,
            output,
            epochs=epochs,
            seed=seed,
            keep=keep,
            keep_above=flags.number("--keep-above", keep_above),
            settings=parse_overrides(setting),
            data_root=data_root,
            input_size=flags.size(input_size),
            split=split,
            device=device,
            precision=precision,
            overwrite=overwrite,
        )
    print(f"{visible(arch)} on {len(job.images)} images of {visible(data)}, {job.recipe.epochs} epochs")
    _say_notes(job.notes)
    with _watching(kind) as watch:
        result = job.run(_say, watch)
    _say_notes(result.notes)
    print(output)
    for kept in result.kept:
        print(f"{kept.path}: epoch {kept.epoch}, accuracy {kept.accuracy:.2%}")
    print(f"next: lenient distill {shlex.quote(str(output))}")


@contextmanager
def _watching(kind: str) -> Iterator[Callable[[Progress], None]]:
    """Yield what shows progress. A scheduler's warning is answered: there is no checkpoint to write."""
    from lenient.supervised.display import watching

    with save_on_signals() as warned, watching(kind) as show:

        def watch(now: Progress) -> None:
            if warned.is_set():
                warned.clear()
                say("warned by a signal: training goes on, but has no checkpoint to continue from")
            show(now)

        yield watch


def _say_notes(notes: Iterable[str]) -> None:
    for note in dict.fromkeys(notes):
        print(f"note: {visible(note)}")


def _say(epoch: Any) -> None:
    measured = "" if epoch.test_accuracy is None else f", held-out accuracy {epoch.test_accuracy:.2%}"
    print(f"epoch {epoch.epoch}: loss {epoch.loss:.4f}{measured}, {epoch.seconds:.0f} s", flush=True)
