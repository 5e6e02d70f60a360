"""Table 3: accuracy per teacher and row, over teachers, and failures."""

from __future__ import annotations

import math
import statistics

from lenient.bench.report.records import Grid, run_of, unique
from lenient.bench.report.results import MARGIN, catastrophic, heading, in_percent, last_k, peak, teacher_means, whole
from lenient.bench.report.tables.notes import COUNTED, MARKED, ORACLE, twice
from lenient.bench.report.tables.steps import lengths
from lenient.bench.report.tables.table import Column, Table, Value
from lenient.bench.report.tables.values import SPREAD, absent, count, counted, of_rows, percentage, spread
from lenient.core.numbers import exact


def table_3(grid: Grid, key: str) -> Table:
    """Accuracy per teacher and row, over teachers, and failures."""
    name = last_k(grid)
    columns = [
        column
        for teacher in grid.teachers
        for column in (
            Column(name, heading(grid, teacher), SPREAD, "high"),
            Column("acc_max†", heading(grid, teacher), better="high"),
        )
    ]
    columns += [
        Column("mean", f"{name} over teachers", better="high"),
        Column("worst", f"{name} over teachers", ("accuracy", "teacher"), "high"),
        Column("catastrophic", "runs", ("failures", "of")),
        Column("no result", "runs", ("failed", "missing")),
    ]
    rows = {
        row: [
            *(value for teacher in grid.teachers for value in (spread(grid, row, teacher), _peak(grid, row, teacher))),
            *_over_teachers(grid, row),
            count(len(catastrophic(grid, row)), len(grid.of(row))),
            _without(grid, row),
        ]
        for row in grid.measured
    }
    share = 1 / grid.num_classes if grid.num_classes else None
    chance = f", or below chance plus 10 points ({in_percent(share + MARGIN, 0)} %)" if share else ""
    notes = (
        "Accuracy in % on test images, which chose nothing: mean ± standard deviation over seeds of "
        f"{_converging(grid)}.",
        ORACLE,
        "Peaks are the highest over seeds.",
        MARKED,
        "Worst: the teacher with the lowest mean; rows that lack a teacher are not marked there.",
        "A run is a catastrophic failure where its last accuracy is below half of the highest acc_max of its row"
        f"{chance}.",
        COUNTED,
        *_unequal(grid),
        *twice(grid),
    )
    return of_rows(grid, key, "Table 3. Accuracy per teacher", columns, rows, notes)


def _converging(grid: Grid) -> str:
    """What the headline accuracy is the mean of; TA-DFKD takes the last 10 of 200 epochs on CIFAR-10."""
    known = [cell for cell in grid.cells if not math.isnan(cell.number("k"))]
    shares = unique(f"{int(cell.number('k'))} of {len(cell.series('curve')[0])}" for cell in known)
    return f"the mean of the last evaluations ({', '.join(shares) or 'how many is unknown'})"


def _unequal(grid: Grid) -> tuple[str, ...]:
    """The note on rows that do not have the same steps, where there are such."""
    found = sorted({*lengths(grid).values()})
    words = ", ".join(map(exact, found))
    return (f"Rows differ in steps ({words}): another table has them after equal ones.",) if len(found) > 1 else ()


def _peak(grid: Grid, row: str, teacher: str) -> Value:
    highest = peak(grid, row, teacher)
    if math.isnan(highest):
        return absent(grid, row, teacher)
    return percentage(highest, counted(grid, row, teacher, in_percent(highest)))


def _over_teachers(grid: Grid, row: str) -> tuple[Value, Value]:
    """The mean over teachers, and the worst of them."""
    means = teacher_means(grid, row)
    if not means:
        return (absent(grid, row, None),) * 2
    mean, worst = statistics.fmean(means.values()), min(means, key=means.__getitem__)
    low, ranked = means[worst], whole(grid, row)
    text = counted(grid, row, worst, f"{in_percent(low)}, {worst}")
    return (
        percentage(mean, counted(grid, row, None, in_percent(mean)), ranked=ranked),
        Value(text, (100 * low, worst), round(100 * low, 2) if ranked else None),
    )


def _without(grid: Grid, row: str) -> Value:
    """How many runs have no result."""
    failed = sum(failure.wanted.row == run_of(row) for failure in grid.failed)
    missing = sum(wanted.row == run_of(row) for wanted in grid.missing)
    words = [f"{number} {word}" for number, word in ((failed, "failed"), (missing, "missing")) if number]
    return Value(", ".join(words) or "0", (failed, missing))
