"""What methods share whose student learns from a pool of finished images: settings, and the student's side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pydantic import Field
from torch import Tensor

from lenient.losses.distances import kl_divergence
from lenient.losses.imitation import Imitation
from lenient.losses.objective import Objective
from lenient.methods.contract import Context, MethodSettings, RateSchedule, Update, learning_rate, student_optimizer
from lenient.methods.steps import StudentStep
from lenient.replay import NoReplay
from lenient.student.update import LiveStudent, PlainUpdate
from lenient.synthesis.pool import Pool
from lenient.synthesis.views import Augmentation, Viewer


class PooledSettings(MethodSettings):
    """Settings of the pool and of the student that learns from it by KL."""

    pool_size: int = Field(100_000, ge=1, le=10**8)
    """Images that the pool holds at most, a byte for each pixel; the oldest go."""
    student_temperature: float = Field(20.0, ge=1e-3, le=1e6)
    """Softens predictions that the student imitates; KL counts times its square (CMI's benchmark: 20)."""
    student_optimizer: Literal["sgd", "adam"] = "sgd"
    """The student's optimizer."""
    student_lr: float = Field(0.1, ge=0, le=1e3)
    """Learning rate of the student's optimizer."""
    student_lr_end: float = Field(0.0, ge=0, le=1e3)
    """Learning rate that the cosines fall towards."""
    student_momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of the student's SGD."""
    student_weight_decay: float = Field(1e-4, ge=0, le=1e6)
    """Weight decay of the student's optimizer (CMI's benchmark: 1e-4)."""
    student_schedule: RateSchedule = "cosine"
    """How the student's rate falls: constant, cosine, cosine-early, drops, one-cycle."""
    augmentation: Augmentation = "none"
    """What the student is trained on: the images of the pool, or changed at random."""


@dataclass(frozen=True)
class PoolStudent:
    """A pool, and the student that learns from it."""

    pool: Pool
    viewer: Viewer
    student: LiveStudent
    imitation: Objective
    update: Update
    label: str
    """How it learns, in a word or two."""


def pool_student(
    context: Context,
    settings: PooledSettings,
    start: Callable[[int, str, int], Tensor],
    fixed: tuple[int, str] | None = None,
    rounds_for: Callable[[int], int] | None = None,
) -> PoolStudent:
    """Put a pool and its student together.

    Args:
        context: teacher, student, device and streams.
        settings: how large the pool may become, and how the student learns.
        start: draws images in pixel units, as a source's `sample`: shown until the pool has any.
        fixed: how many images come in at all, and the setting that says so, where the pool does not grow on.
        rounds_for: as in `Pool`.
    """
    s, runtime, streams = settings, context.runtime, context.streams
    student, viewer = LiveStudent(context.student, runtime), Viewer(streams, s.augmentation)
    limits = [(s.pool_size, "method.pool_size"), *([] if fixed is None else [fixed])]
    capacity, limit = min(limits, key=lambda pair: pair[0])
    pool = Pool(context.teacher, viewer, runtime, streams, context.batch_size, capacity, start, limit, rounds_for)
    imitate = partial(kl_divergence, temperature=s.student_temperature)
    imitation = Objective({"student": (1.0, Imitation(imitate, "KL"))})
    update = PlainUpdate(imitation, student)
    learn = StudentStep(pool, NoReplay(), update, context.teacher, viewer, runtime)
    optimizer = student_optimizer(
        context.student, s.student_optimizer, s.student_lr, s.student_momentum, s.student_weight_decay
    )
    end = min(s.student_lr_end / s.student_lr, 1.0) if s.student_lr else 0.0
    rate = learning_rate(s.student_schedule, end=end)
    return PoolStudent(
        pool, viewer, student, imitation, Update(context.student, optimizer, learn, rate=rate), update.label
    )
