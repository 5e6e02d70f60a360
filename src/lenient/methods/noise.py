"""The noise student, a baseline: imitate the teacher on noise images, nothing else.

A method has learned nothing until it beats this.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from lenient.methods.alone import AloneSettings, alone_game
from lenient.methods.contract import Game, MethodSettings, Stage


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
