"""Rows that differ in the weight of the class prior alone, and what features said about them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lenient.bench.report.records import Cell, Grid, unique
from lenient.bench.report.results import ablations

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
