"""From a teacher, or a run that has ended, to a data set of synthetic images, in memory or as files."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from lenient.core import ranks
from lenient.core.errors import UsageError
from lenient.core.memory import memory_errors
from lenient.core.seeding import untouched_global_rng
from lenient.models.card import Network
from lenient.models.lending import copied_module
from lenient.runs import formats
from lenient.runs.crops import Cropping, Crops, labelled
from lenient.runs.formats import Shape
from lenient.runs.images import SyntheticImages
from lenient.runs.job import Job, warn
from lenient.runs.parts import About, Part
from lenient.runs.request import parse_budget, steps_within
from lenient.synthesis.drawing import Draws
from lenient.synthesis.pool import Pool
from lenient.synthesis.source import Stock
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.result import Result
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


@dataclass(frozen=True)
class Origin:
    """The run that images come from."""

    method: str
    steps: int
    health: Health
    """All of its checks."""
    foreign: Sequence[str]

    @classmethod
    def of(cls, run: Distillation) -> Origin:
        """Return that of a run as it is now."""
        return cls(run.settings.method.name, run.step, run.health.verdict(), run.algorithm.foreign)

    @classmethod
    def of_result(cls, result: Result) -> Origin:
        """Return that of a run that has ended."""
        own = result.summary
        return cls(own.method, own.steps, own.health, own.foreign or ())


class Gathered:
    """Images of a run as they are drawn and labelled, and afterwards what there is to say of them.

    Iterating, which can be done once, draws up to `count` images in parts, as 8 bit, with the teacher's answers to
    these; at least one part, however late it is. The teacher is to be entered before.

    Raises, while it is iterated:
        UsageError: there is no image.
    """

    def __init__(
        self,
        draws: Draws,
        count: int,
        seed: int,
        cropping: Cropping | None = None,
        time_left: Budget | None = None,
        interrupted: str = "",
    ) -> None:
        self.draws, self.count, self.seed, self.cropping = draws, count, seed, cropping
        self.time_left, self.interrupted = time_left or Budget(), interrupted
        self.first: list[Tensor] = []
        """Up to `LOOKED_AT` of the images as they were before they were clipped."""
        self.made, self._outside, self._seconds = 0, 0.0, 0.0

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the teacher's classes, else their numbers."""
        card = self.draws.teacher.card
        return card.classes or tuple(str(number) for number in range(card.num_classes))

    @property
    def shape(self) -> Shape:
        """What all of them have in common."""
        return Shape(self.draws.teacher.card.input_size, self.classes, self.cropping.count if self.cropping else 0)

    def __iter__(self) -> Iterator[Part]:
        for drawn in self.draws.parts(self.count, f"synthesize/{self.seed}"):
            yield self._part(drawn)
            if self.time_left.spent():
                break
        if not self.made:
            raise UsageError(f"-n {self.count}: no image is there: {self._reason()}")
        self._seconds = ranks.agree(self.time_left.seconds)

    def _part(self, drawn: Tensor) -> Part:
        self.first += drawn[: LOOKED_AT - len(self.first)].unbind()
        self._outside += float(((drawn < 0) | (drawn > 1)).float().mean()) * len(drawn)
        stored, answer = (drawn.float().clamp(0, 1) * 255).round().byte(), self.draws.answer
        crops = None if self.cropping is None else labelled(stored, self.made, self.seed, self.cropping, answer)
        self.made += len(drawn)
        return Part(stored.cpu().contiguous(), answer(stored.float() / 255).float().cpu(), crops)

    def _reason(self) -> str:
        """Why there are no more."""
        if self.interrupted:
            return self.interrupted
        if self.time_left.spent():
            return f"the budget of {self.time_left.text} is spent"
        return "it holds no more" if isinstance(self.draws.source, Stock) else "the teacher vouches for no more"

    def about(self, origin: Origin) -> About:
        """Return what there is to say of them."""
        return About(
            classes=self.classes,
            steps=origin.steps,
            seconds=self._seconds,
            health=of_images(origin.health),
            clipped=self._outside / max(self.made, 1),
            method=origin.method,
            teacher=self.draws.teacher.card.arch,
            seed=self.seed,
            cropping=self.cropping,
            foreign=tuple(origin.foreign),
        )

    def warn(self, about: About) -> None:
        """Say where they are fewer than was asked for, or not what they should be; to be called by all ranks."""
        late = self.made < self.count and self._reason()
        if not ranks.is_main():
            return
        if late or self.interrupted:
            warn(f"{self.made} of {self.count} images: {late or self.interrupted}")
        if about.health.verdict != "ok":
            warn(f"the verdict about these images is {about.health.verdict}: {'; '.join(about.health.reasons)}")


def from_teacher(job: Job, count: int, budget: str | None, cropping: Cropping | None = None) -> SyntheticImages:
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

        stopped = f"interrupted after {run.updates} updates" if run_loop(run, done).interrupted else ""
        gathered = Gathered(run.draws, count, settings.seed, cropping, time_left, stopped)
        with untouched_global_rng(), memory_errors():
            parts = list(gathered)
            run.inspect(runtime.images(torch.stack(gathered.first)))
    return _held(gathered, parts, Origin.of(run))


def from_run(
    draws: Draws, origin: Origin, count: int, seed: int, budget: str | None = None, cropping: Cropping | None = None
) -> SyntheticImages:
    """Draw images of a run that has ended.

    Raises:
        UsageError: there are none.
    """
    gathered = Gathered(draws, count, seed, cropping, Budget(budget))
    with untouched_global_rng(), memory_errors(), draws.teacher:
        parts = list(gathered)
    return _held(gathered, parts, origin)


def to_folder(
    draws: Draws,
    origin: Origin,
    count: int,
    seed: int,
    folder: Path,
    kind: str,
    cropping: Cropping | None = None,
    tell: Callable[[int], None] | None = None,
) -> Written:
    """Draw images of a run that has ended and write them as they come, in one of `lenient.runs.formats`.

    The folder was looked at by `formats.check_place`. `tell` is called with their number after each part.

    Raises:
        UsageError: there are none, the format cannot hold them, or they do not fit on the disk.
        MachineError: the disk refuses.
    """
    gathered = Gathered(draws, count, seed, cropping)
    formats.check(kind, gathered.shape)
    formats.check_space(kind, count, gathered.shape, folder)

    def counted() -> Iterator[Part]:
        for part in gathered:
            yield part
            if tell is not None:
                tell(gathered.made)

    with untouched_global_rng(), memory_errors(), draws.teacher:
        formats.write(folder, kind, counted(), gathered.shape, lambda: gathered.about(origin))
    about = gathered.about(origin)
    gathered.warn(about)
    return Written(gathered.made, about.clipped)


@dataclass(frozen=True)
class Written:
    """What came to be in a folder."""

    images: int
    """Fewer than were asked for where there are no more."""
    clipped: float
    """Share, in [0, 1], of the values that lay outside of [0, 1] and were clipped to 8 bit."""


def _held(gathered: Gathered, parts: list[Part], origin: Origin) -> SyntheticImages:
    about = gathered.about(origin)
    gathered.warn(about)
    crops = [part.crops for part in parts if part.crops is not None]
    return SyntheticImages(
        **{name: getattr(about, name) for name in About.__dataclass_fields__},
        images=torch.cat([part.images for part in parts]),
        logits=torch.cat([part.logits for part in parts]),
        crops=Crops(*(torch.cat([getattr(some, name) for some in crops]) for name in ("boxes", "flips", "logits")))
        if crops
        else None,
    )


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
