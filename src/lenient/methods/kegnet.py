"""KegNet: several generators that teacher and decoders read, and a student of the images that all of them draw.

Yoo, Cho, Kim, Kang, "Knowledge Extraction with No Observable Data", NeurIPS 2019. The teacher is to read from an image
the class that a generator was asked for, and a small decoder the latent vector, so that a class is more than one image.
Generators learn one beside the other, without the student; then they are frozen, and what they draw is a fixed set.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lenient.core import ranks
from lenient.core.errors import UsageError
from lenient.core.seeding import untouched_global_rng
from lenient.generators.transposed import Decoder, TransposedGenerator
from lenient.losses.objective import Objective
from lenient.losses.prior import LabelPrior
from lenient.losses.variety import LatentReconstruction, PairwiseDiversity
from lenient.methods.contract import (
    STUDENT,
    After,
    Algorithm,
    Context,
    MethodSettings,
    Phase,
    Schedule,
    StepOutput,
    Update,
    adam,
)
from lenient.methods.generator import build_sampler
from lenient.methods.pooled import PooledSettings, pool_student
from lenient.methods.steps import GeneratorStep
from lenient.synthesis.sampler import Sampler
from lenient.synthesis.selection import KeepAll
from lenient.synthesis.views import Viewer
from lenient.teacher.batch import Clock


class KegNetSettings(PooledSettings):
    """Settings of KegNet: L = CE(T(x), y) + decoder MSE + diversity exp(-mean distances); the student minimises KL.

    Its own generator takes `latent_dim` and `width` of the settings of generators (released code: 10 and 64).
    """

    general: ClassVar[dict[str, Any]] = {"generator": {"latent_dim": 10, "width": 64}}
    uses: ClassVar[tuple[str, ...]] = (
        "generator.latent_dim",
        "generator.width",
        "generator.factory",
        "defense.shuffle",
    )

    name: Literal["kegnet"] = "kegnet"
    generators: int = Field(5, ge=1, le=1000)
    """Generators, each with a decoder (released code: 5)."""
    iterations: int = Field(2000, ge=1, le=10**7)
    """Updates of each generator, all before the student's first step (released code: 20,000)."""
    generator_batch: int | None = Field(None, ge=2, le=2**20)
    """Images in one of these updates (released code: 256); by default as many as in the student's."""
    generator_lr: float = Field(1e-3, ge=0, le=1e3)
    """Learning rate of the Adam of generator and decoder (released code: MNIST 1e-3; Fashion-MNIST, SVHN 0.01)."""
    decoder_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the latents that the decoder reads back (released code: 1)."""
    decoder_layers: int = Field(1, ge=0, le=100)
    """Hidden layers of the decoder after its first (released code: MNIST 1; Fashion-MNIST, SVHN 3)."""
    diversity_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the diversity of pairs (released code: MNIST 0, Fashion-MNIST 10, SVHN 1)."""
    images: int = Field(6400, ge=1, le=10**7)
    """Images of each generator in the set (released code: 6400)."""
    student_temperature: float = Field(1.0, ge=1e-3, le=1e6)
    """Softens predictions that the student imitates (paper: 1)."""
    student_optimizer: Literal["sgd", "adam"] = "adam"
    """The student's optimizer (released code: Adam)."""
    student_lr: float = Field(1e-3, ge=0, le=1e3)
    """Learning rate of the student (released code: MNIST 1e-5, others 1e-4, from a decomposed teacher's weights)."""
    student_weight_decay: float = Field(0.0, ge=0, le=1e6)
    """Weight decay of the student (released code: none)."""


class KegNet:
    """Generators and decoders learn, a generator's last update draws its part of the set, then the student learns."""

    settings_type: ClassVar[type[MethodSettings]] = KegNetSettings
    not_known: ClassVar[str] = (
        "we have not read its text, and its students start from a decomposition of the teacher, which is not here; "
        "-c published has the rest of its MNIST code"
    )
    """What is missing for a recipe `paper`."""
    needs_batch_norm = False

    def __init__(self, settings: KegNetSettings) -> None:
        self.settings = settings

    def build(self, context: Context) -> Algorithm:
        """Put generators, decoders, set and student together.

        Raises:
            UsageError: a generator's batch does not divide among the devices.
        """
        s = self.settings
        count = s.generator_batch or context.batch_size
        if count % ranks.count():
            raise UsageError(f"--devices {ranks.count()}: -s method.generator_batch={count} does not divide among them")
        samplers = [build_sampler(context, kind=TransposedGenerator, number=number) for number in range(s.generators)]
        names = [f"generator-{number}" for number in range(s.generators)]
        schedule = Schedule(Phase(tuple((name, 1) for name in names), s.iterations), Phase(((STUDENT, 1),)))
        objective = Objective(
            {
                "class_prior": (1.0, LabelPrior()),
                "latents": (s.decoder_weight, LatentReconstruction()),
                "diversity": (s.diversity_weight, PairwiseDiversity()),
            }
        )

        def show(wanted: int, name: str, update: int) -> Tensor:
            """Draw images of all generators in turn."""
            each = -(-wanted // len(samplers))
            drawn = [sampler.show(each, f"{name}/{number}", update) for number, sampler in enumerate(samplers)]
            return context.runtime.images(torch.stack(drawn, dim=1).flatten(0, 1)[:wanted])

        own = pool_student(context, s, show, (s.generators * s.images, "method.images"))

        def filling(number: int) -> After:
            """Return what puts a generator's images into the set after its last update."""

            def after(clock: Clock, output: StepOutput, bad: Tensor) -> None:
                if schedule.before(names[number], clock.update) + 1 == s.iterations:
                    for part, start in enumerate(range(0, s.images, count)):
                        size = min(count, s.images - start)
                        own.pool.push(samplers[number].show(size, f"set/{number}", part))

            return after

        updates = {STUDENT: own.update}
        asked, viewer = replace(context, batch_size=count), Viewer(context.streams)
        for number, (name, sampler) in enumerate(zip(names, samplers, strict=True)):
            decoder = self._decoder(context, sampler, number)
            step = GeneratorStep(
                asked, sampler, own.student, own.pool, objective, KeepAll(), viewer,
                lambda name, clock: (name, clock.update), decoder=decoder,
            )  # fmt: skip
            pair = nn.ModuleDict({"generator": sampler.generator, "decoder": decoder})
            updates[name] = Update(pair, adam(pair, s.generator_lr), step, filling(number))
        parts = {
            "sampler": f"{s.generators} generators",
            "labels": "uniform",
            "replay": "fixed set",
            "update": own.label,
        }
        return Algorithm(updates, schedule, own.pool, own.imitation, objective, parts=parts)

    def _decoder(self, context: Context, sampler: Sampler, number: int) -> nn.Module:
        with untouched_global_rng():
            context.streams.seed_global("decoder-init", number)
            decoder = Decoder(context.teacher.card.input_size, sampler.latent_dim, self.settings.decoder_layers)
        return context.runtime.place(decoder)
