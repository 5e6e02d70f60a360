"""Baselines: a student that imitates the teacher on noise images or, in the bench alone, on real ones.

A method has learned nothing until it beats the noise student; in its strong form the teacher's batch norms normalise by
each batch of noise (Raikwar and Mishra, "Discovering and Overcoming Limitations of Noise-engineered Data-free Knowledge
Distillation", NeurIPS 2022). The real-data student is what data would have been worth; its images have to be handed to
it, for distillation never reaches any.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from lenient.core.batch_norm import Statistics
from lenient.losses.distances import cross_entropy, logit_l1
from lenient.losses.imitation import Imitation
from lenient.methods.contract import Algorithm, Context, MethodSettings, adam, sgd
from lenient.methods.single import SingleStudentSettings, single_student
from lenient.synthesis.views import Augmentation

if TYPE_CHECKING:
    from lenient.data import ImageSet


class NoiseSettings(SingleStudentSettings):
    """Settings of the noise student: those of TA-DFKD's student."""

    name: Literal["noise"] = "noise"
    distribution: Literal["uniform", "normal"] = "uniform"
    """Pixels uniform in [0, 1], or normal with the teacher's mean and standard deviation (released code)."""
    statistics: Statistics = "running"
    """What the teacher's batch norms normalise by: what they stored in training, or each batch of noise (released code:
    batch), which spreads its answers; an image's answer then depends on the others of its batch."""
    student_loss: Literal["l1", "cross-entropy"] = "l1"
    """What the student minimises: mean distance of logits, or cross-entropy to the teacher's predictions (released
    code)."""
    student_optimizer: Literal["sgd", "adam"] = "sgd"
    """The student's optimizer: sgd, or adam (released code), whose first average `student_momentum` is of."""


class Noise:
    """The student learns from a fresh batch of noise."""

    settings_type: ClassVar[type[MethodSettings]] = NoiseSettings
    not_known: ClassVar[str] = "we have not read its text; the recipe published has what its code has"
    """Why there is no recipe `paper`."""
    baseline: ClassVar[bool] = True
    needs_batch_norm = False
    needs_gradient = False

    def __init__(self, settings: NoiseSettings) -> None:
        self.settings = settings

    def build(self, context: Context) -> Algorithm:
        """Put the one update together; raises TeacherError where the batch would make no difference to the teacher."""
        s = self.settings
        context = replace(context, teacher=context.teacher.by(s.statistics))
        card, streams = context.teacher.card, context.streams

        def draw(count: int, name: str, update: int) -> Tensor:
            """Return noise images (count, C, H, W)."""
            shape = (count, *card.input_size)
            if s.distribution == "uniform":
                return context.runtime.images(streams.uniform(name, update, shape))
            mean, std = (torch.tensor(v, device=streams.device).view(1, -1, 1, 1) for v in (card.mean, card.std))
            return context.runtime.images(streams.normal(name, update, shape) * std + mean)

        losses = {"l1": (logit_l1, "L1"), "cross-entropy": (cross_entropy, "cross-entropy")}
        imitation = Imitation(*losses[s.student_loss])
        return single_student(context, s, draw, imitation, self._optimizer(context), f"{s.distribution} noise")

    def _optimizer(self, context: Context) -> Optimizer:
        s = self.settings
        if s.student_optimizer == "adam":
            return adam(context.student, s.student_lr, (s.student_momentum, 0.999), s.student_weight_decay)
        return sgd(context.student, s.student_lr, s.student_momentum, s.student_weight_decay)


REAL = "real"


class RealSettings(SingleStudentSettings):
    """Settings of the real-data student: those of the noise student."""

    name: Literal["real"] = "real"
    augmentation: Augmentation = "none"
    """How both networks are shown the images: none, crop-flip, crop-flip-batch, distorted; as the rows beside it."""


class RealImages:
    """The student learns from a batch drawn from the training images, with replacement."""

    settings_type: ClassVar[type[MethodSettings]] = RealSettings
    real_data: ClassVar[bool] = True
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

        return single_student(context, self.settings, draw, None, None, "training images", self.settings.augmentation)
