"""The report of a grid: tables, figures and one page, all from the records of its cells."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lenient.bench.report.features import Options, measure
from lenient.bench.report.page import Choice, compose, render
from lenient.bench.report.records import Grid, read_grid, read_records
from lenient.bench.report.tables.table import in_words
from lenient.bench.report.tables.writers import WRITERS
from lenient.core import files
from lenient.core.errors import UsageError
from lenient.core.files import disk_errors
from lenient.core.manifest import Manifest
from lenient.reporting import write_text
from lenient.reporting.svg import standalone

__all__ = ["Choice", "Options", "read_grid", "write_bench_report"]

DEFAULT = Choice()
PAGE = "report.html"
FOLDERS = {"tables/": rf"[\w-]+\.({'|'.join(WRITERS)})", "figures/": r"[\w-]+\.svg"}
"""Folders of a report, and what it calls its files there."""
PALETTE = {
    "ink": "#1c2226",
    "muted": "#57626a",
    "rule": "#d5d4ce",
    "one": "#1f5fa8",
    "two": "#b4500b",
    "three": "#0b7a6b",
    "four": "#7446a8",
    "five": "#a0266b",
    "six": "#6b6a00",
    "alarm": "#b3261e",
}
"""The page's colours on white, for figures as files."""


def write_bench_report(
    source: Path,
    output: Path | None = None,
    *,
    choice: Choice = DEFAULT,
    features: Options | None = None,
    records: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write `report.html`, `cells.json`, `tables/` and `figures/`; return the page's path.

    Args:
        source: the folder of a grid, or the `cells.json` of an earlier report.
        output: where to write; by default `report/` in the folder, or where the `cells.json` lies.
        choice: teachers of Figure 1 and rows of the ablation, where not the default ones.
        features: measure what needs runs, teachers and real images. What the `cells.json` in `output` holds of cells
            that are the same is kept: of all without it, with it of those that cannot be measured again.
        records: the `cells.json` of another report, to keep from, too: where `bench run --records` took its cells.
        say: called with how far the measuring got.

    A marker in the folder names what reports wrote there; nothing else is replaced or removed. The same `cells.json`
    gives the same bytes.

    Raises:
        UsageError: records that cannot be read, choices that do not exist, or a folder with files of somebody else.
        MachineError: nothing can be written.
    """
    grid = read_grid(source)
    place = output or (source / "report" if source.is_dir() else source.parent)
    _check(grid, choice, features)
    manifest = Manifest(place, "report", ("cells.json", PAGE), FOLDERS)
    with disk_errors(place):  # before anything is measured
        _check_place(manifest, source)
    if grid.folder is not None:
        earlier = [read_grid(place / "cells.json")] if (place / "cells.json").is_file() else []
        if records is not None:
            earlier.append(read_records(records))
        grid = replace(grid, features=_kept_features(grid, earlier, say))
    if features is not None:
        grid = replace(grid, features=measure(grid, features, say))
    content = compose(grid, choice)
    texts = {"cells.json": _one_a_line(grid.to_dict())}
    for table in content.tables:
        texts |= {f"tables/{table.key}.{kind}": write(table) for kind, write in WRITERS.items()}
    for figure in content.figures:
        texts[f"figures/{figure.key}.svg"] = standalone(
            figure.drawing,
            PALETTE,
            title=figure.title,
            description=f"{figure.title}: {figure.description}",
            footer=f"{figure.text} {in_words(figure.context)}",
        )
    texts[PAGE] = render(content)
    with disk_errors(place):
        place.mkdir(parents=True, exist_ok=True)
        _check_place(manifest, source)
        manifest.claim(*texts)
        manifest.drop(manifest.named - texts.keys())  # what an earlier page was about, and this one is not
        for name, text in texts.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            write_text(place / name, text)
    return place / PAGE


def _check_place(manifest: Manifest, source: Path) -> None:
    """Refuse a folder that no report has written in, unless it holds nothing but the records that were named."""
    place = manifest.folder
    files.check_kinds(place, (*manifest.known,))
    if manifest.check([source.name] if _same(source.parent, place) else []):
        return
    if _same(source, place / "cells.json"):
        manifest.named.add("cells.json")


def _same(one: Path, two: Path) -> bool:
    return one.exists() and two.exists() and one.samefile(two)


def _check(grid: Grid, choice: Choice, features: Options | None) -> None:
    """Refuse names that the grid does not have."""
    asked: list[tuple[str, tuple[str, ...], list[str]]] = [
        ("--teachers", choice.teachers, grid.teachers),
        ("--ablation", choice.ablation, grid.rows),
    ]
    if features is not None:
        if features.images < 2:
            raise UsageError(f"--images {features.images}: at least 2")
        asked.append(("--rows", features.rows, grid.rows))
        asked.append(("--teachers", (features.teacher,) if features.teacher else (), grid.teachers))
    for flag, names, known in asked:
        for name in names:
            if name not in known:
                raise UsageError(f"{flag} {name}: not in this grid; there are {'; '.join(known)}")


def _kept_features(grid: Grid, reports: Sequence[Grid], say: Callable[[str], None]) -> dict[str, Any]:
    """The features of cells that were not run anew, from earlier reports, under the names that these have now; of two
    reports the first wins, and one that was measured on another number of images is left out, with a word."""
    kept: dict[str, Any] = {}
    for before in reports:
        old = {cell.wanted.id: _unlabelled(cell.raw) for cell in before.cells}
        same = {c.wanted.id: c for c in grid.cells if old.get(c.wanted.id) == _unlabelled(c.raw)}
        found = dict(before.features)
        for key in ("cells", "skipped"):
            found[key] = {name: entry for name, entry in found.get(key, {}).items() if name in same}
        for key in ("maps", "pictures"):
            entries = [entry for entry in found.get(key, ()) if entry["id"] in same]
            found[key] = [e | {"row": same[e["id"]].row, "teacher": same[e["id"]].teacher} for e in entries]
        if any(found[key] for key in ("cells", "maps", "pictures", "skipped")):
            kept = _joined(kept, found, say) if kept else found
    return kept


def _joined(first: dict[str, Any], second: Mapping[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    if not first["cells"]:
        first = first | {"images": second["images"]}
    if first["images"] != second["images"]:
        sizes = " against ".join(json.dumps(images) for images in (second["images"], first["images"]))
        say(f"--records: what it measured is left out, for it took other images: {sizes}")
        return first
    more = {name: entry for name, entry in second["cells"].items() if name not in first["cells"]}
    entries = {key: [entry for entry in second[key] if entry["id"] in more] for key in ("maps", "pictures")}
    skipped = {**second["skipped"], **first["skipped"]}
    return first | {
        "cells": first["cells"] | more,
        "skipped": {name: reason for name, reason in skipped.items() if name not in first["cells"] | more},
        **{key: first[key] + entries[key] for key in entries},
    }


def _unlabelled(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what people call its row and its teacher."""
    teacher = raw.get("teacher")
    known = {key: value for key, value in teacher.items() if key != "label"} if isinstance(teacher, dict) else None
    return {key: value for key, value in raw.items() if key != "row"} | {"teacher": known}


def _one_a_line(records: Mapping[str, Any]) -> str:
    """JSON with a line for each record of a list: small, and a difference between two versions names its cells."""
    dump = partial(json.dumps, sort_keys=True, allow_nan=False)
    lines = []
    for key, value in sorted(records.items()):
        text = "[\n" + ",\n".join(map(dump, value)) + "\n]" if isinstance(value, list) and value else dump(value)
        lines.append(f"{dump(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
