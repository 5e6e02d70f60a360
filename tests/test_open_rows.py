"""Rows of a grid whose method is `auto`: how a cell is known, which method it takes, and how tables show it."""

from __future__ import annotations

import json
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench_fixtures import record
from lenient.bench import cell as cells_process
from lenient.bench import open_rows
from lenient.bench.cell import work
from lenient.bench.cells import Cell, cells_of
from lenient.bench.grid import load_grid, settings_of
from lenient.bench.open_rows import taken
from lenient.bench.report import write_bench_report
from lenient.bench.tasks import write_json
from lenient.core.config import merge
from lenient.core.errors import UsageError
from lenient.methods.choice import CHOICES, Choice, choose
from lenient.models import build_student, load_network, save_network
from lenient.models.card import Network
from lenient.runs.folder import RunFolder, fingerprint
from test_bench_run import TEACHER, grid_of, write_grid
from toys import digits_like, tiny_card

pytestmark = pytest.mark.usefixtures("bare")

OPEN: dict[str, Any] = {"rows": {"ours": "auto"}}


def test_a_cell_of_such_a_row_is_known_by_the_settings_of_all_that_may_come_of_it(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, OPEN, {"rows": {name: name for name in CHOICES}})
    found = settings_of(grid, "ours", 3)
    assert found["method"] == {"name": "auto"}
    assert found["choices"] == {name: settings_of(grid, name, 3) for name in CHOICES}

    def ids(label: str, *changes: dict[str, Any]) -> dict[str, str]:
        rows = {"rows": {label: "auto"}}
        return {cell.row: cell.id for cell in cells_of(grid_of(tmp_path, rows, *changes), [TEACHER], None)}

    plain = ids("ours")
    assert len({*plain.values()}) == 2
    assert ids("ours", {"settings": {"steps": 5}})["ours"] != plain["ours"]
    assert ids("ours", {"settings": {"device": "auto", "checkpoint_every": 7}})["ours"] == plain["ours"]
    assert ids("theirs")["theirs"] == plain["ours"], "labels are no part of it"
    kept = ids("ours", {"settings": {"fallback": False}})["ours"]
    assert kept != plain["ours"], "it does not fall back"
    assert ids("ours", {"settings": {"health.expected": 0.3}})["ours"] not in (kept, plain["ours"])
    assert ids("ours", {"settings": {"health.expected": 0.3, "fallback": False}})["ours"] == kept


@pytest.mark.parametrize(("row", "words"), [
    ({"method": "auto", "settings": {"method.student_lr": 0.1}}, "rows.ours: settings.method.student_lr: the row's "),
    ({"method": "auto", "settings": {"method": "dafl"}}, "rows.ours: settings.method: the row's method is auto, which"),
    ({"method": "auto", "recipe": "published"}, "rows.ours: published: no such file, nor a recipe of bn-adv "
     "(digits, mnist); --method ta-dfkd has it, and others (method auto may come to bn-adv)"),
    ({"method": "auto", "settings": {"step": 3}}, "rows.ours: step: no such setting"),
    ({"method": "autos"}, "rows.ours: method='autos': no such method; there are bn-adv,"),
])  # fmt: skip
def test_what_such_a_row_cannot_ask_for_is_one_line(row: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = write_grid(tmp_path, {"rows": {"ours": row}})
    with pytest.raises(UsageError) as caught:
        load_grid(path)
    assert str(caught.value).startswith(f"{path}: {words}")
    assert "\n" not in str(caught.value)


def test_a_setting_of_a_method_in_the_whole_grid_is_no_setting_of_such_a_row(tmp_path: Path) -> None:
    path = write_grid(tmp_path, OPEN, {"settings": {"method.student_lr": 0.1}})
    with pytest.raises(UsageError, match=re.escape("rows.ours: settings.method.student_lr: the row's method is auto")):
        load_grid(path)


def test_a_recipe_that_all_of_them_have_is_each_ones_own(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, {"rows": {"ours": {"method": "auto", "recipe": "digits"}}})
    for name, own in settings_of(grid, "ours", 0)["choices"].items():
        named = grid_of(tmp_path, {"rows": {"ours": {"method": name, "recipe": "digits"}}})
        assert own == settings_of(named, "ours", 0)


def planned(tmp_path: Path, teacher: Network, *changes: dict[str, Any]) -> tuple[Path, Cell]:
    """A cell of such a row, and its folder with what it is given."""
    file = tmp_path / "home" / "teachers" / "x" / "t.safetensors"
    file.parent.mkdir(parents=True)
    save_network(tmp_path / "teacher.safetensors", teacher)
    shutil.copy(tmp_path / "teacher.safetensors", file)
    network = load_network(file)
    teacher = TEACHER | {"sha256": fingerprint(network.module), "card": network.card.to_dict()}
    cell = cells_of(grid_of(tmp_path, OPEN, *changes), [teacher], None)[-1]
    assert cell.row == "ours"
    folder = cell.folder(tmp_path / "home")
    write_json(folder / "spec.json", cell.spec)
    return folder, cell


def without_batch_norm() -> Network:
    return build_student("lenient:lenet5", tiny_card(size=(8, 8), classes=10), seed=0, role="teacher")


def without_gradient() -> Network:
    network = digits_like()
    return replace(network, behaviour=replace(network.behaviour, blocked="a detach"))


@pytest.mark.parametrize(("teacher", "method"), [(digits_like, "bn-adv"), (without_batch_norm, "dafl-adv")])
def test_a_cell_takes_what_suits_its_teacher_and_says_which(teacher: Any, method: str, tmp_path: Path) -> None:
    folder, cell = planned(tmp_path, teacher())
    assert work(folder, cell.spec)
    found = json.loads((folder / "cell.json").read_text())
    assert (found["row"], found["method"], found["asked"]) == ("ours", method, "auto")
    config = RunFolder(folder / "run").read_config()
    assert config is not None
    assert config["method"]["name"] == found["settings"]["name"] == method
    assert not found.get("foreign")
    assert found["last"] is not None


def interrupt_at(step: int, patch: pytest.MonkeyPatch) -> None:
    run = cells_process.Job.run

    class Stop:
        def start(self, *_: Any) -> None: ...
        def line(self, *_: Any) -> None: ...
        def stop(self) -> None: ...
        def step(self, now: int, images: int) -> None:
            if now == step:
                signal.raise_signal(signal.SIGINT)

    patch.setattr(cells_process.Job, "run", lambda job, observers: run(job, [*observers, Stop()]))


def test_a_cell_whose_run_fell_back_goes_on_and_says_from_which_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {"expected": 0.1, "low": 0.05, "high": 0.3}
    monkeypatch.setattr("lenient.runs.job.forecast", lambda run, progress: bad)
    plan = {"steps": 8, "checkpoint_every": 1, "overlap": False, "generator.width": 6}
    folder, cell = planned(tmp_path, digits_like(), {"settings": plan})
    with monkeypatch.context() as patch:
        interrupt_at(4, patch)
        assert not work(folder, cell.spec)
    assert work(folder, cell.spec)
    found = json.loads((folder / "cell.json").read_text())
    assert (found["method"], found["asked"]) == ("stable", "auto")
    assert found["fell_back"] == {"before": "bn-adv", "step": 2}
    assert found["settings"] == cell.spec["settings"]["choices"]["stable"]["method"]
    assert found["steps"] == 8


def test_a_cell_that_goes_on_keeps_its_method_and_ends_as_if_it_had_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the rule says by then, as after a version that changed it."""
    straight, cell = planned(tmp_path / "straight", digits_like())
    assert work(straight, cell.spec)
    cut, again = planned(tmp_path / "cut", digits_like(), {"settings": {"checkpoint_every": 1}})
    assert again.id == cell.id
    with monkeypatch.context() as patch:
        interrupt_at(2, patch)
        assert not work(cut, again.spec)
    monkeypatch.setattr(open_rows, "choose", lambda teacher: Choice("stable", "another rule"))
    assert work(cut, again.spec)
    records = [json.loads((folder / "cell.json").read_text()) for folder in (straight, cut)]
    assert records[1]["method"] == "bn-adv"
    assert records[0]["curve"] == records[1]["curve"]
    first, second = (load_network(folder / "run" / "student" / "model.safetensors") for folder in (straight, cut))
    assert fingerprint(first.module) == fingerprint(second.module)


def test_settings_of_a_named_method_are_taken_as_they_are() -> None:
    settings = {"method": {"name": "dafl"}, "steps": 3}
    assert taken(settings, digits_like(), {}) is settings


def test_every_method_that_may_be_chosen_has_settings() -> None:
    teachers = (digits_like(), without_batch_norm(), without_gradient())
    assert [choose(teacher).name for teacher in teachers] == [*CHOICES]


def test_tables_say_which_method_it_was_for_each_teacher(tmp_path: Path) -> None:
    def ours(teacher: str, method: str) -> dict[str, Any]:
        own = {"row": "ours", "method": method, "asked": "auto", "settings": {"name": method}}
        return record("dfad", teacher, 0, id=f"ours-{teacher}") | own

    cells = [record("noise images", "T1", 0), ours("T1", "ta-dfkd"), ours("T2", "stable"), ours("T3", "ta-dfkd")]
    cells.append(ours("T3", "stable") | {"id": "later", "seed": 1, "fell_back": {"before": "ta-dfkd", "step": 40}})
    (tmp_path / "cells.json").write_text(json.dumps({"name": "g", "data": "digits", "cells": cells}))
    write_bench_report(tmp_path / "cells.json", tmp_path / "out")
    said = "What suits the teacher in ours: ta-dfkd with T1, T3; stable with T2; stable after ta-dfkd with T3."
    tables = {path.name: path.read_text() for path in (tmp_path / "out" / "tables").iterdir()}
    assert said in tables["table-3.md"]
    assert "| ours |" in tables["table-3.md"]
    assert said in (tmp_path / "out" / "report.html").read_text()
    (tmp_path / "cells.json").write_text(
        json.dumps({"name": "g", "data": "digits", "cells": [merge(cell, {"asked": None}) for cell in cells]})
    )
    write_bench_report(tmp_path / "cells.json", tmp_path / "named")
    assert "What suits" not in (tmp_path / "named" / "report.html").read_text()
