"""What the student minimises."""

from __future__ import annotations

from torch import Tensor

from lenient.record import Record
from lenient.runtime import batch_mean


class LogitL1:
    """Mean absolute difference of raw logits over the batch and the classes (DFAD, TA-DFKD's L_kd as coded).

    The papers write a sum over classes; their learning rates belong to the mean. Zero where the student equals the
    teacher.
    """

    def __init__(self, view: str = "train") -> None:
        self.view = view

    def __call__(self, record: Record) -> Tensor:
        """Return the term."""
        difference = record.logits(self.view, "student") - record.logits(self.view, "teacher")
        return batch_mean(difference.abs().mean(dim=1), record.weight)
