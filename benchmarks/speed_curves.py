"""Growth as curves: time and memory against batch, image size, classes and teacher."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from lenient.bench.report import PALETTE
from lenient.models import build_student
from lenient.models.card import Card
from lenient.reporting.svg import COLOURS, canvas, draw, standalone

LABELS = {
    "batch": "images per batch",
    "size": "pixels a side",
    "classes": "classes",
    "teacher": "weights of the teacher, millions",
}

PROPORTIONAL = {"batch": 1, "size": 2}
"""Axes along which the work grows with this power."""
FILE = "images/growth.svg"
"""Where the page finds the picture."""


def curves(growth: Mapping[str, Any]) -> str:
    """Return the picture as SVG: a column for each axis, seconds above and peak memory below, both scales logarithmic.

    The dotted line is in proportion to the number of images, or of pixels.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    axes = {axis: [p for p in points if p["seconds_per_step"]] for axis, points in growth["axes"].items()}
    with canvas(3.6, 9.6) as figure:
        grid = figure.subplots(2, len(axes), sharey="row", squeeze=False)
        for column, (axis, points) in zip(grid.T, axes.items(), strict=True):
            places = [_place(axis, point) for point in points]
            seconds = [statistics.median(point["seconds_per_step"]) for point in points]
            memory = [point["peak_bytes"] / 2**20 for point in points]
            if axis in PROPORTIONAL:
                line = [seconds[0] * (place / places[0]) ** PROPORTIONAL[axis] for place in places]
                column[0].plot(places, line, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (1.5, 1.2)))
            for plot, values, role in ((column[0], seconds, "one"), (column[1], memory, "two")):
                plot.plot(places, values, color=COLOURS[role], marker="o", markersize=3.5)
                plot.set_xscale("log")
                plot.set_yscale("log")
                plot.set_xticks(places, [f"{place:,.0f}" if place > 1 else f"{place:.2f}" for place in places])
                plot.xaxis.set_minor_locator(NullLocator())
                plot.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                plot.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
                plot.yaxis.set_minor_formatter(NullFormatter())
            column[1].set_xlabel(LABELS[axis], loc="right")
        grid[0, 0].set_ylabel("seconds per student step")
        grid[1, 0].set_ylabel("peak memory, MiB")
        words = f"Time and peak memory of student steps against {', '.join(LABELS[axis] for axis in axes)}"
        return standalone(draw(figure), PALETTE, description=words)


def _place(axis: str, point: Mapping[str, Any]) -> float:
    if axis != "teacher":
        return float(point[axis])
    card = Card(None, (3, point["size"], point["size"]), point["classes"], (0.5,) * 3, (0.25,) * 3)
    network = build_student(point["teacher"], card, seed=0, role="teacher")
    return sum(weight.numel() for weight in network.module.parameters()) / 1e6
