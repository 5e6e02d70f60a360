"""What came of a method on other teachers: measured, and shown to who asks what to expect of theirs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

FILE = "expected.json"
"""Written by benchmarks/choosing.py from the records of the grids."""


@dataclass(frozen=True)
class Expected:
    """What finished runs of a method came to, of teachers with batch norm, or of such without, on the images of one
    data set."""

    method: str
    batch_norm: bool
    data: str
    classes: int
    input_size: tuple[int, ...]
    runs: int
    steps: tuple[int, int]
    """Of the shortest run and of the longest."""
    share: tuple[float, float, float]
    """Of the teacher's accuracy on test images, in [0, 1]: least, median and most."""

    def told(self) -> str:
        """Return in words what share of the teacher's accuracy was kept where."""
        low, middle, high = (f"{100 * value:.0f}" for value in self.share)
        about = f"{middle} %" if low == high else f"{middle} % ({low} to {high})"
        return f"{about} on {self.data}, {self.runs} run{'s' if self.runs > 1 else ''}"


def expected(method: str | None, batch_norm: bool) -> tuple[Expected, ...]:
    """Return what is known of a method for teachers with or without batch norm, a data set each."""
    return tuple(one for one in measured() if (one.method, one.batch_norm) == (method, batch_norm))


@cache
def measured() -> tuple[Expected, ...]:
    """Return all that the file holds."""
    held = json.loads(resources.files(__package__).joinpath(FILE).read_text(encoding="utf-8"))
    whole: list[dict[str, Any]] = [
        {key: tuple(value) if isinstance(value, list) else value for key, value in one.items()} for one in held
    ]
    return tuple(Expected(**one) for one in whole)
