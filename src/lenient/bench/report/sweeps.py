"""Rows that differ in the weight of the class prior alone, and what features said about them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lenient.bench.report.records import Cell, Grid, unique
from lenient.bench.report.results import COUNTED, MARKED, ablations, among, context, counted, heading, mean_std
from lenient.bench.report.tables import Column, Row, Table, Value, marked

WEIGHT = "class_prior_weight"


@dataclass(frozen=True)
class Sweep:
    """Cells that are alike but for `method.class_prior_weight`, which takes at least two values."""

    cells: tuple[Cell, ...]

    @property
    def rows(self) -> list[str]:
        """Names of the rows, by falling weight."""
        return unique(cell.row for cell in sorted(self.cells, key=lambda cell: -weight_of(cell)))

    @property
    def weights(self) -> list[float]:
        """Its weights of the class prior, rising."""
        return sorted({weight_of(cell) for cell in self.cells})

    def median_fid(self, grid: Grid, teacher: str) -> dict[float, float]:
        """Weight -> median Frechet distance over seeds, by rising weight."""
        found: dict[float, list[float]] = {}
        for cell in self.cells:
            value = measured(grid, cell, "fid")
            if cell.teacher == teacher and not math.isnan(value):
                found.setdefault(weight_of(cell), []).append(value)
        return {weight: statistics.median(found[weight]) for weight in sorted(found)}


def weight_of(cell: Cell) -> float:
    """The weight of the class prior; NaN for a method without one."""
    value = cell.method_settings.get(WEIGHT)
    return float(value) if isinstance(value, int | float) else math.nan


def sweeps(grid: Grid) -> list[Sweep]:
    """Groups of cells whose methods differ in nothing but the weight of the class prior."""
    groups: dict[str, list[Cell]] = {}
    for cell in grid.cells:
        if not math.isnan(weight_of(cell)) and not grid.is_baseline(cell.row):
            rest = {key: value for key, value in cell.method_settings.items() if key != WEIGHT}
            key = json.dumps([rest, cell.raw.get("generator"), cell.budget], sort_keys=True)
            groups.setdefault(key, []).append(cell)
    return [Sweep(tuple(cells)) for cells in groups.values() if len({weight_of(cell) for cell in cells}) > 1]


def picture_rows(grid: Grid, chosen: Sequence[str] = ()) -> list[str]:
    """Rows to look at: those chosen, else with the most and the least class prior, with a class prior and no adversary
    (the paper's fourth figure), and the first that selects."""
    if chosen:
        return [row for row in chosen if row in grid.rows]
    cells = [cell for cell in grid.cells if not grid.is_baseline(cell.row)]
    ends = [row for sweep in sweeps(grid)[:1] for row in (sweep.rows[0], sweep.rows[-1])]
    ends = ends or [row for trio in ablations(grid)[:1] for row in trio[:2] if row]
    alone = [cell.row for cell in cells if cell.method_settings.get("beta") == 0 and weight_of(cell) > 0]
    selecting = [cell.row for cell in cells if cell.selects]
    return unique([*ends, *alone[:1], *selecting[:1]])


def measured(grid: Grid, cell: Cell, key: str) -> float:
    """A measure of `features` for one cell, NaN where there is none."""
    value = grid.features.get("cells", {}).get(cell.wanted.id, {}).get(key)
    return float(value) if isinstance(value, int | float) else math.nan


def describe(grid: Grid) -> str:
    """How the distances were measured."""
    sizes = grid.features.get("images", {})
    return (
        f"Frechet distance of Gaussians fitted to the teacher's features (the classifier's input) of up to "
        f"{sizes.get('synthetic', '?')} synthetic and {sizes.get('real', '?')} real test images; it depends on the "
        "teacher and on these numbers, and is no Inception FID."
    )


def fid_table(grid: Grid, key: str) -> Table | None:
    """Table 2: Frechet distance per teacher and row; None where none was measured."""
    return _table(
        grid,
        key,
        "Table 2. Frechet distance to real images in the teacher's features",
        {"fid": ("", 1.0, 2)},
        (describe(grid),),
    )


def inception_table(grid: Grid, key: str) -> Table | None:
    """Table 2 as papers measure it, in Inception's features; None where none was measured."""
    sizes = grid.features.get("images", {})
    note = (
        f"Frechet distance of Gaussians fitted to the 2048 features of the Inception network of 2015 of up to "
        f"{sizes.get('synthetic', '?')} synthetic and {sizes.get('real', '?')} real test images; with fewer images it "
        "comes out larger, so it compares with distances from as many only."
    )
    return _table(grid, key, "Table 2, in Inception's features", {"fid_inception": ("", 1.0, 1)}, (note,))


def boundary_table(grid: Grid, key: str) -> Table | None:
    """Share of synthetic images outside of their class before and after selection; None where none was measured."""
    fields = {"outside": ("before", 100.0, 1), "outside_kept": ("after", 100.0, 1)}
    notes = (
        "In % of the synthetic images. Outside: further from the centre of the class that the teacher names than the "
        "95th percentile of that class's real test images, in the teacher's features; of real images 5 % are outside.",
    )
    return _table(grid, key, "Synthetic images outside of their class, before and after selection", fields, notes)


def _table(
    grid: Grid, key: str, title: str, fields: Mapping[str, tuple[str, float, int]], notes: tuple[str, ...]
) -> Table | None:
    rows = [row for row in grid.rows if not grid.is_baseline(row)]
    if all(math.isnan(measured(grid, cell, field)) for cell in grid.cells for field in fields):
        return None
    columns, values = [], []
    for teacher in grid.teachers:
        for field, (name, unit, digits) in fields.items():
            group = heading(grid, teacher)
            columns.append(Column(name or group, group if name else "", ("mean", "std"), "low"))
            values.append([_value(grid, row, teacher, field, unit, digits) for row in rows])
    found = [Row(row, tuple(column[place] for column in values)) for place, row in enumerate(rows)]
    skipped = _skipped(grid)
    not_measured = [f"Not measured: {len(skipped)} cells, listed below."] if skipped else []
    words = (*notes, "Mean ± standard deviation over seeds.", *not_measured, MARKED, COUNTED)
    return marked(Table(key, title, tuple(columns), tuple(found), words, context(grid)))


def _value(grid: Grid, row: str, teacher: str, field: str, unit: float, digits: int) -> Value:
    cells = grid.of(row, teacher)
    known = [n for n in (unit * measured(grid, cell, field) for cell in cells) if not math.isnan(n)]
    if not known and field == "outside_kept" and any(not math.isnan(measured(grid, c, "outside")) for c in cells):
        return Value("no selection")
    if not known:
        return Value("not measured" if cells else counted(grid, row, teacher, ""))
    mean, std = mean_std(known)
    text = f"{mean:.{digits}f}" + ("" if math.isnan(std) else f" ± {std:.{digits}f}")
    return Value(among(grid, row, teacher, text, len(known)), (mean, std), round(mean, digits))


def _skipped(grid: Grid) -> dict[str, str]:
    """Ids of this grid's cells without features, and why; a panel of a report has its own ones only."""
    known = {cell.wanted.id for cell in grid.cells}
    return {name: str(reason) for name, reason in grid.features.get("skipped", {}).items() if name in known}


def skipped_table(grid: Grid, key: str) -> Table | None:
    """The cells whose features could not be had, and why."""
    rows = tuple(Row(name, (Value(reason),)) for name, reason in sorted(_skipped(grid).items()))
    if not rows:
        return None
    columns = (Column("reason", words=True),)
    return Table(key, "Cells without features", columns, rows, (), context(grid), "cell")
