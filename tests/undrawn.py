"""Leaves the figures of reports undrawn where the environment says UNDRAWN; imported by the server of `commands`."""

from __future__ import annotations

import os

from matplotlib.figure import Figure

from lenient.reporting import svg

_draw = svg.draw


def draw(figure: Figure) -> str:
    """An empty drawing in place of matplotlib's, which takes a tenth of a second."""
    return '<svg viewBox="0 0 450 200"></svg>' if "UNDRAWN" in os.environ else _draw(figure)


svg.draw = draw
