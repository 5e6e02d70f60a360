"""What methods share whose generator is given classes as codes, through layers of noise: NAYER, CPNet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.func import functional_call

from lenient.core import ranks
from lenient.core.errors import TeacherError
from lenient.core.modes import mode
from lenient.core.runtime import sent
from lenient.core.seeding import untouched_global_rng
from lenient.core.text import VALUE, visible
from lenient.generators.label_embedding import FLAG, RANDOM_LENGTH, LabelGenerator, read_codes
from lenient.losses.adversarial import AdversarialForm
from lenient.losses.objective import Objective
from lenient.methods.batches import Batches, Place, Shown
from lenient.methods.contract import Algorithm, Context, adam
from lenient.methods.inversion import InversionSettings, inversion_algorithm
from lenient.models.probing import hooked
from lenient.synthesis.latents import Adapted
from lenient.synthesis.pixels import balanced
from lenient.synthesis.sampler import Sampler
from lenient.synthesis.views import Augmentation
from lenient.teacher.batch import Clock

BETAS = (0.5, 0.999)
"""Of the generator's Adam."""
CLASSIFIER = "classifier"
CODES = (CLASSIFIER, "one-hot", "random")
"""What a class is to the generator, unless a file does."""

Body = Callable[[int], tuple[nn.Module, int]]
"""Makes the generator behind the noisy layers, and says how long its latents are; of another number, other weights."""
Look = Callable[[Tensor, Tensor, Clock], Shown]
"""Shows this rank's images (N, C, H, W) of a batch with labels (B,)."""
Taps = Callable[[nn.Module], Sequence[nn.Module]]
"""What puts out the maps, in such a generator, that terms read."""


def nothing(body: nn.Module) -> Sequence[nn.Module]:
    """Return no part of a generator."""
    return ()


class LabelledSettings(InversionSettings):
    """Settings that these methods share; the constants are NAYER's, whose scripts CPNet's follow."""

    general: ClassVar[dict[str, Any]] = {"generator": {"latent_dim": 256, "stem_activation": False, "conv_bias": False}}
    uses: ClassVar[tuple[str, ...]] = ("generator", "defense.shuffle")

    iterations: int = Field(30, ge=1, le=10**6)
    """Steps on a batch (scripts: 30, CIFAR-100 40, Tiny-ImageNet 60)."""
    first_batches: int = Field(20, ge=0, le=10**6)
    """Batches in the pool before the student's first step (scripts: 200)."""
    round_batches: int = Field(2, ge=1, le=10**6)
    """Further batches in a row, before the student learns (scripts: 2)."""
    embeddings: str = CLASSIFIER
    """What a class is to the generator: a file, .npy or .safetensors, of one row for each class (paper: a language
    model's embeddings of their names); or `classifier` (rows of the teacher's last layer), `one-hot`, `random`."""
    generator_lr: float = Field(4e-3, ge=0, le=1e3)
    """Learning rate of the generator, all of whose parts are adapted (scripts: 4e-3)."""
    first_life: int | None = Field(10, ge=1, le=10**9)
    """Of the first batches, how many in a row one generator is adapted to before a new one begins (scripts: 100); null
    for all."""
    generator_life: int | None = Field(20, ge=1, le=10**9)
    """The same of further batches (scripts: 20); null for all."""
    label_weight: float = Field(0.5, ge=0, le=1e6)
    """Weight of the cross-entropy against the classes asked for, each as often as can be (scripts: 0.5)."""
    bn_weight: float = Field(10.0, ge=0, le=1e6)
    """Weight of the averaged batch-norm statistics (scripts: 10); 0 for teachers without batch norm."""
    bn_momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the batches before in these averages (released code: 0.9)."""
    adversarial_weight: float = Field(1.33, ge=0, le=1e6)
    """Weight of the adversary, after the first batches (scripts: 1.33)."""
    adversarial: AdversarialForm = "kl-agreeing"
    """How disagreement is measured (released code: KL where both networks name the same class)."""
    temperature: float = Field(1.0, ge=1e-3, le=1e6)
    """Softens predictions in the adversarial term (released code: 1)."""
    student_lr: float = Field(0.2, ge=0, le=1e3)
    """Learning rate of the student's SGD (scripts: 0.2)."""
    student_lr_end: float = Field(2e-4, ge=0, le=1e3)
    """Learning rate that the cosines fall towards (released code: 2e-4)."""
    augmentation: Augmentation = "crop-flip"
    """How images are shown, to both networks while they are made and to the student (released code: `crop-flip`)."""

    @field_validator("embeddings")
    @classmethod
    def _where_they_lie(cls, name: str) -> str:
        if name in CODES:
            return name
        if not name.endswith((".npy", ".safetensors")):
            raise ValueError(f"write {', '.join(CODES)}, or a file .npy or .safetensors")
        return str(Path(name).absolute())

    def begins(self, number: int) -> bool:
        """Return whether a new generator begins with batch `number`."""
        later = number - self.first_batches
        place, life = (number, self.first_life) if later < 0 else (later, self.generator_life)
        return number > 0 and (place == 0 or (life is not None and place % life == 0))


def labelled(
    context: Context, settings: LabelledSettings, body: Body, objective: Objective, look: Look, taps: Taps = nothing
) -> Algorithm:
    """Return the algorithm whose batches a generator draws of balanced classes, and `look` shows; the maps that its
    `taps` put out are for terms to read."""
    s, teacher, streams, runtime = settings, context.teacher, context.streams, context.runtime
    count, classes = s.images_of(context), teacher.card.num_classes
    codes, note = codes_of(context, s.embeddings)

    def make(number: int) -> LabelGenerator:
        inner, length = body(number)
        with untouched_global_rng():
            streams.seed_global("labels-init", number)
            made = LabelGenerator(codes, inner, length, count)
        runtime.place(made)
        return made

    generator = make(0)
    sampler = Sampler(generator, generator.noise.shape[2], streams, runtime, teacher)
    labels = partial(balanced, count, classes)

    def weights(number: int) -> Mapping[str, Tensor]:
        if s.begins(number):
            return make(number).state_dict()
        return generator.layers_anew(streams, "noisy-layers", number)

    tapped = taps(generator.body)

    def show(clock: Clock, place: Place) -> Shown:
        whole = sent(labels(place.number), streams.device)
        mine, drawn = ranks.mine(whole), list[Tensor]()
        with hooked(tapped, lambda layer, inputs, output: drawn.append(output)):
            # a compiled generator calls no hooks
            images = sampler.draw(mine, ranks.rank() * len(mine), generator=generator if tapped else None)
        return look(images, whole, clock)._replace(drawn=drawn)

    @torch.no_grad()
    def start(wanted: int, name: str, update: int) -> Tensor:
        asked = balanced(max(wanted, 2), classes, 0).to(streams.device)  # batch norms compare at least two
        own = {key: value.clone() for key, value in generator.named_buffers()}
        own |= generator.layers_anew(streams, f"{name}/layers", update, len(asked))
        with mode(generator, "train"):
            return sampler.draw(asked, generator=partial(functional_call, generator, own))[:wanted]

    adapted = Adapted(generator, (count, *teacher.card.input_size), weights)
    optimizer = adam(adapted, s.generator_lr, BETAS)
    parts = {"sampler": "generator given codes", "labels": "balanced"}
    batches = Batches("generator", (adapted,), optimizer, objective, show, labels, start, parts=parts)
    return replace(inversion_algorithm(context, s, batches), notes=(note,))


def codes_of(context: Context, name: str) -> tuple[Tensor, str]:
    """Return the codes (C, d) of the classes, and a line that says what they are."""
    classes, streams = context.teacher.card.num_classes, context.streams
    if name == "random":
        return streams.normal("class-codes", 0, (classes, RANDOM_LENGTH)), _said("random numbers")
    if name == "one-hot":
        return torch.eye(classes, device=streams.device), _said("one-hot")
    if name == CLASSIFIER:
        head = context.teacher.head
        if head is None:
            raise TeacherError(f"{FLAG}=classifier: the teacher's logits come from no linear layer; give one-hot")
        return head[0].float(), _said("the rows of the teacher's last layer")
    return read_codes(Path(name), classes).to(streams.device), _said(f"the rows of {visible(Path(name).name, VALUE)}")


def _said(what: str) -> str:
    return f"the generator is given classes as {what}; embeddings of their names are another choice: {FLAG}=FILE"
