"""What stands in the places of a table: numbers with the runs behind them, and words where there are none."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from lenient.bench.report.records import Grid, Wanted, run_of
from lenient.bench.report.results import context, in_percent, mean_std, whole
from lenient.bench.report.tables.table import Column, Row, Table, Value, marked

SPREAD = ("mean", "std", "runs")
"""The parts of `spread`."""


def of_rows(
    grid: Grid,
    key: str,
    title: str,
    columns: Iterable[Column],
    rows: Mapping[str, Sequence[Value]],
    notes: Iterable[str],
) -> Table:
    """Return a table of rows of the grid, the best values of methods marked."""
    found = tuple(Row(row, tuple(values), grid.is_baseline(row)) for row, values in rows.items())
    return marked(Table(key, title, tuple(columns), found, tuple(notes), context(grid)))


def wanted_of(grid: Grid, row: str, teacher: str | None = None) -> list[Wanted]:
    """The cells of a row, and a teacher, that the plan has."""
    return [wanted for wanted in grid.wanted if wanted.row == run_of(row) and teacher in (None, wanted.teacher)]


def counted(grid: Grid, row: str, teacher: str | None, text: str, known: int | None = None) -> str:
    """A value with the number of runs that it rests on, by default all that finished, where more were wanted."""
    wanted, known = len(wanted_of(grid, row, teacher)), len(grid.of(row, teacher)) if known is None else known
    return text if known == wanted else f"{text} ({known}/{wanted})"


def absent(grid: Grid, row: str, teacher: str | None, word: str = "unknown") -> Value:
    """What stands where there is no number: a word where runs have finished, else why none has."""
    if grid.of(row, teacher):
        return Value(word)
    wanted = len(wanted_of(grid, row, teacher))
    failed = sum(f.wanted.row == run_of(row) and teacher in (None, f.wanted.teacher) for f in grid.failed)
    if not wanted:
        return Value("not planned")
    return Value("missing" if not failed else "failed" if failed == wanted else "failed, missing")


def fair(grid: Grid, row: str, teacher: str | None) -> bool:
    """Whether a value may be held against those of other rows: over teachers only where it rests on all of them."""
    return teacher is not None or whole(grid, row)


def percentage(value: float, text: str | None = None, *, ranked: bool = True) -> Value:
    """A fraction, in %; `text` stands for it where there is more to say."""
    return Value(in_percent(value) if text is None else text, (100 * value,), round(100 * value, 2) if ranked else None)


def spread(grid: Grid, row: str, teacher: str | None, key: str = "acc_last_k") -> Value:
    """Mean and standard deviation over the cells of a row and a teacher, in %."""
    cells = grid.of(row, teacher)
    if not cells:
        return absent(grid, row, teacher)
    mean, std = mean_std([cell.number(key) for cell in cells])
    text = in_percent(mean) + ("" if math.isnan(std) else f" ± {in_percent(std, 1)}")
    rank = round(100 * mean, 2) if fair(grid, row, teacher) else None
    return Value(counted(grid, row, teacher, text), (100 * mean, 100 * std, len(cells)), rank)


def middle(grid: Grid, row: str, values: Sequence[float]) -> Value:
    """The median of accuracies of a row's runs, minus infinity of those that had none yet."""
    found = statistics.median(values)
    if math.isinf(found):
        return Value("not begun")
    return percentage(found, counted(grid, row, None, in_percent(found), len(values)), ranked=whole(grid, row))


def shown(value: float, show: Callable[[float], str]) -> Value:
    """A number as it is shown; a word for NaN."""
    return Value("unknown") if math.isnan(value) else Value(show(value), (value,))


def count(number: int, of: int | None = None) -> Value:
    """A count, or one of another."""
    return Value(str(number), (number,)) if of is None else Value(f"{number} of {of}", (number, of))
