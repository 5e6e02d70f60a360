"""Replay: old samples kept, or made again, against forgetting."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from pydantic import Field
from torch import Tensor, nn

from lenient.core.config import Part
from lenient.teacher.batch import Batch, Clock


class RecallSettings(Part):
    """How many old images a student step has, and what they count."""

    share: float = Field(0.125, ge=0, le=1e6)
    """Old images in one student step, as a share of the batch, two at least (PRE-, MB-, META-DFKD: 1/8)."""
    weight: float | None = Field(None, ge=0, le=1e6)
    """Weight of the old images' loss beside 1 for the new; by default both count by their numbers."""


class Recalled(NamedTuple):
    """Old images to learn from again."""

    images: Tensor
    """This rank's rows (m, C, H, W) in pixel units, detached."""
    made: int = 0
    """How many of them had to be made, by all ranks."""


class Replay(Protocol):
    """Watches the run, decides itself what to keep of it, and hands old images out."""

    label: str
    """What it is, for the table of methods."""
    learner: nn.Module | None
    """The network that has updates of its own, if it learns from the stream."""

    def after_generator(self, clock: Clock, batch: Batch, bad: Tensor) -> None:
        """Take note of a generator update and its images; `bad` is a 0/1 scalar on the device: 1 where it was skipped
        for non-finite numbers."""
        ...

    def after_student(self, clock: Clock, batch: Batch, bad: Tensor) -> None:
        """Take note of a student update and its images."""
        ...

    def draw(self, clock: Clock) -> Recalled | None:
        """Return old images, None where there are none."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that outlives an update."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Go on from a saved state."""
        ...


class NoReplay:
    """The neutral replay: nothing is kept."""

    label = "none"
    learner: nn.Module | None = None

    def after_generator(self, clock: Clock, batch: Batch, bad: Tensor) -> None:
        """Take no note."""

    def after_student(self, clock: Clock, batch: Batch, bad: Tensor) -> None:
        """Take no note."""

    def draw(self, clock: Clock) -> Recalled | None:
        """Return nothing."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Do nothing."""
        return None
