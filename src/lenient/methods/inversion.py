"""What methods that invert the teacher share: one batch after another is optimised, its best iterate joins a pool that
grows, and the student learns from the pool. A method says what the parameters of a batch are, how they are shown, and
which terms they descend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn

from lenient.core import ranks
from lenient.core.errors import UsageError
from lenient.core.modes import mode
from lenient.core.runtime import sent
from lenient.losses.objective import Needs, Objective
from lenient.methods.batches import Batches, Place
from lenient.methods.contract import (
    STUDENT,
    Algorithm,
    Context,
    Phase,
    Schedule,
    StepOutput,
    Update,
    with_terms,
)
from lenient.methods.pooled import PooledSettings, pool_student
from lenient.methods.steps import probes_of, statistics_of
from lenient.student.update import LiveStudent
from lenient.synthesis.iterate import Iterate
from lenient.synthesis.pool import Pool
from lenient.teacher.batch import Batch, Clock, Response


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
        """Return how many rounds of the schedule add so many images to the pool."""
        batches = -(-count // self.images_of(context))
        first = min(batches, self.first_batches)
        return first + -(-(batches - first) // self.round_batches)


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

    def place(self, clock: Clock) -> Place:
        """Return where an update is; the order of pieces is drawn for each round of them."""
        pieces = len(self.batches.pieces)
        steps = self.iterations * pieces
        number, step = divmod(self.schedule.before(self.batches.name, clock.update), steps)
        iteration, piece = divmod(step, pieces)
        if pieces > 1:
            order = self.context.streams.host("pieces", number * self.iterations + iteration)
            piece = torch.randperm(pieces, generator=order).tolist()[piece]
        return Place(number, iteration / self.iterations, piece, step == 0, step + 1 == steps)

    def rate(self, clock: Clock) -> float:
        """Return the factor of an update's learning rates."""
        return self.batches.rate(self.place(clock).done)

    def __call__(self, clock: Clock) -> StepOutput:
        """Fill the gradients of what the batch is made of."""
        objective = self.objective
        needs = objective.needs(clock)
        place = self.place(clock)
        # (1) the view, those that terms read besides, and both networks' answers to each
        shown = self.batches.show(clock, place)
        view, read = shown.inputs, {need.view for need in needs}
        others = {name: make() for name, make in shown.others.items() if name in read}
        answers = self._answers(view, [need for need in needs if need.view not in others])
        whole = sent(self.batches.labels(place.number), view.device)
        labels = whole.chunk(len(self.batches.pieces))[place.piece]
        weight = torch.ones(len(view), device=view.device)
        batch = Batch(
            shown.images, weight, {"clean": view, "train": view, **others}, labels=ranks.mine(labels), clock=clock
        )
        batch.drawn, batch.partners, batch.piece = shown.drawn, shown.partners, place.piece
        batch.answers = {"clean": answers, "train": answers}
        for name, other in others.items():
            batch.answers[name] = self._answers(other, [need for need in needs if need.view == name])
        # (2) one objective
        total, losses = objective(batch)
        if losses:  # a term may have no weight before its time
            total.backward()
        judged = {"total": total.detach(), "whole": shown.whole}
        made = len(whole) if place.begins else 0
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
        own, place = self.batches, self.place(clock)
        better = own.pieces[place.piece].keep(output.kept["whole"], output.kept["total"], bad)
        self.objective.keep(output.batch, better)
        self.objective.follow(output.batch, bad)
        own.follow(place.ends, bad)
        if place.ends:
            self.objective.remember(output.batch, bad)
            for iterate in own.pieces:
                self.pool.push(own.finished(iterate))
                iterate.restart(place.number + 1, own.optimizer, bad)


def all_of(pieces: Sequence[Iterate]) -> nn.Module:
    """Return what all pieces of a batch are made of, which one optimizer moves: of a single one, itself."""
    return pieces[0] if len(pieces) == 1 else nn.ModuleList(pieces)


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
    steps = s.iterations * len(batches.pieces)
    first = [Phase(((batches.name, steps),), s.first_batches)] if s.first_batches else []
    row = (batches.name, steps * s.round_batches)
    last = Phase(((STUDENT, 1),)) if s.student_steps is None else Phase((row, (STUDENT, s.student_steps)))
    schedule = Schedule(*first, last)
    step = Inversion(context, batches, s.iterations, own.student, own.pool, schedule)
    moving = with_terms(all_of(batches.pieces), batches.objective)
    updates = {batches.name: Update(moving, batches.optimizer, step, step.after, step.rate), STUDENT: own.update}
    parts = {"replay": "fixed set" if fixed else "growing pool", "update": own.label, **batches.parts}
    return Algorithm(updates, schedule, own.pool, own.imitation, batches.objective, state=batches.state, parts=parts)
