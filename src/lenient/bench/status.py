"""Where a grid stands: counts, accuracies so far, failures, and the time that is left."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lenient.bench.cells import Cell, cells_of
from lenient.bench.grid import Grid
from lenient.bench.tasks import State, read_json, state
from lenient.bench.teachers import trainings
from lenient.core.schemas import Failed

STATES: tuple[State, ...] = ("done", "running", "failed", "missing")


@dataclass
class Place:
    """What is known of the cells of one row and one teacher."""

    counts: Counter[str] = field(default_factory=Counter)
    last: list[float] = field(default_factory=list)
    """Last accuracies (0..1) of those done."""


@dataclass(frozen=True)
class Status:
    """Where a grid stands."""

    rows: Sequence[str]
    teachers: Mapping[str, float | None]
    """Label -> accuracy on test images, None where it is not trained yet."""
    places: Mapping[tuple[str, str], Place]
    """(row, teacher) -> what is known."""
    failures: Sequence[tuple[str, str]]
    """Name of a cell or teacher, and the reason."""
    seconds_left: float | None
    """At the pace so far; None before the first cell is done, and when all is."""

    @property
    def counts(self) -> Counter[str]:
        """Cells in each state."""
        return sum((place.counts for place in self.places.values()), Counter())

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing is missing."""
        return not (self.counts["running"] or self.counts["missing"])


def status_of(grid: Grid, home: Path, jobs: int | None = None) -> Status:
    """Look at the folder `home`; `jobs`, cells at a time, is otherwise what is running now."""
    teachers: dict[str, float | None] = {}
    made: list[dict[str, Any]] = []
    failures, hopeless = [], set[str]()
    for training in trainings(grid):
        found = training.teachers(home)
        if found is None:
            teachers |= dict.fromkeys(training.expected)
            task = training.task(home)
            reasons = _failure(task.name, task.folder)
            failures += reasons
            hopeless |= set(training.expected if reasons else ())
        else:
            made += found
            teachers |= {teacher["label"]: teacher["accuracy"] for teacher in found}
    places = {(row, teacher): Place() for row in grid.rows for teacher in teachers}
    for (_, teacher), place in places.items():
        if teachers[teacher] is None:
            place.counts["failed" if teacher in hopeless else "missing"] = len(grid.students) * len(grid.seeds)
    cells = cells_of(grid, made, None)
    records = [record for cell in cells if (record := _look(cell, home, places[cell.row, cell.teacher])) is not None]
    for cell in cells:
        failures += _failure(cell.task(home).name, cell.folder(home))
    status = Status(list(grid.rows), teachers, places, failures, None)
    left = status.counts["running"] + status.counts["missing"]
    if not left or not records:
        return status
    pace = statistics.median(record["cost"]["seconds"] for record in records) / max(jobs or status.counts["running"], 1)
    return Status(status.rows, teachers, places, failures, left * pace)


def _look(cell: Cell, home: Path, place: Place) -> dict[str, Any] | None:
    place.counts[state(cell.folder(home))] += 1
    record = cell.record(home)
    if record is not None:
        place.last.append(record["last"])
    return record


def _failure(name: str, folder: Path) -> list[tuple[str, str]]:
    if state(folder) != "failed":
        return []
    failure = read_json(folder / "failed.json", Failed)
    return [] if failure is None else [(name, failure["reason"])]
