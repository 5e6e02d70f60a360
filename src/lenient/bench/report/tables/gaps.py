"""Tables A3 and A4: how far students stay behind their teacher, and behind their own peak."""

from __future__ import annotations

import math

from lenient.bench.report.records import Grid
from lenient.bench.report.results import gap, heading, in_percent, last_k
from lenient.bench.report.tables.notes import COUNTED, MARKED, ORACLE, twice
from lenient.bench.report.tables.table import Column, Table, Value
from lenient.bench.report.tables.values import absent, counted, of_rows, percentage


def gaps(grid: Grid, key: str, *, to_teacher: bool) -> Table:
    """Table A3 (teacher minus peak) or A4 (peak minus converging accuracy), from the numbers of Table 3."""

    def value(row: str, teacher: str) -> Value:
        points = gap(grid, row, teacher, to_teacher=to_teacher)
        if math.isnan(points):
            return absent(grid, row, teacher)
        return percentage(points, counted(grid, row, teacher, in_percent(points)))

    columns = [Column(heading(grid, teacher), better="low") for teacher in grid.teachers]
    rows = {row: [value(row, teacher) for teacher in grid.teachers] for row in grid.measured}
    what = "A3. Teacher's accuracy minus acc_max" if to_teacher else f"A4. acc_max minus {last_k(grid)}"
    notes = ("In points of %; acc_max is the highest over seeds.", ORACLE, MARKED, COUNTED, *twice(grid))
    return of_rows(grid, key, f"Table {what}", columns, rows, notes)
