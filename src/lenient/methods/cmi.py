"""CMI: every batch is inverted by a generator of its own, and asked to differ from all images that were made before.

Fang, Song, Wang, Shen, Wang, Song, "Contrastive Model Inversion for Data-Free Knowledge Distillation", IJCAI 2021,
arXiv 2105.08584. Generator and latent codes start anew for each batch and descend together on what the teacher
expects; a contrast against a bank of features, of all batches so far, keeps them from falling into the same few images
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lenient.core import ranks
from lenient.core.errors import TeacherError
from lenient.core.seeding import untouched_global_rng
from lenient.generators.upsampling import normal_layers
from lenient.losses.adversarial import AdversarialForm, adversary
from lenient.losses.contrastive import ContrastiveBank
from lenient.losses.objective import Later, Objective
from lenient.losses.prior import LabelPrior
from lenient.losses.representation import BatchNormStatistics
from lenient.methods.batches import Batches, Place, Shown
from lenient.methods.contract import Algorithm, Context, MethodSettings, adam
from lenient.methods.generator import build_sampler
from lenient.methods.inversion import InversionSettings, inversion_algorithm
from lenient.synthesis.latents import Latents
from lenient.synthesis.views import Augmentation, augment, resized_crop
from lenient.teacher.batch import Clock
from lenient.teacher.probes import Pooled

BETAS = (0.5, 0.999)
"""Of the Adam of generator and codes; that of the projection has torch's own."""


class CMISettings(InversionSettings):
    """Settings of CMI: L = label CE + bn R + adv (-KL where both agree) + cr InfoNCE; the student minimises KL."""

    general: ClassVar[dict[str, Any]] = {"generator": {"latent_dim": 256, "stem_activation": False, "conv_bias": False}}
    uses: ClassVar[tuple[str, ...]] = ("generator", "defense.shuffle")

    name: Literal["cmi"] = "cmi"
    iterations: int = Field(200, ge=1, le=10**6)
    """Steps on a batch (scripts: 200; tables of other papers: 500)."""
    first_batches: int = Field(0, ge=0, le=10**6)
    """Batches in the pool before the student's first step (scripts: 0, or about 200 that were made before)."""
    generator_lr: float = Field(1e-3, ge=0, le=1e3)
    """Learning rate of generator and latent codes (scripts: 1e-3)."""
    projection_lr: float = Field(1e-3, ge=0, le=1e3)
    """Learning rate of the features' projection, which goes on from batch to batch (released code: the generator's)."""
    label_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the cross-entropy against random classes (script `scratch`: 1; after images made before: 0.5)."""
    bn_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the batch-norm statistics (scripts: 1); 0 for teachers without batch norm."""
    adversarial_weight: float = Field(0.5, ge=0, le=1e6)
    """Weight of the adversary, after the first batches (scripts: 0.5)."""
    adversarial: AdversarialForm = "kl-agreeing"
    """How disagreement is measured (paper: KL where both networks name the same class)."""
    temperature: float = Field(1.0, ge=1e-3, le=1e6)
    """Softens predictions in the adversarial term (released code: 1)."""
    contrastive_weight: float = Field(0.8, ge=0, le=1e6)
    """Weight of the contrast (scripts: 0.8)."""
    contrastive_temperature: float = Field(0.1, ge=1e-3, le=1e6)
    """Temperature of the contrast (scripts: 0.1; a variant: 0.2)."""
    features: Literal["blocks", "batch-norms"] = "blocks"
    """What is compared, averaged over positions: what the teacher's last block of each map size puts out (paper), or
    what goes into every batch norm (released code, but for its ResNets)."""
    bank_size: int = Field(40_960, ge=1, le=10**8)
    """Images whose features the bank holds; the oldest go (released code: 40960)."""
    bank_drawn: int = Field(4096, ge=0, le=10**6)
    """Images of the bank that each step compares with (released code: 4096)."""
    local_area: float = Field(0.25, gt=0, le=1)
    """Least share of an image in the part that is compared with all of it (released code: 0.25)."""
    augmentation: Augmentation = "crop-flip"
    """How images are shown, to both networks while they are made and to the student (released code: `crop-flip`); parts
    are mirrored where images are."""


class CMI:
    """Codes and a new generator descend together for each batch, away from all batches before."""

    settings_type: ClassVar[type[MethodSettings]] = CMISettings
    not_known: ClassVar[str] = (
        "we have not read the paper, whose tables take 500 steps on a batch, at weights unknown to us; the recipe "
        "published is a released script"
    )
    """Why there is no recipe `paper`."""

    def __init__(self, settings: CMISettings) -> None:
        self.settings = settings

    @property
    def needs_batch_norm(self) -> bool:
        """Whether the statistics have a weight."""
        return self.settings.bn_weight > 0

    def build(self, context: Context) -> Algorithm:
        """Put generator, codes, bank, pool and student together."""
        s, teacher, streams, count = self.settings, context.teacher, context.streams, self.settings.images_of(context)
        sampler = build_sampler(context)

        def codes(number: int) -> Tensor:
            return streams.normal("codes", number, (count, sampler.latent_dim)).to(context.runtime.dtype)

        def weights(number: int) -> Mapping[str, Tensor]:
            return normal_layers(sampler.generator, streams, "generator-weights", number)

        def show(clock: Clock, place: Place) -> Shown:
            images = sampler.draw(ranks.mine(latents.codes))
            shown = augment(images, s.augmentation, streams, "inversion-view", clock.update)

            def local() -> Tensor:
                flip = s.augmentation != "none"
                part = resized_crop(images, s.local_area, flip, streams, "local-view", clock.update)
                return teacher.normalize(context.runtime.images(part))

            return Shown(images, teacher.normalize(shown), ranks.gather(images), {"local": local})

        def labels(number: int) -> Tensor:
            return streams.integers("labels", number, (count,), teacher.card.num_classes)

        sampler.generator.load_state_dict(weights(0), strict=False)
        latents = Latents(sampler.generator, (count, *teacher.card.input_size), codes, weights)
        objective = self._objective(context)
        optimizer = adam(latents, s.generator_lr, BETAS)
        for module in objective.modules:
            own = {"params": list(module.parameters()), "lr": s.projection_lr, "betas": (0.9, 0.999)}
            optimizer.add_param_group(own)
        parts = {"sampler": "codes and new generator", "labels": "uniform"}
        batches = Batches("latents", (latents,), optimizer, objective, show, labels, start=sampler.show, parts=parts)
        return inversion_algorithm(context, s, batches)

    def _objective(self, context: Context) -> Objective:
        s = self.settings
        adversarial = Later(s.adversarial_weight, s.first_batches) if s.adversarial_weight else 0.0
        terms: dict[str, Any] = {
            "class_prior": (s.label_weight, LabelPrior()),
            "bn": (s.bn_weight, BatchNormStatistics()),
            "adversarial": (adversarial, adversary(s.adversarial, s.temperature)),
        }
        if s.contrastive_weight:
            terms["contrastive"] = (s.contrastive_weight, self._contrast(context))
        return Objective(terms)

    def _contrast(self, context: Context) -> ContrastiveBank:
        s, teacher = self.settings, context.teacher
        inputs = s.features == "batch-norms"
        layers = teacher.batch_norms if inputs else [*teacher.blocks().values()]
        if not layers:
            raise TeacherError(
                f"the teacher has no {s.features} whose features could be compared; switch the term off knowingly with "
                "-s method.contrastive_weight=0"
            )
        probe = Pooled(tuple(layers), inputs)
        length = teacher.probed(probe).shape[1]
        with untouched_global_rng():
            context.streams.seed_global("projection-init", 0)
            return ContrastiveBank(
                probe,
                length,
                context.streams,
                context.runtime,
                temperature=s.contrastive_temperature,
                capacity=s.bank_size,
                drawn=s.bank_drawn,
            )
