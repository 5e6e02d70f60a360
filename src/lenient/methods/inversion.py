"""What methods that invert the teacher share: one batch after another is optimised, its best iterate joins a pool that
grows, and the student learns from the pool. A method says what the parameters of a batch are, how they are shown, and
which terms they descend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from lenient.core import ranks
from lenient.core.errors import UsageError
from lenient.core.modes import mode
from lenient.losses.objective import Needs, Objective
from lenient.methods.contract import (
    STUDENT,
    Algorithm,
    Context,
    Phase,
    Schedule,
    Stateful,
    StepOutput,
    Update,
    with_terms,
)
from lenient.methods.pooled import PooledSettings, pool_student
from lenient.methods.steps import probes_of, statistics_of
from lenient.student.update import LiveStudent
from lenient.synthesis.iterate import Iterate
from lenient.synthesis.pool import Pool
from lenient.teacher.batch import Batch, Clock, Partners, Response


class InversionSettings(PooledSettings):
    """Settings of all methods that invert the teacher; what else they have stands with each."""

    iterations: int = Field(2000, ge=1, le=10**6)
    """Steps on a batch."""
    first_batches: int = Field(20, ge=0, le=10**6)
    """Batches in the pool before the student's first step."""
    batch_images: int | None = Field(None, ge=2, le=2**20)
    """Images in a batch that is optimised; by default as many as the student learns from (`batch_size`)."""
    round_batches: int = Field(1, ge=1, le=10**6)
    """Further batches in a row, before the student learns."""
    student_steps: int | None = Field(400, ge=1, le=10**6)
    """Student updates after each row of further batches; null: none follow the first ones, whose images are a fixed
    set."""

    def images_of(self, context: Context) -> int:
        """Return the images in a batch that is optimised."""
        return self.batch_images or context.batch_size

    def rounds_for(self, count: int, context: Context) -> int:
        """Return how many rounds of the schedule bring so many images into the pool."""
        batches = -(-count // self.images_of(context))
        first = min(batches, self.first_batches)
        return first + -(-(batches - first) // self.round_batches)


class Shown(NamedTuple):
    """A batch as one step on it sees it."""

    images: Tensor
    """This rank's rows in pixel units."""
    inputs: Tensor
    """What both networks are shown of them, normalised."""
    whole: Tensor
    """All rows as the best iterate is kept, without gradient."""
    others: Mapping[str, Callable[[], Tensor]] = {}
    """Further views of this rank's rows by name, made where a term reads them."""
    drawn: Sequence[Tensor] = ()
    """The generator's maps that they came from, where terms read them."""
    partners: Partners | None = None
    """Whose parts the inputs show."""


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
    """Of these parameters, and of those that terms own."""
    objective: Objective
    show: Callable[[Clock, int], Shown]
    """Shows the batch of a number with gradient."""
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
        objective = self.objective
        needs = objective.needs(clock)
        number, place = self._place(clock)
        # (1) the view, those that terms read besides, and both networks' answers to each
        shown = self.batches.show(clock, number)
        view, read = shown.inputs, {need.view for need in needs}
        others = {name: make() for name, make in shown.others.items() if name in read}
        answers = self._answers(view, [need for need in needs if need.view not in others])
        labels = self.batches.labels(number).to(view.device)
        weight = torch.ones(len(view), device=view.device)
        batch = Batch(
            shown.images, weight, {"clean": view, "train": view, **others}, labels=ranks.mine(labels), clock=clock
        )
        batch.drawn, batch.partners = shown.drawn, shown.partners
        batch.answers = {"clean": answers, "train": answers}
        for name, other in others.items():
            batch.answers[name] = self._answers(other, [need for need in needs if need.view == name])
        # (2) one objective
        total, losses = objective(batch)
        if losses:  # a term may have no weight before its time
            total.backward()
        judged = {"total": total.detach(), "whole": shown.whole}
        made = 0 if place else len(labels)
        return StepOutput(losses, batch, made, facts=statistics_of(objective, losses), kept=judged)

    def _answers(self, view: Tensor, needs: Sequence[Needs]) -> dict[str, Response]:
        """Ask the teacher about a view, and the student where a term needs it."""
        answers = {"teacher": self.context.teacher.respond(view, probes_of(needs))}
        if any(need.student for need in needs):
            with mode(self.context.student, "eval"):
                answers["student"] = self.student.respond(view)
        return answers

    def after(self, clock: Clock, output: StepOutput, bad: Tensor) -> None:
        """Keep the iterate that was judged, if it is the best; at the end of a batch, let another begin."""
        own = self.batches
        number, place = self._place(clock)
        ends = place + 1 == self.iterations
        better = own.iterate.keep(output.kept["whole"], output.kept["total"], bad)
        self.objective.keep(output.batch, better)
        own.follow(ends, bad)
        if ends:
            self.objective.remember(output.batch, bad)
            self.pool.push(own.to_pixels(own.iterate.best))
            own.iterate.restart(number + 1, own.optimizer, bad)


def inversion_algorithm(context: Context, settings: InversionSettings, batches: Batches) -> Algorithm:
    """Put batches, pool and student together: batches first, then some for each stretch of student updates.

    Raises:
        UsageError: the student would have no image to learn from.
    """
    s, fixed = settings, settings.student_steps is None
    if fixed and not s.first_batches:
        raise UsageError("-s method.first_batches=0: no other images come into a fixed set; give at least 1")
    size = (s.first_batches * s.images_of(context), "method.first_batches") if fixed else None
    own = pool_student(context, s, batches.start, size, partial(s.rounds_for, context=context))
    first = [Phase(((batches.name, s.iterations),), s.first_batches)] if s.first_batches else []
    row = (batches.name, s.iterations * s.round_batches)
    last = Phase(((STUDENT, 1),)) if s.student_steps is None else Phase((row, (STUDENT, s.student_steps)))
    schedule = Schedule(*first, last)
    step = Inversion(context, batches, s.iterations, own.student, own.pool, schedule)
    moving = with_terms(batches.iterate, batches.objective)
    updates = {batches.name: Update(moving, batches.optimizer, step, step.after), STUDENT: own.update}
    parts = {"replay": "fixed set" if fixed else "growing pool", "update": own.label}
    return Algorithm(updates, schedule, own.pool, own.imitation, batches.objective, state=batches.state, parts=parts)
