"""Proxy images: a student that imitates the teacher on pictures of the user's own, of whatever they are.

After three lines of work. H. Chen et al., "Learning Student Networks in the Wild", CVPR 2021: a folder of foreign
images, of which the teacher's confidence selects; Asano, Saeed, "The Augmented Image Prior", ICLR 2023, arXiv
2112.00725: strong augmentation, with CutMix in every batch; Z. Li et al., "Is Synthetic Data From Diffusion Models
Ready for Knowledge Distillation?", arXiv 2305.12954: images of a text-to-image model. No label is used, and nothing is
asked of the teacher but its answers. The selection is our own: a mixture of two fitted once to the whole folder, and a
quota for each class.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

from pydantic import Field

from lenient.core.config import Nothing
from lenient.losses.distances import unscaled_kl
from lenient.losses.imitation import Imitation
from lenient.methods.contract import Algorithm, Context, MethodSettings, RateSchedule, adamw
from lenient.methods.single import imitating
from lenient.synthesis.proxy import PictureSelection, Proxy
from lenient.synthesis.views import Augmentation, CutMix, Viewer


class ProxySettings(MethodSettings):
    """Settings of the student of the user's pictures."""

    uses: ClassVar[tuple[str, ...]] = ()

    name: Literal["proxy"] = "proxy"
    selection: PictureSelection = Nothing()
    """Which pictures the student learns from: all, or those that the teacher is sure of."""
    cutmix: float = Field(0.25, ge=0, le=1e3)
    """Both parameters of the beta distribution of how much of a picture is its own; the rest is a box of another one. 0
    shows pictures whole."""
    augmentation: Augmentation = "crop-flip"
    """How pictures are shown before that."""
    student_temperature: float = Field(8.0, ge=1e-3, le=1e6)
    """Softens predictions that the student imitates; KL does not count times its square."""
    student_lr: float = Field(1e-3, ge=0, le=1e3)
    """Learning rate of the student's AdamW."""
    student_weight_decay: float = Field(0.0, ge=0, le=1e6)
    """Its weight decay, which does not go through the gradient."""
    student_schedule: RateSchedule = "cosine"
    """How the rate falls: constant, cosine, cosine-early, drops, one-cycle."""

    @property
    def shows_pictures(self) -> bool:
        """It shows nothing else."""
        return True


class ProxyImages:
    """The student learns from pictures of a folder, drawn with replacement, each with a box of another one."""

    settings_type: ClassVar[type[MethodSettings]] = ProxySettings
    not_known: ClassVar[str] = "it stands for three papers whose losses differ, and of none all is here"
    """Why there is no recipe `paper`."""
    needs_batch_norm = False
    needs_gradient = False
    needs_pictures: ClassVar[bool] = True

    def __init__(self, settings: ProxySettings) -> None:
        self.settings = settings

    def build(self, context: Context) -> Algorithm:
        """Put source and student together."""
        s, pictures = self.settings, context.pictures
        assert pictures is not None, "the settings name a folder"
        viewer = Viewer(context.streams, s.augmentation, then=CutMix(s.cutmix) if s.cutmix else None)
        source = Proxy(
            pictures, context.teacher, viewer, context.runtime, context.streams, context.batch_size, s.selection
        )
        imitation = Imitation(partial(unscaled_kl, temperature=s.student_temperature), "KL")
        optimizer = adamw(context.student, s.student_lr, s.student_weight_decay)
        parts = {"sampler": "your pictures", "selection": s.selection.name}
        foreign = (pictures.name,)
        algorithm = imitating(context, source, viewer, imitation, optimizer, s.student_schedule, parts, foreign)
        return replace(algorithm, notes=pictures.notes)
