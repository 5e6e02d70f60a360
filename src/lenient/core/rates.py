"""How a learning rate changes over a run: one curve for distillation and for training on real images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Curve = Literal["constant", "drops", "cosine", "onecycle"]
RISE, START = 0.3, 0.04
"""Of `onecycle`: the share of the run in which the rate rises, and what it rises from."""


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
        return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * done))
    if done < RISE:
        return START + (1 - START) * done / RISE
    return rate_factor("cosine", (done - RISE) / (1 - RISE))


def one_cycle(step: int, steps: int) -> float:
    """Return the factor at a step of so many: up and down along half a cosine each, to nearly 0 (Smith and Topin, arXiv
    1708.07120, with the constants of torch's `OneCycleLR`)."""
    up, last = max(0.3 * steps - 1, 1e-9), max(steps - 1, 1)
    if step <= up:
        start, end, done = 1 / 25, 1.0, step / up
    else:
        start, end, done = 1.0, 1 / 25e4, (step - up) / max(last - up, 1e-9)
    return end + (start - end) * rate_factor("cosine", min(done, 1.0))
