"""DAFL: data-free learning of student networks.

Chen, Wang, Xu et al., "Data-Free Learning of Student Networks", ICCV 2019, arXiv 1904.01186. The teacher judges images
like a discriminator: sure of each, high features, classes even. The generator never sees the student.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field

from lenient.losses.distances import kl_divergence
from lenient.losses.imitation import Imitation
from lenient.losses.objective import Objective
from lenient.losses.prior import Activation, ClassPrior, InformationEntropy
from lenient.methods.contract import Algorithm, Context, Drops, MethodSettings, RateSchedule
from lenient.methods.generator import GeneratorMethodSettings, generator_algorithm


class DAFLSettings(GeneratorMethodSettings):
    """Settings of DAFL: L_G = oh L_oh + ie L_ie + a L_a. Defaults: the released code's latest for CIFAR-10."""

    general: ClassVar[dict[str, Any]] = {"generator": {"output": "tanh-bn", "stem_activation": False}}

    name: Literal["dafl"] = "dafl"
    class_prior_weight: float = Field(0.05, ge=0, le=1e6)
    """Weight of the one-hot loss (released code: 0.05; MNIST, and CIFAR-10 at first: 1)."""
    entropy_weight: float = Field(5 / 2.302585, ge=0, le=1e6)
    """Weight of the information entropy in nats (released code: 5 in base 10; CIFAR-100: 20)."""
    activation_weight: float = Field(0.01, ge=0, le=1e6)
    """Weight of the activation term (released code: 0.01; MNIST, CIFAR-100: 0.1)."""
    temperature: float = Field(1.0, ge=1e-3, le=1e6)
    """Softens predictions in the student's KL (paper: 1)."""
    batch: Literal["same", "fresh"] = "same"
    """Whether the student learns from the very images that the generator is trained on (paper)."""
    student_steps: int = Field(1, ge=1, le=10_000)
    """Student steps in one cycle (paper: 1)."""
    student_schedule: RateSchedule = "drops"
    drops: Drops = (0.4, 0.8)
    """Shares of the run from which on the student's rate is a tenth (released code: epochs 800 and 1600 of 2000)."""
    generator_lr: float = Field(0.02, ge=0, le=1e3)
    """Learning rate of the generator's Adam (released code: 0.02; MNIST: 0.2)."""


class DAFL:
    """One batch serves both: the student imitates it by KL, then the generator learns what the teacher thinks of it."""

    settings_type: ClassVar[type[MethodSettings]] = DAFLSettings
    needs_batch_norm = False

    def __init__(self, settings: DAFLSettings) -> None:
        self.settings = settings

    def build(self, context: Context) -> Algorithm:
        """Put terms, schedule and update together.

        The student's update comes first: the generator has not moved yet, so both draw the same images, and as the
        generator does not see the student, this is the released simultaneous step.
        """
        s = self.settings
        objective = Objective(
            {
                "class_prior": (s.class_prior_weight, ClassPrior()),
                "entropy": (s.entropy_weight, InformationEntropy()),
                "activation": (s.activation_weight, Activation()),
            }
        )
        imitate = partial(kl_divergence, temperature=s.temperature)
        imitation = Objective({"student": (1.0, Imitation(imitate, "KL"))})
        return generator_algorithm(context, s, objective, imitation, same_batch=s.batch == "same")
