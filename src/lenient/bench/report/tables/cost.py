"""What a run took."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from lenient.bench.report.records import Grid
from lenient.bench.report.results import numbers
from lenient.bench.report.tables.table import Column, Table
from lenient.bench.report.tables.values import absent, count, of_rows, shown
from lenient.core.numbers import duration, exact, scaled

COSTS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("seconds", "time", duration),
    ("cpu_seconds", "CPU time", duration),
    ("images", "images", exact),
    ("teacher_forwards", "teacher forwards", exact),
    ("peak_bytes", "peak memory", lambda value: scaled(value, base=1024, unit="iB" if value >= 1023.5 else "B")),
)
"""Field of `cost` in a record, its heading, and how it is shown."""


def cost(grid: Grid, key: str) -> Table:
    """What a run took: medians per row."""
    columns = (*(Column(title, parts=(name,)) for name, title, _ in COSTS), Column("runs"))
    rows = {}
    for row in grid.rows:
        cells = grid.of(row)
        known = [(numbers(cells, f"cost.{name}"), show) for name, _, show in COSTS]
        values = [shown(statistics.median(own), show) if own else absent(grid, row, None) for own, show in known]
        rows[row] = [*values, count(len(cells))]
    notes = (
        "Medians over the finished runs of a row. Images: drawn, from a generator, from noise or from real ones; "
        "teacher forwards: images it was asked about.",
    )
    return of_rows(grid, key, "Cost of a run", columns, rows, notes)
