"""CuDFKD: from easy to hard, for the generator and for the student.

Li, Zhou, Li et al., "Dynamic data-free knowledge distillation by easy-to-hard learning strategy", Information Sciences
642, 2023, arXiv 2208.13648. The adversary's weight climbs during the run, and hard images count more and more.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field

from lenient.losses.adversarial import AdversarialForm, adversary
from lenient.losses.distances import Distance, kl_divergence, logit_l1
from lenient.losses.imitation import SelfPaced, SelfPacedForm
from lenient.losses.objective import Objective, Ramp
from lenient.losses.prior import ClassPrior, InformationEntropy
from lenient.losses.representation import BatchNormStatistics
from lenient.methods.contract import Algorithm, Context, MethodSettings
from lenient.methods.generator import GeneratorMethodSettings, generator_algorithm


class CuDFKDSettings(GeneratorMethodSettings):
    """Settings of CuDFKD: L_G = oh L_oh - 20 H + bn R + a(epoch) L_adv. Defaults: CIFAR-10, ResNet-34 to 18."""

    general: ClassVar[dict[str, Any]] = {"generator": {"stem_activation": False, "halve_each_stage": True}}
    not_below: ClassVar[Mapping[str, str]] = {"climb_end": "climb_begin"}

    name: Literal["cudfkd"] = "cudfkd"
    class_prior_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the class prior (released code: 1)."""
    entropy_weight: float = Field(20.0, ge=0, le=1e6)
    """Weight of the information entropy of softened predictions, in nats (released code: 20)."""
    entropy_temperature: float = Field(20.0, ge=1e-3, le=1e6)
    """Softens predictions in the entropy (released code: 20 CIFAR-10; 5 or 2 CIFAR-100)."""
    bn_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the batch-norm statistics (released code: 1); 0 for teachers without batch norm."""
    adversarial: AdversarialForm = "kl-agreeing"
    """What the generator raises: KL where both networks name one class; the released code has `js-coded-mean`, too."""
    temperature: float = Field(3.0, ge=1e-3, le=1e6)
    """Softens predictions in the adversarial term (released code: 3)."""
    adversarial_start: float = Field(0.0, ge=0, le=1e6)
    """Weight of the adversarial term before the climb."""
    adversarial_end: float = Field(62.0, ge=0, le=1e6)
    """Weight of the adversarial term after it (released code: 124 times 0.5; CIFAR-100: 239 times 0.35)."""
    climb_begin: float = Field(0.25, ge=0, le=1)
    """Share of the run after which the weight climbs."""
    climb_end: float = Field(0.75, ge=0, le=1)
    """Share of the run before which it is up."""
    imitation: Literal["l1", "kl"] = "l1"
    """What the student lowers."""
    imitation_temperature: float = Field(20.0, ge=1e-3, le=1e6)
    """Softens predictions in the student's KL."""
    pace_form: SelfPacedForm = "log"
    """How the weight of an image falls with its loss."""
    pace_start: float = Field(2.0, ge=1e-3, le=1e6)
    """Loss that counts about half at the start (released code: 2; others 1)."""
    pace_end: float = Field(12.0, ge=1e-3, le=1e6)
    """Loss that counts about half at the end (released code: 1e-4 a step, 100,000 steps)."""
    student_weight_decay: float = Field(1e-4, ge=0, le=1e6)
    generator_beta2: float = Field(0.99, ge=0, lt=1)
    """Second beta of the generator's Adam (released code: 0.99)."""
    draw_mode: Literal["eval", "train"] = "eval"
    """The generator's mode while it draws for the student (released code: eval)."""
    student_mode: Literal["eval", "train"] = "eval"
    """The student's mode in the generator's update (released code: eval)."""


class CuDFKD:
    """The generator starts from typical images and is driven harder; the student weighs images by how hard they are."""

    settings_type: ClassVar[type[MethodSettings]] = CuDFKDSettings

    def __init__(self, settings: CuDFKDSettings) -> None:
        self.settings = settings

    @property
    def needs_batch_norm(self) -> bool:
        """Whether the statistics have a weight."""
        return self.settings.bn_weight > 0

    def build(self, context: Context) -> Algorithm:
        """Put terms, ramp, pace and schedule together; the generator moves first."""
        s = self.settings
        climb = Ramp(s.adversarial_start, s.adversarial_end, s.climb_begin, s.climb_end)
        objective = Objective(
            {
                "class_prior": (s.class_prior_weight, ClassPrior()),
                "entropy": (s.entropy_weight, InformationEntropy(s.entropy_temperature)),
                "bn": (s.bn_weight, BatchNormStatistics()),
                "adversarial": (climb, adversary(s.adversarial, s.temperature)),
            }
        )
        distance: Distance = (
            logit_l1 if s.imitation == "l1" else partial(kl_divergence, temperature=s.imitation_temperature)
        )
        paced = SelfPaced(distance, s.imitation.upper(), s.pace_start, s.pace_end, s.pace_form)
        return generator_algorithm(
            context,
            s,
            objective,
            Objective({"student": (1.0, paced)}),
            order=("generator", "student"),
            student_mode=s.student_mode,
            draw_mode=s.draw_mode,
            generator_betas=(0.9, s.generator_beta2),
        )
