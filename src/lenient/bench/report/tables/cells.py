"""The wanted cells: how many came to something, and which did not."""

from __future__ import annotations

from collections import Counter

from lenient.bench.report.records import Grid
from lenient.bench.report.results import context
from lenient.bench.report.tables.notes import VERDICT
from lenient.bench.report.tables.table import Column, Row, Table, Value
from lenient.bench.report.tables.values import count, of_rows, wanted_of


def status(grid: Grid, key: str) -> Table:
    """How many of the wanted cells came to something, and with which verdict."""
    names = ("wanted", "finished", "failed", "missing", "verdict ok", "verdict warning", "verdict failed")
    rows = {}
    for row in grid.rows:
        cells = grid.of(row)
        verdicts = Counter(str(cell.raw.get("verdict")) for cell in cells)
        numbers = [len(wanted_of(grid, row)), len(cells)]
        numbers += [sum(f.wanted.row == row for f in grid.failed), sum(wanted.row == row for wanted in grid.missing)]
        rows[row] = [count(number) for number in (*numbers, *(verdicts[word] for word in ("ok", "warning", "failed")))]
    return of_rows(grid, key, "Cells", map(Column, names), rows, (VERDICT,))


def absentees(grid: Grid, key: str) -> Table | None:
    """Every cell without a result, with its reason; None where there is none."""
    entries = [(failure.wanted, f"failed: {failure.reason}") for failure in grid.failed]
    entries += [(wanted, "missing: it has not been run to its end") for wanted in grid.missing]
    if not entries:
        return None
    columns = tuple(Column(name, words=True) for name in ("row", "teacher", "seed", "what happened"))
    rows = tuple(
        Row(wanted.id, tuple(map(Value, (wanted.row, wanted.teacher, str(wanted.seed), text))))
        for wanted, text in entries
    )
    return Table(key, "Cells without a result", columns, rows, (), context(grid), "cell")
