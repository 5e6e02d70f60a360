"""The records of a grid: which cells were wanted, what came of each, and the same again as one file.

Everything that the report shows is made from a `Grid`; a `Grid` and `cells.json` hold the same, so the report can be
made again from that file alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from lenient.core.errors import DamagedError, UsageError
from lenient.core.numbers import known, number, plain
from lenient.core.schemas import CellRecord, Failed, Stored, read_json

RECORDS_LIMIT = 256 * 2**20
"""Bytes of the largest file of records."""
ACCURACIES = ("last", "acc_last_k", "acc_max")
UNMEASURED = "finished, but its accuracy was not measured"
NO_PART = {"name": "none"}
NO_GENERATOR = ("noise", "photo", "real")
"""The methods, all baselines, whose images no generator makes."""
SHOWN = ("photo", "real")
"""Those of them whose images are pictures."""
TRANSDUCTIVE = ", transductive"
"""What is added to the name of a row for its second measurement, by statistics of the test batch."""
NUM_CLASSES = {"digits": 10, "mnist": 10, "cifar10": 10, "cifar100": 100}
PRIVATE = ("command", "cwd", "hostname", "host", "node", "user")  # what would tell of the machine's insides


@dataclass(frozen=True)
class Wanted:
    """One cell of the plan."""

    id: str
    row: str
    teacher: str
    student: str
    seed: int


@dataclass(frozen=True)
class Failure:
    """A wanted cell that came to nothing, and why."""

    wanted: Wanted
    reason: str


@dataclass(frozen=True)
class Cell:
    """A finished cell. Accuracies are fractions in [0, 1]."""

    wanted: Wanted
    raw: Mapping[str, Any]

    @property
    def row(self) -> str:
        """The row's name."""
        return self.wanted.row

    @property
    def teacher(self) -> str:
        """The teacher's label."""
        return self.wanted.teacher

    @property
    def seed(self) -> int:
        """The seed."""
        return self.wanted.seed

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.raw.get("method") or "")

    @property
    def data(self) -> str:
        """The name of the data that the teacher was trained on and the student measured on."""
        return str(self.raw.get("data") or "unknown data")

    @property
    def data_title(self) -> str:
        """What the copy of the data was ("CIFAR-10 (JPEG)"); its name in records that do not say."""
        return str(self.raw.get("data_title") or self.data)

    def number(self, key: str) -> float:
        """A number of the record, by its dotted name; NaN where there is none."""
        return number(look_up(self.raw, key))

    @property
    def as_expected(self) -> bool | None:
        """Whether its agreement lies where the run expected it without any test image; None where it said nothing."""
        low, high = (self.number(f"prediction.{end}") for end in ("low", "high"))
        return None if math.isnan(low) else low <= self.number("agreement") <= high

    @property
    def selects(self) -> bool:
        """Whether the teacher vouched for samples."""
        return bool(self.method_settings.get("selection", NO_PART)["name"] != "none")

    @property
    def method_settings(self) -> Mapping[str, Any]:
        """The settings of the method."""
        settings = self.raw.get("settings")
        return settings if isinstance(settings, Mapping) else {}

    @property
    def teacher_accuracy(self) -> float:
        """The teacher's accuracy on the test images."""
        value = self.number("teacher_accuracy")
        return self.number("teacher.accuracy") if math.isnan(value) else value

    @property
    def budget(self) -> tuple[int, int] | None:
        """Student steps and images per batch; None where they are not known."""
        steps, batch = self.number("steps"), self.number("batch_size")
        return None if math.isnan(steps) or math.isnan(batch) else (int(steps), int(batch))

    @property
    def transductive(self) -> Cell | None:
        """The same run measured by statistics of the test batch, None where it was not."""
        found = self.raw.get("transductive")
        if not isinstance(found, Mapping):
            return None
        return Cell(replace(self.wanted, row=self.row + TRANSDUCTIVE), {**self.raw, **found})

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Steps and values of `curve` (accuracy) or of one field of the log; both empty where it was not logged."""
        if key == "curve":
            points = [pair for pair in self.raw.get("curve") or () if len(pair) == 2]
        else:
            log = self.raw.get("log") or {}
            points = list(zip(log.get("step") or (), log.get(key) or (), strict=False))
        usable = [(float(step), float(value)) for step, value in points if step is not None and value is not None]
        return [step for step, _ in usable], [value for _, value in usable]


@dataclass(frozen=True)
class Grid:
    """A grid of runs as far as it came: plan, finished cells and failed ones, in the order of the plan."""

    name: str
    data: str
    wanted: tuple[Wanted, ...]
    cells: tuple[Cell, ...]
    failed: tuple[Failure, ...]
    features: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @cached_property
    def rows(self) -> list[str]:
        """Names of rows: methods first, then baselines, each in the order of the plan."""
        names = unique(wanted.row for wanted in self.wanted)
        return [row for row in names if not self.is_baseline(row)] + [row for row in names if self.is_baseline(row)]

    @cached_property
    def measured(self) -> list[str]:
        """The names of rows, a row whose student learned by statistics of the batch twice: as it is delivered, and
        transductive. The second is no run of its own: counts of runs go by `rows`."""
        names = ((row, row + TRANSDUCTIVE) for row in self.rows)
        return [name for row, second in names for name in (row, *((second,) if self.of(second) else ()))]

    @cached_property
    def teachers(self) -> list[str]:
        """Labels of teachers in the order of the plan."""
        return unique(wanted.teacher for wanted in self.wanted)

    @cached_property
    def missing(self) -> list[Wanted]:
        """Wanted cells that neither finished nor failed."""
        known = {cell.wanted.id for cell in self.cells} | {failure.wanted.id for failure in self.failed}
        return [wanted for wanted in self.wanted if wanted.id not in known]

    def of(self, row: str | None = None, teacher: str | None = None) -> list[Cell]:
        """The finished cells of a row, of a teacher, or of both."""
        return list(self._places.get((row, teacher), ()))

    @cached_property
    def _places(self) -> Mapping[tuple[str | None, str | None], list[Cell]]:
        """Cells by row and teacher, None for any: a page of claims asks a hundred thousand times."""
        places: dict[tuple[str | None, str | None], list[Cell]] = {}
        for cell in self.cells:
            for place in product((cell.row, None), (cell.teacher, None)):
                places.setdefault(place, []).append(cell)
            second = cell.transductive
            if second is not None:
                for teacher in (cell.teacher, None):
                    places.setdefault((second.row, teacher), []).append(second)
        return places

    @cached_property
    def floors(self) -> Mapping[tuple[str, int], float]:
        """acc_last[k] of the best student with a teacher and seed that was taught nothing."""
        floors: dict[tuple[str, int], float] = {}
        for cell in (cell for row in self.rows if self.is_untaught(row) for cell in self.of(row)):
            place = (cell.teacher, cell.seed)
            floors[place] = max(floors.get(place, -math.inf), cell.number("acc_last_k"))
        return floors

    def is_baseline(self, row: str) -> bool:
        """Whether a row is a baseline: student of noise, of photographs, of the training images, or of a frozen
        generator."""
        cells = self.of(row)
        if not cells:  # nothing but the name to go by
            return row.lower().startswith(("noise", "photo", "real", "frozen"))
        return all(cell.method in NO_GENERATOR or cell.method_settings.get("generator_lr") == 0 for cell in cells)

    def is_untaught(self, row: str) -> bool:
        """Whether a row is a baseline whose student is shown nothing: noise, or what a frozen generator draws."""
        cells = self.of(row)
        taught = all(cell.method in SHOWN for cell in cells) if cells else row.lower().startswith(SHOWN)
        return self.is_baseline(row) and not taught

    def foreign(self, row: str) -> list[str]:
        """What a row's images come from besides the teacher, as its records say; the oldest do not."""
        found = (cell.raw.get("foreign") for cell in self.of(row))
        return unique(str(name) for names in found if isinstance(names, list) for name in names)

    def chosen(self, row: str) -> dict[str, list[str]]:
        """The methods that teachers chose in a row whose method is `auto`, or that runs came to which fell back, and
        whose; empty of other rows."""
        cells = [cell for cell in self.of(row) if cell.raw.get("asked") == "auto"]
        methods = unique(map(_came_to, cells))
        return {name: unique(cell.teacher for cell in cells if _came_to(cell) == name) for name in methods}

    def teacher_accuracy(self, teacher: str) -> float:
        """The accuracy of a teacher, NaN while no cell of it has finished."""
        return next((cell.teacher_accuracy for cell in self.of(teacher=teacher)), math.nan)

    @cached_property
    def num_classes(self) -> int | None:
        """Number of classes of the data, where it is known; the oldest records do not say it."""
        found = (cell.number("num_classes") for cell in self.cells)
        return next((int(value) for value in found if not math.isnan(value)), NUM_CLASSES.get(self.data))

    def to_dict(self) -> dict[str, Any]:
        """The content of `cells.json`."""
        content: dict[str, Any] = {
            "name": self.name,
            "data": self.data,
            "wanted": [vars(wanted) for wanted in self.wanted],
            "cells": [dict(cell.raw) for cell in self.cells],
            "failed": [vars(failure.wanted) | {"reason": failure.reason} for failure in self.failed],
        }
        content |= {"features": dict(self.features)} if self.features else {}
        found: dict[str, Any] = plain(content)
        return found


def _came_to(cell: Cell) -> str:
    """The method that ran, and which one before."""
    fell_back = cell.raw.get("fell_back")
    return cell.method if fell_back is None else f"{cell.method} after {fell_back['before']}"


def run_of(row: str) -> str:
    """The name of the row whose runs a row of `Grid.measured` is of."""
    return row.removesuffix(TRANSDUCTIVE)


def look_up(tree: Any, key: str) -> Any:
    """The value at a dotted name in nested dictionaries, which may also hold dotted names themselves."""
    if not isinstance(tree, Mapping):
        return None
    if key in tree:
        return tree[key]
    head, _, rest = key.partition(".")
    return look_up(tree.get(head), rest) if rest else None


def unique(names: Iterable[str]) -> list[str]:
    """The names without repetition, in their order."""
    return list(dict.fromkeys(names))


def panels(grid: Grid) -> list[Grid]:
    """The grid split into parts whose cells may stand in one table: same data, same student."""
    of_cell = {cell.wanted.id: cell.data for cell in grid.cells}
    places = {wanted.id: (of_cell.get(wanted.id, grid.data), wanted.student) for wanted in grid.wanted}
    found = []
    for place in dict.fromkeys(places.values()):
        found.append(
            Grid(
                name=grid.name,
                data=place[0],
                wanted=tuple(wanted for wanted in grid.wanted if places[wanted.id] == place),
                cells=tuple(cell for cell in grid.cells if places[cell.wanted.id] == place),
                failed=tuple(failure for failure in grid.failed if places[failure.wanted.id] == place),
                features=grid.features,
                folder=grid.folder,
            )
        )
    return found


def read_grid(source: Path) -> Grid:
    """Read a grid's folder or a `cells.json`; raise UsageError where it is neither or is damaged."""
    if source.is_dir():
        return _read_folder(source)
    if not source.is_file():
        raise UsageError(f"{source}: no such folder or file; give the -o of `lenient bench run`, or a cells.json")
    content = _read_json(source)
    if not isinstance(content.get("cells"), list):
        raise UsageError(f"{source}: holds no cells; give a cells.json, or the folder that `lenient bench run` wrote")
    return _assemble(content, source)


def read_records(source: Path) -> Grid:
    """Read what `--records` names; its errors say so."""
    try:
        return read_grid(source)
    except (UsageError, DamagedError) as error:
        raise type(error)(f"--records {error}") from None


def _read_folder(folder: Path) -> Grid:
    finished = [_read_json(path, CellRecord) for path in sorted(folder.glob("cells/*/cell.json"))]
    done = {record.get("id") for record in finished}
    failed = []
    for path in sorted(folder.glob("cells/*/failed.json")):
        with suppress(FileNotFoundError):  # it is being tried again
            failed.append({"id": path.parent.name} | _read_json(path, Failed))
    failed = [entry for entry in failed if entry["id"] not in done]  # tried again since
    path = folder / "grid.json"
    plan: dict[str, Any] = _read_json(path) if path.is_file() else {}
    if not finished and not failed and not plan:
        raise UsageError(f"{folder}: holds no grid (no cells/*/cell.json); give the -o of `lenient bench run`")
    wanted = _wanted_list(plan)
    if wanted:  # what the plan does not name was run under an earlier one
        planned = {entry["id"] for entry in wanted}
        finished, failed = ([e for e in entries if e.get("id") in planned] for entries in (finished, failed))
    content = {
        "name": plan.get("name") or folder.resolve().name,
        "data": plan.get("data"),
        "wanted": wanted,
        "cells": finished,
        "failed": failed,
    }
    return _assemble(content, folder, folder)


def _wanted_list(plan: Mapping[str, Any]) -> list[Any]:
    """The cells of a plan; the grid itself names rows and teachers, which are no list of cells."""
    for key in ("wanted", "cells"):
        entries = plan.get(key)
        if isinstance(entries, list) and all(isinstance(entry, dict) and "id" in entry for entry in entries):
            return entries
    return []


def _assemble(content: Mapping[str, Any], where: Path, folder: Path | None = None) -> Grid:
    wanted = {entry.id: entry for entry in (_wanted(raw, where) for raw in content.get("wanted") or ())}
    cells, failed = {}, {}
    for raw in content.get("cells") or ():
        place = _wanted(raw, where)
        wanted.setdefault(place.id, place)
        if all(known(raw.get(key)) for key in ACCURACIES):
            cells[place.id] = Cell(wanted[place.id], _public(raw))
        else:
            failed[place.id] = Failure(wanted[place.id], UNMEASURED)
    for raw in content.get("failed") or ():
        place = wanted.get(str(raw.get("id"))) or _wanted(raw, where)
        wanted.setdefault(place.id, place)
        failed[place.id] = Failure(wanted[place.id], " ".join(str(raw.get("reason") or "no reason given").split()))
    if not wanted:
        raise UsageError(f"{where}: holds no cell; start some with `lenient bench run`")
    data = content.get("data") or next((cell.data for cell in cells.values()), "unknown data")
    return Grid(
        name=str(content.get("name") or where.stem),
        data=str(data),
        wanted=tuple(wanted.values()),
        cells=tuple(cells[key] for key in wanted if key in cells),
        failed=tuple(failed[key] for key in wanted if key in failed),
        features=content.get("features") or {},
        folder=folder,
    )


def _wanted(raw: Any, where: Path) -> Wanted:
    if not isinstance(raw, dict):
        raise UsageError(f"{where}: a cell is no JSON object; remove it, and run the cell again")
    absent = [key for key in ("id", "row", "teacher", "seed") if raw.get(key) is None]
    if absent:
        raise UsageError(f"{where}: cell {raw.get('id', '?')} has no {absent[0]}; remove it, and run the cell again")
    teacher = raw["teacher"]
    label = teacher.get("label", "?") if isinstance(teacher, dict) else teacher
    try:
        seed = int(raw["seed"])
    except (TypeError, ValueError):
        raise UsageError(f"{where}: cell {raw['id']}: seed {raw['seed']!r} is no whole number") from None
    return Wanted(str(raw["id"]), str(raw["row"]), str(label), str(raw.get("student") or ""), seed)


def _public(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The record without what it tells of the machine's folders, and without NaN."""
    found: dict[str, Any] = plain(dict(raw))
    if isinstance(found.get("teacher"), dict) and found["teacher"].get("file"):
        found["teacher"] = found["teacher"] | {"file": Path(str(found["teacher"]["file"])).name}
    if isinstance(found.get("machine"), dict):
        found["machine"] = {key: value for key, value in found["machine"].items() if key not in PRIVATE}
    return found


def _read_json(path: Path, model: type[Stored] = Stored) -> dict[str, Any]:
    """Read an object of JSON; raise FileNotFoundError where there is no file, DamagedError where it is none."""
    found = read_json(path, model, "remove it and run again", RECORDS_LIMIT)
    if found is None:
        raise FileNotFoundError(path)
    return found
