"""What needs more than records: run folders, teachers, real test images. Measured once, then part of `cells.json`."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lenient.bench.report.measures import Floats, Labels, Projection, frechet, outside, project
from lenient.bench.report.records import NO_GENERATOR, Cell, Grid, panels
from lenient.bench.report.sweeps import picture_rows, weight_of
from lenient.core.errors import LenientError, UsageError
from lenient.core.numbers import significant
from lenient.teacher.probes import Features

if TYPE_CHECKING:
    from torch import Tensor

    from lenient.bench.report.inception import Extractor
    from lenient.teacher.frozen import FrozenTeacher
    from lenient.training.trainer import Distillation

MAP_IMAGES = 400
COLUMNS, LINES = 8, 10


@dataclass(frozen=True)
class Options:
    """How features are measured. `images`: at most so many synthetic, and so many real ones."""

    data_root: str | None = None
    images: int = 2000
    projection: Projection = "tsne"
    device: str = "cpu"
    rows: tuple[str, ...] = ()
    teacher: str = ""
    inception: str = ""
    """File of the Inception network's weights, or `download`; empty: the teacher's features alone."""
    trust_code: bool = False
    """Whether runs may name code to run and places to visit."""


@dataclass(frozen=True)
class Sample:
    """Features (N, D) and classes (N,) of images; of synthetic ones, whether the selection kept them."""

    features: Floats
    labels: Labels
    kept: NDArray[np.bool_]
    inception: Floats | None = None
    """The Inception network's features of the same images, where that was asked for."""


def measure(grid: Grid, options: Options, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measure all cells that have a generator; the result is the `features` of `cells.json`.

    Of a cell that cannot be measured (no checkpoint, the teacher's file gone) what `grid.features` has stays, if it was
    measured on as many images; else it is listed under `skipped` with the reason.

    Raises:
        UsageError: the grid was read from a file, or the real images cannot be had.
    """
    if grid.folder is None:
        raise UsageError("--features needs the folder that `lenient bench run` wrote, with its runs, not a cells.json")
    looked_at = _looked_at(grid, options)
    extractor: Extractor | None = None
    if options.inception:
        from lenient.bench.report.inception import inception

        extractor = inception(options.inception, options.device)
    real: dict[tuple[str, str], Sample] = {}
    found: dict[str, Any] = {"cells": {}, "maps": [], "pictures": [], "skipped": {}, "images": {}}
    cells = [cell for cell in grid.cells if cell.method not in NO_GENERATOR]
    for position, cell in enumerate(cells, 1):
        try:
            teacher_images, made = _one(grid.folder, cell, options, real, extractor)
            found["cells"][cell.wanted.id] = _measures(teacher_images, made, cell.selects)
            if cell.wanted.id in looked_at:
                found["maps"].append(_map(cell, teacher_images, made, options.projection))
                found["pictures"] += _pictures(grid.folder, cell)
            found["images"] = {"synthetic": len(made.features), "real": len(teacher_images.features)}
        except _NoDataError as error:
            raise UsageError(str(error)) from None
        except LenientError as error:
            found["skipped"][cell.wanted.id] = str(error).replace(f"{grid.folder}", grid.folder.name)
        say(f"features {position}/{len(cells)}: {cell.wanted.id}")
    _keep_earlier(found, grid.features)
    order = {identity: place for place, identity in enumerate(looked_at)}
    for key in ("maps", "pictures"):
        found[key] = [entry for entry in found[key] if entry["id"] in order]
        found[key].sort(key=lambda entry: order[entry["id"]])
    return found


def _keep_earlier(found: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Add what an earlier report measured, on as many images, and this one cannot or was not asked to."""
    if not before or found["images"] not in ({}, before["images"]):
        return
    for name, entry in found["cells"].items():
        papers = before["cells"].get(name, {}).get("fid_inception")
        if papers is not None:
            entry.setdefault("fid_inception", papers)
    kept = found["skipped"].keys() & before["cells"].keys()
    found["images"] = before["images"]
    found["skipped"] = {name: reason for name, reason in found["skipped"].items() if name not in kept}
    found["cells"] |= {name: before["cells"][name] for name in kept}
    for key in ("maps", "pictures"):
        found[key] += [entry for entry in before[key] if entry["id"] in kept]


class _NoDataError(UsageError):
    """The real images cannot be had: no cell can be measured."""


def _looked_at(grid: Grid, options: Options) -> list[str]:
    """The cells that get a map and pictures: the rows to look at, one teacher each, the least seed."""
    found = []
    for panel in panels(grid):
        for row in picture_rows(panel, options.rows):
            cells = panel.of(row, options.teacher or None) or panel.of(row)
            place = {teacher: number for number, teacher in enumerate(panel.teachers)}
            found += [cell.wanted.id for cell in sorted(cells, key=lambda c: (place[c.teacher], c.seed))[:1]]
    return found


def run_folder(folder: Path, cell: Cell) -> Path:
    """The run of a cell: its folder, or the one in it that holds a run."""
    top = folder / "cells" / cell.wanted.id
    places = [top, *sorted(path for path in top.glob("*") if path.is_dir())]
    return next((place for place in places if (place / "config.yaml").is_file()), top)


def _one(
    folder: Path, cell: Cell, options: Options, real: dict[tuple[str, str], Sample], extractor: Extractor | None
) -> tuple[Sample, Sample]:
    """The real and the synthetic images of one cell as its teacher sees them."""
    from lenient.core.runtime import Runtime
    from lenient.models import Network
    from lenient.runs.reopen import reopen
    from lenient.teacher.frozen import FrozenTeacher

    distillation, own = reopen(run_folder(folder, cell), options.device, trust_code=options.trust_code)
    # In full precision whatever the run's own was, so that real features are the same for all runs of a teacher.
    teacher = FrozenTeacher(Network(own.module, own.card), Runtime(own.runtime.device))
    key = (cell.data, str(cell.raw.get("teacher", {}).get("sha256") or cell.teacher))
    with teacher:
        if key not in real:
            real[key] = _real(teacher, cell, options, extractor)
        return real[key], _synthetic(distillation, teacher, options.images, extractor)


def _real(teacher: FrozenTeacher, cell: Cell, options: Options, extractor: Extractor | None) -> Sample:
    """Features of real test images, at most `options.images` of them, drawn by a fixed key; their own labels."""
    import torch

    from lenient.core.seeding import derive
    from lenient.data import load_data

    try:
        images = load_data(cell.data, split="test", root=options.data_root, input_size=teacher.card.input_size)
    except UsageError as error:
        raise _NoDataError(f"--features: {error}; name the folder with --data-root or $LENIENT_DATA") from None
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(derive(0, "bench/real")))
    chosen = images.subset(order[: options.images])
    features, labels = [], []
    with torch.no_grad():
        for pixels, classes in chosen.batches(256):
            response = teacher.respond(teacher.normalize(teacher.runtime.images(pixels)), (Features(),))
            features.append(response.of(Features).double().cpu())
            labels.append(classes)
    names = torch.cat(labels).numpy()
    seen = extractor(pixels for pixels, _ in chosen.batches(256)) if extractor else None
    return Sample(torch.cat(features).flatten(1).numpy(), names, np.ones(len(names), dtype=bool), seen)


def _synthetic(distillation: Distillation, teacher: FrozenTeacher, count: int, extractor: Extractor | None) -> Sample:
    """Features of fresh images of the run's generator, in batches of the run's size, which its selection judges."""
    import torch

    from lenient.losses.prior import confidence_score
    from lenient.synthesis.selection import KeepAll

    size, selection = distillation.settings.batch_size, distillation.algorithm.selection or KeepAll()
    features, labels, kept = [], [], []

    def batches() -> Iterator[Tensor]:
        for number, start in enumerate(range(0, count, size)):
            yield distillation.algorithm.drawn.sample(min(size, count - start), "bench/features", number).float()

    for images in batches():
        with torch.no_grad():
            response = teacher.respond(teacher.normalize(images), (Features(),))
        features.append(response.of(Features).double().cpu())
        labels.append(response.logits.argmax(dim=1).cpu())
        kept.append(selection(confidence_score(response.logits)).weight.cpu() > 0)
    seen = extractor(batches()) if extractor else None  # drawn again by the same keys rather than held in memory
    return Sample(torch.cat(features).flatten(1).numpy(), torch.cat(labels).numpy(), torch.cat(kept).numpy(), seen)


def _measures(real: Sample, made: Sample, selects: bool) -> dict[str, float | None]:
    """Frechet distance, shares outside of the class before and after selection, if there is one, and the share kept."""
    beyond = outside(real.features, real.labels, made.features, made.labels)
    if not np.isfinite(made.features).all():
        raise UsageError("the teacher's features of its images are not finite")
    seen = {}
    if real.inception is not None and made.inception is not None:
        seen = {"fid_inception": significant(frechet(real.inception, made.inception))}
    return seen | {
        "fid": significant(frechet(real.features, made.features)),
        "outside": significant(float(beyond.mean())),
        "outside_kept": significant(float(beyond[made.kept].mean())) if selects and made.kept.any() else None,
        "kept": significant(float(made.kept.mean())),
    }


def _map(cell: Cell, real: Sample, made: Sample, how: Projection) -> dict[str, Any]:
    """Points of the first real and synthetic images: x, y, class, and of synthetic ones kept and outside as 0 or 1."""
    beyond = outside(real.features, real.labels, made.features, made.labels)
    first, second = (part.features[:MAP_IMAGES] for part in (real, made))
    points = project(np.concatenate([first, second]), how)
    facts = (made.labels, made.kept, beyond)
    return {
        **_identity(cell),
        "projection": "t-SNE" if how == "tsne" else "PCA",
        "real": [[*_place(p), int(n)] for p, n in zip(points[: len(first)], real.labels, strict=False)],
        "synthetic": [
            [*_place(p), *(int(fact[i]) for fact in facts)] for i, p in enumerate(points[len(first) :].tolist())
        ],
    }


def _identity(cell: Cell) -> dict[str, Any]:
    return {"id": cell.wanted.id, "row": cell.row, "teacher": cell.teacher, "seed": cell.seed}


def _place(point: Sequence[float]) -> list[float]:
    return [significant(float(point[0])), significant(float(point[1]))]


def _pictures(folder: Path, cell: Cell) -> list[dict[str, Any]]:
    """The stored images of a run as one PNG, a line per class; empty where the run kept none."""
    from PIL import Image

    from lenient.reporting.collect import collect
    from lenient.reporting.pictures import class_name, tile

    record = collect(run_folder(folder, cell))
    if record.samples is None:
        return []
    labels = np.unique(record.samples.labels)[:LINES]
    first = tile(record.samples.images[0])
    height, width = first.shape[0], first.shape[1]
    gap = max(1, width // 10)
    sheet = np.zeros((len(labels) * (height + gap), COLUMNS * (width + gap), 4), dtype=np.uint8)
    for line, label in enumerate(labels):
        for column, index in enumerate(np.flatnonzero(record.samples.labels == label)[:COLUMNS]):
            top, left = line * (height + gap), column * (width + gap)
            sheet[top : top + height, left : left + width] = tile(record.samples.images[index])
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG")
    weight = weight_of(cell)
    return [
        {
            **_identity(cell),
            "class_prior_weight": None if math.isnan(weight) else weight,
            "classes": [class_name(int(label), record.classes) for label in labels],
            "png": base64.b64encode(buffer.getvalue()).decode("ascii"),
        }
    ]
