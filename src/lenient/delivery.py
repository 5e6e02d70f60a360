"""Which of the students that a run goes through is delivered."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Delivery:
    """Which student is delivered: `last`; `ema`, the average over steps; or `proxy`, the best on the probe set.

    `proxy` looks at synthetic images only, and only in the second half of the run, when the probe set is rich.
    """

    def __init__(self, kind: str, decay: float, student: nn.Module) -> None:
        self.kind, self.decay, self.best = kind, decay, -1.0
        self.kept = copy.deepcopy(student).requires_grad_(False) if kind != "last" else None

    @torch.no_grad()
    def follow(self, student: nn.Module, bad: Tensor) -> None:
        """Move the average towards the student; not where the turn was skipped."""
        if self.kind != "ema" or self.kept is None:
            return
        pace = (1 - self.decay) * (1 - bad)
        for kept, live in zip(self.kept.parameters(), student.parameters(), strict=True):
            kept.data.copy_(torch.where(bad > 0, kept, torch.lerp(kept, live, pace)))
        for mine, theirs in zip(self.kept.buffers(), student.buffers(), strict=True):
            mine.copy_(theirs)

    def judge(self, student: nn.Module, agreement: float, progress: float) -> None:
        """Keep a copy of the student where its agreement on the probe set is the best so far."""
        if self.kind == "proxy" and self.kept is not None and progress >= 0.5 and agreement >= self.best:
            self.best = agreement
            self.kept.load_state_dict(student.state_dict())

    def install(self, student: nn.Module) -> None:
        """Put the chosen weights into the student."""
        if self.kept is not None and (self.kind == "ema" or self.best >= 0):
            student.load_state_dict(self.kept.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return all that outlives a turn."""
        return {"best": self.best, "kept": None if self.kept is None else self.kept.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.best = state["best"]
        if self.kept is not None and state["kept"] is not None:
            self.kept.load_state_dict(state["kept"])
