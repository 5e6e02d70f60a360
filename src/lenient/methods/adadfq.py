"""AdaDFQ: a generator that keeps what is left to learn within bounds, for a student that is the teacher in few bits.

Qian, Wang, Hong, Wang, "Adaptive Data-Free Quantization", CVPR 2023, arXiv 2303.06869. An image on which teacher and
student agree teaches nothing, and one on which they differ beyond measure cannot be learned: the entropy of their
difference is kept in a band. The paper's student is `--student int4:copy` (`models/low_bit.py`); any other learns, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field

from lenient.losses.adaptive import EntropyBand, JointLabelPrior
from lenient.losses.distances import uneven_difference
from lenient.losses.imitation import Imitation
from lenient.losses.objective import Objective
from lenient.losses.representation import SquaredStatistics
from lenient.methods.contract import Algorithm, Context, MethodSettings
from lenient.methods.generator import GeneratorMethodSettings, generator_algorithm


class AdaDFQSettings(GeneratorMethodSettings):
    """Settings of AdaDFQ: L_G = band + ds CE(T - S, y) + as CE(T + S, y) + bn R; the student minimises centred logit
    MSE. Rates are ours, for students that start at random: the released ones, of a copy in few bits, are in recipes."""

    general: ClassVar[dict[str, Any]] = {"generator": {"output": "tanh-bn", "stem_activation": False}}
    not_below: ClassVar[Mapping[str, str]] = {"upper": "lower"}

    name: Literal["adadfq"] = "adadfq"
    lower: float = Field(0.1, ge=0, le=1)
    """Least entropy of the networks' difference that costs nothing (paper: 0.1; some of ImageNet 0.3 and 0.4)."""
    upper: float = Field(0.8, ge=0, le=1)
    """Largest one (paper: 0.8)."""
    entropy_scale: Literal["batch", "fixed"] = "batch"
    """What an entropy of 0 is: the least of the batch (paper), or none at all, which needs no other image."""
    band_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the band (paper: 1)."""
    difference_weight: float = Field(0.2, ge=0, le=1e6)
    """Weight of the cross-entropy of the difference of logits (paper: 0.2)."""
    sum_weight: float = Field(0.1, ge=0, le=1e6)
    """Weight of the cross-entropy of their sum (paper: 0.1)."""
    bn_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the squared batch-norm statistics, mean over channels and layers (paper: 1); 0 for teachers without
    batch norm."""
    temperature: float = Field(20.0, ge=1e-3, le=1e6)
    """Softens the difference that the student minimises (released code: 20 on CIFAR, 5 on ImageNet)."""
    warm_up: int = Field(100, ge=0, le=10**7)
    """Generator updates before the student's first (released code: 800 on CIFAR)."""
    batch: Literal["same", "fresh"] = "same"
    """Whether the student learns from the very images that the generator is trained on (released code)."""
    student_steps: int = Field(1, ge=1, le=10_000)
    """Student updates in one round (released code: 1)."""
    student_lr: float = Field(0.02, ge=0, le=1e3)
    """Learning rate of the student's SGD (our choice)."""
    student_weight_decay: float = Field(1e-4, ge=0, le=1e6)
    """Weight decay of the student (released code: 1e-4)."""


class AdaDFQ:
    """The student's update comes first, so that the generator has not moved and both learn from the same images."""

    settings_type: ClassVar[type[MethodSettings]] = AdaDFQSettings

    def __init__(self, settings: AdaDFQSettings) -> None:
        self.settings = settings

    @property
    def needs_batch_norm(self) -> bool:
        """Whether the statistics have a weight."""
        return self.settings.bn_weight > 0

    def build(self, context: Context) -> Algorithm:
        """Put terms and schedule together."""
        s = self.settings
        objective = Objective(
            {
                "adversarial": (s.band_weight, EntropyBand(s.lower, s.upper, fixed=s.entropy_scale == "fixed")),
                "difference": (s.difference_weight, JointLabelPrior(-1, "label of T - S")),
                "sum": (s.sum_weight, JointLabelPrior(1, "label of T + S")),
                "bn": (s.bn_weight, SquaredStatistics()),
            }
        )
        imitate = partial(uneven_difference, temperature=s.temperature)
        return generator_algorithm(
            context,
            s,
            objective,
            Objective({"student": (1.0, Imitation(imitate, "centred MSE"))}),
            same_batch=s.batch == "same",
            student_mode="eval",
            conditioning="product",
            generator_betas=(0.5, 0.999),
            warm_up=s.warm_up,
        )
