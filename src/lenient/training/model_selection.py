"""Which of the students that a run goes through is delivered."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lenient.core.averaging import WeightAverage
from lenient.models.lending import copied_module


class Delivery:
    """Which student is delivered: `last`; `ema`, the average over steps; or `proxy`, the best on the probe set.

    The average's decay grows from 0.1 to its value, so that the untrained student is soon forgotten.
    `proxy` looks at synthetic images only, and only in the second half of the run, when the probe set is rich.
    """

    def __init__(self, kind: str, decay: float, student: nn.Module) -> None:
        self.kind, self.best = kind, -1.0
        self.average = WeightAverage(copied_module(student), decay) if kind == "ema" else None
        self.copied = copied_module(student).requires_grad_(False) if kind == "proxy" else None

    @property
    def kept(self) -> nn.Module | None:
        """The student that is kept beside the live one."""
        return self.copied if self.average is None else self.average.module

    def follow(self, student: nn.Module, bad: Tensor) -> None:
        """Move the average towards the student; not where the update was skipped."""
        if self.average is not None:
            self.average.update(student, bad)

    def judge(self, student: nn.Module, agreement: float, progress: float) -> None:
        """Keep a copy of the student where its agreement on the probe set is the best so far."""
        if self.copied is not None and progress >= 0.5 and agreement >= self.best:
            self.best = agreement
            self.copied.load_state_dict(student.state_dict())

    def install(self, student: nn.Module) -> bool:
        """Put the chosen weights into the student; returns whether they are not those it has."""
        other = self.kept is not None and (self.kind == "ema" or self.best >= 0)
        if other and self.kept is not None:
            student.load_state_dict(self.kept.state_dict())
        return other

    def state_dict(self) -> dict[str, Any]:
        """Return all that outlives an update."""
        kept = None if self.kept is None else self.kept.state_dict()
        followed = 0 if self.average is None else self.average.updates
        return {"best": self.best, "followed": followed, "kept": kept}

    def load_state_dict(self, state: dict[str, Any], progress: float) -> None:
        """Go on from a saved state, `progress` of the way: what was kept before halfway of a longer run is not."""
        self.best = state["best"] if progress >= 0.5 else -1.0
        if self.average is not None:
            self.average.updates = state["followed"]
        if self.kept is not None and state["kept"] is not None:
            self.kept.load_state_dict(state["kept"])
