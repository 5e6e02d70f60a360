"""What is said below the tables: the words that several share, and what is said of some rows wherever they stand."""

from __future__ import annotations

from dataclasses import replace

from lenient.bench.report.records import TRANSDUCTIVE, Grid, unique
from lenient.bench.report.tables.table import FOREIGN, Table
from lenient.core.text import NOT_DATA_FREE

ORACLE = "† acc_max is an oracle: it was chosen on the test labels."
MARKED = "Bold: best method, underlined: second best; equal as printed are marked alike, baselines never."
COUNTED = "(2/3): 2 of 3 wanted runs finished; missing, failed: none did."
EXPECTED = "Expected agreement: the interval that a run gave for it, without any test image."
VERDICT = "The verdict is what a run said of itself without any test image, by the rules of its commit."
TWICE = (
    f"A row that ends in `{TRANSDUCTIVE.strip(', ')}` is the one before it, measured by statistics of the test batch: "
    "each answer depends on the other test images. The one before it is as delivered: its statistics are estimated "
    "anew on its own images."
)


def twice(grid: Grid) -> tuple[str, ...]:
    """The note on rows that are measured twice, where there are such."""
    return (TWICE,) if len(grid.measured) > len(grid.rows) else ()


def with_origins(grid: Grid, table: Table) -> Table:
    """Return a table of rows with those marked whose images came from elsewhere than the teacher, and from where."""
    origins = {row: grid.foreign(row) for row in grid.measured}
    names = unique(name for row in table.rows for name in origins.get(row.name, ()))
    if table.head != "row" or not names:
        return table
    rows = tuple(replace(row, foreign=bool(origins.get(row.name))) for row in table.rows)
    note = f"{FOREIGN} {NOT_DATA_FREE}: the images come from {', '.join(names)}, too, or alone."
    return replace(table, rows=rows, notes=(*table.notes, note))


def with_choices(grid: Grid, table: Table) -> Table:
    """Return a table of rows with a line for each whose method teachers chose: which ones, and whose."""
    found = {row.name: grid.chosen(row.name) for row in table.rows} if table.head == "row" else {}
    notes = [
        f"What suits the teacher in {row}: "
        + "; ".join(f"{method} with {', '.join(teachers)}" for method, teachers in chosen.items())
        + "."
        for row, chosen in found.items()
        if chosen
    ]
    return replace(table, notes=(*table.notes, *notes))
