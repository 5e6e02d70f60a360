"""The weighted sum of terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lenient.record import Record

Term = Callable[[Record], Tensor]
"""A loss on a record: returns a float32 scalar."""


class Objective:
    """An ordered mapping name -> (weight, term). A term of weight 0 is not computed and costs nothing."""

    def __init__(self, terms: Mapping[str, tuple[float, Term]]) -> None:
        self.terms = {name: (weight, term) for name, (weight, term) in terms.items() if weight != 0}

    def __call__(self, record: Record) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total, and every part unweighted and detached, for the log."""
        total = torch.zeros((), device=record.images.device)
        parts: dict[str, Tensor] = {}
        for name, (weight, term) in self.terms.items():
            value = term(record)
            parts[name] = value.detach()
            total = total + weight * value
        return total, parts
