"""What the records of a panel (one data set, one student) say: the numbers that tables, figures and claims share."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence

from lenient.bench.report.records import Cell, Grid, unique
from lenient.core.numbers import exact

REPLAY_METHODS = ("mb-dfkd", "pre-dfkd", "meta-dfkd")
MARGIN = 0.10
"""How far above chance an accuracy must be that is no catastrophic failure."""


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation of a sample (divided by n - 1); NaN where there are too few values."""
    if not values:
        return math.nan, math.nan
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def in_percent(value: float, digits: int = 2) -> str:
    """A fraction as the papers print it: 94.24."""
    text = f"{100 * value:.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")


def numbers(cells: Iterable[Cell], key: str) -> list[float]:
    """A number of each record, by its dotted name, of those that have it."""
    return [value for value in (cell.number(key) for cell in cells) if not math.isnan(value)]


def heading(grid: Grid, teacher: str) -> str:
    """A teacher with its accuracy."""
    accuracy = grid.teacher_accuracy(teacher)
    return teacher if math.isnan(accuracy) else f"{teacher} ({in_percent(accuracy)} %)"


def last_k(grid: Grid) -> str:
    """The name of the headline accuracy: acc_last[10]; acc_last[k] where runs differ in k."""
    counts = {int(k) for k in numbers(grid.cells, "k")}
    return f"acc_last[{counts.pop() if len(counts) == 1 else 'k'}]"


def mean_accuracy(grid: Grid, row: str, teacher: str) -> float:
    """The mean of acc_last[k] over seeds; NaN without a run."""
    return mean_std([cell.number("acc_last_k") for cell in grid.of(row, teacher)])[0]


def teacher_means(grid: Grid, row: str) -> dict[str, float]:
    """The mean accuracy for each teacher that has any."""
    found = {teacher: mean_accuracy(grid, row, teacher) for teacher in grid.teachers}
    return {teacher: value for teacher, value in found.items() if not math.isnan(value)}


def whole(grid: Grid, row: str) -> bool:
    """Whether a row has a run with every teacher; else its mean over teachers is no equal of the others'."""
    return all(grid.of(row, teacher) for teacher in grid.teachers)


def catastrophic(grid: Grid, row: str) -> list[Cell]:
    """The cells of a row that fail catastrophically: their last accuracy is below half of the highest acc_max of the
    row, or below chance plus `MARGIN`."""
    cells = grid.of(row)
    limit = max((cell.number("acc_max") for cell in cells), default=0.0) / 2
    if grid.num_classes:
        limit = max(limit, 1 / grid.num_classes + MARGIN)
    return [cell for cell in cells if cell.number("last") < limit]


def margins(grid: Grid, cells: Sequence[Cell]) -> list[float]:
    """acc_last[k] of each run minus that of the best student with the same teacher and seed that was taught nothing,
    by noise images or by a frozen generator; runs without such a student are left out."""
    found = [cell.number("acc_last_k") - grid.floors.get((cell.teacher, cell.seed), math.nan) for cell in cells]
    return [value for value in found if not math.isnan(value)]


def peak(grid: Grid, row: str, teacher: str) -> float:
    """The highest accuracy that any run of a row with a teacher ever had; NaN without a run."""
    return max((cell.number("acc_max") for cell in grid.of(row, teacher)), default=math.nan)


def gap(grid: Grid, row: str, teacher: str, *, to_teacher: bool) -> float:
    """Teacher minus peak, or peak minus converging accuracy; peaks are the highest over seeds. NaN without a run."""
    highest = peak(grid, row, teacher)
    return grid.teacher_accuracy(teacher) - highest if to_teacher else highest - mean_accuracy(grid, row, teacher)


def ablations(grid: Grid) -> list[tuple[str | None, str | None, str | None]]:
    """Rows of TA-DFKD that differ in class prior and selection alone: with the greatest class prior, without, with
    selection. One entry for each way to set the rest that has two of them, the paper's weights first."""
    groups: dict[str, dict[tuple[float, bool], str]] = {}
    for row in grid.rows:
        cells = grid.of(row)
        if grid.is_baseline(row) or all(cell.method != "ta-dfkd" for cell in cells):
            continue
        cell = cells[0]
        rest = dict(cell.method_settings)
        rest.pop("selection", None)
        place = (float(rest.pop("class_prior_weight", 0)), cell.selects)
        key = json.dumps([not as_published(cell), rest, cell.raw.get("generator"), cell.budget], sort_keys=True)
        groups.setdefault(key, {}).setdefault(place, row)
    found = []
    for _, rows in sorted(groups.items()):
        most = max(weight for weight, _ in rows)
        trio = (rows.get((most, False)) if most else None, rows.get((0.0, False)), rows.get((0.0, True)))
        if sum(row is not None for row in trio) > 1:
            found.append(trio)
    return found


def as_published(cell: Cell) -> bool:
    """Whether a run of TA-DFKD weighs its losses as the paper does: an adversary of 1, and no entropy."""
    own = cell.method_settings
    return own.get("beta") == 1 and not own.get("entropy_weight")


def context(grid: Grid) -> dict[str, str]:
    """On what the cells were run: data, student, budget, machine, commit; all of them where cells differ.

    Where cells are missing, how many there are.
    """

    def each(words: Sequence[str]) -> str:
        return ", ".join(unique(word for word in words if word)) or "unknown"

    budgets = [f"{exact(b[0])} steps of {exact(b[1])} images" for b in (cell.budget for cell in grid.cells) if b]
    whole = len(grid.cells) == len(grid.wanted)
    return {
        "data": ", ".join(unique(cell.data_title for cell in grid.cells)) or grid.data,
        "student": each([wanted.student for wanted in grid.wanted]),
        "budget": each(budgets),
        **({} if whole else {"runs": f"{len(grid.cells)} of {len(grid.wanted)}"}),
        "machine": each([_machine(cell) for cell in grid.cells]),
        "commit": each([_commit(str(cell.raw.get("commit") or "")) for cell in grid.cells]),
    }


def _commit(text: str) -> str:
    name, dash, state = text.partition("-")
    return f"{name[:12]}{dash}{state}"


def _machine(cell: Cell) -> str:
    facts = cell.raw.get("machine")
    if not isinstance(facts, dict):
        return str(facts or "")
    name = next((facts[key] for key in ("device_name", "gpu", "cpu", "device", "platform") if facts.get(key)), "")
    threads = f", {facts['threads']} thread(s)" if facts.get("threads") else ""
    version = f", torch {facts['torch']}" if facts.get("torch") else ""
    return f"{name}{threads}{version}"
