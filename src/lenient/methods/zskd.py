"""ZSKD: pixels towards what the teacher's softened answers are expected to be, and a student of this fixed set.

Nayak, Mopuri, Shaj, Babu, Chakraborty, "Zero-Shot Knowledge Distillation in Deep Networks", ICML 2019, arXiv
1905.08114. The weights of the last layer tell which classes are alike; distributions over the classes are drawn from
that, and noise becomes images that the teacher answers so. The student learns from these, strongly changed and labelled
by the teacher anew.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lenient.core import ranks
from lenient.core.errors import TeacherError
from lenient.core.runtime import sent
from lenient.losses.objective import Objective
from lenient.losses.prior import LabelPrior
from lenient.methods.batches import Batches, Place, Shown
from lenient.methods.contract import Algorithm, Context, MethodSettings, RateSchedule, adam
from lenient.methods.inversion import InversionSettings, inversion_algorithm
from lenient.synthesis.pixels import Pixels
from lenient.synthesis.targets import SimilarClasses
from lenient.synthesis.views import Augmentation
from lenient.teacher.batch import Clock

Concentrations = Annotated[tuple[Annotated[float, Field(gt=0, le=1e6)], ...], Field(min_length=1, max_length=100)]


class ZSKDSettings(InversionSettings):
    """Settings of ZSKD: L = CE(y, softmax(T(x) / temperature)), y drawn from Dirichlet distributions."""

    uses: ClassVar[tuple[str, ...]] = ("defense.shuffle",)

    name: Literal["zskd"] = "zskd"
    iterations: int = Field(1500, ge=1, le=10**6)
    """Steps on the pixels of a batch (released code: 1500)."""
    pixels_lr: float = Field(1e-3, ge=0, le=1e3)
    """Learning rate of the pixels' Adam, which starts anew with each batch (released code: 1e-3)."""
    concentrations: Concentrations = (1.0, 0.1)
    """Factors of the similarities between classes, in equal shares; small ones make sure targets (paper: 1 and 0.1;
    released code: both come to 1)."""
    temperature: float = Field(20.0, ge=1e-3, le=1e6)
    """Softens what the teacher says of the pixels (paper: 20)."""
    first_batches: int = Field(200, ge=0, le=10**6)
    """Batches in the set (released code: 40,000 images for CIFAR-10; said of MNIST: 24,000)."""
    student_steps: int | None = Field(None, ge=1, le=10**6)
    """Student updates after each further batch; null (paper): the set is fixed when the student begins."""
    student_optimizer: Literal["sgd", "adam"] = "adam"
    """The student's optimizer (released code: Adam)."""
    student_lr: float = Field(1e-3, ge=0, le=1e3)
    """Learning rate of the student (released code: 1e-3)."""
    student_weight_decay: float = Field(0.0, ge=0, le=1e6)
    """Weight decay of the student (released code: none)."""
    student_schedule: RateSchedule = "cosine"
    """How the student's rate falls (released code: constant)."""
    augmentation: Augmentation = "distorted"
    """What the student is trained on, labelled by the teacher: one of 106 distortions of each image (released code)."""


class ZSKD:
    """A fixed set of pixels that the teacher answers as classes that are alike; the student learns from it."""

    settings_type: ClassVar[type[MethodSettings]] = ZSKDSettings
    not_known: ClassVar[str] = (
        "rates, iterations and images of its MNIST and Fashion-MNIST runs are not known: no code of these was "
        "released, and we have not read the text; -c published is the CIFAR-10 code"
    )
    """What is missing for a recipe `paper`."""
    needs_batch_norm = False
    needs_linear_head: ClassVar[bool] = True

    def __init__(self, settings: ZSKDSettings) -> None:
        self.settings = settings

    def build(self, context: Context) -> Algorithm:
        """Put targets, pixels, set and student together.

        Raises:
            TeacherError: no linear layer puts the teacher's logits out.
        """
        s, teacher, streams, runtime = self.settings, context.teacher, context.streams, context.runtime
        if teacher.head is None:
            raise TeacherError(
                f"the teacher's logits come from no linear layer, whose weights {s.name} draws its targets from; take "
                "another --method, such as deepinversion"
            )
        weights, _ = teacher.head
        targets = SimilarClasses(weights, s.concentrations, streams)

        def noise(count: int, name: str, update: int) -> Tensor:
            return runtime.images(streams.uniform(name, update, (count, *teacher.card.input_size)).to(runtime.dtype))

        def show(clock: Clock, place: Place) -> Shown:
            images = runtime.images(ranks.mine(pixels.images))
            return Shown(images.detach(), teacher.normalize(images), pixels.images.detach().clone())

        @torch.no_grad()
        def follow(ends: bool, bad: Tensor) -> None:
            pixels.images.clamp_(0, 1)

        pixels = Pixels(partial(noise, s.images_of(context), "pixels"))
        batches = Batches(
            "pixels",
            (pixels,),
            adam(pixels, s.pixels_lr),
            Objective({"class_prior": (1.0, LabelPrior(s.temperature, "similar classes"))}),
            show,
            lambda number: sent(targets(s.images_of(context), number), runtime.device).to(runtime.dtype),
            start=noise,
            follow=follow,
            parts={"sampler": "pixels", "labels": "drawn distributions"},
        )
        return inversion_algorithm(context, s, batches)
