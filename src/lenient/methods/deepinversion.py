"""DeepInversion, and ADI, its adaptive form: pixels that the teacher's labels and statistics shape.

Yin, Molchanov, Alvarez et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020, arXiv
1912.08795. Noise becomes images of given classes by gradient descent on the pixels; finished batches join a pool, from
which the student learns. ADI also asks for images on which student and teacher disagree.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from lenient.losses.adversarial import AdversarialForm, adversary
from lenient.losses.objective import Objective
from lenient.losses.prior import LabelPrior
from lenient.losses.representation import ImageNorm, differences, itself
from lenient.losses.together import StatisticsSettings
from lenient.methods.contract import Algorithm, Context, MethodSettings
from lenient.methods.inversion import inversion_algorithm
from lenient.methods.pixels import PixelSettings, pixel_batches


class DeepInversionSettings(PixelSettings):
    """Settings of DeepInversion: L = CE + bn R + tv TV + l2 L2 [+ adv (1 - JS)]; the student minimises KL.

    Image norms are means over images here, scaled as in the other methods; the released code takes them over a batch
    of 256, so that its weights are halved. The released code has no student: its rates and schedule are ours.
    """

    name: Literal["deepinversion", "adi"] = "deepinversion"
    iterations: int = Field(2000, ge=1, le=10**6)
    """Steps on the pixels of a batch (CIFAR code: 2000)."""
    label_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the cross-entropy against the classes that a batch is to show, each as often as can be (paper: 1)."""
    bn_weight: float = Field(10.0, ge=0, le=1e6)
    """Weight of the batch-norm statistics (paper: 10 of 1, 5, 10, 100); 0 for teachers without batch norm."""
    statistics: StatisticsSettings = StatisticsSettings()
    """What these are taken over, and how they are held against the stored ones."""
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
    student_steps: int | None = Field(50, ge=1, le=10**6)
    """Student updates after each further batch (paper: about 50 for VGG-11); null: the first ones are a fixed set."""
    pool_size: int = Field(50_000, ge=1, le=10**8)


class ADISettings(DeepInversionSettings):
    """Settings of ADI: those of DeepInversion, with an adversary."""

    name: Literal["deepinversion", "adi"] = "adi"
    adversarial_weight: float = Field(10.0, ge=0, le=1e6)
    """Weight of the adversary (paper: 10)."""


class DeepInversion:
    """A batch of pixels descends on what the teacher expects of its classes; the student learns from the pool."""

    settings_type: ClassVar[type[MethodSettings]] = DeepInversionSettings
    not_known: ClassVar[str] = (
        "the student's temperature and weight decay, and how many batches come first, are not known: no code of the "
        "student was released; the defaults are the released CIFAR-10 code's for the images, and ours for the student"
    )
    """What is missing for a recipe `paper`."""

    def __init__(self, settings: DeepInversionSettings) -> None:
        self.settings = settings

    @property
    def needs_batch_norm(self) -> bool:
        """Whether the statistics have a weight."""
        return self.settings.bn_weight > 0

    def build(self, context: Context) -> Algorithm:
        """Put pixels, pool and student together."""
        batches = pixel_batches(context, self.settings, self._objective(), self.settings.statistics.pieces)
        return inversion_algorithm(context, self.settings, batches)

    def _objective(self) -> Objective:
        s = self.settings
        return Objective(
            {
                "class_prior": (s.label_weight, LabelPrior()),
                "bn": (s.bn_weight, s.statistics.term()),
                "tv": (s.tv_weight, ImageNorm(differences, "TV", view="clean")),
                "l2": (s.l2_weight, ImageNorm(itself, "L2", view="clean")),
                "adversarial": (s.adversarial_weight, adversary(s.adversarial, s.temperature)),
            }
        )


class ADI(DeepInversion):
    """DeepInversion whose pixels also look for disagreement between the student, as it is now, and the teacher."""

    settings_type: ClassVar[type[MethodSettings]] = ADISettings
