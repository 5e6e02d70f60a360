"""From a teacher, or a run that has ended, to a data set of synthetic images, in memory or as files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from lenient.core import ranks
from lenient.core.errors import UsageError
from lenient.core.memory import memory_errors
from lenient.core.progress import working
from lenient.core.seeding import untouched_global_rng
from lenient.core.text import visible
from lenient.generators.own import GeneratorFactory
from lenient.methods.contract import Method
from lenient.models.card import Network
from lenient.models.facts import TeacherFacts
from lenient.models.lending import copied_module
from lenient.models.trust import Trusted
from lenient.runs import formats
from lenient.runs.crops import Crops
from lenient.runs.formats.columns import FILE
from lenient.runs.gathered import Budget, Gathered, Order, Origin
from lenient.runs.images import SyntheticImages
from lenient.runs.job import Job, load_teacher
from lenient.runs.parts import About, Part
from lenient.runs.reopen import is_run, reopen
from lenient.runs.request import Request, steps_within
from lenient.synthesis.drawing import Draws
from lenient.synthesis.pool import Pool
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.result import Result
from lenient.training.settings import DistillSettings
from lenient.training.trainer import Distillation, run_loop

INVERSION = "deepinversion"
"""Makes the images of a teacher unless another method is named."""


def data_set(
    teacher: nn.Module | Network | Result | str | Path,
    order: Order,
    request: Request,
    method: str | Method,
    student: nn.Module | Network | str,
    generator: GeneratorFactory | None,
    trust_code: Trusted,
    facts: TeacherFacts,
    kind: str = "none",
) -> SyntheticImages:
    """Make a data set of a teacher, or draw one from a run, and write it where the order says; as `synthesize`, which
    shows progress of this `kind`."""
    with ranks.joined():
        kind = kind if ranks.is_main() else "none"
        if isinstance(teacher, Result) or is_run(teacher):
            asked = {
                "method": None if method == INVERSION else method,
                "student": None if student == "auto" else student,
                "recipe": request.recipes or None,
                "settings": request.settings or None,
                **{name: getattr(request, name) for name in ("proxy_images", "steps", "batch_size", "precision")},
                "generator": generator,
                **facts,
            }
            for name in (name for name, value in asked.items() if value is not None):
                raise UsageError(f"{name}: a run has its own; leave it out to draw from a run")
            made = from_run(teacher, order, request.seed or 0, request.device, trust_code, kind)
        else:
            with working("loading the teacher", kind):
                network = load_teacher(teacher, trust_code=trust_code, **facts)
            order.shape(network.card)  # refused before the work of hours
            made = from_teacher(Job(network, student, request, method=method, generator=generator), order, kind)
        if order.folder is None:
            return made
        if ranks.is_main():
            with working(f"writing {visible(order.folder)}", kind):
                made.save(order.folder, order.format, overwrite=order.overwrite)
        ranks.agree(None)  # nobody goes on before it is written
        return SyntheticImages.open(order.folder) if (order.folder / FILE).is_file() else made


def from_teacher(job: Job, order: Order, kind: str = "none") -> SyntheticImages:
    """Run a job's method in memory until as many images are there as were ordered, or the budget is spent.

    With a pool it runs until the pool holds so many, however many steps the student makes beside; any other for its
    steps, or as many as fit into the budget, and then draws. Neither teacher nor student are changed.

    Raises:
        UsageError: the pool cannot hold so many, or the budget is not enough for one image.
        HealthError: the run stopped itself.
    """
    time_left = Budget(order.budget)
    with working(job.opening(resume=False), kind):
        job.open(None)
    with job.threaded():
        return _from_open(job, order, time_left, kind)


def _from_open(job: Job, order: Order, time_left: Budget, kind: str) -> SyntheticImages:
    student = _copied(job.student)
    settings = _planned(job, student, order)
    runtime = settings.runtime()
    with FrozenTeacher(job.teacher, runtime) as frozen:
        run = Distillation(frozen, student, settings, runtime, method=job.builder())
        source = run.algorithm.drawn
        updates = run.algorithm.schedule.updates_for(settings.steps)

        def done() -> bool:
            count(run.updates)
            enough = len(source) >= order.count if isinstance(source, Pool) else run.step >= settings.steps
            return time_left.spent() or enough

        with working("making images: updates", kind, total=updates) as count:
            stopped = f"interrupted after {run.updates} updates" if run_loop(run, done).interrupted else ""
        gathered = Gathered(run.draws, order, settings.seed, time_left, stopped)
        with untouched_global_rng(), memory_errors():
            parts = _drawn(gathered, kind)
            run.inspect(runtime.images(torch.stack(gathered.first)))
    return _held(gathered, parts, Origin.of(run))


def from_run(
    run: Result | str | Path, order: Order, seed: int, device: str | None, trust_code: Trusted, kind: str = "none"
) -> SyntheticImages:
    """Draw images of a run that has ended.

    Raises:
        UsageError: there are none, or the run draws no more.
    """
    if not isinstance(run, Result):
        distillation, _ = reopen(Path(run), device, trust_code=trust_code)
        draws, origin = distillation.draws, Origin.of(distillation)
    elif device is not None:
        raise UsageError("device: a result draws where its run was; leave it out")
    elif run.draws is None:
        raise UsageError("this result was copied or read back, and draws nothing; name its run folder")
    else:
        draws, origin = run.draws, Origin.of_result(run)
    gathered = Gathered(draws, order, seed)
    with untouched_global_rng(), memory_errors(), draws.teacher:
        parts = _drawn(gathered, kind)
    return _held(gathered, parts, origin)


def to_folder(
    draws: Draws, origin: Origin, order: Order, seed: int, tell: Callable[[int], None] | None = None
) -> Written:
    """Draw images of a run that has ended and write them as they come, where the order says.

    `tell` is called with their number after each part.

    Raises:
        UsageError: there are none, the format cannot hold them, or they do not fit on the disk.
        MachineError: the disk refuses.
    """
    assert order.folder is not None, "ordered as files"
    gathered = Gathered(draws, order, seed)
    formats.check_space(order.format, order.count, gathered.shape, order.folder)

    def counted() -> Iterator[Part]:
        for part in gathered:
            yield part
            if tell is not None:
                tell(gathered.made)

    with untouched_global_rng(), memory_errors(), draws.teacher:
        formats.write(order.folder, order.format, counted(), gathered.shape, lambda: gathered.about(origin))
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


def _drawn(gathered: Gathered, kind: str) -> list[Part]:
    parts = []
    with working("drawing images", kind, total=gathered.order.count) as count:
        for part in gathered:
            parts.append(part)
            count(gathered.made)
    return parts


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


def _planned(job: Job, student: Network, order: Order) -> DistillSettings:
    """Return the settings of a run that makes so many images; rates that fall do so over its steps."""
    settings, runtime = job.settings, job.settings.runtime()
    with untouched_global_rng(), memory_errors(), FrozenTeacher(job.teacher, runtime) as frozen:
        method = copy.deepcopy(job.builder())
        algorithm = Distillation(frozen, _copied(student), settings, runtime, method=method).algorithm
    source = algorithm.drawn
    if isinstance(source, Pool):
        if source.capacity < order.count:
            raise UsageError(
                f"-n {order.count}: the pool of {settings.method.name} holds {source.capacity} images at most; "
                f"raise {source.limit}"
            )
        rounds = source.rounds_for(order.count)
        return settings.model_copy(update={"steps": algorithm.schedule.steps_in(rounds - 1) + 1})
    if order.budget is None:
        return settings
    steps = steps_within(order.budget, settings, job.teacher, student, job.builder())
    return settings.model_copy(update={"steps": steps})
