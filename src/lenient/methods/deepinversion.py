"""DeepInversion, and ADI, its adaptive form: pixels that the teacher's labels and statistics shape.

Yin, Molchanov, Alvarez et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020, arXiv
1912.08795. Noise becomes images of given classes by gradient descent on the pixels; finished batches join a pool, from
which the student learns. ADI also asks for images on which student and teacher disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lenient.core import ranks
from lenient.core.modes import mode
from lenient.losses.adversarial import AdversarialForm, adversary
from lenient.losses.distances import kl_divergence
from lenient.losses.imitation import Imitation
from lenient.losses.objective import Objective
from lenient.losses.prior import LabelPrior
from lenient.losses.representation import BatchNormStatistics, ImageNorm, differences, itself
from lenient.methods.contract import (
    STUDENT,
    Algorithm,
    Context,
    MethodSettings,
    Phase,
    RateSchedule,
    Schedule,
    StepOutput,
    Update,
    adam,
    learning_rate,
    sgd,
)
from lenient.methods.steps import StudentStep, statistics_of
from lenient.replay import NoReplay
from lenient.student.update import LiveStudent, PlainUpdate
from lenient.synthesis.pixels import Pixels, balanced
from lenient.synthesis.pool import Pool
from lenient.synthesis.views import Augmentation, Viewer, rolled
from lenient.teacher.batch import Batch, Clock


class DeepInversionSettings(MethodSettings):
    """Settings of DeepInversion: L = CE + bn R + tv TV + l2 L2 [+ adv (1 - JS)]; the student minimises KL.

    Image norms are means over images here, scaled as in the other methods; the released code takes them over a batch
    of 256, so that its weights are halved. The released code has no student: its rates and rhythm are ours.
    """

    name: Literal["deepinversion", "adi"] = "deepinversion"
    iterations: int = Field(2000, ge=1, le=10**6)
    """Steps on the pixels of a batch (CIFAR code: 2000)."""
    pixels_lr: float = Field(0.05, ge=0, le=1e3)
    """Learning rate of the pixels' Adam, which starts anew with each batch (CIFAR code: 0.05)."""
    jitter: int = Field(2, ge=0, le=1000)
    """Largest shift of the batch, in pixels and in a circle, before each step (CIFAR code: 2)."""
    label_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the cross-entropy against the classes that a batch is to show, each as often as can be (paper: 1)."""
    bn_weight: float = Field(10.0, ge=0, le=1e6)
    """Weight of the batch-norm statistics (paper: 10 of 1, 5, 10, 100); 0 for teachers without batch norm."""
    tv_weight: float = Field(1.25e-5, ge=0, le=1e6)
    """Weight of total variation (paper: 2.5e-5 over a batch of 256)."""
    l2_weight: float = Field(1.5e-8, ge=0, le=1e6)
    """Weight of the L2 norm (paper: 3e-8 over a batch of 256)."""
    adversarial_weight: float = Field(0.0, ge=0, le=1e6)
    """Weight of the adversary, which makes it ADI (paper: 0, and 10 in the adaptive form)."""
    adversarial: AdversarialForm = "js"
    """Exact Jensen-Shannon divergence, or what the released code computes (`js-coded-mean`)."""
    temperature: float = Field(3.0, ge=1e-3, le=1e6)
    """Softens predictions in the adversarial term (released code: 3)."""
    first_batches: int = Field(50, ge=0, le=10**6)
    """Batches in the pool before the student's first step (a re-implementation of the paper: 50)."""
    student_steps: int = Field(50, ge=1, le=10**6)
    """Student updates after each further batch (paper: about 50 for VGG-11)."""
    pool_size: int = Field(50_000, ge=1, le=10**8)
    """Images that the pool holds at most, a byte for each pixel; the oldest go."""
    student_temperature: float = Field(20.0, ge=1e-3, le=1e6)
    """Softens predictions that the student imitates; KL counts times its square (CMI's benchmark: 20)."""
    student_lr: float = Field(0.1, ge=0, le=1e3)
    """Learning rate of the student's SGD (paper: 0.1)."""
    student_momentum: float = Field(0.9, ge=0, lt=1)
    """Its momentum."""
    student_weight_decay: float = Field(1e-4, ge=0, le=1e6)
    """Its weight decay (CMI's benchmark: 1e-4)."""
    student_schedule: RateSchedule = "cosine"
    """How its rate falls: constant, cosine, cosine-early, drops."""
    augmentation: Augmentation = "none"
    """What the student is trained on: the images of the pool, or randomly cropped and flipped."""


class ADISettings(DeepInversionSettings):
    """Settings of ADI: those of DeepInversion, with an adversary."""

    name: Literal["deepinversion", "adi"] = "adi"
    adversarial_weight: float = Field(10.0, ge=0, le=1e6)
    """Weight of the adversary (paper: 10)."""


@dataclass(frozen=True)
class Inversion:
    """One step on the pixels, and what follows it: keep the best iterate, and at a batch's end push it to the pool."""

    context: Context
    settings: DeepInversionSettings
    pixels: Pixels
    optimizer: torch.optim.Optimizer
    objective: Objective
    student: LiveStudent
    pool: Pool
    schedule: Schedule

    def __call__(self, clock: Clock) -> StepOutput:
        """Fill the pixels' gradients."""
        teacher, s = self.context.teacher, self.settings
        needs = self.objective.needs(clock)
        # (1) the view, and both networks' answers to it
        moved = rolled(self.pixels.images, s.jitter, self.context.streams, "jitter", clock.update)
        view = self.context.runtime.images(ranks.mine(moved))
        answer = teacher.respond(view, statistics=any(need.statistics for need in needs))
        answers = {"teacher": answer}
        if any(need.student for need in needs):
            with mode(self.context.student, "eval"):
                answers["student"] = self.student.respond(view)
        count = len(self.pixels.images)
        labels = balanced(count, teacher.card.num_classes, clock.round).to(view.device)
        weight = torch.ones(len(view), device=view.device)
        inputs, both = {"clean": view, "train": view}, {"clean": answers, "train": answers}
        batch = Batch(teacher.denormalize(view.detach()), weight, inputs, both, ranks.mine(labels), clock)
        # (2) one objective
        total, losses = self.objective(batch)
        total.backward()
        begins = self.schedule.round_start(clock.update) == clock.update
        facts = statistics_of(self.objective, losses)
        judged = {"total": total.detach(), "pixels": self.pixels.images.detach().clone()}
        return StepOutput(losses, batch, count if begins else 0, facts=facts, kept=judged)

    def after(self, clock: Clock, output: StepOutput, bad: Tensor) -> None:
        """Keep the iterate that was judged, if it is the best; at the end of a batch, let another begin."""
        self.pixels.keep(output.kept["pixels"], output.kept["total"], bad)
        if self.schedule.name(clock.update + 1) == "pixels" and not self._ends(clock):
            return
        self.pool.push(self.context.teacher.denormalize(self.pixels.best))
        self.pixels.restart(clock.round + 1, self.optimizer, bad)

    def _ends(self, clock: Clock) -> bool:
        return self.schedule.round_start(clock.update + 1) == clock.update + 1


class DeepInversion:
    """A batch of pixels descends on what the teacher expects of its classes; the student learns from the pool."""

    settings_type: ClassVar[type[MethodSettings]] = DeepInversionSettings

    def __init__(self, settings: DeepInversionSettings) -> None:
        self.settings = settings

    @property
    def needs_batch_norm(self) -> bool:
        """Whether the statistics have a weight."""
        return self.settings.bn_weight > 0

    def build(self, context: Context) -> Algorithm:
        """Put pixels, pool and student together: batches first, then one for each stretch of student updates."""
        s, teacher, streams = self.settings, context.teacher, context.streams
        shape = (context.batch_size, *teacher.card.input_size)

        def noise(count: int, name: str, update: int) -> Tensor:
            drawn = streams.normal(name, update, (count, *shape[1:])).to(context.runtime.dtype)
            return context.runtime.images(drawn)

        pixels = Pixels(partial(noise, context.batch_size, "pixels"))
        optimizer = adam(pixels, s.pixels_lr)
        objective = Objective(
            {
                "class_prior": (s.label_weight, LabelPrior()),
                "bn": (s.bn_weight, BatchNormStatistics()),
                "tv": (s.tv_weight, ImageNorm(differences, "TV", view="clean")),
                "l2": (s.l2_weight, ImageNorm(itself, "L2", view="clean")),
                "adversarial": (s.adversarial_weight, adversary(s.adversarial, s.temperature)),
            }
        )
        imitate = partial(kl_divergence, temperature=s.student_temperature)
        imitation = Objective({"student": (1.0, Imitation(imitate, "KL"))})
        student, viewer = LiveStudent(context.student, context.runtime), Viewer(streams, s.augmentation)
        start = lambda *key: teacher.denormalize(noise(*key))  # noqa: E731 - what the pixels start from
        pool = Pool(teacher, viewer, context.runtime, streams, context.batch_size, s.pool_size, start)
        first = [Phase((("pixels", s.iterations),), s.first_batches)] if s.first_batches else []
        schedule = Schedule(*first, Phase((("pixels", s.iterations), (STUDENT, s.student_steps))))
        inversion = Inversion(context, s, pixels, optimizer, objective, student, pool, schedule)
        update = PlainUpdate(imitation, student)
        learn = StudentStep(pool, NoReplay(), update, teacher, viewer, context.runtime)
        students = sgd(context.student, s.student_lr, s.student_momentum, s.student_weight_decay)
        updates = {
            "pixels": Update(pixels, optimizer, inversion, inversion.after),
            STUDENT: Update(context.student, students, learn, rate=learning_rate(s.student_schedule)),
        }
        parts = {"replay": "growing pool", "update": update.label}
        return Algorithm(updates, schedule, pool, imitation, objective, parts=parts)


class ADI(DeepInversion):
    """DeepInversion whose pixels also look for disagreement between the student, as it is now, and the teacher."""

    settings_type: ClassVar[type[MethodSettings]] = ADISettings
