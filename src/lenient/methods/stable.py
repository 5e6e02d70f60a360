"""Stable answers: drawn and photographed images that the teacher answers alike under small shifts and in other light.

Our own. A teacher without batch norm tells nothing of its training images, and it is sure of nearly anything; where its
answer lasts, it is like its answers to those. The pool is foreign and wide: figures on grounds, and parts of two
photographs. The teacher keeps what it answers stably, in equal shares of its classes, the best by the worst of the
views. While the student learns from these, more are looked at, half of them made of kept ones as long as classes are
short of images.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lenient.core import ranks
from lenient.core.config import Nothing
from lenient.core.errors import UsageError
from lenient.losses.distances import standardised_kl, standardised_l1
from lenient.losses.imitation import Imitation
from lenient.methods.contract import Algorithm, Context, MethodSettings, RateSchedule, adamw
from lenient.methods.single import imitating
from lenient.synthesis.figures import drawings
from lenient.synthesis.growing import Growing
from lenient.synthesis.photo import NAMES
from lenient.synthesis.proxy import Proxy, with_pictures
from lenient.synthesis.quota import Quota
from lenient.synthesis.stability import Lasting, lasting
from lenient.synthesis.views import Shaken, Viewer


class StableSettings(MethodSettings):
    """Settings of the pool of stable images, and of the student that learns from it."""

    uses: ClassVar[tuple[str, ...]] = ("health.kept",)

    name: Literal["stable"] = "stable"
    grow: int = Field(64, ge=1, le=2**20)
    """Images that the teacher looks at with each student step, until every class has its quota of fresh ones."""
    quota: int = Field(1500, ge=1, le=10**8)
    """Images that the pool holds of each class at most: those of the largest margins."""
    pool_size: int = Field(50_000, ge=1, le=10**8)
    """Images that it holds in all at most, a byte for each pixel; the quota shrinks to an even share of it."""
    photos: float = Field(0.4, ge=0, le=1)
    """Share of parts of photographs among images that are made anew; the others are drawn."""
    pictures: float = Field(0.0, ge=0, le=1)
    """Share of pictures of the user's (`--proxy-images`) among images that are made anew, each once, until all were
    looked at."""
    mutated: float = Field(0.5, ge=0, le=1)
    """Share of the images looked at that are made of kept ones, as long as any class is short of its quota; they fill
    it up, and give way to fresh ones."""
    views: int = Field(4, ge=0, le=1000)
    """Views under which the answer has to last, beside the image itself."""
    shift: float = Field(1 / 16, ge=0, le=1)
    """By how much they are moved at most, as a share of their sides: 2 pixels of 32, in both directions."""
    gain: float = Field(0.15, ge=0, le=1)
    """How far the factor of their light is from 1, at most."""
    student_shift: float = Field(1 / 16, ge=0, le=1)
    """By how much the student's images are moved at most."""
    student_gain: float = Field(0.2, ge=0, le=1)
    """How far the factor of their light is from 1, at most."""
    imitation: Literal["smooth-l1", "kl"] = "smooth-l1"
    """The student's loss, free of the logits' scale: smooth L1 in deviations of the teacher's logits, or KL at a
    temperature of half of one."""
    student_lr: float = Field(2e-3, ge=0, le=1e3)
    """Learning rate of the student's AdamW."""
    student_weight_decay: float = Field(0.01, ge=0, le=1e6)
    """Its weight decay, which does not go through the gradient."""
    student_schedule: RateSchedule = "one-cycle"
    """How the rate goes: constant, cosine, cosine-early, drops, one-cycle."""

    @property
    def shows_pictures(self) -> bool:
        """Whether the pool takes them."""
        return self.pictures > 0


class Stable:
    """The student imitates the teacher where the teacher's answers last, on images that nobody has learned to make."""

    settings_type: ClassVar[type[MethodSettings]] = StableSettings
    not_known: ClassVar[str] = "it is our own, of no paper"
    """Why there is no recipe `paper`."""
    needs_batch_norm = False
    needs_gradient = False

    def __init__(self, settings: StableSettings) -> None:
        self.settings = settings

    def build(self, context: Context) -> Algorithm:
        """Put the pool and the student together."""
        s, card, streams = self.settings, context.teacher.card, context.streams
        if s.grow % ranks.count():
            raise UsageError(f"--devices {ranks.count()}: -s method.grow={s.grow} does not divide among them")
        viewer = Viewer(streams, then=Shaken(s.student_shift, s.student_gain))

        own = None
        if s.shows_pictures:
            assert context.pictures is not None, "the settings name a folder"
            own = Proxy(context.pictures, context.teacher, viewer, context.runtime, streams, 1, Nothing())

        def fresh(numbers: range, name: str) -> Tensor:
            images = drawings(numbers, card.input_size, streams, name, s.photos)
            return images if own is None else with_pictures(images, numbers, own, s.pictures)

        def judge(images: Tensor, update: int) -> Lasting:
            return lasting(context.teacher, images, s.views, Shaken(s.shift, s.gain), streams, "judged", update)

        quota = max(1, min(s.quota, s.pool_size // card.num_classes))
        pool = Growing(
            context.teacher,
            viewer,
            context.runtime,
            streams,
            context.batch_size,
            Quota(card.input_size, card.num_classes, quota, streams.device),
            fresh,
            judge,
            s.grow,
            s.mutated,
        )
        distances = {"smooth-l1": (standardised_l1, "scaled L1"), "kl": (standardised_kl, "scaled KL")}
        parts = {
            "sampler": "drawn and photographed",
            "selection": f"stable in {s.views} views",
            "replay": "quota of each class",
        }
        foreign = ("procedural", *(f"photo {name}" for name in NAMES), *([] if own is None else [own.pictures.name]))
        optimizer = adamw(context.student, s.student_lr, s.student_weight_decay)
        imitation = Imitation(*distances[s.imitation])
        algorithm = imitating(context, pool, viewer, imitation, optimizer, s.student_schedule, parts, foreign)
        return replace(algorithm, notes=() if own is None else own.pictures.notes)
