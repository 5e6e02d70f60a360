"""Each teacher with its students, a line for each row of the grid: for grids about teachers."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence

from lenient.bench.report.records import Cell, Grid
from lenient.bench.report.results import context, in_percent, numbers
from lenient.bench.report.tables.notes import COUNTED, EXPECTED, VERDICT
from lenient.bench.report.tables.table import Column, Row, Table, Value
from lenient.bench.report.tables.values import absent, counted, percentage, shown
from lenient.bench.report.tables.verdicts import VERDICTS
from lenient.core.numbers import duration


def each_teacher(grid: Grid, key: str) -> Table | None:
    """Teacher's accuracy, students', verdicts, expected agreement and seconds, teacher by teacher.

    None where rows are as many as teachers: Table 3 compares them.
    """
    methods = [row for row in grid.rows if not grid.is_baseline(row)]
    if len(grid.teachers) <= len(methods):
        return None
    columns = (
        Column("row", words=True),
        Column("method", words=True),
        Column("teacher (%)", parts=("accuracy",)),
        *(Column(name, "student, last (%)") for name in ("least", "median", "most")),
        Column("behind its teacher (points)", parts=("points",)),
        Column("verdicts", words=True),
        Column("expected agreement (%)", parts=("low", "high")),
        Column("as expected", parts=("runs", "of")),
        Column("time", parts=("seconds",)),
    )
    rows = [
        Row(teacher, _values(grid, row, teacher), grid.is_baseline(row))
        for teacher in grid.teachers
        for row in grid.rows
    ]
    notes = (
        "Students: their last evaluation on test images, over seeds; behind: the teacher's accuracy less the median. "
        "Time, and the ends of what was expected: medians.",
        VERDICT,
        EXPECTED,
        COUNTED,
    )
    return Table(key, "Teacher by teacher", columns, tuple(rows), notes, context(grid), "teacher")


def _values(grid: Grid, row: str, teacher: str) -> tuple[Value, ...]:
    cells, accuracy = grid.of(row, teacher), grid.teacher_accuracy(teacher)
    methods = ", ".join(sorted({cell.method for cell in cells})) or "-"
    own = (Value(row), Value(methods), Value("unknown") if math.isnan(accuracy) else percentage(accuracy))
    last = numbers(cells, "last")
    if not last:
        return (*own, *(absent(grid, row, teacher) for _ in range(8)))
    middle = statistics.median(last)
    behind = Value("unknown") if math.isnan(accuracy) else percentage(accuracy - middle)
    return (
        *own,
        percentage(min(last)),
        percentage(middle, counted(grid, row, teacher, in_percent(middle))),
        percentage(max(last)),
        behind,
        Value(_verdicts(cells)),
        *_expected(cells),
        shown(statistics.median(numbers(cells, "cost.seconds") or [math.nan]), duration),
    )


def _verdicts(cells: Sequence[Cell]) -> str:
    found = Counter(str(cell.raw.get("verdict") or "unknown") for cell in cells)
    return ", ".join(
        f"{found[word]} {word}" for word in (*VERDICTS, *sorted(found.keys() - {*VERDICTS})) if found[word]
    )


def _expected(cells: Sequence[Cell]) -> tuple[Value, Value]:
    """The medians of the ends of the intervals, and in how many the agreement lies."""
    inside = [cell.as_expected for cell in cells if cell.as_expected is not None]
    if not inside:
        return Value("-"), Value("-")
    low, high = (100 * statistics.median(numbers(cells, f"prediction.{end}")) for end in ("low", "high"))
    return (
        Value(f"{low:.0f} to {high:.0f}", (low, high)),
        Value(f"{sum(inside)} of {len(inside)}", (sum(inside), len(inside))),
    )
