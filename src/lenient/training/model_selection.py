"""Which of the students that a run goes through is delivered."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lenient.models.lending import copied_module


class Delivery:
    """Which student is delivered: `last`; `ema`, the average over steps; or `proxy`, the best on the probe set.

    The average's decay grows from 0.1 to its value, so that the untrained student is soon forgotten.
    `proxy` looks at synthetic images only, and only in the second half of the run, when the probe set is rich.
    """

    def __init__(self, kind: str, decay: float, student: nn.Module) -> None:
        self.kind, self.decay, self.best, self.followed = kind, decay, -1.0, 0
        self.kept = copied_module(student).requires_grad_(False) if kind != "last" else None

    @torch.no_grad()
    def follow(self, student: nn.Module, bad: Tensor) -> None:
        """Move the average towards the student; not where the update was skipped."""
        if self.kind != "ema" or self.kept is None:
            return
        pace = (1 - min(self.decay, (1 + self.followed) / (10 + self.followed))) * (1 - bad)
        self.followed += 1
        for kept, live in zip(self.kept.parameters(), student.parameters(), strict=True):
            kept.data.copy_(torch.where(bad > 0, kept, torch.lerp(kept, live, pace)))
        for mine, theirs in zip(self.kept.buffers(), student.buffers(), strict=True):
            mine.copy_(torch.where(bad > 0, mine, theirs))

    def judge(self, student: nn.Module, agreement: float, progress: float) -> None:
        """Keep a copy of the student where its agreement on the probe set is the best so far."""
        if self.kind == "proxy" and self.kept is not None and progress >= 0.5 and agreement >= self.best:
            self.best = agreement
            self.kept.load_state_dict(student.state_dict())

    def install(self, student: nn.Module) -> bool:
        """Put the chosen weights into the student; returns whether they are not those it has."""
        other = self.kept is not None and (self.kind == "ema" or self.best >= 0)
        if other and self.kept is not None:
            student.load_state_dict(self.kept.state_dict())
        return other

    def state_dict(self) -> dict[str, Any]:
        """Return all that outlives an update."""
        kept = None if self.kept is None else self.kept.state_dict()
        return {"best": self.best, "followed": self.followed, "kept": kept}

    def load_state_dict(self, state: dict[str, Any], progress: float) -> None:
        """Go on from a saved state, `progress` of the way: what was kept before halfway of a longer run is not."""
        self.best, self.followed = state["best"] if progress >= 0.5 else -1.0, state["followed"]
        if self.kept is not None and state["kept"] is not None:
            self.kept.load_state_dict(state["kept"])
