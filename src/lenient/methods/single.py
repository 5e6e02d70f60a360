"""What methods share whose one update is the student's: it imitates the teacher on images that no update makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from lenient.losses.distances import logit_l1
from lenient.losses.imitation import Imitation
from lenient.losses.objective import Objective
from lenient.methods.contract import (
    STUDENT,
    Algorithm,
    Context,
    MethodSettings,
    Phase,
    RateSchedule,
    Schedule,
    Update,
    learning_rate,
    sgd,
)
from lenient.methods.steps import StudentStep
from lenient.replay import NoReplay
from lenient.student.update import LiveStudent, PlainUpdate
from lenient.synthesis.source import Fresh, Source
from lenient.synthesis.views import Augmentation, Viewer


class SingleStudentSettings(MethodSettings):
    """Settings of TA-DFKD's student."""

    uses: ClassVar[tuple[str, ...]] = ()

    student_lr: float = Field(0.2, ge=0, le=1e3)
    """Learning rate of the student."""
    student_momentum: float = Field(0.9, ge=0, lt=1)
    """Its momentum."""
    student_weight_decay: float = Field(5e-4, ge=0, le=1e6)
    """Its weight decay."""
    student_schedule: RateSchedule = "cosine"
    """How the rate falls: constant, cosine, cosine-early, drops, one-cycle."""


def single_student(
    context: Context,
    settings: SingleStudentSettings,
    draw: Callable[[int, str, int], Tensor],
    imitation: Imitation | None = None,
    optimizer: Optimizer | None = None,
    sampler: str = "",
    augmentation: Augmentation = "none",
) -> Algorithm:
    """Return the algorithm of a student that imitates the teacher on images that `draw(count, name, update)` returns,
    which are `sampler`, in a word or two for the table of methods, and shown as `augmentation` says.

    It does so by the L1 distance of logits and with SGD, unless others are given.
    """
    s, viewer = settings, Viewer(context.streams, augmentation)
    source = Fresh(draw, context.teacher, viewer, context.batch_size, s.name)
    imitation = imitation or Imitation(logit_l1, "L1")
    optimizer = optimizer or sgd(context.student, s.student_lr, s.student_momentum, s.student_weight_decay)
    return imitating(context, source, viewer, imitation, optimizer, s.student_schedule, {"sampler": sampler})


def imitating(
    context: Context,
    source: Source,
    viewer: Viewer,
    imitation: Imitation,
    optimizer: Optimizer,
    schedule: RateSchedule,
    parts: Mapping[str, str] | None = None,
    foreign: tuple[str, ...] = (),
) -> Algorithm:
    """Return the algorithm of a student that imitates the teacher on a source's images.

    Args:
        context: teacher, in the view that answers, student, device and streams.
        source: of the images.
        viewer: how they are shown.
        imitation: what the student minimises.
        optimizer: of the student.
        schedule: how its rate falls.
        parts: what source and update are, in a word or two, for the table of methods.
        foreign: what images come from besides the teacher.
    """
    objective = Objective({"student": (1.0, imitation)})
    update = PlainUpdate(objective, LiveStudent(context.student, context.runtime))
    step = StudentStep(source, NoReplay(), update, context.teacher, viewer, context.runtime)
    updates = {STUDENT: Update(context.student, optimizer, step, rate=learning_rate(schedule))}
    described = {**(parts or {}), "update": update.label}
    schedule_of_steps, by = Schedule(Phase(((STUDENT, 1),))), context.teacher.statistics
    return Algorithm(updates, schedule_of_steps, source, objective, parts=described, foreign=foreign, statistics=by)
