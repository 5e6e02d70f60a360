"""ZSKT: zero-shot knowledge transfer by adversarial belief matching.

Micaelli and Storkey, "Zero-shot Knowledge Transfer via Adversarial Belief Matching", NeurIPS 2019, arXiv 1905.09768.
The generator raises KL(teacher || student), the student lowers it and matches the teacher's attention maps.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field

from lenient.losses.adversarial import AdversarialForm, adversary
from lenient.losses.distances import kl_divergence
from lenient.losses.imitation import AttentionTransfer, Imitation
from lenient.losses.objective import Objective
from lenient.methods.contract import Algorithm, Context, MethodSettings, RateSchedule
from lenient.methods.generator import GeneratorMethodSettings, generator_algorithm


class ZSKTSettings(GeneratorMethodSettings):
    """Settings of ZSKT: L_G = -KL, L_S = KL + beta AT.

    The released code divides KL by the classes too; here it is the mean over the batch, and what belongs to the old
    form (attention, clipping) is ten times the code's, as for ten classes.
    """

    general: ClassVar[dict[str, Any]] = {"generator": {"output": "bn", "stem_activation": False}}

    name: Literal["zskt"] = "zskt"
    adversarial: AdversarialForm = "kl"
    """What the generator raises (paper: forward KL; JS and reverse KL clearly worse)."""
    temperature: float = Field(1.0, ge=1e-3, le=1e6)
    """Softens predictions of both networks (paper: 1)."""
    attention_weight: float = Field(2500.0, ge=0, le=1e6)
    """Weight beta of attention transfer on blocks of equal map size (released code: 250 beside KL / classes)."""
    batch: Literal["fresh", "same"] = "fresh"
    """Fresh images for every step (1 to 3 points better in a reproduction), or one batch for a cycle (paper)."""
    student_optimizer: Literal["sgd", "adam"] = "adam"
    student_lr: float = Field(2e-3, ge=0, le=1e3)
    """Learning rate of the student (released code: 2e-3)."""
    student_weight_decay: float = Field(0.0, ge=0, le=1e6)
    generator_schedule: RateSchedule = "cosine"
    student_clip_norm: float | None = Field(50.0, gt=0, le=1e6)
    """Largest norm of the student's gradient (released code: 5 beside KL / classes)."""
    generator_clip_norm: float | None = Field(50.0, gt=0, le=1e6)
    """Largest norm of the generator's gradient (released code: 5 beside KL / classes)."""


class ZSKT:
    """The generator moves first, then the student takes ten steps; no prior on images or classes."""

    settings_type: ClassVar[type[MethodSettings]] = ZSKTSettings
    needs_batch_norm = False

    def __init__(self, settings: ZSKTSettings) -> None:
        self.settings = settings

    def build(self, context: Context) -> Algorithm:
        """Put terms, schedule and update together."""
        s = self.settings
        objective = Objective({"adversarial": (1.0, adversary(s.adversarial, s.temperature))})
        imitate = partial(kl_divergence, temperature=s.temperature)
        imitation = Objective(
            {"student": (1.0, Imitation(imitate, "KL")), "attention": (s.attention_weight, AttentionTransfer())}
        )
        same = s.batch == "same"
        return generator_algorithm(context, s, objective, imitation, order=("generator", "student"), same_batch=same)
