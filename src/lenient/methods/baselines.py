"""Baselines: a student that imitates the teacher on noise images or, in the bench alone, on real ones.

A method has learned nothing until it beats the noise student. The real-data student is what data would have been worth;
its images have to be handed to it, for distillation never reaches any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from lenient.methods.contract import Algorithm, Context, MethodSettings
from lenient.methods.single import SingleStudentSettings, single_student

if TYPE_CHECKING:
    from lenient.data import ImageSet


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
    baseline: ClassVar[bool] = True
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
