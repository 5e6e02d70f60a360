"""Tables 4 and A2: the rows of an ablation beside the baselines."""

from __future__ import annotations

from collections.abc import Sequence

from lenient.bench.report.records import Grid, unique
from lenient.bench.report.results import ablations, heading, last_k
from lenient.bench.report.tables.notes import COUNTED, MARKED, ORACLE, twice
from lenient.bench.report.tables.table import Column, Table
from lenient.bench.report.tables.values import SPREAD, of_rows, spread


def ablation(grid: Grid, key: str, rows: Sequence[str]) -> Table | None:
    """Means of the rows of the ablation, two at least, and of the baselines; None without."""
    compared = [row for trio in ablations(grid) for row in trio if row is not None]
    chosen = [row for row in (rows or unique(compared)) if row in grid.rows]
    if len(chosen) < 2:
        return None
    places = [(teacher, field) for teacher in (*grid.teachers, None) for field in ("acc_last_k", "acc_max")]
    names = {"acc_last_k": last_k(grid), "acc_max": "acc_max†"}
    columns = [
        Column(names[field], heading(grid, teacher) if teacher else "teachers and seeds", SPREAD, "high")
        for teacher, field in places
    ]
    found = {
        row: [spread(grid, row, teacher, field) for teacher, field in places]
        for row in unique([*chosen, *filter(grid.is_baseline, grid.measured)])
    }
    notes = (
        "Mean ± standard deviation over seeds, in the last two columns over teachers and seeds, in % on test images; "
        "peaks are means here, too: means stand beside means.",
        ORACLE,
        MARKED,
        COUNTED,
        *twice(grid),
    )
    return of_rows(grid, key, "Tables 4 and A2. Ablation", columns, found, notes)
