"""META-DFKD's table: the learning curves of methods that replay."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from lenient.bench.report.records import Cell, Grid, run_of
from lenient.bench.report.results import REPLAY_METHODS, mean_std
from lenient.bench.report.tables.notes import MARKED, ORACLE, twice
from lenient.bench.report.tables.table import Column, Table, Value
from lenient.bench.report.tables.values import count, of_rows, wanted_of
from lenient.core.numbers import exact


def learning(grid: Grid, key: str) -> Table | None:
    """Mean, variance and peak of the learning curve, at one budget, and those of the baselines; None without methods
    that replay."""
    replays = [cell for cell in grid.cells if cell.method in REPLAY_METHODS]
    if not replays:
        return None
    budget = Counter(cell.budget for cell in replays).most_common(1)[0][0]
    cells = [cell for cell in grid.cells if cell.method in REPLAY_METHODS or grid.is_baseline(cell.row)]
    others = sum(cell.budget != budget for cell in cells)
    names = {cell.row for cell in cells}
    rows = {}
    for row in (row for row in grid.measured if run_of(row) in names):
        own = [cell for cell in grid.of(row) if cell.budget == budget]
        fair = {cell.teacher for cell in own} == set(grid.teachers)
        values = [_curve_value(own, *what, fair) for what in (("mean", 100.0), ("variance", 1e4), ("acc_max", 100.0))]
        rows[row] = [*values, count(len(own), len(wanted_of(grid, row)))]
    columns = (
        Column("mean (%)", better="high"),
        Column("variance (%²)", better="low"),
        Column("acc_max† (%)", better="high"),
        Column("runs", parts=("used", "wanted")),
    )
    what = "unknown" if budget is None else f"{exact(budget[0])} student steps of {exact(budget[1])} images"
    notes = (
        f"Of each run's curve of accuracy on test images; means over teachers and seeds. Budget: {what}.",
        *([f"{others} runs of another budget are left out."] if others else []),
        ORACLE,
        MARKED,
        *twice(grid),
    )
    title = "META-DFKD's table. Mean, variance and peak of the learning curve"
    return of_rows(grid, key, title, columns, rows, notes)


def _curve_value(cells: Sequence[Cell], key: str, unit: float, fair: bool) -> Value:
    """The mean over runs; ranked only where it is `fair` to, that is, where there is a run with every teacher."""
    mean = mean_std([unit * cell.number(key) for cell in cells])[0]
    if math.isnan(mean):
        return Value("unknown" if cells else "other budget")
    return Value(f"{mean:.2f}", (mean,), round(mean, 2) if fair else None)
