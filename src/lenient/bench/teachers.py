"""The teachers of a grid: trained or taken in by a process each, before any cell.

`python -m lenient.bench.teachers FOLDER/spec.json` leaves one `.safetensors` file for each teacher, `teacher.json` and
`done`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lenient.bench.grid import FACTS, Grid, TeacherSettings, TrainSettings
from lenient.bench.tasks import Task, main, read_json, state, write_json
from lenient.core.config import merge, parse
from lenient.core.errors import LenientError, UsageError
from lenient.core.files import file_hash
from lenient.core.schemas import MadeTeachers, TeacherSpec, damaged
from lenient.models.trust import Trusted, require

if TYPE_CHECKING:
    from lenient.models import Network

SPEC = TeacherSpec


@dataclass(frozen=True)
class Training:
    """One entry of the grid's `teachers`: its process, and the labels that it is to fill."""

    id: str
    spec: dict[str, Any]
    label: str
    """Name in tables; of several checkpoints, what stands before their numbers."""
    first: int
    """Number of the first checkpoint; 0: there is one network, called by the label itself."""
    keep: int

    @property
    def expected(self) -> list[str]:
        """Labels of the teachers that it makes."""
        return [f"{self.label}{self.first + number}" for number in range(self.keep)] if self.first else [self.label]

    def task(self, folder: Path, trust: Trusted = False) -> Task:
        """Return its process, in the grid's folder."""
        place = (folder / "teachers" / self.id).absolute()
        return Task("lenient.bench.teachers", place, f"teacher {self.label}", trust)

    def teachers(self, folder: Path) -> list[dict[str, Any]] | None:
        """Return the teachers that it has made, None where it is not done: label, file, sha256, accuracy, ...

        `path` is relative to the grid's folder.
        """
        place = folder / "teachers" / self.id
        if state(place) != "done":
            return None
        path, cure = place / "teacher.json", "remove its folder and run again"
        found = (read_json(path, MadeTeachers) or {}).get("teachers", [])
        if (len(found) != max(self.keep, 1) and not self.first) or not found:
            raise damaged(path, f"it has {len(found)} teachers", cure)
        labels = [f"{self.label}{self.first + number}" for number in range(len(found))] if self.first else [self.label]
        return [
            {"label": label, **teacher, "path": f"teachers/{self.id}/{teacher['file']}"}
            for label, teacher in zip(labels, found, strict=True)
        ]


def trainings(grid: Grid) -> list[Training]:
    """Return what has to be done before the cells, one for each entry of `teachers`, in order.

    Raises:
        UsageError: a training's settings are wrong, a file is missing, or two teachers would have one label.
    """
    found: list[Training] = []
    number = 1
    for place, entry in enumerate(grid.teachers):
        keep = entry.train.keep if entry.train is not None else 0
        spec = _training(grid, entry.train, place) if entry.train is not None else _file(grid, entry, place)
        first = number if keep and entry.label is None else min(keep, 1)
        label = entry.label or ("T" if keep else f"T{number}")
        number += max(keep, 1)
        # the device is no part of what a training is
        known = json.dumps({key: value for key, value in spec.items() if key != "device"}, sort_keys=True)
        found.append(Training(hashlib.sha256(known.encode()).hexdigest()[:12], spec, label, first, keep))
    labels = [label for training in found for label in training.expected]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise UsageError(f"teachers: two are called {twice}; give one of them another label")
    return found


def _training(grid: Grid, train: TrainSettings, place: int) -> dict[str, Any]:
    from lenient.supervised import TeacherRecipe, default_recipe

    given: dict[str, Any] = {"seed": train.seed} | ({"epochs": train.epochs} if train.epochs else {})
    where = f"teachers.{place}.train.settings."
    recipe = parse(TeacherRecipe, merge(default_recipe(grid.data), train.settings, given), where)
    if train.keep > recipe.epochs:
        raise UsageError(f"teachers.{place}.train.keep: {train.keep} of {recipe.epochs} epochs; raise train.epochs")
    plan = {"arch": train.arch, "keep": train.keep, "keep_above": train.keep_above, "precision": train.precision}
    return {"data": grid.data, "device": grid.settings.get("device", "auto"), **plan, "recipe": recipe.model_dump()}


def _file(grid: Grid, entry: TeacherSettings, place: int) -> dict[str, Any]:
    path = Path(str(entry.file))
    try:
        digest = file_hash(path)
    except OSError as error:
        raise UsageError(f"teachers.{place}.file: {path} cannot be read ({error.strerror})") from None
    return {"data": grid.data, "device": grid.settings.get("device", "auto"), "sha256": digest, "arch": entry.arch,
            "name": path.name, **entry.facts}  # fmt: skip


def specification(training: Training, grid: Grid, data_root: str | None) -> dict[str, Any]:
    """Return what the process is given: what the training is, and where this machine has what it needs."""
    place = [other.id for other in trainings(grid)].index(training.id)
    file = grid.teachers[place].file
    source = None if file is None else str(Path(file).absolute())
    return {**training.spec, "source": source, "data_root": data_root}


# the process


def work(folder: Path, spec: Mapping[str, Any], trust: Trusted = False) -> bool:
    """Train or take in the teachers of one entry, measure them on test images, and write them down.

    `trust`: what of the names in files may be used.
    """
    from lenient.core.runtime import resolve_device
    from lenient.data import load_data
    from lenient.evaluation import accuracy, parameters
    from lenient.models import load_network, save_network
    from lenient.runs.folder import fingerprint

    (folder / "failed.json").unlink(missing_ok=True)
    for name in filter(None, (spec["source"], spec["arch"])):
        require(name, trust, where=folder / "spec.json", what="its teacher", weights=name == spec["source"])
    device = resolve_device(spec["device"])
    if spec["source"] is None:
        made = _train(folder, spec, device)
    else:
        network = _taken_in(spec, trust)
        path = folder / f"{Path(spec['name']).stem}.safetensors"
        save_network(path, network)
        made = [{"file": path.name, "epoch": None, "held_out_accuracy": None}]
    for teacher in made:
        network = load_network(str(folder / teacher["file"]), trust_code=True)  # written here
        test = load_data(spec["data"], split="test", root=spec["data_root"], input_size=network.card.input_size)
        card = network.card.to_dict()
        teacher |= {
            "sha256": fingerprint(network.module),
            "accuracy": accuracy(network, test, device=device),
            "arch": network.card.arch,
            "params": parameters(network.module),
            "recipe": spec.get("recipe"),
            "card": {key: card[key] for key in ("input_size", "num_classes", "mean", "std", "outputs")},
        }
    write_json(folder / "teacher.json", {"teachers": made})
    return True


def _taken_in(spec: Mapping[str, Any], trust: Trusted) -> Network:
    """Load a file's network as the grid describes it; an error names keys of a grid, where a command has flags."""
    from lenient.runs.job import load_teacher

    facts: Any = {name: spec[name] for name in FACTS if name in spec}
    try:
        network = load_teacher(spec["source"], arch=spec["arch"], trust_code=trust, **facts)
    except LenientError as error:
        raise type(error)(_KEYS.sub(_key, str(error))) from None
    for note in network.card.notes:
        print(f"note: {note}")
    return network


_KEYS = re.compile(r"--(teacher-arch|checkpoint-key|input-size|num-classes|mean|std)\b( [\w.-]+(?:,[\w.-]+)+)?")


def _key(flag: re.Match[str]) -> str:
    """Return what a flag is called in a grid; numbers behind it become a list."""
    name = flag[1].replace("-", "_").removeprefix("teacher_")
    return f"{name}: [{flag[2].strip()}]" if flag[2] else name


def _train(folder: Path, spec: Mapping[str, Any], device: Any) -> list[dict[str, Any]]:
    """Train on nine tenths of the training images; the rest says which epochs are good enough. The test images wait."""
    from lenient.data import load_data
    from lenient.models import save_network
    from lenient.supervised import Epoch, TeacherRecipe, train_classifier, untrained

    recipe = parse(TeacherRecipe, spec["recipe"])
    fit, held_out = (load_data(spec["data"], split=split, root=spec["data_root"]) for split in ("fit", "holdout"))
    network = untrained(spec["arch"], fit, recipe.seed)
    for left in folder.glob("epoch-*.safetensors"):  # of a training that was killed
        left.unlink()

    def say(epoch: Epoch) -> None:
        print(f"epoch {epoch.epoch}: loss {epoch.loss:.4f}, held-out accuracy {epoch.test_accuracy:.2%}", flush=True)

    result = train_classifier(
        network,
        fit,
        recipe,
        test=held_out,
        device=device,
        precision=spec["precision"],
        on_epoch=say,
        keep=spec["keep"],
        keep_above=spec["keep_above"],
        keep_dir=folder,
    )
    for note in result.notes:
        print(f"note: {note}")
    if spec["keep"] and not result.kept:
        raise UsageError(f"keep_above: no epoch is above {spec['keep_above']}; lower it, or raise epochs")
    if spec["keep"]:
        return [{"file": k.path.name, "epoch": k.epoch, "held_out_accuracy": k.accuracy} for k in result.kept]
    save_network(folder / "teacher.safetensors", network)
    last = result.history[-1]
    return [{"file": "teacher.safetensors", "epoch": last.epoch, "held_out_accuracy": last.test_accuracy}]


if __name__ == "__main__":
    main(work, SPEC)
