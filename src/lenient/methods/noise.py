"""The noise student, a baseline: imitate the teacher on noise images, nothing else.

A method has learned nothing until it beats this.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lenient import ranks
from lenient.losses.distances import logit_l1
from lenient.losses.imitation import Imitation
from lenient.losses.objective import Objective
from lenient.losses.prior import confidence_score
from lenient.methods.contract import Game, MethodSettings, Player, Rhythm, Schedule, Stage, Turn, learning_rate, sgd
from lenient.record import Record
from lenient.selection import KeepAll
from lenient.student_update import LiveStudent, PlainUpdate


class NoiseSettings(MethodSettings):
    """Settings of the noise student: those of TA-DFKD's student."""

    name: Literal["noise"] = "noise"
    distribution: Literal["uniform", "normal"] = "uniform"
    """Pixels uniform in [0, 1], or normal with the teacher's mean and standard deviation."""
    student_lr: float = Field(0.2, ge=0)
    student_momentum: float = Field(0.9, ge=0, lt=1)
    student_weight_decay: float = Field(5e-4, ge=0)
    student_schedule: Schedule = "cosine"


class Noise:
    """One kind of turn: the student learns from a fresh batch of noise."""

    settings_type: ClassVar[type[MethodSettings]] = NoiseSettings
    needs_batch_norm = False

    def __init__(self, settings: NoiseSettings) -> None:
        self.settings = settings

    def build(self, stage: Stage) -> Game:
        """Make the one player."""
        s = self.settings
        self.stage = stage
        imitation = Objective({"student": (1.0, Imitation(logit_l1, "L1"))})
        self.update = PlainUpdate(imitation, LiveStudent(stage.student, stage.runtime))
        optimizer = sgd(stage.student, s.student_lr, s.student_momentum, s.student_weight_decay)
        players = {"student": Player(stage.student, optimizer, learning_rate(s.student_schedule))}
        anatomy = {"student": "L1", "update": self.update.label, "rhythm": "0 : 1"}
        rhythm = Rhythm((("student", 1),))
        return Game(players, {"student": self.student_turn}, rhythm, self.sample, anatomy=anatomy)

    def student_turn(self, turn: int) -> Turn:
        """Imitate the teacher on noise."""
        teacher, batch_size = self.stage.teacher, self.stage.batch_size
        with torch.no_grad():
            images = ranks.mine(self.sample(batch_size, "noise", turn))
            record = Record(images, torch.ones(len(images), device=images.device))
            record.inputs["train"] = teacher.normalize(images)
            answer = teacher.respond(record.inputs["train"])
            record.answers = {"clean": {"teacher": answer}, "train": {"teacher": answer}}
        parts = self.update(record)
        scores = ranks.gather(confidence_score(answer.logits))
        return Turn(parts, record, scores, KeepAll()(scores), batch_size)

    def sample(self, count: int, name: str, turn: int) -> Tensor:
        """Return noise images."""
        teacher, streams = self.stage.teacher, self.stage.streams
        shape = (count, *teacher.card.input_size)
        if self.settings.distribution == "uniform":
            return self.stage.runtime.images(streams.uniform(name, turn, shape))
        channel = (1, -1, 1, 1)
        mean, std = (
            torch.tensor(v, device=streams.device).view(channel) for v in (teacher.card.mean, teacher.card.std)
        )
        return self.stage.runtime.images(streams.normal(name, turn, shape) * std + mean)
