"""FastDFKD: a generator that learns to need few steps, adapted together with latent codes to one batch after another.

Fang, Mo, Wang, Song, Bei, Zhang, Song, "Up to 100x Faster Data-free Knowledge Distillation", AAAI 2022, arXiv
2112.06253. For each batch a copy of the generator and fresh codes descend a few steps on what the teacher expects of
random classes; the best images join a pool, from which the student learns; the generator moves to where the next copy
needs fewer steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lenient.core import ranks
from lenient.core.errors import UsageError
from lenient.generators.upsampling import UpsamplingGenerator, first_layers_anew
from lenient.losses.adversarial import AdversarialForm, adversary
from lenient.losses.objective import Later, Objective
from lenient.losses.prior import LabelPrior
from lenient.losses.representation import AveragedStatistics
from lenient.methods.batches import Batches, Place, Shown
from lenient.methods.contract import Algorithm, Context, MethodSettings, adam
from lenient.methods.generator import build_sampler
from lenient.methods.inversion import InversionSettings, inversion_algorithm
from lenient.synthesis.latents import Latents
from lenient.synthesis.meta import MetaForm, MetaGenerator
from lenient.synthesis.views import Augmentation, augment
from lenient.teacher.batch import Clock

BETAS = (0.5, 0.999)
"""Of both Adams."""


class FastDFKDSettings(InversionSettings):
    """Settings of FastDFKD: L = label CE + bn R_m + adv (-KL where both agree); the student minimises KL."""

    general: ClassVar[dict[str, Any]] = {"generator": {"latent_dim": 256, "stem_activation": False, "conv_bias": False}}
    uses: ClassVar[tuple[str, ...]] = ("generator", "defense.shuffle")

    name: Literal["fastdfkd"] = "fastdfkd"
    iterations: int = Field(5, ge=1, le=10**6)
    """Steps on a batch (paper: 2, 5 or 10)."""
    generator_lr: float = Field(3e-3, ge=0, le=1e3)
    """Learning rate of the adapted generator (scripts: 5e-3, 3e-3, 2e-3 for 2, 5, 10 steps)."""
    codes_lr: float = Field(0.01, ge=0, le=1e3)
    """Learning rate of the latent codes (scripts: 0.015, 0.01, 0.01)."""
    meta: MetaForm | Literal["none"] = "fomaml"
    """How the common start learns: `fomaml` by the sum of the gradients on the way, `reptile` by the way itself; with
    `none` each batch goes on with the generator of the one before."""
    meta_lr: float | None = Field(None, ge=0, le=1e3)
    """Learning rate of the common start; by default `generator_lr` times `iterations` (released code)."""
    reset_after: int | None = Field(120, ge=1, le=10**9)
    """Which batch after the first ones begins with new weights in the generator's first linear layer and batch norm
    (released code: 120); null for none."""
    label_weight: float = Field(0.5, ge=0, le=1e6)
    """Weight of the cross-entropy against random classes (scripts: 0.5; Wide ResNets: 0.4)."""
    bn_weight: float = Field(10.0, ge=0, le=1e6)
    """Weight of the averaged batch-norm statistics (scripts: 10); 0 for teachers without batch norm."""
    bn_momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the batches before in these averages (scripts: 0.9)."""
    adversarial_weight: float = Field(1.33, ge=0, le=1e6)
    """Weight of the adversary, from the last of the first batches on (scripts: 1.33; VGG: 1; Wide ResNets: 1.1)."""
    adversarial: AdversarialForm = "kl-agreeing"
    """How disagreement is measured (paper: KL where both networks name the same class)."""
    temperature: float = Field(1.0, ge=1e-3, le=1e6)
    """Softens predictions in the adversarial term (released code: 1)."""
    student_lr: float = Field(0.2, ge=0, le=1e3)
    """Learning rate of the student's SGD (scripts: 0.2)."""
    student_lr_end: float = Field(2e-4, ge=0, le=1e3)
    """Learning rate that the cosines fall towards (released code: 2e-4)."""
    augmentation: Augmentation = "crop-flip"
    """How images are shown, to both networks while they are made and to the student (released code: `crop-flip`)."""


class FastDFKD:
    """A batch of codes and a copy of the generator descend together; the generator learns to be a good start."""

    settings_type: ClassVar[type[MethodSettings]] = FastDFKDSettings

    def __init__(self, settings: FastDFKDSettings) -> None:
        self.settings = settings

    @property
    def needs_batch_norm(self) -> bool:
        """Whether the statistics have a weight."""
        return self.settings.bn_weight > 0

    def build(self, context: Context) -> Algorithm:
        """Put generator, codes, pool and student together."""
        s, teacher, streams = self.settings, context.teacher, context.streams
        count = s.images_of(context)
        sampler = build_sampler(context)
        adapted = sampler.generator
        if s.reset_after is not None and not isinstance(adapted, UpsamplingGenerator):
            raise UsageError(
                "-s method.reset_after: draws the first layers of our own generator again; give null with another one"
            )
        meta = None
        if s.meta != "none":
            rate = s.generator_lr * s.iterations if s.meta_lr is None else s.meta_lr
            meta = MetaGenerator(adapted, s.meta, rate, BETAS)

        def codes(number: int) -> Tensor:
            return streams.normal("codes", number, (count, sampler.latent_dim)).to(context.runtime.dtype)

        def weights(number: int) -> Mapping[str, Tensor]:
            resets = s.reset_after is not None and number + 1 == s.first_batches + s.reset_after
            anew = first_layers_anew(adapted, streams, "reset", number) if resets else {}
            return anew if meta is None else meta.start(anew)

        def show(clock: Clock, place: Place) -> Shown:
            images = sampler.draw(ranks.mine(latents.codes))
            shown = augment(images, s.augmentation, streams, "inversion-view", clock.update)
            return Shown(images, teacher.normalize(shown), ranks.gather(images))

        def follow(ends: bool, bad: Tensor) -> None:
            if meta is not None:
                meta.gather(adapted, bad)
                if ends:
                    meta.learn(adapted)

        latents = Latents(adapted, (count, *teacher.card.input_size), codes, weights)
        adversarial = Later(s.adversarial_weight, max(s.first_batches - 1, 0)) if s.adversarial_weight else 0.0
        objective = Objective(
            {
                "class_prior": (s.label_weight, LabelPrior()),
                "bn": (s.bn_weight, AveragedStatistics(s.bn_momentum)),
                "adversarial": (adversarial, adversary(s.adversarial, s.temperature)),
            }
        )
        batches = Batches(
            "latents",
            (latents,),
            adam(latents, s.generator_lr, BETAS, rates={"codes": s.codes_lr}),
            objective,
            show,
            lambda number: streams.integers("labels", number, (count,), teacher.card.num_classes),
            start=sampler.show,
            follow=follow,
            parts={"sampler": "codes and generator", "labels": "uniform"},
            state={} if meta is None else {"meta": meta},
        )
        return inversion_algorithm(context, s, batches)
