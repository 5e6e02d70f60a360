"""On what share of real images a student answers as its teacher does, predicted without any: from how it answers images
that nobody learned from (`training.answers`), and how far its own images were from the training data, by a table that
`benchmarks/prediction.py` fitted to runs of known share.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

Answers = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Prediction:
    """An interval for the share, in [0, 1], of real images on which student and teacher name the same class."""

    expected: float
    low: float
    high: float
    level: float
    """Share of runs whose true value lay inside such an interval, where their teacher was left out of the fit."""
    runs: int
    """Runs that the table was fitted to, of `teachers` teachers on `data`."""
    teachers: int
    data: tuple[str, ...]


def logit(share: float, slack: float = 0.005) -> float:
    """Return ln(p / (1 - p)) of a share kept away from 0 and 1 by `slack`: of a hundred images, none is half of one."""
    share = min(max(share, slack), 1 - slack)
    return math.log(share / (1 - share))


def features(answers: Answers, shift: float | None) -> dict[str, float] | None:
    """Return what a fit may read of a run, None where it has no answers to inverted images or no batch-norm shift.

    Of inverted images: `agreement`, its logit; `distance`, how far the logits are apart, and `divergence`, of the
    student from the teacher, as logarithms; `dispersion`, the logarithm of how widely the student's logits are spread
    beside the teacher's. `shift`: that of how far the teacher sees the images of the run from its training data
    (`training.probe.bn_shift`).
    """
    found = answers.get("inverted")
    if found is None or shift is None:
        return None
    wide, spread = (max(found[name], 1e-6) for name in ("dispersion", "student_dispersion"))
    return {
        "agreement": logit(found["agreement"]),
        "distance": math.log(max(found["distance"], 1e-3)),
        "divergence": math.log(max(found["divergence"], 1e-3)),
        "dispersion": math.log(spread / wide),
        "shift": math.log(max(shift, 0.01)),
    }


def predicted(answers: Answers | None, shift: float | None, num_classes: int) -> Prediction | None:
    """Return what to expect of a student by its answers and the batch-norm shift, None where nothing there tells.

    With over twice or under half as many classes as the runs of the table had, nothing does. What lies outside of the
    range of these runs counts as its edge.
    """
    own, table = features(answers or {}, shift), fitted()
    if own is None or not all(map(math.isfinite, own.values())):
        return None
    least, most = table["classes"]
    if not least / 2 <= num_classes <= 2 * most:
        return None
    middle = table["intercept"]
    for name, weight in table["weights"].items():
        low, high = table["ranges"][name]
        middle += weight * min(max(own[name], low), high)
    low, expected, high = (1 / (1 + math.exp(-(middle + shift))) for shift in (-table["margin"], 0.0, table["margin"]))
    counted = {key: table[key] for key in ("level", "runs", "teachers")}
    return Prediction(expected, low, high, **counted, data=tuple(table["data"]))


@cache
def fitted() -> dict[str, Any]:
    """Return the table: intercept, weights and ranges of the line, half the interval in logits, what it rests on."""
    held = resources.files(__package__).joinpath("prediction.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(held)
    return table
