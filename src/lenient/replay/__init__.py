"""Replay: old samples kept, or made again, against forgetting."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from torch import Tensor, nn

from lenient.teacher.batch import Record

Event = Literal["after_generator", "after_student", "epoch_end"]


class Replay(Protocol):
    """Watches the run, decides itself what to keep of it, and hands old images out."""

    label: str
    """What it is, for the anatomy table."""
    learner: nn.Module | None
    """The network that has turns of its own, if it learns from the stream."""

    def observe(self, event: Event, record: Record, bad: Tensor) -> None:
        """Take note; `bad` is a 0/1 scalar on the device: 1 where that turn was skipped for non-finite numbers."""
        ...

    def draw(self, turn: int) -> Tensor | None:
        """Return this rank's rows of old images (m, C, H, W) in pixel units, detached; None where there are none."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that outlives a turn."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Go on from a saved state."""
        ...


class NoReplay:
    """The neutral replay: nothing is kept."""

    label = "none"
    learner: nn.Module | None = None

    def observe(self, event: Event, record: Record, bad: Tensor) -> None:
        """Take no note."""

    def draw(self, turn: int) -> Tensor | None:
        """Return nothing."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Do nothing."""
        return None
