"""What was measured in features of the teacher, or of Inception: distances to real images, and images outside of their
class."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lenient.bench.report.records import Grid
from lenient.bench.report.results import context, heading, mean_std
from lenient.bench.report.sweeps import measured
from lenient.bench.report.tables.notes import COUNTED, MARKED
from lenient.bench.report.tables.table import Column, Row, Table, Value
from lenient.bench.report.tables.values import absent, counted, of_rows


def describe(grid: Grid) -> str:
    """How the distances were measured."""
    return (
        f"Frechet distance of Gaussians fitted to the teacher's features (the classifier's input) of {_sizes(grid)}; "
        "it depends on the teacher and on these numbers, and is no Inception FID."
    )


def _sizes(grid: Grid) -> str:
    sizes = grid.features.get("images", {})
    return f"up to {sizes.get('synthetic', '?')} synthetic and {sizes.get('real', '?')} real test images"


def fid_table(grid: Grid, key: str) -> Table | None:
    """Table 2: Frechet distance per teacher and row; None where none was measured."""
    title = "Table 2. Frechet distance to real images in the teacher's features"
    return _table(grid, key, title, {"fid": ("", 1.0, 2)}, describe(grid))


def inception_table(grid: Grid, key: str) -> Table | None:
    """Table 2 as papers measure it, in Inception's features; None where none was measured."""
    note = (
        "Frechet distance of Gaussians fitted to the 2048 features of the Inception network of 2015 of "
        f"{_sizes(grid)}; with fewer images it comes out larger, so it compares with distances from as many only."
    )
    return _table(grid, key, "Table 2, in Inception's features", {"fid_inception": ("", 1.0, 1)}, note)


def boundary_table(grid: Grid, key: str) -> Table | None:
    """Share of synthetic images outside of their class before and after selection; None where none was measured."""
    fields = {"outside": ("before", 100.0, 1), "outside_kept": ("after", 100.0, 1)}
    note = (
        "In % of the synthetic images. Outside: further from the centre of the class that the teacher names than the "
        "95th percentile of that class's real test images, in the teacher's features; of real images 5 % are outside."
    )
    return _table(grid, key, "Synthetic images outside of their class, before and after selection", fields, note)


def _table(grid: Grid, key: str, title: str, fields: Mapping[str, tuple[str, float, int]], note: str) -> Table | None:
    """A table of measures: field -> its heading below the teacher's if it has one, unit, and digits."""
    if all(math.isnan(measured(grid, cell, field)) for cell in grid.cells for field in fields):
        return None
    columns = [
        Column(name or heading(grid, teacher), heading(grid, teacher) if name else "", ("mean", "std"), "low")
        for teacher in grid.teachers
        for name, _, _ in fields.values()
    ]
    rows = {
        row: [
            _value(grid, row, teacher, field, unit, digits)
            for teacher in grid.teachers
            for field, (_, unit, digits) in fields.items()
        ]
        for row in grid.rows
        if not grid.is_baseline(row)
    }
    skipped = _skipped(grid)
    not_measured = [f"Not measured: {len(skipped)} cells, listed below."] if skipped else []
    notes = (note, "Mean ± standard deviation over seeds.", *not_measured, MARKED, COUNTED)
    return of_rows(grid, key, title, columns, rows, notes)


def _value(grid: Grid, row: str, teacher: str, field: str, unit: float, digits: int) -> Value:
    cells = grid.of(row, teacher)
    known = [n for n in (unit * measured(grid, cell, field) for cell in cells) if not math.isnan(n)]
    if not known:
        unselected = field == "outside_kept" and any(not math.isnan(measured(grid, c, "outside")) for c in cells)
        return absent(grid, row, teacher, "no selection" if unselected else "not measured")
    mean, std = mean_std(known)
    text = f"{mean:.{digits}f}" + ("" if math.isnan(std) else f" ± {std:.{digits}f}")
    return Value(counted(grid, row, teacher, text, len(known)), (mean, std), round(mean, digits))


def skipped_table(grid: Grid, key: str) -> Table | None:
    """The cells whose features could not be had, and why."""
    rows = tuple(Row(name, (Value(reason),)) for name, reason in sorted(_skipped(grid).items()))
    if not rows:
        return None
    columns = (Column("reason", words=True),)
    return Table(key, "Cells without features", columns, rows, (), context(grid), "cell")


def _skipped(grid: Grid) -> dict[str, str]:
    """Ids of this grid's cells without features, and why; a panel of a report has its own ones only."""
    known = {cell.wanted.id for cell in grid.cells}
    return {name: str(reason) for name, reason in grid.features.get("skipped", {}).items() if name in known}
