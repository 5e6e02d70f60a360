"""The cells of a grid: which they are, what they are given, and where they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lenient.bench.grid import Grid, pictures_of, settings_of
from lenient.bench.open_rows import CHOICES_KEY, each
from lenient.bench.tasks import Task, locked, read_json, state, write_json
from lenient.core.config import merge
from lenient.core.errors import UsageError
from lenient.core.schemas import CellRecord
from lenient.losses.together import StatisticsSettings
from lenient.methods import DEFAULT
from lenient.models.trust import Trusted
from lenient.runs.folder import discard
from lenient.synthesis.pixel_views import ViewSettings
from lenient.synthesis.proxy import SourceSettings
from lenient.training.settings import TeacherSettings

LEFT_OUT = ("device", "checkpoint_every", "overlap", "recompute", "report", "health", "threads", "fallback")
"""Settings that say where a cell runs, what it leaves behind and how it is judged, and not what it comes to, but for
open rows, which may fall back."""
SINCE: Mapping[str, Any] = {
    "generator.conv_bias": True,
    "generator.factory": None,
    "generator.output_moments": None,
    "method.student_lr_end": 0.0,
    "method.batch_images": None,
    "method.round_batches": 1,
    "student.init": "as-is",
    "teacher": TeacherSettings().model_dump(mode="json"),
    "defense": {"name": "none"},
    "source": SourceSettings().model_dump(mode="json"),
}
SINCE_OF: Mapping[str, Mapping[str, Any]] = {
    "ta-dfkd": {"method.detach_teacher": False},
    "noise": {"method.statistics": "running", "method.student_loss": "l1", "method.student_optimizer": "sgd"},
    "real": {"method.augmentation": "none"},
    "stable": {"method.pictures": 0.0},
    "fastdfkd": {"method.student_optimizer": "sgd"},
    # "auto" comes to what was before, for teachers whose constants are those of their images, as all in records are
    **{name: {"method.prior_view": "clean", "generator.output_moments": "auto"} for name in ("bn-adv", "dafl-adv")},
    **{
        name: {
            "method.student_optimizer": "sgd",
            "method.pixels_betas": [0.9, 0.999],
            "method.pixels_schedule": "constant",
            "method.view": ViewSettings().model_dump(mode="json"),
            "method.statistics": StatisticsSettings().model_dump(mode="json"),
            "method.keep": "best",
        }
        for name in ("deepinversion", "adi")
    },
}
"""Settings that came later, of any method and of one, and the value that does what was done before there were any: left
out at that, so that a cell is known by the id that it had."""
EVERY: Mapping[str, Any] = {
    "generator": {
        "latent_dim": 100,
        "width": 32,
        "bn_eps": 1e-5,
        "stages": None,
        "output": "sigmoid",
        "stem_activation": True,
        "halve_each_stage": False,
        "spectral_norm": False,
    },
    "source": SINCE["source"],
}
"""What every cell was told when methods also had settings that they do not use: put back, for the same reason."""
EVERY_OF: Mapping[str, Mapping[str, Any]] = {"real": {"generator": {"output": "tanh-bn"}}}
"""The same of one method, where it was other."""
KNOWN = ("label", "file", "sha256", "accuracy", "arch", "recipe", "epoch", "path")
"""What a cell is told about its teacher."""


@dataclass(frozen=True)
class Cell:
    """One (row, teacher, student, seed)."""

    id: str
    row: str
    teacher: str
    """The teacher's label."""
    student: str
    seed: int
    spec: Mapping[str, Any]

    def folder(self, home: Path) -> Path:
        """Where it lies in the grid's folder."""
        return (home / "cells" / self.id).absolute()

    def task(self, home: Path, trust: Trusted = False) -> Task:
        """Return its process."""
        name = f"{self.row}, {self.teacher}, {self.student}, seed {self.seed}"
        return Task("lenient.bench.cell", self.folder(home), name, trust)

    def record(self, home: Path) -> dict[str, Any] | None:
        """Return what came of it, None where it is not done."""
        if state(self.folder(home)) != "done":
            return None
        record: dict[str, Any] = read_json(self.folder(home) / "cell.json", CellRecord)
        return record

    def take(self, home: Path, record: Mapping[str, Any]) -> bool:
        """Be done, with the record of a run elsewhere; return False where it is done or runs here.

        What an earlier attempt left goes: the record is not about that run.
        """
        folder = self.folder(home)
        with locked(folder) as mine:
            if not mine or (folder / "done").exists():
                return False
            discard(folder / "run")
            for name in ("cost.jsonl", "failed.json"):
                (folder / name).unlink(missing_ok=True)
            write_json(folder / "cell.json", record)
            write_json(folder / "done", {})
            return True

    def relabel(self, home: Path) -> None:
        """Labels are no part of a cell: a finished one is called what the grid calls it now."""
        record = self.record(home)
        if record is not None and (record["row"], record["teacher"]["label"]) != (self.row, self.teacher):
            teacher = record["teacher"] | {"label": self.teacher}
            write_json(self.folder(home) / "cell.json", record | {"row": self.row, "teacher": teacher})


def cell_id(
    settings: Mapping[str, Any], teacher: Mapping[str, Any], student: str, data: str, pictures: str | None = None
) -> str:
    """Return a short hash of all that determines a cell's result: of no label, no folder and no machine.

    `settings` are the resolved ones, method and seed among them, or those of each method that may be taken; `teacher`
    has the `sha256` of its weights and the `card` that says how images are put to it; `pictures` is the hash of the
    user's, where the settings name a folder.
    """

    def lasting(own: Mapping[str, Any]) -> dict[str, Any]:
        told = merge(EVERY, EVERY_OF.get(own["method"]["name"], {}), own)
        kept = {key: value for key, value in told.items() if key not in LEFT_OUT}
        if pictures is not None:  # wherever they lie
            kept["source"] = kept["source"] | {"proxy_images": pictures}
        return without_later(kept, {**SINCE, **SINCE_OF.get(own["method"]["name"], {})})

    open_to = settings.get(CHOICES_KEY, {}).get(DEFAULT)  # whose run may fall back, by what is expected of it
    falls_back = open_to is not None and open_to["fallback"]
    known = {
        "settings": each(settings, lasting),
        "teacher": [teacher["sha256"], teacher["card"]],
        "student": student,
        "data": data,
        **({"fallback": open_to["health"]["expected"]} if falls_back else {}),
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]


def without_later(settings: Mapping[str, Any], since: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings as they were before those of `since`, where these do what was done then; sections that hold
    nothing else go, too."""
    kept: dict[str, Any] = {}
    for key, value in settings.items():
        name = prefix + key
        if name in since and since[name] == value:
            continue
        inner = without_later(value, since, f"{name}.") if isinstance(value, Mapping) else value
        if inner or not value:
            kept[key] = inner
    return kept


def cells_of(grid: Grid, teachers: Sequence[Mapping[str, Any]], data_root: str | None) -> list[Cell]:
    """Return all cells: seed by seed, so that every row has its first cell early.

    Raises:
        UsageError: two rows or two teachers are the same under two labels.
    """
    found: dict[str, Cell] = {}
    pictures = {label: pictures_of(grid, label) for label in grid.rows}
    for seed in grid.seeds:
        rows = {label: settings_of(grid, label, seed) for label in grid.rows}
        for teacher in teachers:
            for student in grid.students:
                for label, settings in rows.items():
                    cell = _cell(grid, label, settings, teacher, student, seed, data_root, pictures[label])
                    other = found.setdefault(cell.id, cell)
                    if other is not cell:
                        kind, one, two = (
                            ("rows", other.row, cell.row)
                            if other.row != cell.row
                            else ("teachers", other.teacher, cell.teacher)
                        )
                        raise UsageError(f"{kind}: {one} and {two} are the same under two names; drop one of them")
    return list(found.values())


def _cell(
    grid: Grid,
    label: str,
    settings: Mapping[str, Any],
    teacher: Mapping[str, Any],
    student: str,
    seed: int,
    data_root: str | None,
    pictures: str | None,
) -> Cell:
    name = cell_id(settings, teacher, student, grid.data, pictures)
    known = {key: teacher[key] for key in KNOWN} | {"path": f"../../{teacher['path']}"}
    spec = {"id": name, "row": label, "method": settings["method"]["name"], "teacher": known, "student": student,
            "seed": seed, "data": grid.data, "data_root": data_root, "settings": settings}  # fmt: skip
    return Cell(name, label, teacher["label"], student, seed, spec)
