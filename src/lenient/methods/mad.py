"""MAD: momentum adversarial distillation.

Do, Le, Nguyen et al., "Momentum Adversarial Distillation: Handling Large Distribution Shifts in Data-Free Knowledge
Distillation", NeurIPS 2022, arXiv 2209.10359. A moving average of the generator draws old images beside the new ones.
There is no official code, and we have not read the supplement: weights, optimizers and networks are our choice.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from lenient.generators.conditional import Conditioning
from lenient.losses.adversarial import AdversarialForm, adversary
from lenient.losses.distances import kl_divergence
from lenient.losses.imitation import Imitation
from lenient.losses.objective import Objective
from lenient.losses.prior import EmbeddingNorm, LabelPrior
from lenient.losses.representation import BatchNormStatistics
from lenient.methods.contract import Algorithm, Context, MethodSettings
from lenient.methods.generator import GeneratorMethodSettings, ReplaySettings, generator_algorithm
from lenient.replay.momentum import MomentumSettings


class MADSettings(GeneratorMethodSettings):
    """Settings of MAD: L_G = -w min(D, bound) + bn R [+ nll CE(y) + norm]; L_S = D on new + weight D on old images."""

    general: ClassVar[dict[str, Any]] = {"generator": {"output": "tanh-bn", "stem_activation": False}}

    name: Literal["mad"] = "mad"
    adversarial: AdversarialForm = "kl"
    """What the generator raises (paper: the distillation loss)."""
    adversarial_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the adversarial term (our choice)."""
    bound: Annotated[float, Field(ge=0, le=1e6)] | Literal["auto", "none"] = "auto"
    """Largest reward of one image (paper: there is one); ours is 2 ln C above ten classes, none up to there."""
    temperature: float = Field(1.0, ge=1e-3, le=1e6)
    """Softens predictions of both networks (our choice)."""
    bn_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the batch-norm statistics, mean over layers (our choice); 0 for teachers without batch norm."""
    conditional: Conditioning = "none"
    """Whether the generator is asked for classes; the paper adds embeddings for many classes (`sum`)."""
    label_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the cross-entropy against the class asked for, if conditional (our choice)."""
    norm_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the norm of class embeddings above the root of their length, if conditional (our choice)."""
    replay: ReplaySettings = MomentumSettings()
    """Old samples against forgetting: averaged generators."""


class MAD:
    """The student learns from the generator and from its average; the average never meets the generator's loss."""

    settings_type: ClassVar[type[MethodSettings]] = MADSettings
    not_known: ClassVar[str] = (
        "weights, optimizers, networks, schedule and the reward's bound are not known: no code was released, and we "
        "have not read the supplement; -c cifar10 has our choice"
    )
    """What is missing for a recipe `paper`."""

    def __init__(self, settings: MADSettings) -> None:
        self.settings = settings

    @property
    def needs_batch_norm(self) -> bool:
        """Whether the statistics have a weight."""
        return self.settings.bn_weight > 0

    def build(self, context: Context) -> Algorithm:
        """Put terms, replay and schedule together; the generator moves first."""
        s = self.settings
        bn_weight = s.bn_weight / max(len(context.teacher.batch_norms), 1)
        classes = context.teacher.card.num_classes
        bound = (2 * math.log(classes) if classes > 10 else None) if s.bound == "auto" else s.bound
        limit = None if bound == "none" else bound

        def objective(generator: nn.Module) -> Objective:
            terms: dict[str, Any] = {
                "adversarial": (s.adversarial_weight, adversary(s.adversarial, s.temperature, bound=limit)),
                "bn": (bn_weight, BatchNormStatistics()),
            }
            if s.conditional != "none":
                terms["class_prior"] = (s.label_weight, LabelPrior())
            embedding = getattr(generator, "embedding", None)  # a user's own generator may have none
            if s.conditional != "none" and isinstance(embedding, nn.Embedding):
                longest = embedding.embedding_dim**0.5
                terms["embedding"] = (s.norm_weight, EmbeddingNorm(embedding, longest))
            return Objective(terms)

        imitate = partial(kl_divergence, temperature=s.temperature)
        imitation = Objective({"student": (1.0, Imitation(imitate, "KL"))})
        return generator_algorithm(
            context,
            s,
            objective,
            imitation,
            order=("generator", "student"),
            conditioning=s.conditional,
        )
