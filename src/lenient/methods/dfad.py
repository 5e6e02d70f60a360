"""DFAD: data-free adversarial distillation.

Fang, Song, Shen et al., "Data-Free Adversarial Distillation", arXiv 1912.11006 (2019). A min-max game on the absolute
difference of logits, with no prior about images at all.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from lenient.losses.adversarial import AdversarialForm, adversary
from lenient.losses.distances import logit_l1
from lenient.losses.imitation import Imitation
from lenient.losses.objective import Objective
from lenient.methods.contract import Algorithm, Context, Drops, MethodSettings, RateSchedule
from lenient.methods.generator import GeneratorMethodSettings, generator_algorithm


class DFADSettings(GeneratorMethodSettings):
    """Settings of DFAD: L_G = -D, L_S = D, D the mean absolute difference of logits. Defaults: CIFAR's, released."""

    general: ClassVar[dict[str, Any]] = {"generator": {"output": "tanh-bn", "stem_activation": False}}

    name: Literal["dfad"] = "dfad"
    adversarial: AdversarialForm = "l1"
    """`l1`, or `l1-log` (segmentation): -log(1 + D), which tempers the generator as the difference grows."""
    temperature: float = Field(1.0, ge=1e-3, le=1e6)
    """Softens predictions in adversarial forms other than L1."""
    student_steps: int = Field(5, ge=1, le=10_000)
    """Student steps in one cycle (released code: 5)."""
    student_schedule: RateSchedule = "drops"
    generator_schedule: RateSchedule = "drops"
    drops: Drops = (0.2, 0.4)
    """Shares of the run from which on both rates are a tenth (released code: epochs 100 and 200 of 500)."""


class DFAD:
    """The student closes the gap on fresh images five times, then the generator opens it, through both networks."""

    settings_type: ClassVar[type[MethodSettings]] = DFADSettings
    needs_batch_norm = False

    def __init__(self, settings: DFADSettings) -> None:
        self.settings = settings

    def build(self, context: Context) -> Algorithm:
        """Put terms, schedule and update together."""
        s = self.settings
        objective = Objective({"adversarial": (1.0, adversary(s.adversarial, s.temperature))})
        imitation = Objective({"student": (1.0, Imitation(logit_l1, "L1"))})
        return generator_algorithm(context, s, objective, imitation)
