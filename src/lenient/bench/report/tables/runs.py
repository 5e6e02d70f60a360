"""Every run: what came of it, and what it took."""

from __future__ import annotations

import math

from lenient.bench.report.records import Cell, Grid
from lenient.bench.report.results import context, last_k
from lenient.bench.report.tables.cost import COSTS
from lenient.bench.report.tables.notes import EXPECTED, ORACLE, VERDICT
from lenient.bench.report.tables.table import Column, Row, Table, Value
from lenient.bench.report.tables.values import count, shown


def runs(grid: Grid, key: str) -> Table:
    """Every run: what came of it, and what it took."""
    told = any(cell.as_expected is not None for cell in grid.cells)
    shares = (("last", "last"), ("acc_last_k", last_k(grid)), ("acc_max", "acc_max†"), ("agreement", "agreement"))
    columns = (
        *(Column(name, words=True) for name in ("row", "teacher")),
        Column("seed"),
        *(Column(f"{title} (%)") for _, title in shares),
        *((Column("expected agreement (%)", parts=("low", "high")),) if told else ()),
        Column("verdict", words=True),
        *(Column(title, parts=(name,)) for name, title, _ in COSTS),
    )
    rows = []
    for cell in grid.cells:
        values = (
            *(Value(cell.row), Value(cell.teacher), count(cell.seed)),
            *(shown(100 * cell.number(name), lambda value: f"{value:.2f}") for name, _ in shares),
            *([_interval(cell)] if told else []),
            Value(str(cell.raw.get("verdict") or "unknown")),
            *(shown(cell.number(f"cost.{name}"), show) for name, _, show in COSTS),
        )
        rows.append(Row(cell.wanted.id, values, grid.is_baseline(cell.row)))
    notes = (
        "Accuracies and agreement with the teacher on test images, in %.",
        VERDICT,
        *((EXPECTED,) if told else ()),
        ORACLE,
    )
    return Table(key, "Every run", columns, tuple(rows), notes, context(grid), "cell")


def _interval(cell: Cell) -> Value:
    ends = [100 * cell.number(f"prediction.{end}") for end in ("low", "high")]
    return Value("-") if any(map(math.isnan, ends)) else Value(f"{ends[0]:.0f} to {ends[1]:.0f}", tuple(ends))
