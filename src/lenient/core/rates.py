"""How a learning rate, or another number, changes in the course of a run: one place for all curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Curve = Literal["constant", "drops", "cosine", "onecycle"]
RISE, START, END = 0.3, 1 / 25, 1 / 25e4
"""Of one cycle: the share of the run in which the rate rises, what it rises from, and what `one_cycle` falls to."""


def half_cosine(done: float, whole: float = 1.0) -> float:
    """Return what is left, from 1 to 0 along half a cosine, once `done` of `whole` is over."""
    return 0.5 * (1 + math.cos(math.pi * done / whole))


def rate_factor(
    curve: Curve, done: float, *, drops: Sequence[float] = (), drop_factor: float = 0.1, end: float = 0.0
) -> float:
    """Return the share of the highest learning rate in use once `done`, from 0 to 1, of a run is over.

    `drops` multiplies by `drop_factor` at each of the shares `drops` of the run; `cosine` falls to `end`; `onecycle`
    rises on a straight line and falls to 0 on a cosine.
    """
    if curve == "constant":
        return 1.0
    if curve == "drops":
        return float(drop_factor ** sum(done >= share for share in drops))
    if curve == "cosine":
        return end + (1 - end) * half_cosine(done)
    if done < RISE:
        return START + (1 - START) * done / RISE
    return half_cosine((done - RISE) / (1 - RISE))


def one_cycle(step: int, steps: int) -> float:
    """Return the factor at a step of so many: up and down along half a cosine each, to nearly 0 (Smith and Topin, arXiv
    1708.07120; torch's `OneCycleLR` to the step, where `onecycle` is a curve of any share of a run)."""
    up, last = max(RISE * steps - 1, 1e-9), max(steps - 1, 1)
    if step <= up:
        return 1 + (START - 1) * half_cosine(step / up)
    return END + (1 - END) * half_cosine(min((step - up) / max(last - up, 1e-9), 1))
