"""TA-DFKD: the teacher as a lenient expert.

Shin and Choi, "Teacher as a Lenient Expert: Teacher-Agnostic Data-Free Knowledge Distillation", AAAI 2024,
arXiv 2402.12406. No class prior drives the generator; the teacher only says which drawings it can vouch for.
"""

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
from lenient.synthesis.selection import MixtureSettings, SelectionSettings


class TADFKDSettings(GeneratorMethodSettings):
    """Settings of TA-DFKD: L_G = beta L_adv + gamma (bn R + tv TV + l2 L2) + alpha L_cls.

    The weights are the paper's. Rates, rhythm, sizes and the generator's space are ours, for small images and short
    runs; the paper's stand beside them, and the recipe `paper` has them all. `entropy_weight` is not in the paper.
    """

    general: ClassVar[dict[str, Any]] = {"generator": {"output": "tanh-bn"}}

    name: Literal["ta-dfkd"] = "ta-dfkd"
    beta: float = Field(1.0, ge=0, le=1e6)
    """Weight of the adversarial term (paper: 1)."""
    gamma: float = Field(10.0, ge=0, le=1e6)
    """Weight of the representation term (paper: 10)."""
    bn_weight: float = Field(1.0, ge=0, le=1e6)
    """Share of the batch-norm statistics within the representation term; 0 for teachers without batch norm."""
    tv_weight: float = Field(1.5e-6, ge=0, le=1e6)
    """Share of total variation (released code: 1.5e-5 / gamma)."""
    l2_weight: float = Field(6e-4, ge=0, le=1e6)
    """Share of the L2 norm (released code: 6e-3 / gamma)."""
    class_prior_weight: float = Field(0.0, ge=0, le=1e6)
    """Weight alpha of the class prior, which the method leaves out (paper: 0; its baseline: 1)."""
    entropy_weight: float = Field(0.0, ge=0, le=1e6)
    """Weight of the information entropy: classes drawn evenly, whatever their images (DAFL's; paper: none)."""
    adversarial: AdversarialForm = "js"
    """Exact Jensen-Shannon divergence, or what the released code computes (`js-coded`)."""
    temperature: float = Field(3.0, ge=1e-3, le=1e6)
    """Softens predictions in the adversarial term (released code: 3)."""
    detach_teacher: bool = False
    """Whether the adversary's gradient is kept from the teacher (released code: where it does not select)."""
    selection: SelectionSettings = MixtureSettings()
    """Whether the teacher selects samples."""
    bn_images: Literal["all", "selected"] = "all"
    """Which images the statistics are taken of: all (paper), or the selected training view (released code)."""
    image_norm: Literal["per-image", "whole-batch"] = "per-image"
    """How TV and L2 are reduced; the released whole-batch norm grows with the root of the batch size."""
    student_steps: int = Field(5, ge=1, le=10_000)
    """Student steps in one cycle (paper: 10)."""
    student_lr: float = Field(0.2, ge=0, le=1e3)
    """Learning rate of the student's SGD (paper: 0.01)."""
    generator_lr: float = Field(1e-2, ge=0, le=1e3)
    """Learning rate of the generator's Adam (paper: 1e-3)."""


class TADFKD:
    """The adversary works on accepted images, representation on all; the student learns L1 from accepted ones."""

    settings_type: ClassVar[type[MethodSettings]] = TADFKDSettings

    def __init__(self, settings: TADFKDSettings) -> None:
        self.settings = settings

    @property
    def needs_batch_norm(self) -> bool:
        """Whether the statistics have a weight."""
        return self.settings.gamma * self.settings.bn_weight > 0

    def build(self, context: Context) -> Algorithm:
        """Put terms, selection, schedule and update together."""
        s = self.settings
        bn_view, whole_batch = ("clean" if s.bn_images == "all" else "train"), s.image_norm == "whole-batch"
        objective = Objective(
            {
                "adversarial": (s.beta, adversary(s.adversarial, s.temperature, detach_teacher=s.detach_teacher)),
                "bn": (s.gamma * s.bn_weight, BatchNormStatistics(bn_view)),
                "tv": (s.gamma * s.tv_weight, ImageNorm(differences, "TV", view="train", whole_batch=whole_batch)),
                "l2": (s.gamma * s.l2_weight, ImageNorm(itself, "L2", view="train", whole_batch=whole_batch)),
                "class_prior": (s.class_prior_weight, ClassPrior()),
                "entropy": (s.entropy_weight, InformationEntropy()),
            }
        )
        imitation = Objective({"student": (1.0, Imitation(logit_l1, "L1"))})
        return generator_algorithm(context, s, objective, imitation)
