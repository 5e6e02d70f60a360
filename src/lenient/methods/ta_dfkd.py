"""TA-DFKD: the teacher as a lenient expert.

Shin and Choi, "Teacher as a Lenient Expert: Teacher-Agnostic Data-Free Knowledge Distillation", AAAI 2024,
arXiv 2402.12406. No class prior drives the generator; the teacher only says which drawings it can vouch for.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lenient.generators.upsampling import UpsamplingGenerator
from lenient.losses.adversarial import CodedJensenShannon, JensenShannon
from lenient.losses.imitation import LogitL1
from lenient.losses.objective import Objective
from lenient.losses.prior import ClassPrior, InformationEntropy, confidence_score
from lenient.losses.representation import BatchNormStatistics, ImageNorm, differences, itself
from lenient.methods.contract import MethodSettings, Player, Rhythm, Schedule, Stage, Turn, adam, learning_rate, sgd
from lenient.record import Record, Response
from lenient.seeding import untouched_global_rng
from lenient.selection import KeepAll, MixtureSelection, MixtureSettings, Selection
from lenient.student_update import PlainUpdate
from lenient.synthesis.stream import StreamSource
from lenient.synthesis.supply import Round, Supply
from lenient.synthesis.views import Augmentation, augment


class TADFKDSettings(MethodSettings):
    """Settings of TA-DFKD: L_G = beta L_adv + gamma (bn R + tv TV + l2 L2) + alpha L_cls.

    Weights are the paper's; rates and rhythm are those that reach a good student in the fewest minutes on small images.
    The paper's stand beside them, and the recipe `published` has them all. `entropy_weight` is not in the paper.
    """

    name: Literal["ta-dfkd"] = "ta-dfkd"
    beta: float = Field(1.0, ge=0)
    """Weight of the adversarial term (paper: 1)."""
    gamma: float = Field(10.0, ge=0)
    """Weight of the representation term (paper: 10)."""
    bn_weight: float = Field(1.0, ge=0)
    """Share of the batch-norm statistics within the representation term; 0 for teachers without batch norm."""
    tv_weight: float = Field(1.5e-6, ge=0)
    """Share of total variation (released code: 1.5e-5 / gamma)."""
    l2_weight: float = Field(6e-4, ge=0)
    """Share of the L2 norm (released code: 6e-3 / gamma)."""
    class_prior_weight: float = Field(0.0, ge=0)
    """Weight alpha of the class prior, which the method leaves out (paper: 0; its baseline: 1)."""
    entropy_weight: float = Field(0.0, ge=0)
    """Weight of the information entropy: classes drawn evenly, whatever their images (DAFL's; not in the paper)."""
    adversarial: Literal["js", "js-coded"] = "js"
    """Exact Jensen-Shannon divergence, or what the released code computes."""
    temperature: float = Field(3.0, gt=0)
    """Softens predictions in the adversarial term (released code: 3)."""
    selection: Literal["mixture", "none"] = "mixture"
    """Whether the teacher selects samples."""
    tau: float = Field(0.5, gt=0, lt=1)
    """Posterior above which a sample is accepted (paper: 0.5)."""
    mixture: MixtureSettings = MixtureSettings()
    augmentation: Augmentation = "none"
    """What the student is trained on: the images as drawn, or randomly cropped and flipped."""
    bn_images: Literal["all", "selected"] = "all"
    """Which images the statistics are taken of: all (paper), or the selected training view (released code)."""
    image_norm: Literal["per-image", "whole-batch"] = "per-image"
    """How TV and L2 are reduced; the released whole-batch norm grows with the root of the batch size."""
    carry_leftovers: bool = True
    """Deal accepted samples left over to the next student step, until the generator moves."""
    min_rounds: int = Field(1, ge=1)
    """Rounds of synthesis for one student batch at least (released code: 2)."""
    max_rounds: int = Field(4, ge=1)
    """Rounds of synthesis for one student batch at most."""
    student_steps: int = Field(2, ge=1)
    """Student steps in one cycle (paper: 10)."""
    generator_steps: int = Field(1, ge=1)
    """Generator steps in one cycle (paper: 1)."""
    student_lr: float = Field(0.2, ge=0)
    """Learning rate of the student's SGD (paper: 0.01)."""
    student_momentum: float = Field(0.9, ge=0, lt=1)
    student_weight_decay: float = Field(5e-4, ge=0)
    student_schedule: Schedule = "cosine"
    generator_lr: float = Field(1e-2, ge=0)
    """Learning rate of the generator's Adam (paper: 1e-3)."""


class TADFKD:
    """The method: a generator turn (adversary on accepted images, representation on all) and a student turn (L1)."""

    settings_type: ClassVar[type[MethodSettings]] = TADFKDSettings

    def __init__(self, settings: TADFKDSettings) -> None:
        self.settings = settings
        self.needs_batch_norm = settings.gamma * settings.bn_weight > 0
        self.rhythm = Rhythm((("student", settings.student_steps), ("generator", settings.generator_steps)))
        self.turns = {"student": self.student_turn, "generator": self.generator_turn}

    def build(self, stage: Stage) -> None:
        """Make the generator, the objective, the selection and the supply."""
        s = self.settings
        self.stage, self.teacher, self.student = stage, stage.teacher, stage.student
        with untouched_global_rng():
            stage.streams.seed_global("generator-init", 0)
            generator = UpsamplingGenerator(stage.teacher.card.input_size, stage.generator)
        generator = stage.runtime.place(generator)  # type: ignore[assignment]
        self.source = StreamSource(generator, stage.generator.latent_dim, stage.streams, stage.runtime)
        self.selection: Selection = MixtureSelection(s.tau, s.mixture) if s.selection == "mixture" else KeepAll()
        self.supply = Supply(
            self.make_round, stage.batch_size, carry=s.carry_leftovers, min_rounds=s.min_rounds, max_rounds=s.max_rounds
        )
        adversary = JensenShannon if s.adversarial == "js" else CodedJensenShannon
        bn_view, whole_batch = ("clean" if s.bn_images == "all" else "train"), s.image_norm == "whole-batch"
        tv = ImageNorm(differences, view="train", whole_batch=whole_batch)
        l2 = ImageNorm(itself, view="train", whole_batch=whole_batch)
        self.objective = Objective(
            {
                "adversarial": (s.beta, adversary(s.temperature)),
                "bn": (s.gamma * s.bn_weight, BatchNormStatistics(bn_view)),
                "tv": (s.gamma * s.tv_weight, tv),
                "l2": (s.gamma * s.l2_weight, l2),
                "class_prior": (s.class_prior_weight, ClassPrior()),
                "entropy": (s.entropy_weight, InformationEntropy()),
            }
        )
        self.update = PlainUpdate(LogitL1(), stage.runtime)
        student_sgd = sgd(stage.student, s.student_lr, s.student_momentum, s.student_weight_decay)
        self.players = {
            "student": Player(stage.student, student_sgd, learning_rate(s.student_schedule)),
            "generator": Player(generator, adam(generator, s.generator_lr)),
        }
        self.parts = {"supply": self.supply}

    def make_round(self, turn: int, number: int) -> Round:
        """One round of synthesis without gradient: images, the teacher's word on them, the selection's verdict."""
        images = self.source.sample(self.stage.batch_size, f"student-latents/{number}", turn)
        logits = self.teacher.respond(self.teacher.normalize(images)).logits
        scores = confidence_score(logits)
        return Round(images, logits, scores, self.selection(scores))

    def student_turn(self, turn: int) -> Turn:
        """Imitate the teacher on B accepted images."""
        # (1) synthesise and select
        with torch.no_grad():
            batch = self.supply.deal(turn)
            record = Record(batch.images, torch.ones(len(batch.images), device=batch.images.device))
            # (2) the view to learn from, and the teacher's answer to it
            clean = Response(batch.logits)
            shown = augment(batch.images, self.settings.augmentation, self.stage.streams, "student-view", turn)
            record.inputs["train"] = self.teacher.normalize(shown)
            seen = clean if shown is batch.images else self.teacher.respond(record.inputs["train"])
            record.answers = {"clean": {"teacher": clean}, "train": {"teacher": seen}}
        # (3) update the student
        parts = self.update(self.student, record)
        last = batch.last
        return Turn(parts, record, last.scores, last.verdict, batch.drawn, {"shortfall": batch.shortfall})

    def generator_turn(self, turn: int) -> Turn:
        """Disagreement on the accepted images, plausibility on all of them."""
        s = self.settings
        self.supply.renew()
        # (1) synthesise; one armed forward of the teacher on the clean view
        images = self.source.sample(self.stage.batch_size, "generator-latents", turn)
        clean = self.teacher.normalize(images)
        on_clean = s.bn_images == "all" and self.needs_batch_norm
        answer = self.teacher.respond(clean, statistics=on_clean)
        # (2) select
        scores = confidence_score(answer.logits.detach())
        verdict = self.selection(scores)
        record = Record(images, verdict.weight, {"clean": clean}, {"clean": {"teacher": answer}})
        # (3) the training view, and both networks' answers to it
        shown = augment(images, s.augmentation, self.stage.streams, "generator-view", turn)
        same = shown is images
        record.inputs["train"] = clean if same else self.teacher.normalize(shown)
        again = not same or (self.needs_batch_norm and not on_clean)
        train_statistics = self.needs_batch_norm and not on_clean
        seen = (
            self.teacher.respond(record.inputs["train"], statistics=train_statistics, weight=verdict.weight)
            if again
            else answer
        )
        record.answers["train"] = {"teacher": seen}
        with self.stage.runtime.autocast():
            record.answers["train"]["student"] = Response(self.student(record.inputs["train"]))
        # (4) one objective
        total, parts = self.objective(record)
        total.backward()
        return Turn(parts, record, scores, verdict, len(images))

    def sample(self, count: int, name: str, turn: int) -> Tensor:
        """Return synthetic images without gradient; the generator's buffers stay as they are."""
        generator = self.players["generator"].module
        training = generator.training
        generator.eval()
        with torch.no_grad():
            images = self.source.sample(count, name, turn)
        generator.train(training)
        return images
