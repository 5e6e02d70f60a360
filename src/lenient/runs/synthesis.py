"""From a teacher, or a run that has ended, to a data set of synthetic images."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lenient.core import ranks
from lenient.core.errors import UsageError
from lenient.core.memory import memory_errors
from lenient.core.seeding import untouched_global_rng
from lenient.models.card import Network
from lenient.models.lending import copied_module
from lenient.runs.images import SyntheticImages
from lenient.runs.job import Job, warn
from lenient.runs.request import parse_budget, steps_within
from lenient.synthesis.drawing import Draws
from lenient.synthesis.pool import Pool
from lenient.synthesis.source import Stock
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.settings import DistillSettings
from lenient.training.trainer import Distillation, run_loop
from lenient.training.verdict import Health, of_images

LOOKED_AT = 64
"""Images of those made that the verdict looks at."""


@dataclass(frozen=True)
class Budget:
    """The time that may be taken, from now on."""

    text: str | None = None
    """As `30m`; None for as long as it takes."""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Taken so far."""
        return time.monotonic() - self.started

    def spent(self) -> bool:
        """Whether nothing is left of it, on any rank."""
        late = self.text is not None and self.seconds >= parse_budget(self.text)
        return ranks.any_rank(late, False)[0]


def from_teacher(job: Job, count: int, budget: str | None) -> SyntheticImages:
    """Run a job's method in memory until `count` images are there, or the budget is spent.

    With a pool it runs until the pool holds so many, however many steps the student makes beside; any other for its
    steps, or as many as fit into the budget, and then draws. Neither teacher nor student are changed.

    Raises:
        UsageError: the pool cannot hold so many, or the budget is not enough for one image.
        HealthError: the run stopped itself.
    """
    time_left = Budget(budget)
    if budget is not None:
        parse_budget(budget)  # refused before anything is tried
    job.open(None)
    student = _copied(job.student)
    settings = _planned(job, student, count, budget)
    runtime = settings.runtime()
    with FrozenTeacher(job.teacher, runtime) as frozen:
        run = Distillation(frozen, student, settings, runtime, method=job.builder())
        source = run.algorithm.drawn

        def done() -> bool:
            enough = len(source) >= count if isinstance(source, Pool) else run.step >= settings.steps
            return time_left.spent() or enough

        interrupted = run_loop(run, done).interrupted
        with untouched_global_rng(), memory_errors():
            made = _collect(run.draws, count, 0, time_left)
            if len(made):
                run.inspect(made.first)
    if interrupted:
        made = replace(made, reason=f"interrupted after {run.updates} updates")
    return _told(made, count, run.health.verdict(), run.step, time_left, interrupted)


def from_run(
    draws: Draws, health: Health, steps: int, count: int, seed: int, budget: str | None = None
) -> SyntheticImages:
    """Draw images of a run that has ended; `health` and `steps` are its own.

    Raises:
        UsageError: there are none.
    """
    time_left = Budget(budget)
    with untouched_global_rng(), memory_errors(), draws.teacher:
        made = _collect(draws, count, seed, time_left)
    return _told(made, count, health, steps, time_left)


def _copied(student: Network) -> Network:
    return replace(student, module=copied_module(student.module))


def _planned(job: Job, student: Network, count: int, budget: str | None) -> DistillSettings:
    """Return the settings of a run that makes so many images; rates that fall do so over its steps."""
    settings, runtime = job.settings, job.settings.runtime()
    with untouched_global_rng(), memory_errors(), FrozenTeacher(job.teacher, runtime) as frozen:
        method = copy.deepcopy(job.builder())
        algorithm = Distillation(frozen, _copied(student), settings, runtime, method=method).algorithm
    source = algorithm.drawn
    if isinstance(source, Pool):
        if source.capacity < count:
            raise UsageError(
                f"-n {count}: the pool of {settings.method.name} holds {source.capacity} images at most; "
                f"raise {source.limit}"
            )
        rounds = source.rounds_for(count)
        return settings.model_copy(update={"steps": algorithm.schedule.steps_in(rounds - 1) + 1})
    if budget is None:
        return settings
    return settings.model_copy(update={"steps": steps_within(budget, settings, job.teacher, student, job.builder())})


@dataclass(frozen=True)
class _Made:
    images: Tensor
    soft_labels: Tensor
    clipped: float
    classes: tuple[str, ...]
    first: Tensor
    """Up to `LOOKED_AT` of them as they were before they were clipped."""
    reason: str
    """Why there are no more."""

    def __len__(self) -> int:
        return len(self.images)


def _collect(draws: Draws, count: int, seed: int, time_left: Budget) -> _Made:
    """Take images as 8 bit, and the teacher's answers to these; at least one part, however late it is."""
    card = draws.teacher.card
    pixels: list[Tensor] = [torch.empty(0, *card.input_size, dtype=torch.uint8)]
    labels: list[Tensor] = [torch.empty(0, card.num_classes)]
    outside, reason = 0.0, "it holds no more" if isinstance(draws.source, Stock) else "the teacher vouches for no more"
    first: list[Tensor] = []
    for part in draws.parts(count, f"synthesize/{seed}"):
        first += part[: LOOKED_AT - len(first)].unbind()
        outside += float(((part < 0) | (part > 1)).float().mean()) * len(part)
        stored = (part.float().clamp(0, 1) * 255).round().byte()
        labels.append(draws.answer(stored.float() / 255).softmax(dim=1).float().cpu())
        pixels.append(stored.cpu().contiguous())
        if time_left.spent():
            break
    if time_left.spent():
        reason = f"the budget of {time_left.text} is spent"
    found = torch.cat(pixels)
    classes = card.classes or tuple(str(number) for number in range(card.num_classes))
    seen = draws.teacher.runtime.images(torch.stack(first) if first else torch.empty(0, *card.input_size))
    return _Made(found, torch.cat(labels), outside / max(len(found), 1), classes, seen, reason)


def _told(
    made: _Made, count: int, health: Health, steps: int, time_left: Budget, interrupted: bool = False
) -> SyntheticImages:
    """Return the data set, and say where it is less than was asked for, or not what it should be."""
    if not len(made):
        raise UsageError(f"-n {count}: no image is there: {made.reason}")
    about = of_images(health)
    if ranks.is_main():
        if len(made) < count or interrupted:
            warn(f"{len(made)} of {count} images: {made.reason}")
        if about.verdict != "ok":
            warn(f"the verdict about these images is {about.verdict}: {'; '.join(about.reasons)}")
    seconds = ranks.agree(time_left.seconds)
    return SyntheticImages(made.images, made.soft_labels, made.classes, steps, seconds, about, made.clipped)
