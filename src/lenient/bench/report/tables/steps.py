"""Accuracy after as many steps of each row, where rows do not have the same number of them."""

from __future__ import annotations

from lenient.bench.report.records import Grid
from lenient.bench.report.tables.clock import accuracy_at
from lenient.bench.report.tables.notes import twice
from lenient.bench.report.tables.table import Column, Table
from lenient.bench.report.tables.values import count, middle, of_rows
from lenient.core.numbers import exact


def lengths(grid: Grid) -> dict[str, int]:
    """The steps of each row at the last evaluation that all of its runs have; rows without any are left out."""
    ends = {row: [steps[-1] for cell in grid.of(row) if (steps := cell.series("curve")[0])] for row in grid.measured}
    return {row: int(min(own)) for row, own in ends.items() if own}


def after_equal_steps(grid: Grid, key: str) -> Table | None:
    """Accuracies after the most steps that all rows have, beside those at the end; None where these are the same."""
    steps = lengths(grid)
    if len({*steps.values()}) < 2:
        return None
    common = min(steps.values())
    columns = [Column(f"{exact(common)} steps", "after", better="high"), Column("at the end"), Column("steps")]
    rows = {}
    for row, own in steps.items():
        courses = [course for cell in grid.of(row) if (course := cell.series("curve"))[0]]
        values = [[accuracy_at(course, limit) for course in courses] for limit in (common, own)]
        rows[row] = [*(middle(grid, row, found) for found in values), count(own)]
    notes = (
        f"Medians over runs, of one evaluation each: the last one within {exact(common)} student steps, the most that "
        "all rows have, and that at the end of each row's own. Rates of rows with more steps are not annealed by then. "
        "What images took before and between these steps is not counted; the clock does that.",
        *twice(grid),
    )
    return of_rows(grid, key, "Accuracy after equal steps", columns, rows, notes)
