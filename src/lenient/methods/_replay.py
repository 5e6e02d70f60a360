"""The generator's objective that PRE-, MB- and META-DFKD share; they differ in what they keep and how they learn."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from lenient.losses.adversarial import AdversarialForm, adversary
from lenient.losses.distances import logit_l1
from lenient.losses.imitation import Imitation
from lenient.losses.objective import Objective
from lenient.losses.prior import Activation, ClassPrior, InformationEntropy
from lenient.methods.contract import Algorithm, Context, RateSchedule
from lenient.methods.generator import GeneratorMethodSettings, generator_algorithm


class ReplayMethodSettings(GeneratorMethodSettings):
    """L_G = L_oh + 5 L_ie + 0.1 L_a + L_adv; the adversary pushes through the student only."""

    general: ClassVar[dict[str, Any]] = {
        "generator": {"output": "tanh-bn", "stem_activation": False, "spectral_norm": True}
    }

    class_prior_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the class prior (released code: 1)."""
    entropy_weight: float = Field(5 / 2.302585, ge=0, le=1e6)
    """Weight of the information entropy in nats (released code: 5 in base 10)."""
    activation_weight: float = Field(0.1, ge=0, le=1e6)
    """Weight of the activation term (released code: 0.1)."""
    adversarial_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the adversarial term (released code: 1)."""
    adversarial: AdversarialForm = "js"
    """Exact Jensen-Shannon divergence, or what the released code computes (`js-coded`)."""
    temperature: float = Field(3.0, ge=1e-3, le=1e6)
    """Softens predictions in the adversarial term (released code: 3)."""
    detach_teacher: bool = True
    """Whether the adversary's gradient is kept from the teacher (released code: yes)."""
    student_schedule: RateSchedule = "cosine"
    generator_lr: float = Field(0.02, ge=0, le=1e3)
    """Learning rate of the generator's Adam (released code: 0.02, with spectral norm)."""


def replay_algorithm(context: Context, s: ReplayMethodSettings) -> Algorithm:
    """Put the terms that they share together with the settings' replay and update; the generator moves first."""
    objective = Objective(
        {
            "class_prior": (s.class_prior_weight, ClassPrior()),
            "entropy": (s.entropy_weight, InformationEntropy()),
            "activation": (s.activation_weight, Activation()),
            "adversarial": (
                s.adversarial_weight,
                adversary(s.adversarial, s.temperature, detach_teacher=s.detach_teacher),
            ),
        }
    )
    imitation = Objective({"student": (1.0, Imitation(logit_l1, "L1"))})
    return generator_algorithm(context, s, objective, imitation, order=("generator", "student"))
