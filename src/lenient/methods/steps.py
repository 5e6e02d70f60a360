"""The steps of methods with one generator: how generator, student and memory get their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lenient.core import ranks
from lenient.core.modes import mode
from lenient.core.runtime import Runtime
from lenient.losses.objective import Needs, Objective
from lenient.losses.prior import confidence_score
from lenient.methods.contract import Context, StepOutput
from lenient.replay import Replay
from lenient.replay.generative import MemoryGenerator
from lenient.student.update import LiveStudent, StudentUpdate
from lenient.synthesis.generated import Key
from lenient.synthesis.sampler import Sampler
from lenient.synthesis.selection import Selection
from lenient.synthesis.source import Source
from lenient.synthesis.views import Viewer, augment
from lenient.teacher.batch import Batch, Clock
from lenient.teacher.frozen import FrozenTeacher
from lenient.teacher.probes import BatchNorms, Probe


@dataclass(frozen=True)
class GeneratorStep:
    """Draw images with gradient, ask both networks, minimise one objective."""

    context: Context
    sampler: Sampler
    student: LiveStudent
    source: Source
    objective: Objective
    selection: Selection
    viewer: Viewer
    key: Key
    student_mode: Literal["train", "eval"] = "train"
    decoder: nn.Module | None = None
    """Reads the latents back from normalised images, for terms that need it."""

    def minimising(self, objective: Objective) -> GeneratorStep:
        """Return the step with another objective."""
        return replace(self, objective=objective)

    def __call__(self, clock: Clock) -> StepOutput:
        """Fill the generator's gradients."""
        context, teacher = self.context, self.context.teacher
        self.source.moved()
        # (1) synthesise; one armed forward of the teacher on the clean view
        drawing = self.sampler.sample(context.batch_size, *self.key("generator-latents", clock))
        images = drawing.images
        clean = teacher.normalize(images)
        needs = self.objective.needs(clock)
        answer = teacher.respond(clean, probes_of(needs, "clean"))
        # (2) select
        selected = self.selection(ranks.gather(confidence_score(answer.logits.detach())))
        weight = ranks.mine(selected.weight)
        answers = {"clean": {"teacher": answer}}
        batch = Batch(images, weight, {"clean": clean}, answers, drawing.labels, clock, drawing.latents)
        if self.decoder is not None and any(need.decoder for need in needs):
            with context.runtime.autocast():
                batch.decoded = self.decoder(clean)
        # (3) the training view, and both networks' answers to it
        shown = augment(images, self.viewer.augmentation, context.streams, "generator-view", clock.update)
        same, armed = shown is images, probes_of(needs, "train")
        batch.inputs["train"] = clean if same else teacher.normalize(shown)
        seen = answer
        if armed or not same:
            seen = teacher.respond(batch.inputs["train"], armed, weight=weight)
        batch.answers["train"] = {"teacher": seen}
        if any(need.student for need in needs):
            with mode(context.student, self.student_mode):
                batch.answers["train"]["student"] = self.student.respond(batch.inputs["train"])
        # (4) one objective
        total, losses = self.objective(batch)
        if losses:  # a term may have no weight before its time
            total.backward()
        return StepOutput(losses, batch, context.batch_size, selected, statistics_of(self.objective, losses))


def statistics_of(objective: Objective, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what health follows: the images' distance from the teacher's statistics, by all terms that match them."""
    matched = [losses[name] for name in objective.names(lambda need: need.asks(BatchNorms)) if name in losses]
    return {"statistics": torch.stack(matched).sum()} if matched else {}


def probes_of(needs: Sequence[Needs], view: str | None = None) -> tuple[Probe[Any], ...]:
    """Return what the teacher's answer to a view, or to the only one, has to hold besides the logits."""
    asked = (probe for need in needs if view in (None, need.view) for probe in need.probes)
    return tuple(dict.fromkeys(asked))


@dataclass(frozen=True)
class StudentStep:
    """Take a batch of the source, recall old images, let the student learn from both."""

    source: Source
    replay: Replay
    update: StudentUpdate
    teacher: FrozenTeacher
    viewer: Viewer
    runtime: Runtime

    def learning(self, update: StudentUpdate) -> StudentStep:
        """Return the step with another student update."""
        return replace(self, update=update)

    def fed(self, source: Source) -> StudentStep:
        """Return the step with another source."""
        return replace(self, source=source)

    def __call__(self, clock: Clock) -> StepOutput:
        """Fill the student's gradients."""
        # (1) images to learn from with the teacher's answers; the same for old images
        drawn = self.source.batch(clock)
        with torch.no_grad():
            recalled = self.replay.draw(clock)
            old = None
            if recalled is not None:
                images = self.runtime.images(recalled.images)
                old = self.viewer.view(self.teacher, images, "replay-view", clock)
        # (2) update the student
        losses = self.update(drawn.batch, old)
        made = drawn.images + (0 if recalled is None else recalled.made)
        facts = {} if drawn.shortfall is None else {"shortfall": drawn.shortfall}
        return StepOutput(losses, drawn.batch, made, drawn.selected, facts)


@dataclass(frozen=True)
class MemoryStep:
    """Let the memory generator learn from the newest batch and from what it recalls."""

    memory: MemoryGenerator

    def __call__(self, clock: Clock) -> StepOutput:
        """Fill the memory's gradients."""
        return StepOutput(*self.memory.learn(clock))
