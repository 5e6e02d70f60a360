"""What methods that invert the teacher share: one batch after another is optimised, its best iterate joins a pool that
grows, and the student learns from the pool. A method says what the parameters of a batch are, how they are shown, and
which terms they descend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from lenient.core import ranks
from lenient.core.errors import UsageError
from lenient.core.modes import mode
from lenient.losses.objective import Objective
from lenient.methods.contract import STUDENT, Algorithm, Context, Phase, Schedule, Stateful, StepOutput, Update
from lenient.methods.pooled import PooledSettings, pool_student
from lenient.methods.steps import probes_of, statistics_of
from lenient.student.update import LiveStudent
from lenient.synthesis.iterate import Iterate
from lenient.synthesis.pool import Pool
from lenient.teacher.batch import Batch, Clock


class InversionSettings(PooledSettings):
    """Settings of all methods that invert the teacher; what else they have stands with each."""

    iterations: int = Field(2000, ge=1, le=10**6)
    """Steps on a batch."""
    first_batches: int = Field(20, ge=0, le=10**6)
    """Batches in the pool before the student's first step."""
    student_steps: int | None = Field(400, ge=1, le=10**6)
    """Student updates after each further batch; null: none follows the first ones, whose images are a fixed set."""


class Shown(NamedTuple):
    """A batch as one step on it sees it."""

    images: Tensor
    """This rank's rows in pixel units."""
    inputs: Tensor
    """What both networks are shown of them, normalised."""
    whole: Tensor
    """All rows as the best iterate is kept, without gradient."""


def nothing(ends: bool, bad: Tensor) -> None:
    """What follows most steps on a batch."""


@dataclass(frozen=True)
class Batches:
    """What a method that inverts the teacher says of its batches."""

    name: str
    """Of the update of their parameters."""
    iterate: Iterate
    """These parameters."""
    optimizer: Optimizer
    objective: Objective
    show: Callable[[Clock], Shown]
    """Shows them with gradient."""
    labels: Callable[[int], Tensor]
    """Number of a batch to the classes (B,) that it is to show, or to distributions over them (B, K)."""
    start: Callable[[int, str, int], Tensor]
    """What batches start from, in pixel units, as a source's `sample`: shown until the pool has any."""
    to_pixels: Callable[[Tensor], Tensor] = lambda images: images
    """The best iterate to pixel units."""
    follow: Callable[[bool, Tensor], None] = nothing
    """Told after each step, before another batch begins, whether it was the batch's last, and the guard's word."""
    state: Mapping[str, Stateful] = field(default_factory=dict)
    """What else outlives an update."""


@dataclass(frozen=True)
class Inversion:
    """One step on a batch, and what follows it: keep the best iterate, and at the end push it and begin another."""

    context: Context
    batches: Batches
    iterations: int
    student: LiveStudent
    pool: Pool
    schedule: Schedule

    @property
    def objective(self) -> Objective:
        """What the batch minimises."""
        return self.batches.objective

    def minimising(self, objective: Objective) -> Inversion:
        """Return the step with another objective."""
        return replace(self, batches=replace(self.batches, objective=objective))

    def _place(self, clock: Clock) -> tuple[int, int]:
        """Return the number of the batch and that of the step on it, from 0."""
        return divmod(self.schedule.before(self.batches.name, clock.update), self.iterations)

    def __call__(self, clock: Clock) -> StepOutput:
        """Fill the gradients of what the batch is made of."""
        teacher, objective = self.context.teacher, self.objective
        needs = objective.needs(clock)
        number, place = self._place(clock)
        # (1) the view, and both networks' answers to it
        shown = self.batches.show(clock)
        view = shown.inputs
        answers = {"teacher": teacher.respond(view, probes_of(needs))}
        if any(need.student for need in needs):
            with mode(self.context.student, "eval"):
                answers["student"] = self.student.respond(view)
        labels = self.batches.labels(number).to(view.device)
        weight = torch.ones(len(view), device=view.device)
        inputs, both = {"clean": view, "train": view}, {"clean": answers, "train": answers}
        batch = Batch(shown.images, weight, inputs, both, ranks.mine(labels), clock)
        # (2) one objective
        total, losses = objective(batch)
        if losses:  # a term may have no weight before its time
            total.backward()
        judged = {"total": total.detach(), "whole": shown.whole}
        made = 0 if place else len(labels)
        return StepOutput(losses, batch, made, facts=statistics_of(objective, losses), kept=judged)

    def after(self, clock: Clock, output: StepOutput, bad: Tensor) -> None:
        """Keep the iterate that was judged, if it is the best; at the end of a batch, let another begin."""
        own = self.batches
        number, place = self._place(clock)
        ends = place + 1 == self.iterations
        own.iterate.keep(output.kept["whole"], output.kept["total"], bad)
        own.follow(ends, bad)
        if ends:
            self.objective.remember(output.batch, bad)
            self.pool.push(own.to_pixels(own.iterate.best))
            own.iterate.restart(number + 1, own.optimizer, bad)


def inversion_algorithm(context: Context, settings: InversionSettings, batches: Batches) -> Algorithm:
    """Put batches, pool and student together: batches first, then one for each stretch of student updates.

    Raises:
        UsageError: the student would have no image to learn from.
    """
    s, fixed = settings, settings.student_steps is None
    if fixed and not s.first_batches:
        raise UsageError("-s method.first_batches=0: no other images come into a fixed set; give at least 1")
    size = (s.first_batches * context.batch_size, "method.first_batches") if fixed else None
    own = pool_student(context, s, batches.start, size)
    inversion = (batches.name, s.iterations)
    first = [Phase((inversion,), s.first_batches)] if s.first_batches else []
    last = Phase(((STUDENT, 1),)) if s.student_steps is None else Phase((inversion, (STUDENT, s.student_steps)))
    schedule = Schedule(*first, last)
    step = Inversion(context, batches, s.iterations, own.student, own.pool, schedule)
    updates = {batches.name: Update(batches.iterate, batches.optimizer, step, step.after), STUDENT: own.update}
    parts = {"replay": "fixed set" if fixed else "growing pool", "update": own.label}
    return Algorithm(updates, schedule, own.pool, own.imitation, batches.objective, state=batches.state, parts=parts)
