"""Baselines: a student that imitates the teacher on noise images or, in the bench alone, on real ones.

A method has learned nothing until it beats the noise student. The real-data student is what data would have been worth;
its images have to be handed to it, for distillation never reaches any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

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
from lenient.synthesis.source import Fresh
from lenient.synthesis.views import Viewer

if TYPE_CHECKING:
    from lenient.data import ImageSet


class SingleStudentSettings(MethodSettings):
    """Settings of TA-DFKD's student."""

    student_lr: float = Field(0.2, ge=0, le=1e3)
    """Learning rate of the student's SGD."""
    student_momentum: float = Field(0.9, ge=0, lt=1)
    """Its momentum."""
    student_weight_decay: float = Field(5e-4, ge=0, le=1e6)
    """Its weight decay."""
    student_schedule: RateSchedule = "cosine"
    """How the rate falls: constant, cosine, cosine-early, drops."""


def single_student(
    context: Context, settings: SingleStudentSettings, draw: Callable[[int, str, int], Tensor]
) -> Algorithm:
    """Return the algorithm of a student that imitates the teacher, by the L1 distance of logits, on images that
    `draw(count, name, update)` returns."""
    s, teacher, viewer = settings, context.teacher, Viewer(context.streams)
    imitation = Objective({"student": (1.0, Imitation(logit_l1, "L1"))})
    update = PlainUpdate(imitation, LiveStudent(context.student, context.runtime))
    source = Fresh(draw, teacher, viewer, context.batch_size, s.name)
    step = StudentStep(source, NoReplay(), update, teacher, viewer, context.runtime)
    optimizer = sgd(context.student, s.student_lr, s.student_momentum, s.student_weight_decay)
    updates = {STUDENT: Update(context.student, optimizer, step, rate=learning_rate(s.student_schedule))}
    return Algorithm(updates, Schedule(Phase(((STUDENT, 1),))), source, imitation, parts={"update": update.label})


class NoiseSettings(SingleStudentSettings):
    """Settings of the noise student: those of TA-DFKD's student."""

    name: Literal["noise"] = "noise"
    distribution: Literal["uniform", "normal"] = "uniform"
    """Pixels uniform in [0, 1], or normal with the teacher's mean and standard deviation."""


class Noise:
    """The student learns from a fresh batch of noise."""

    settings_type: ClassVar[type[MethodSettings]] = NoiseSettings
    not_known: ClassVar[str] = "it is a baseline of no paper"
    """Why there is no recipe `paper`."""
    needs_batch_norm = False
    needs_gradient = False

    def __init__(self, settings: NoiseSettings) -> None:
        self.settings = settings

    def build(self, context: Context) -> Algorithm:
        """Put the one update together."""
        card, streams = context.teacher.card, context.streams

        def draw(count: int, name: str, update: int) -> Tensor:
            """Return noise images (count, C, H, W)."""
            shape = (count, *card.input_size)
            if self.settings.distribution == "uniform":
                return context.runtime.images(streams.uniform(name, update, shape))
            mean, std = (torch.tensor(v, device=streams.device).view(1, -1, 1, 1) for v in (card.mean, card.std))
            return context.runtime.images(streams.normal(name, update, shape) * std + mean)

        return single_student(context, self.settings, draw)


REAL = "real"


class RealSettings(SingleStudentSettings):
    """Settings of the real-data student: those of the noise student."""

    name: Literal["real"] = "real"


class RealImages:
    """The student learns from a batch drawn from the training images, with replacement."""

    settings_type: ClassVar[type[MethodSettings]] = RealSettings
    needs_batch_norm = False
    needs_gradient = False

    def __init__(self, images: ImageSet, settings: RealSettings | None = None) -> None:
        self.images, self.settings = images, settings or RealSettings()

    def build(self, context: Context) -> Algorithm:
        """Put the one update together."""

        def draw(count: int, name: str, update: int) -> Tensor:
            """Return training images (count, C, H, W)."""
            chosen = context.streams.integers(name, update, (count,), len(self.images)).cpu()
            images, _ = next(self.images.subset(chosen).batches(count, device=context.runtime.device))
            return context.runtime.images(images)

        return single_student(context, self.settings, draw)
