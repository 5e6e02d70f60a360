"""A student that learns alone, from images that nobody has learned to make: what the baselines share."""

from __future__ import annotations

from collections.abc import Callable

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
