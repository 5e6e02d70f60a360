"""Baselines: a student that imitates the teacher on noise images or, in the bench alone, on real ones.

A method has learned nothing until it beats the noise student. The real-data student is what data would have been worth;
its images have to be handed to it, for distillation never reaches any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lenient.core import ranks
from lenient.losses.distances import logit_l1
from lenient.losses.imitation import Imitation
from lenient.losses.objective import Objective
from lenient.losses.prior import confidence_score
from lenient.methods.contract import Game, MethodSettings, Player, Rhythm, Schedule, Stage, Turn, learning_rate, sgd
from lenient.student.update import LiveStudent, PlainUpdate
from lenient.synthesis.selection import KeepAll
from lenient.teacher.batch import Record

if TYPE_CHECKING:
    from lenient.data import ImageSet


class AloneSettings(MethodSettings):
    """Settings of TA-DFKD's student."""

    student_lr: float = Field(0.2, ge=0, le=1e3)
    student_momentum: float = Field(0.9, ge=0, lt=1)
    student_weight_decay: float = Field(5e-4, ge=0, le=1e6)
    student_schedule: Schedule = "cosine"


def alone_game(stage: Stage, settings: AloneSettings, sample: Callable[[int, str, int], Tensor]) -> Game:
    """Return the game of one player, who imitates the teacher on fresh images; `sample` is the game's own."""
    s = settings
    update = PlainUpdate(
        Objective({"student": (1.0, Imitation(logit_l1, "L1"))}), LiveStudent(stage.student, stage.runtime)
    )

    def student_turn(turn: int) -> Turn:
        """Imitate the teacher on a batch."""
        teacher, batch_size = stage.teacher, stage.batch_size
        with torch.no_grad():
            images = ranks.mine(sample(batch_size, s.name, turn))
            record = Record(images, torch.ones(len(images), device=images.device))
            record.inputs["train"] = teacher.normalize(images)
            answer = teacher.respond(record.inputs["train"])
            record.answers = {"clean": {"teacher": answer}, "train": {"teacher": answer}}
        parts = update(record)
        scores = ranks.gather(confidence_score(answer.logits))
        return Turn(parts, record, scores, KeepAll()(scores), batch_size)

    optimizer = sgd(stage.student, s.student_lr, s.student_momentum, s.student_weight_decay)
    players = {"student": Player(stage.student, optimizer, learning_rate(s.student_schedule))}
    anatomy = {"student": "L1", "update": update.label, "rhythm": "0 : 1"}
    return Game(players, {"student": student_turn}, Rhythm((("student", 1),)), sample, anatomy=anatomy)


class NoiseSettings(AloneSettings):
    """Settings of the noise student: those of TA-DFKD's student."""

    name: Literal["noise"] = "noise"
    distribution: Literal["uniform", "normal"] = "uniform"
    """Pixels uniform in [0, 1], or normal with the teacher's mean and standard deviation."""


class Noise:
    """One kind of turn: the student learns from a fresh batch of noise."""

    settings_type: ClassVar[type[MethodSettings]] = NoiseSettings
    needs_batch_norm = False
    needs_gradient = False

    def __init__(self, settings: NoiseSettings) -> None:
        self.settings = settings

    def build(self, stage: Stage) -> Game:
        """Make the one player."""
        card, streams = stage.teacher.card, stage.streams

        def sample(count: int, name: str, turn: int) -> Tensor:
            """Return noise images (count, C, H, W)."""
            shape = (count, *card.input_size)
            if self.settings.distribution == "uniform":
                return stage.runtime.images(streams.uniform(name, turn, shape))
            mean, std = (torch.tensor(v, device=streams.device).view(1, -1, 1, 1) for v in (card.mean, card.std))
            return stage.runtime.images(streams.normal(name, turn, shape) * std + mean)

        return alone_game(stage, self.settings, sample)


REAL = "real"


class RealSettings(AloneSettings):
    """Settings of the real-data student: those of the noise student."""

    name: Literal["real"] = "real"


class RealImages:
    """One kind of turn: the student learns from a batch drawn from the training images, with replacement."""

    settings_type: ClassVar[type[MethodSettings]] = RealSettings
    needs_batch_norm = False
    needs_gradient = False

    def __init__(self, images: ImageSet, settings: RealSettings | None = None) -> None:
        self.images, self.settings = images, settings or RealSettings()

    def build(self, stage: Stage) -> Game:
        """Make the one player."""

        def sample(count: int, name: str, turn: int) -> Tensor:
            """Return training images (count, C, H, W)."""
            chosen = stage.streams.integers(name, turn, (count,), len(self.images)).cpu()
            images, _ = next(self.images.subset(chosen).batches(count, device=stage.runtime.device))
            return stage.runtime.images(images)

        return alone_game(stage, self.settings, sample)
