"""One photograph, or two: a student that imitates the teacher on strongly changed parts of them.

After Asano, Saeed, "The Augmented Image Prior: Distilling 1000 Classes by Extrapolating from a Single Image", ICLR
2023, arXiv 2112.00725. A baseline: no generator and nothing asked of the teacher but its answers.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lenient.losses.distances import unscaled_kl
from lenient.losses.imitation import Imitation
from lenient.methods.contract import Algorithm, Context, MethodSettings, RateSchedule, adamw
from lenient.methods.single import imitating
from lenient.synthesis.patches import patches
from lenient.synthesis.photo import NAMES
from lenient.synthesis.source import Fresh
from lenient.synthesis.views import Augmentation, CutMix, Viewer


class PhotoSettings(MethodSettings):
    """Settings of the student of photographs."""

    uses: ClassVar[tuple[str, ...]] = ()

    name: Literal["photo"] = "photo"
    cutmix: float = Field(0.25, ge=0, le=1e3)
    """Both parameters of the beta distribution of how much of an image is its own; the rest is a box of another one
    (released code: 0.25 on CIFAR, 1 on ImageNet). 0 shows images whole."""
    augmentation: Augmentation = "crop-flip"
    """How patches are shown before that (released code: `crop-flip`)."""
    student_temperature: float = Field(8.0, ge=1e-3, le=1e6)
    """Softens predictions that the student imitates; KL does not count times its square (released code: 8)."""
    student_lr: float = Field(1e-3, ge=0, le=1e3)
    """Learning rate of the student's AdamW (released code: 1e-3 on CIFAR, 0.01 on ImageNet)."""
    student_weight_decay: float = Field(0.0, ge=0, le=1e6)
    """Its weight decay, which does not go through the gradient (released code: none on CIFAR, 5e-4 on ImageNet)."""
    student_schedule: RateSchedule = "cosine"
    """How the rate falls: constant (released code), cosine, cosine-early, drops, one-cycle."""


class Photo:
    """The student learns from a fresh batch of patches, each with a box of another one."""

    settings_type: ClassVar[type[MethodSettings]] = PhotoSettings
    not_known: ClassVar[str] = "we have not read its text; the recipe published has what its code has"
    """Why there is no recipe `paper`."""
    baseline: ClassVar[bool] = True
    needs_batch_norm = False
    needs_gradient = False

    def __init__(self, settings: PhotoSettings) -> None:
        self.settings = settings

    def build(self, context: Context) -> Algorithm:
        """Put source and student together."""
        s, card, streams = self.settings, context.teacher.card, context.streams

        def draw(count: int, name: str, update: int) -> Tensor:
            """Return patches (count, C, H, W)."""
            return context.runtime.images(patches(count, card.input_size, streams, name, update))

        viewer = Viewer(streams, s.augmentation, then=CutMix(s.cutmix) if s.cutmix else None)
        source = Fresh(draw, context.teacher, viewer, context.batch_size, s.name)
        imitation = Imitation(partial(unscaled_kl, temperature=s.student_temperature), "KL")
        optimizer = adamw(context.student, s.student_lr, s.student_weight_decay)
        parts = {"sampler": "parts of two photographs"}
        foreign = tuple(f"photo {name}" for name in NAMES)
        return imitating(context, source, viewer, imitation, optimizer, s.student_schedule, parts, foreign)
