"""Grids with rows of the user's pictures: where these lie, how a cell is known, and how tables call it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from bench_fixtures import record
from lenient.bench.cell import work
from lenient.bench.cells import cells_of
from lenient.bench.grid import load_grid, settings_of
from lenient.bench.report import write_bench_report
from lenient.bench.report.records import read_grid
from lenient.bench.tasks import write_json
from lenient.core.errors import UsageError
from lenient.core.text import NOT_DATA_FREE
from lenient.models import load_network
from lenient.runs.folder import fingerprint
from test_bench_run import TEACHER, grid_of, write_grid
from toys import write_pictures

ROWS = {"rows": {"mine": {"method": "noise", "proxy_images": "pictures"}}}


def test_a_row_has_pictures_beside_the_grid_and_is_the_same_wherever_they_lie(tmp_path: Path) -> None:
    for name in ("here", "there"):
        write_pictures(tmp_path / name, 0)
        write_pictures(tmp_path / name / "pictures", 3)
    here, there = (grid_of(tmp_path / name, ROWS) for name in ("here", "there"))
    assert settings_of(here, "mine", 0)["source"]["proxy_images"] == str(tmp_path / "here" / "pictures")
    ids = [{cell.row: cell.id for cell in cells_of(grid, [TEACHER], None)} for grid in (here, there)]
    assert ids[0] == ids[1]
    assert ids[0]["mine"] != ids[0]["noise"]
    write_pictures(tmp_path / "there" / "pictures", 4, seed=3)
    assert cells_of(there, [TEACHER], None)[-1].id != ids[0]["mine"]


def test_rows_without_pictures_are_known_as_before(tmp_path: Path) -> None:
    """By the id that was made before there were any."""
    (cell,) = cells_of(grid_of(tmp_path), [TEACHER], None)
    before = {key: value for key, value in cell.spec["settings"].items() if key != "source"}
    from lenient.bench.cells import cell_id

    assert cell_id(before, TEACHER, "lenient:lenet5-half", "digits") == cell.id


@pytest.mark.parametrize(("row", "words"), [
    ({"method": "noise", "proxy_images": "gone"}, r"rows\.mine: proxy_images .*gone: no such folder"),
    ({"method": "real", "proxy_images": "pictures"}, r"rows\.mine: proxy_images: the row real learns from the"),
    ({"method": "proxy"}, r"rows\.mine: --method proxy: it shows pictures of yours"),
])  # fmt: skip
def test_a_row_whose_pictures_cannot_be_is_one_line(row: dict[str, str], words: str, tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 1)
    path = write_grid(tmp_path, {"rows": {"mine": row}})
    with pytest.raises(UsageError, match=f"^{re.escape(str(path))}: {words}"):
        load_grid(path)


@pytest.mark.usefixtures("bare")
def test_a_cell_says_where_its_images_came_from(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 3)
    grid = grid_of(tmp_path, ROWS)
    file = tmp_path / "home" / "teachers" / "x" / "t.safetensors"
    file.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "teacher.safetensors", file)
    network = load_network(file)
    teacher = TEACHER | {"sha256": fingerprint(network.module), "card": network.card.to_dict()}
    cell = cells_of(grid, [teacher], None)[-1]
    folder = cell.folder(tmp_path / "home")
    write_json(folder / "spec.json", cell.spec)
    assert work(folder, cell.spec)
    found = json.loads((folder / "cell.json").read_text())
    assert found["foreign"] == ["proxy:pictures"]
    assert found["source"]["proxy_selection"] == {"name": "none"}
    assert "proxy_images" not in found["source"], "the machine's folders are nobody's business"


def test_tables_mark_rows_that_are_not_data_free_and_no_others(tmp_path: Path) -> None:
    def tables(**changes: object) -> dict[str, str]:
        own = record("ta-dfkd", "T1", 0)
        cells = [own, record("dfad", "T1", 0, **changes)]
        folder = tmp_path / str(len(changes))
        folder.mkdir()
        (folder / "cells.json").write_text(json.dumps({"name": "g", "data": "digits", "cells": cells}))
        assert read_grid(folder / "cells.json").cells
        write_bench_report(folder / "cells.json", folder / "out")
        return {path.name: path.read_text() for path in (folder / "out" / "tables").iterdir()} | {
            "page": (folder / "out" / "report.html").read_text()
        }

    plain, marked = tables(), tables(foreign=["proxy:mine", "procedural"])
    assert "‡" not in "".join(plain.values())
    assert "| dfad‡ |" in marked["table-3.md"]
    assert "| ta-dfkd |" in marked["table-3.md"]
    note = f"‡ {NOT_DATA_FREE}: the images come from proxy:mine, procedural, too, or alone."
    assert note in marked["table-3.md"]
    assert r"dfad\ddag{}" in marked["table-3.tex"]
    assert ">dfad‡</th>" in marked["page"]
    assert note in marked["page"]
    assert marked["table-3.csv"] == plain["table-3.csv"], "programs go by the name"
