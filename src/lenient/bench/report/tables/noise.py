"""How far the rows are above the baselines that teach nothing."""

from __future__ import annotations

import statistics

from lenient.bench.report.records import Grid
from lenient.bench.report.results import heading, last_k, margins
from lenient.bench.report.tables.notes import COUNTED, MARKED
from lenient.bench.report.tables.table import Column, Table, Value
from lenient.bench.report.tables.values import absent, count, counted, fair, of_rows


def beyond(grid: Grid, key: str) -> Table | None:
    """How far the rows are above the baselines that teach nothing; None without such baselines."""
    columns = [Column(heading(grid, teacher), better="high") for teacher in grid.teachers]
    columns += [Column("all runs", better="high"), Column("ahead", parts=("runs", "of"))]
    untaught = [row for row in grid.rows if grid.is_untaught(row)]
    rows = {
        row: [*(_margin(grid, row, teacher) for teacher in (*grid.teachers, None)), _ahead(grid, row)]
        for row in grid.rows
        if row not in untaught
    }
    if not any(value.numbers for values in rows.values() for value in values[:-1]):
        return None
    done, wanted = (sum(entry.row in untaught for entry in entries) for entries in (grid.cells, grid.wanted))
    so_far = f"Of the {wanted} runs of such students {done} are there: more can only lower this."
    notes = (
        f"{last_k(grid)} minus that of the best student of noise or of a frozen generator with the same teacher and "
        "seed: medians, in points of %. A method teaches only where this is clearly above 0.",
        *([so_far] if done < wanted else []),
        MARKED,
        COUNTED,
    )
    return of_rows(grid, key, "What the methods add to noise", columns, rows, notes)


def _margin(grid: Grid, row: str, teacher: str | None) -> Value:
    values = margins(grid, grid.of(row, teacher))
    if not values:
        return absent(grid, row, teacher)
    points = 100 * statistics.median(values)
    text = counted(grid, row, teacher, f"{points:+.2f}".replace("-", "−"), len(values))
    return Value(text, (points,), round(points, 2) if fair(grid, row, teacher) else None)


def _ahead(grid: Grid, row: str) -> Value:
    values = margins(grid, grid.of(row))
    return count(sum(value > 0 for value in values), len(values))
