"""The real-data student, a baseline of the bench: it imitates the teacher on the training images, nothing else.

It stands here and not among the methods because distillation never reaches real data; only the bench may.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from lenient.methods.alone import AloneSettings, alone_game
from lenient.methods.contract import Game, MethodSettings, Stage

if TYPE_CHECKING:
    from lenient.data import ImageSet

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
