"""The report's figures: each function takes plain numbers and returns one SVG that also says in words what it shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from lenient.core.numbers import THIN, exact, figures, number, percent, scaled
from lenient.reporting.svg import COLOURS, canvas, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lenient.reporting.collect import Event

Floats = NDArray[np.float64]
MAX_POINTS = 400
# Lines differ in colour and in stroke: colour is never the only sign.
STROKES = (("one", "-"), ("two", (0, (5, 1.5))), ("three", (0, (1.5, 1.2))), ("four", (0, (6, 1.5, 1.5, 1.5))))


@dataclass(frozen=True)
class Series:
    """One line: its name and its points; points whose value is no number are gaps."""

    name: str
    steps: Floats
    values: Floats

    @property
    def empty(self) -> bool:
        """Whether no point has a value."""
        return not np.isfinite(self.values).any()


def series(name: str, events: Sequence[Event], key: str) -> Series:
    """The series of one field of a run's events, over steps."""
    points = [(number(event.get("step")), number(event.get(key))) for event in events if key in event]
    table = np.array(points, dtype=np.float64).reshape(-1, 2)
    table = table[np.isfinite(table[:, 0])]
    return Series(name, table[:, 0], table[:, 1])


def thin(line: Series, limit: int = MAX_POINTS) -> Series:
    """At most `limit` of the points: of each stretch its lowest and its highest, so that no spike is lost."""
    if len(line.steps) <= limit:
        return line
    chosen = {0, len(line.steps) - 1}
    for stretch in np.array_split(np.arange(len(line.steps)), limit // 2 - 1):
        finite = stretch[np.isfinite(line.values[stretch])]
        if len(finite):
            chosen.update((int(finite[line.values[finite].argmin()]), int(finite[line.values[finite].argmax()])))
        else:
            chosen.add(int(stretch[0]))  # a gap stays a gap
    keep = np.array(sorted(chosen))
    return Series(line.name, line.steps[keep], line.values[keep])


def curves(
    name: str,
    title: str,
    lines: Sequence[Series],
    *,
    fraction: bool = False,
    levels: Sequence[tuple[str, float]] = (),
    alarms: Sequence[float] = (),
    height: float = 2.1,
) -> Markup:
    """Lines over steps. `fraction`: the values are shares, drawn from 0 to 100 %. `levels`: named horizontal lines.

    `alarms`: steps that get a dotted vertical line.
    """
    show = percent if fraction else figures
    with canvas(height) as figure:
        axes = figure.add_subplot()
        for line, (colour, stroke) in zip((thin(line) for line in lines), STROKES, strict=False):
            style: dict[str, Any] = {
                "color": COLOURS[colour],
                "linestyle": stroke,
                "marker": "o" if len(line.steps) < 3 else None,
            }
            axes.plot(line.steps, line.values, label=line.name, markersize=3.5, **style)
        for (label, level), (colour, stroke) in zip(levels, STROKES[len(lines) :], strict=False):
            axes.axhline(level, color=COLOURS[colour], linewidth=1.1, linestyle=stroke, label=label)
        for step in alarms[:50]:
            axes.axvline(step, color=COLOURS["alarm"], linewidth=1, linestyle=":")
        _step_axis(axes, lines)
        if fraction:
            _fraction_axis(axes)
        else:
            _value_axis(axes, lines)
        if len(lines) + len(levels) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=3, fontsize=8)
        words = [f"{line.name} {_course(line, show)}" for line in lines]
        words += [f"{label} {show(level)}" for label, level in levels]
        return to_svg(figure, name=name, description=f"{title}: " + "; ".join(words) + ".")


def mixture(name: str, title: str, event: Event, *, span: tuple[float, float] | None = None) -> Markup:
    """The teacher's cross-entropy per sample: histogram, the two components of its mixture, and the threshold.

    Bars and curves are densities; a curve is averaged over one bin, as the bars are, so that the two can be compared.
    `span`: the range of the axis, the same for figures that stand side by side.
    """
    edges, counts = (np.array([number(value) for value in event[key]]) for key in ("edges", "counts"))
    widths = np.diff(edges)
    density = counts / max(counts.sum(), 1.0) / widths
    centres = edges[:-1] + widths / 2
    limit, kept = number(event.get("limit")), number(event.get("kept"))
    accepted = centres <= limit
    with canvas(2.3) as figure:
        axes = figure.add_subplot()
        bars: tuple[tuple[str, NDArray[np.bool_], dict[str, Any]], ...] = (
            ("accepted", accepted, {"color": COLOURS["one"], "alpha": 0.55, "linewidth": 0}),
            ("rejected", ~accepted, {"fill": False, "hatch": "////", "edgecolor": COLOURS["muted"], "linewidth": 0.6}),
        )
        for label, mask, style in bars:
            if mask.any():
                axes.bar(centres[mask], density[mask], widths[mask] * 0.9, label=label, **style)
        grid = np.linspace(edges[0], edges[-1], 300)
        for component, (colour, stroke) in enumerate(STROKES[1:3]):
            curve = _component(event, component, grid, float(widths.mean()))
            if curve is not None:
                axes.plot(grid, curve, color=COLOURS[colour], linestyle=stroke, label=("surer", "less sure")[component])
        if edges[0] <= limit <= edges[-1]:
            axes.axvline(limit, color=COLOURS["ink"], linewidth=1.2, label="threshold")
        axes.set_yticks([])
        axes.set_xlim(*(span or (edges[0], edges[-1])))
        axes.xaxis.set_major_formatter(lambda value, _: figures(value))
        axes.set_ylim(0, max(float(density.max()) * 1.2, 1e-9))
        axes.set_xlabel("teacher's cross-entropy (nats)")
        axes.legend(loc="upper right", fontsize=8, borderaxespad=0.4)
        words = f"{exact(counts.sum())} samples, {percent(kept)} accepted, those at {figures(limit)} nats or less"
        return to_svg(figure, name=name, description=f"{title}: histogram of the teacher's cross-entropy; {words}.")


def class_bars(name: str, title: str, totals: Floats, names: Sequence[str]) -> Markup:
    """How many accepted samples each class got; class names stand below while there is room for them."""
    share = totals / max(float(totals.sum()), 1.0)
    few = len(totals) <= 12
    with canvas(2.1) as figure:
        axes = figure.add_subplot()
        axes.bar(np.arange(len(share)), share, 0.8 if len(share) <= 60 else 1.0, color=COLOURS["one"])
        axes.axhline(1 / len(share), color=COLOURS["two"], linewidth=1.1, linestyle=(0, (2, 2)), label="equal shares")
        if few:
            axes.set_xticks(range(len(share)), [_short(name) for name in names])
            if max(len(_short(name)) for name in names) > 3:
                axes.tick_params(axis="x", rotation=45)
        else:
            axes.set_xlabel("class number")
        axes.tick_params(axis="x", length=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}{THIN}%")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), fontsize=8)
        seen = int((totals > 0).sum())
        span = f"the rarest has {percent(share.min())}, the commonest {percent(share.max())}"
        return to_svg(figure, name=name, description=f"{title}: {seen} of {len(totals)} classes seen; {span}.")


def _component(event: Event, index: int, grid: Floats, width: float) -> Floats | None:
    """One weighted component of the mixture on the grid, averaged over a bin; None when it is not known."""
    try:
        weight, mean, std = (number(event[key][index]) for key in ("weights", "means", "stds"))
    except (KeyError, IndexError, TypeError):
        return None
    if not all(map(math.isfinite, (weight, mean, std))) or std <= 0:
        return None

    def below(x: float) -> float:
        return 0.5 * (1 + math.erf((x - mean) / (std * math.sqrt(2))))

    return np.array([weight * (below(x + width / 2) - below(x - width / 2)) / width for x in grid])


def _course(line: Series, show: Callable[[float], str]) -> str:
    """A line in words: where it began and where it ended."""
    finite = line.values[np.isfinite(line.values)]
    if len(finite) < 2:
        return show(float(finite[0])) if len(finite) else "unknown"
    return f"from {show(float(finite[0]))} to {show(float(finite[-1]))}"


def _step_axis(axes: Axes, lines: Sequence[Series]) -> None:
    from matplotlib.ticker import MaxNLocator

    last = max((float(line.steps.max()) for line in lines if len(line.steps)), default=1.0)
    axes.set_xlim(0, max(last, 1.0))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: scaled(value))
    axes.set_xlabel("step", loc="right", labelpad=1)


def _fraction_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1.03)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", f"100{THIN}%"])


def _value_axis(axes: Axes, lines: Sequence[Series]) -> None:
    """A logarithmic axis for positive values that span more than two decades, else a plain one."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    values = np.concatenate([line.values[np.isfinite(line.values)] for line in lines])
    if len(values) and values.min() > 0 and values.max() / values.min() > 100:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=5))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", which="minor", length=0)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: figures(value))


def _short(name: str) -> str:
    return name if len(name) <= 10 else name[:9] + "…"
