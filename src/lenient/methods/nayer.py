"""NAYER: a generator is given classes as meaningful codes, through noisy layers that are drawn anew for each batch.

Tran, Le, Le, Harandi, Tran, Phung, "NAYER: Noisy Layer Data Generation for Efficient and Effective Data-free Knowledge
Distillation", CVPR 2024, arXiv 2310.00258. A constant code of its class goes into the generator, which therefore soon
draws what the teacher expects; two images of a class differ since the layer behind the code holds other noise. What is
minimised, the pool and the student are FastDFKD's.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from lenient.core import ranks
from lenient.losses.adversarial import adversary
from lenient.losses.objective import Later, Objective
from lenient.losses.prior import LabelPrior
from lenient.losses.representation import AveragedStatistics
from lenient.methods.batches import Shown
from lenient.methods.contract import Algorithm, Context, MethodSettings
from lenient.methods.generator import build_sampler
from lenient.methods.labelled import CLASSIFIER, LabelledSettings, labelled
from lenient.synthesis.views import augment
from lenient.teacher.batch import Clock


class NAYERSettings(LabelledSettings):
    """Settings of NAYER: L = label CE + bn R_m + adv (-KL where both agree); the student minimises KL."""

    name: Literal["nayer"] = "nayer"


class NAYER:
    """A generator of classes is adapted to one batch after another, the noise in its layers drawn anew for each."""

    settings_type: ClassVar[type[MethodSettings]] = NAYERSettings
    not_known: ClassVar[str] = (
        "the embeddings of class names come with no teacher, and we have not read the paper; the recipe published "
        "is the released script, with what -s method.embeddings names"
    )
    """Why there is no recipe `paper`."""
    takes_class_names: ClassVar[bool] = True
    """Embeddings of them are a file of the user's, `method.embeddings`."""

    def __init__(self, settings: NAYERSettings) -> None:
        self.settings = settings

    @property
    def needs_batch_norm(self) -> bool:
        """Whether the statistics have a weight."""
        return self.settings.bn_weight > 0

    @property
    def needs_linear_head(self) -> bool:
        """Whether the generator is given classes as the rows of the teacher's last layer."""
        return self.settings.embeddings == CLASSIFIER

    def build(self, context: Context) -> Algorithm:
        """Put codes, generator, pool and student together."""
        s = self.settings
        adversarial = Later(s.adversarial_weight, s.first_batches) if s.adversarial_weight else 0.0
        objective = Objective(
            {
                "class_prior": (s.label_weight, LabelPrior()),
                "bn": (s.bn_weight, AveragedStatistics(s.bn_momentum)),
                "adversarial": (adversarial, adversary(s.adversarial, s.temperature)),
            }
        )

        def look(images: Tensor, labels: Tensor, clock: Clock) -> Shown:
            shown = augment(images, s.augmentation, context.streams, "inversion-view", clock.update)
            return Shown(images, context.teacher.normalize(shown), ranks.gather(images))

        def body(number: int) -> tuple[nn.Module, int]:
            made = build_sampler(context, number=number)
            return made.generator, made.latent_dim

        return labelled(context, s, body, objective, look)
