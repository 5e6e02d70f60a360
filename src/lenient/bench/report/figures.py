"""The figures of the papers, from the cells of one panel; each is drawn once and used in the page and as a file."""

from __future__ import annotations

import base64
import io
import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lenient.bench.report.records import Cell, Grid, unique
from lenient.bench.report.results import REPLAY_METHODS, context, gap, heading, in_percent, teacher_means
from lenient.bench.report.sweeps import Sweep
from lenient.bench.report.tables import clock
from lenient.bench.report.tables.features import describe
from lenient.core.numbers import THIN, duration, exact, figures, scaled
from lenient.reporting.svg import COLOURS, canvas, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

ROLES = ("one", "two", "three", "four", "five", "six")
STROKES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = ("", "o", "s", "^")
CLASSES = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf", "#d6a400")
WIDE, HALF = 7.4, 3.6  # inches: across the page, and half of it
LEGEND_LINE = 0.19  # inches
TICKS = (-30.0, -10.0, -3.0, -1.0, 0.0, 1.0, 3.0, 10.0, 30.0, 100.0)
UNEQUAL = 3.0
"""How many times as long as the quickest row's the slowest row's runs take, where seconds are drawn logarithmically."""

Course = tuple[list[float], list[float], list[float], list[float]]
"""Places on the x axis, and least, median and greatest value over runs at each."""


@dataclass(frozen=True)
class Figure:
    """A drawing in stand-in colours, with what can be seen in it in words, and its caption."""

    key: str
    title: str
    text: str
    drawing: str
    description: str
    context: Mapping[str, str]
    wide: bool = False


def style(grid: Grid, row: str) -> dict[str, Any]:
    """Colour, stroke and marker of a row, the same in all figures; colour is never the only sign."""
    place = grid.rows.index(row)
    if grid.is_baseline(row):
        return {"color": COLOURS["muted"], "linestyle": STROKES[place % len(STROKES)], "linewidth": 1.0}
    marker = MARKERS[place // math.lcm(len(ROLES), len(STROKES)) % len(MARKERS)]
    look = {"color": COLOURS[ROLES[place % len(ROLES)]], "linestyle": STROKES[place % len(STROKES)]}
    return look | ({"marker": marker, "markevery": 0.2, "markersize": 3.5} if marker else {})


# curves


def two_teachers(grid: Grid, chosen: Sequence[str]) -> list[str]:
    """The teachers of Figure 1: those chosen, else where the methods are closest together and furthest apart, of
    those with which most methods have runs."""
    if chosen:
        return list(chosen)
    methods = [row for row in grid.rows if not grid.is_baseline(row)]
    means = {row: teacher_means(grid, row) for row in methods}
    ends = {teacher: [means[row][teacher] for row in methods if teacher in means[row]] for teacher in grid.teachers}
    most = max(map(len, ends.values()), default=0)
    spread = {teacher: max(values) - min(values) for teacher, values in ends.items() if values and len(values) == most}
    if len(spread) < 2:
        return list(spread)
    closest = min(spread, key=spread.__getitem__)
    return [closest, max(spread.keys() - {closest}, key=lambda teacher: (spread[teacher], teacher))]


def training_curves(grid: Grid, key: str, teachers: Sequence[str]) -> Figure | None:
    """Figure 1: accuracy over training for each row, one panel per teacher."""
    panels = [(heading(grid, teacher), grid.of(teacher=teacher)) for teacher in teachers]
    drawn = _curves(grid, panels, partial(_over_steps, field="curve"), _steps, fraction=True)
    if drawn is None:
        return None
    drawing, words = drawn
    text = "Accuracy on test images, which chose nothing: median over seeds, least to most shaded."
    if len(grid.teachers) > 1:
        text += " The teachers, unless named, are those with which the methods end closest together and furthest apart."
    title = f"Figure 1. Training curves on {', '.join(teachers)}"
    return Figure(key, title, text, drawing, words, context(grid), len(panels) > 1)


def logged(grid: Grid, key: str, field: str, title: str, text: str, *, fraction: bool) -> Figure | None:
    """One field of the log over steps: median over teachers and seeds, least to most shaded; None where not logged."""
    cells = [cell for cell in grid.cells if not grid.is_baseline(cell.row) and cell.series(field)[0]]
    if field == "kept":
        cells = [cell for cell in cells if any(value < 1 for value in cell.series(field)[1])]
    if field == "gradient_cosine":
        cells = [cell for cell in cells if cell.method in REPLAY_METHODS] or cells
    drawn = _curves(grid, [("", cells)], partial(_over_steps, field=field), _steps, fraction=fraction)
    if drawn is None:
        return None
    text = f"{text} Median over teachers and seeds, least to most shaded."
    return Figure(key, title, text, drawn[0], drawn[1], context(grid))


def clock_curves(grid: Grid, key: str) -> Figure | None:
    """Accuracy over seconds for each row, of the runs of the table by the clock; None where no record has times."""
    takes = [course[0][-1] for row in grid.rows if (course := _over_seconds(grid.of(row)))]
    bent = bool(takes) and max(takes) > UNEQUAL * min(takes)
    axis = partial(_seconds, bent=bent)
    drawn = _curves(grid, [("", grid.cells)], _over_seconds, axis, fraction=True, end=duration)
    if drawn is None:
        return None
    text = (
        "Accuracy on test images, which chose nothing, after so many seconds of a run, evaluations among them. Median "
        "over teachers and seeds, of the seconds as of the accuracies; least to most shaded. A line begins with the "
        "first evaluation: before it only images are made. Only runs of one machine, as many at a time, compare."
    )
    text += " Seconds are drawn logarithmically." if bent else ""
    return Figure(key, "Accuracy over seconds", text, drawn[0], drawn[1], context(grid))


def _curves(
    grid: Grid,
    panels: Sequence[tuple[str, Sequence[Cell]]],
    course_of: Callable[[Sequence[Cell]], Course | None],
    axis: Callable[[Axes], None],
    *,
    fraction: bool,
    end: Callable[[float], str] | None = None,
) -> tuple[str, str] | None:
    """Draw axes for each panel, with one line per row; below each other for more methods than there are colours, the
    baselines in each. Return drawing and description, which tells where lines end if `end` puts it into words."""
    courses = {
        (row, column): course
        for column, (_, cells) in enumerate(panels)
        for row in grid.rows
        if (course := course_of([cell for cell in cells if cell.row == row]))
    }
    names = [row for row in grid.rows if any((row, column) in courses for column in range(len(panels)))]
    if not names:
        return None
    methods = [row for row in names if not grid.is_baseline(row)] or names
    baselines = [row for row in names if row not in methods]
    size = math.ceil(len(methods) / math.ceil(len(methods) / len(ROLES)))
    groups = [(*methods[n : n + size], *baselines) for n in range(0, len(methods), size)]
    width = WIDE if len(panels) > 1 else HALF
    across = max(1, int(width / (0.06 * max(map(len, names)) + 0.45)))  # entries of the legend side by side
    words = []
    with canvas(2.3 * len(groups) + 0.2 + LEGEND_LINE * math.ceil(len(names) / across), width) as figure:
        axes = figure.subplots(len(groups), len(panels), sharex=True, sharey=True, squeeze=False)
        for (level, group), (column, (title, _)) in product(enumerate(groups), enumerate(panels)):
            place = axes[level, column]
            place.set_title(title if level == 0 else "", fontsize=9, loc="left")
            for row in group:
                course = courses.get((row, column))
                if course is None:
                    continue
                places, low, middle, high = course
                look = style(grid, row)
                place.plot(places, middle, label=row, **look)
                place.fill_between(places, low, high, color=look["color"], alpha=0.13, linewidth=0)
                if level == 0 or row in methods:
                    value = in_percent(middle[-1], 1) + " %" if fraction else figures(middle[-1])
                    value += f" after {end(places[-1])}" if end else ""
                    words.append(f"{title}: {row} ends at {value}".removeprefix(": "))
            axis(place)
            place.label_outer()
        if fraction:
            axes[0, 0].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}{THIN}%")
        _legend(figure, list(axes.flat), across, names)
        return draw(figure), "; ".join(words) + "."


def _over_steps(cells: Sequence[Cell], field: str) -> Course | None:
    return _band(cell.series(field) for cell in cells)


def _over_seconds(cells: Sequence[Cell]) -> Course | None:
    """The accuracies at each step, where the median of the seconds lies at which runs came to it."""
    timed = [cell for cell in cells if clock.curve(cell)[0]]
    values = _band(cell.series("curve") for cell in timed)
    seconds = _band((cell.series("curve")[0], clock.curve(cell)[0]) for cell in timed)
    return None if values is None or seconds is None else (seconds[2], *values[1:])


def _band(series: Iterable[tuple[list[float], list[float]]]) -> Course | None:
    """Steps, least, median and greatest value over runs, at each step that any run has."""
    at: dict[float, list[float]] = {}
    for steps, values in series:
        for step, value in zip(steps, values, strict=True):
            at.setdefault(step, []).append(value)
    order = sorted(at)
    if not order:
        return None
    return order, *([f(at[step]) for step in order] for f in (min, statistics.median, max))  # type: ignore[return-value]


def _steps(axes: Axes, label: str = "student step") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: scaled(value))
    axes.set_xlabel(label, loc="right", labelpad=1)


def _seconds(axes: Axes, *, bent: bool) -> None:
    """Seconds, on a logarithmic axis where rows differ much in what they take."""
    from matplotlib.ticker import LogLocator, NullLocator

    if not bent:
        return _steps(axes, "seconds")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: scaled(value))
    axes.set_xlabel("seconds", loc="right", labelpad=1)


def _legend(figure: Drawing, axes: Sequence[Axes], across: int, order: Sequence[str] = ()) -> None:
    """One legend for all axes, below them; its entries as they come, or in this order."""
    entries: dict[str, Any] = {}
    for place in axes:
        handles, labels = place.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    entries = {name: entries[name] for name in order or entries}
    figure.legend(handles=entries.values(), labels=entries, loc="outside lower left", ncols=across, fontsize=8)


# box plots


def gap_boxes(grid: Grid, key: str, *, to_teacher: bool) -> Figure | None:
    """Figure 7 (teacher minus peak) or 8 (peak minus converging accuracy): boxes over teachers, of Tables A3 and A4."""
    from matplotlib.ticker import NullLocator

    found: dict[str, list[float]] = {}
    for row in grid.rows:
        values = [100 * gap(grid, row, teacher, to_teacher=to_teacher) for teacher in grid.teachers]
        found[row] = [value for value in values if not math.isnan(value)]
    rows = [row for row in grid.rows if found[row]]
    if not rows:
        return None
    what = "teacher's accuracy minus acc_max" if to_teacher else "acc_max minus acc_last"
    everything = [value for row in rows for value in found[row]]
    bent = max(everything) > 20
    with canvas(0.75 + 0.27 * len(rows), HALF) as figure:
        axes = figure.add_subplot()
        for place, row in enumerate(reversed(rows)):
            _box(axes, place, found[row], str(style(grid, row)["color"]))
        axes.set_yticks(range(len(rows)), [_short(row) for row in reversed(rows)])
        axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        if bent:
            axes.set_xscale("symlog", linthresh=1, linscale=0.6)
            left, right = min(0.0, *everything) - 0.2, max(everything) * 1.3
            axes.set_xlim(left, right)
            axes.set_xticks([tick for tick in TICKS if left <= tick <= right])
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: figures(value))
        axes.set_xlabel("points of %", loc="right", labelpad=1)
        words = [f"{row}: median {statistics.median(found[row]):.2f}, most {max(found[row]):.2f}" for row in rows]
        title = f"Figure {'7. Teacher minus peak' if to_teacher else '8. Peak minus converging accuracy'}"
        text = f"{what[0].upper()}{what[1:]}, one point per teacher, as in Table {'A3' if to_teacher else 'A4'}."
        text += " Boxes go from quartile to quartile."
        text += " Logarithmic beyond one point." if bent else ""
        return Figure(key, title, text, draw(figure), "; ".join(words) + ".", context(grid))


def _box(axes: Axes, place: float, values: Sequence[float], colour: str) -> None:
    """A box from quartile to quartile, the median, whiskers to the last value within 1.5 boxes, and all points."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    reach = 1.5 * (high - low)
    inside = [value for value in values if low - reach <= value <= high + reach]
    axes.hlines(place, min(inside), max(inside), color=colour, linewidth=1)
    axes.barh(place, high - low, 0.55, low, color=colour, alpha=0.25, edgecolor=colour, linewidth=1)
    axes.vlines(middle, place - 0.3, place + 0.3, color=colour, linewidth=2)
    shift = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else [0.0]
    axes.plot(values, place + np.asarray(shift), "o", color=colour, markersize=2.4, markeredgewidth=0)


def _short(name: str, limit: int = 26) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


# from features


def fid_curves(grid: Grid, key: str, sweep: Sweep) -> Figure | None:
    """Figure 2: Frechet distance against the weight of the class prior, one line per teacher."""
    lines = {teacher: sweep.median_fid(grid, teacher) for teacher in grid.teachers}
    lines = {teacher: points for teacher, points in lines.items() if points}
    if not lines:
        return None
    with canvas(2.5, HALF) as figure:
        axes = figure.add_subplot()
        for place, (teacher, points) in enumerate(lines.items()):
            look = {"color": COLOURS[ROLES[place % len(ROLES)]], "linestyle": STROKES[place % len(STROKES)]}
            axes.plot(list(points), list(points.values()), label=teacher, marker="o", markersize=3.5, **look)
        axes.set_xlabel("weight of the class prior", loc="right", labelpad=1)
        axes.set_title("Frechet distance", fontsize=9, loc="left")
        axes.set_xlim(-0.03, max(max(points) for points in lines.values()) * 1.03 + 0.01)
        axes.yaxis.set_major_formatter(lambda value, _: figures(value))
        _legend(figure, [axes], 4)
        words = [
            f"{teacher}: from {figures(next(iter(points.values())))} at {next(iter(points)):g} to "
            f"{figures(list(points.values())[-1])} at {list(points)[-1]:g}"
            for teacher, points in lines.items()
        ]
        text = f"{describe(grid)} Median over seeds; smaller is closer to real images. Rows: {', '.join(sweep.rows)}."
        title = "Figure 2. Frechet distance against the class prior"
        return Figure(key, title, text, draw(figure), "; ".join(words) + ".", context(grid))


def feature_map(grid: Grid, key: str, entry: Mapping[str, Any]) -> Figure:
    """Figures 4 and 6: real and synthetic features in two dimensions, before and after selection where there is one."""
    real, made = (
        np.asarray(entry[name], dtype=np.float64).reshape(-1, width) for name, width in (("real", 3), ("synthetic", 5))
    )
    selects = bool((made[:, 3] == 0).any())
    sets = [("before selection" if selects else "all synthetic images", made)]
    sets += [("after selection", made[made[:, 3] == 1])] if selects else []
    with canvas(3.5, WIDE if selects else HALF) as figure:
        axes: list[Axes] = list(figure.subplots(1, len(sets), sharex=True, sharey=True, squeeze=False)[0])
        for place, (title, points) in zip(axes, sets, strict=True):
            inside, outside = points[points[:, 4] == 0], points[points[:, 4] == 1]
            shown: tuple[tuple[Any, float, str, str, dict[str, Any]], ...] = (
                (real, 14, ".", "real", {"c": _class_colours(real), "alpha": 0.5, "linewidths": 0}),
                (inside, 26, "*", "inside its class", {"c": _class_colours(inside), "linewidths": 0}),
                (outside, 9, "x", "outside of its class", {"c": _class_colours(outside), "linewidths": 0.7}),
            )
            for dots, size, marker, label, look in shown:
                place.scatter(dots[:, 0], dots[:, 1], size, marker=marker, label=label, **look)
            for label in np.unique(real[:, 2]):
                x, y = np.median(real[real[:, 2] == label, :2], axis=0)
                place.annotate(f"{label:.0f}", (x, y), ha="center", va="center", fontsize=9, fontweight="bold")
            share = len(outside) / max(len(points), 1)
            place.set_title(f"{title}: {in_percent(share, 1)}{THIN}% outside", fontsize=9, loc="left")
            place.set_xticks([])
            place.set_yticks([])
            place.spines["bottom"].set_visible(False)
        _legend(figure, axes, 3)
        title = f"Figures 4 and 6. {entry['row']}, {entry['teacher']}"
        text = (
            f"{str(entry['projection']).upper()} of the teacher's features of {exact(len(real))} real and "
            f"{exact(len(made))} synthetic images, seed {entry['seed']}; colours are classes, whose numbers stand "
            "amid their real images. "
            "Crosses: further from the centre of their class than 95 % of its real images, in feature space."
        )
        words = "; ".join(f"{name}: {len(points)} synthetic images" for name, points in sets)
        return Figure(key, title, text, draw(figure), f"Two-dimensional map. {words}.", context(grid), selects)


def _class_colours(points: NDArray[np.float64]) -> list[str]:
    return [CLASSES[int(label) % len(CLASSES)] for label in points[:, 2]]


def image_grids(grid: Grid, key: str, entries: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Figure 3: stored synthetic images, one line per class, side by side for each row."""
    from PIL import Image

    if not entries:
        return None
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(entry["png"])))) for entry in entries]
    width = WIDE if len(pictures) > 1 else HALF
    tallest = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    with canvas(min(width / len(pictures) * tallest + 0.5, 8.0), width) as figure:
        axes: list[Axes] = list(figure.subplots(1, len(pictures), squeeze=False)[0])
        for place, picture, entry in zip(axes, pictures, entries, strict=True):
            place.imshow(picture, interpolation="none")
            lines = len(entry["classes"])
            height = picture.shape[0] / lines
            place.set_yticks(
                [height * (line + 0.5) for line in range(lines)], [_short(c, 10) for c in entry["classes"]]
            )
            place.set_xticks([])
            place.grid(False)
            for side in place.spines.values():
                side.set_visible(False)
            place.set_title(_picture_heading(entry, int(width / len(pictures) / 0.07)), fontsize=9, loc="left")
        shown = unique(f"{entry['teacher']}, seed {entry['seed']}" for entry in entries)
        priors = {entry.get("class_prior_weight") for entry in entries}
        text = f"The stored images of each class that the teacher is surest about; {'; '.join(shown)}."
        words = "; ".join(f"{entry['row']}: {len(entry['classes'])} classes" for entry in entries)
        title = "Figure 3. Synthetic images" + (" with and without class prior" if len(priors) > 1 else "")
        return Figure(key, title, text, draw(figure), f"Images: {words}.", context(grid), len(entries) > 1)


def _picture_heading(entry: Mapping[str, Any], across: int) -> str:
    """The row, in two lines of at most `across` letters; its class prior on the second, where the name does not say."""
    name, weight = str(entry["row"]), entry.get("class_prior_weight")
    if weight is not None and "class prior" not in name:
        return f"{_short(name, across)}\nclass prior {weight:g}"
    return "\n".join(textwrap.wrap(name, across, max_lines=2, placeholder="…"))
