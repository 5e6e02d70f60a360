"""Accuracy against wall time: methods that make an image in one step and methods that take hundreds for it compare by
the clock, not by the student's steps."""

from __future__ import annotations

import math
import statistics

from lenient.bench.report.records import Cell, Grid
from lenient.bench.report.results import whole
from lenient.bench.report.tables.notes import twice
from lenient.bench.report.tables.table import Column, Table, Value
from lenient.bench.report.tables.values import counted, middle, of_rows
from lenient.core.numbers import duration

SHARES = (0.25, 0.5, 1.0)
"""Of the time that the quickest row's runs take: where accuracies are read."""
ENOUGH = 0.97
"""Share of the teacher's accuracy, the time to which is read."""


def curve(cell: Cell) -> tuple[list[float], list[float]]:
    """Seconds and accuracies of a run's evaluations; both empty in records that do not say when they were."""
    seconds, values = cell.raw.get("curve_seconds") or [], cell.series("curve")[1]
    if len(seconds) != len(values) or not all(isinstance(second, int | float) for second in seconds):
        return [], []
    return [float(second) for second in seconds], values


def accuracy_at(course: tuple[list[float], list[float]], limit: float) -> float:
    """The accuracy of the last evaluation at or before so many seconds, or steps, as the course is of; minus infinity
    before the first one."""
    known = [value for place, value in zip(*course, strict=True) if place <= limit]
    return known[-1] if known else -math.inf


def seconds_to(cell: Cell, accuracy: float) -> float:
    """Seconds to the first evaluation that is at least so accurate; infinite where none is."""
    return next((second for second, value in zip(*curve(cell), strict=True) if value >= accuracy), math.inf)


def by_the_clock(grid: Grid, key: str) -> Table | None:
    """Accuracies after equal seconds, and seconds to a share of the teacher; None where no record has times.

    Rows whose runs were not all made are there, and say so. The last column is infinite where most runs do not come
    so far.
    """
    timed = {row: [cell for cell in grid.of(row) if curve(cell)[0]] for row in grid.measured}
    timed = {row: cells for row, cells in timed.items() if cells}
    if not timed:
        return None
    taught = {row: cells for row, cells in timed.items() if not grid.is_baseline(row)} or timed
    budget = min(statistics.median(curve(cell)[0][-1] for cell in cells) for cells in taught.values())
    points = [share * budget for share in SHARES]
    columns = [Column(duration(point), "after", better="high") for point in points]
    columns += [Column(f"to {ENOUGH:.0%} of the teacher", better="low"), Column("a run takes")]
    rows = {}
    for row, cells in timed.items():
        values = [middle(grid, row, [accuracy_at(curve(cell), point) for cell in cells]) for point in points]
        needed = statistics.median(seconds_to(cell, ENOUGH * cell.teacher_accuracy) for cell in cells)
        reached = Value("not reached") if math.isinf(needed) else _time(grid, row, needed, len(cells), ranked=True)
        takes = statistics.median(curve(cell)[0][-1] for cell in cells)
        rows[row] = [*values, reached, _time(grid, row, takes, len(cells))]
    notes = (
        "Medians over runs. The times are that of the row with the quickest runs, half and a quarter of it; what a row "
        "would reach with its rates annealed by then is not told. Evaluations take part of the time. Not begun: no "
        "evaluation by then, as while only images are made.",
        "Only runs of one machine, as many at a time, compare by the clock.",
        *twice(grid),
    )
    return of_rows(grid, key, "Accuracy by the clock", columns, rows, notes)


def _time(grid: Grid, row: str, seconds: float, count: int, *, ranked: bool = False) -> Value:
    text = counted(grid, row, None, duration(seconds), count)
    return Value(text, (seconds,), round(seconds, 1) if ranked and whole(grid, row) else None)
