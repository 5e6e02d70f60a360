"""CPNet: NAYER with a generator that is the teacher in reverse, tied to the teacher's own maps.

Chen, Li, Han, Xu, Shen, "Coupling the Generator with Teacher for Effective Data-Free Knowledge Distillation", ICCV
2025.
The teacher is cut at some batch norms; each block of the generator turns the maps of one cut into those of the cut
before it, and what it puts out is held against what the teacher has there of the image that comes of it. The last
layer's pseudo-inverse gives each class features that its images shall have.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from lenient.core import ranks
from lenient.core.errors import TeacherError
from lenient.core.seeding import untouched_global_rng
from lenient.generators.coupled import CoupledGenerator
from lenient.losses.adversarial import adversary
from lenient.losses.coupling import FeatureAlignment, FeatureCoupling
from lenient.losses.objective import Later, Objective
from lenient.losses.prior import LabelPrior
from lenient.losses.representation import AveragedStatistics
from lenient.methods.batches import Shown
from lenient.methods.contract import Algorithm, Context, MethodSettings
from lenient.methods.labelled import CLASSIFIER, LabelledSettings, labelled
from lenient.synthesis.views import augment, boxes_of_others
from lenient.teacher.batch import Clock, Partners
from lenient.teacher.probes import BatchNormInputs


class CPNetSettings(LabelledSettings):
    """Settings of CPNet: L = label CE + bn R_m + cp L_cp + adv (-KL where both agree) + align L_align; the student
    minimises KL."""

    general: ClassVar[dict[str, Any]] = {"generator": {"latent_dim": 256}}
    uses: ClassVar[tuple[str, ...]] = ("generator.latent_dim", "defense.shuffle")

    name: Literal["cpnet"] = "cpnet"
    cuts: Annotated[tuple[str, ...], Field(max_length=100)] | None = None
    """Names of the batch norms at which the teacher is cut, from the last one on (released code: four or five of each
    architecture); by default the last one of each size of maps."""
    coupling_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the coupling between the generator's maps and the teacher's (released code: 1)."""
    coupling_view: Literal["plain", "shown"] = "plain"
    """Of which images the teacher's maps are: as they are drawn, or as both networks are shown them, which costs a
    forward less of the teacher (released code: `shown`, so that half of them are mirror images)."""
    align_weight: float = Field(0.75, ge=0, le=1e6)
    """Weight of the alignment of features, after the first batches (paper: best at 0.7 to 0.8; released code: the
    adversary's)."""
    align_mixed: bool = False
    """Whether images with a part of another one are aligned, too, as if they were whole (released code: yes)."""
    cutmix: float = Field(0.5, ge=0, le=1)
    """Share of the steps that show each image with a box of another one (scripts: 0.5)."""


class CPNet:
    """A generator of classes that mirrors the teacher is adapted to one batch after another."""

    settings_type: ClassVar[type[MethodSettings]] = CPNetSettings
    not_known: ClassVar[str] = (
        "we have not read the paper; the recipe published is the released script, but for colours that are changed "
        "while images are made"
    )
    """Why there is no recipe `paper`."""
    takes_class_names: ClassVar[bool] = True
    """Embeddings of them are a file of the user's, `method.embeddings`."""

    def __init__(self, settings: CPNetSettings) -> None:
        self.settings = settings

    @property
    def needs_batch_norm(self) -> bool:
        """Whether the statistics have a weight; without batch norms there are no cuts either."""
        return self.settings.bn_weight > 0

    @property
    def needs_linear_head(self) -> bool:
        """Whether the generator is given classes as the rows of the teacher's last layer."""
        return self.settings.embeddings == CLASSIFIER

    def build(self, context: Context) -> Algorithm:
        """Put cuts, generator, pool and student together."""
        s, teacher, streams = self.settings, context.teacher, context.streams
        probe = BatchNormInputs(teacher.cuts(s.cuts))
        channels, height, width = teacher.card.input_size
        shapes = [(maps.shape[1], maps.shape[2], maps.shape[3]) for maps in teacher.probed(probe)]

        def body(number: int) -> tuple[nn.Module, int]:
            length = context.generator.latent_dim
            with untouched_global_rng():
                streams.seed_global("generator-init", number)
                made = CoupledGenerator((channels, height, width), shapes, length)
            return context.runtime.place(made), length

        def look(images: Tensor, labels: Tensor, clock: Clock) -> Shown:
            shown, partners = augment(images, s.augmentation, streams, "inversion-view", clock.update), None
            if streams.numpy("cutmix", clock.update).random() < s.cutmix:
                shown, others, share = boxes_of_others(shown, streams, "cutmix", clock.update)
                partners = Partners(labels[others], share)
            views = {"plain": lambda: teacher.normalize(images)}
            view = teacher.normalize(context.runtime.images(shown))
            return Shown(images, view, ranks.gather(images), views, partners=partners)

        def taps(generator: nn.Module) -> tuple[nn.Module, ...]:
            assert isinstance(generator, CoupledGenerator), "made here"
            return generator.taps

        return labelled(context, s, body, self._objective(context, probe), look, taps)

    def _objective(self, context: Context, probe: BatchNormInputs) -> Objective:
        s, head = self.settings, context.teacher.head
        view = "plain" if s.coupling_view == "plain" and (s.cutmix or s.augmentation != "none") else "clean"
        terms: dict[str, Any] = {
            "class_prior": (s.label_weight, LabelPrior()),
            "bn": (s.bn_weight, AveragedStatistics(s.bn_momentum)),
            "coupling": (s.coupling_weight, FeatureCoupling(probe, s.bn_momentum, view)),
        }
        if s.adversarial_weight:
            weight = Later(s.adversarial_weight, s.first_batches)
            terms["adversarial"] = (weight, adversary(s.adversarial, s.temperature))
        if s.align_weight:
            if head is None:
                raise TeacherError(
                    "the teacher's logits come from no linear layer, whose inverse would give features; switch that "
                    "term off knowingly with -s method.align_weight=0"
                )
            terms["alignment"] = (Later(s.align_weight, s.first_batches), FeatureAlignment(*head, mixed=s.align_mixed))
        return Objective(terms)
