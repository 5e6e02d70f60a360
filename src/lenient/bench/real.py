"""The real-data student, a baseline of the bench: it imitates the teacher on the training images, nothing else.

It stands here and not among the methods because distillation never reaches real data; only the bench may.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lenient.losses.distances import logit_l1
from lenient.losses.imitation import Imitation
from lenient.losses.objective import Objective
from lenient.losses.prior import confidence_score
from lenient.methods.contract import Game, MethodSettings, Player, Rhythm, Schedule, Stage, Turn, learning_rate, sgd
from lenient.record import Record
from lenient.selection import KeepAll
from lenient.student_update import LiveStudent, PlainUpdate

if TYPE_CHECKING:
    from lenient.data import ImageSet

REAL = "real"


class RealSettings(MethodSettings):
    """Settings of the real-data student: those of the noise student."""

    name: Literal["real"] = "real"
    student_lr: float = Field(0.2, ge=0)
    student_momentum: float = Field(0.9, ge=0, lt=1)
    student_weight_decay: float = Field(5e-4, ge=0)
    student_schedule: Schedule = "cosine"


class RealImages:
    """One kind of turn: the student learns from a batch drawn from the training images, with replacement."""

    settings_type: ClassVar[type[MethodSettings]] = RealSettings
    needs_batch_norm = False

    def __init__(self, images: ImageSet, settings: RealSettings | None = None) -> None:
        self.images, self.settings = images, settings or RealSettings()

    def build(self, stage: Stage) -> Game:
        """Make the one player."""
        s = self.settings
        self.stage = stage
        imitation = Objective({"student": (1.0, Imitation(logit_l1, "L1"))})
        self.update = PlainUpdate(imitation, LiveStudent(stage.student, stage.runtime))
        optimizer = sgd(stage.student, s.student_lr, s.student_momentum, s.student_weight_decay)
        players = {"student": Player(stage.student, optimizer, learning_rate(s.student_schedule))}
        anatomy = {"student": "L1", "update": self.update.label, "rhythm": "0 : 1"}
        return Game(players, {"student": self.student_turn}, Rhythm((("student", 1),)), self.sample, anatomy=anatomy)

    def student_turn(self, turn: int) -> Turn:
        """Imitate the teacher on training images."""
        teacher = self.stage.teacher
        with torch.no_grad():
            images = self.sample(self.stage.batch_size, REAL, turn)
            record = Record(images, torch.ones(len(images), device=images.device))
            record.inputs["train"] = teacher.normalize(images)
            answer = teacher.respond(record.inputs["train"])
            record.answers = {"clean": {"teacher": answer}, "train": {"teacher": answer}}
        parts = self.update(record)
        scores = confidence_score(answer.logits)
        return Turn(parts, record, scores, KeepAll()(scores), len(images))

    def sample(self, count: int, name: str, turn: int) -> Tensor:
        """Return training images (count, C, H, W)."""
        chosen = self.stage.streams.integers(name, turn, (count,), len(self.images)).cpu()
        images, _ = next(self.images.subset(chosen).batches(count, device=self.stage.runtime.device))
        return self.stage.runtime.images(images)
