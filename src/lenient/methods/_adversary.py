"""What `bn-adv` and `dafl-adv` share: a generator that hears what the teacher says of its images, and an adversary."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from lenient.losses.adversarial import AdversarialForm, adversary
from lenient.losses.distances import logit_l1
from lenient.losses.imitation import Imitation
from lenient.losses.objective import Objective
from lenient.losses.prior import ClassPrior, InformationEntropy
from lenient.losses.representation import BatchNormStatistics, ImageNorm, differences, itself
from lenient.methods.contract import Algorithm, Context, MethodSettings
from lenient.methods.generator import GeneratorMethodSettings, generator_algorithm


class WithAdversarySettings(GeneratorMethodSettings):
    """Settings of `bn-adv` and `dafl-adv`: L_G = adv L_adv + bn L_bn + tv TV + l2 L2 + oh L_oh + ie L_ie."""

    general: ClassVar[dict[str, Any]] = {"generator": {"output": "tanh-bn", "output_moments": "auto"}}

    bn_weight: float = Field(10.0, ge=0, le=1e6)
    """Weight of the batch-norm statistics: the images are to have those of the training images."""
    class_prior_weight: float = Field(0.0, ge=0, le=1e6)
    """Weight of the class prior: the teacher is to be sure."""
    entropy_weight: float = Field(100.0, ge=0, le=1e6)
    """Weight of the information entropy: classes drawn evenly."""
    adversarial_weight: float = Field(300.0, ge=0, le=1e6)
    """Weight of the adversarial term: teacher and student are to differ."""
    adversarial: AdversarialForm = "js"
    """What they differ by: Jensen-Shannon divergence, or another form of it."""
    temperature: float = Field(3.0, ge=1e-3, le=1e6)
    """Softens predictions in the adversarial term."""
    tv_weight: float = Field(1.5e-5, ge=0, le=1e6)
    """Weight of total variation."""
    l2_weight: float = Field(6e-3, ge=0, le=1e6)
    """Weight of the L2 norm."""
    prior_view: Literal["clean", "train"] = "clean"
    """Of which images the teacher is to be sure, and of every class: as drawn, or changed as `augmentation` says."""
    student_steps: int = Field(5, ge=1, le=10_000)
    """Student steps in one cycle."""
    student_lr: float = Field(0.2, ge=0, le=1e3)
    """Learning rate of the student's SGD."""
    generator_lr: float = Field(1e-2, ge=0, le=1e3)
    """Learning rate of the generator's Adam."""


class WithAdversary:
    """The generator hears what the teacher says of its images, and whether the student thinks as the teacher does."""

    settings_type: ClassVar[type[MethodSettings]] = WithAdversarySettings
    not_known: ClassVar[str] = "it is our own, of no paper"
    """Why there is no recipe `paper`."""

    def __init__(self, settings: WithAdversarySettings) -> None:
        self.settings = settings

    @property
    def needs_batch_norm(self) -> bool:
        """Whether the statistics have a weight."""
        return self.settings.bn_weight > 0

    def build(self, context: Context) -> Algorithm:
        """Put terms, schedule and update together."""
        s = self.settings
        objective = Objective(
            {
                "adversarial": (s.adversarial_weight, adversary(s.adversarial, s.temperature)),
                "bn": (s.bn_weight, BatchNormStatistics("clean")),
                "tv": (s.tv_weight, ImageNorm(differences, "TV", view="train")),
                "l2": (s.l2_weight, ImageNorm(itself, "L2", view="train")),
                "class_prior": (s.class_prior_weight, ClassPrior(s.prior_view)),
                "entropy": (s.entropy_weight, InformationEntropy(view=s.prior_view)),
            }
        )
        return generator_algorithm(context, s, objective, Objective({"student": (1.0, Imitation(logit_l1, "L1"))}))
