"""How the student learns from a batch: fills its gradients and returns the detached loss parts."""

from __future__ import annotations

from torch import Tensor, nn

from lenient.losses.objective import Term
from lenient.record import Record, Response
from lenient.runtime import Runtime


class PlainUpdate:
    """One forward of the student on the new images, one backward of the imitation term."""

    def __init__(self, term: Term, runtime: Runtime, view: str = "train") -> None:
        self.term, self.runtime, self.view = term, runtime, view

    def __call__(self, student: nn.Module, new: Record) -> dict[str, Tensor]:
        """Fill the student's gradients from `new`, whose training view and teacher answer are there."""
        with self.runtime.autocast():
            logits = student(new.inputs[self.view])
        new.answers[self.view]["student"] = Response(logits)
        loss = self.term(new)
        loss.backward()
        return {"student": loss.detach()}
