"""Grids: what they say, which cells they come to, and that kills, failures and second launchers do no harm."""

from __future__ import annotations

import copy
import errno
import fcntl
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from commands import begun, lenient
from lenient.bench import running, tasks
from lenient.bench.cell import Meter, read_costs
from lenient.bench.cell import work as run_cell
from lenient.bench.cells import SINCE, cell_id, cells_of, without_later
from lenient.bench.grid import Grid, load_grid, settings_of
from lenient.bench.launchers import _slurm_outcome, make_launcher
from lenient.bench.record import commit, logged
from lenient.bench.running import run_grid
from lenient.bench.status import status_of
from lenient.bench.tasks import Task, state, write_json
from lenient.bench.teachers import specification, trainings
from lenient.bench.teachers import work as make_teacher
from lenient.core import schemas
from lenient.core.config import merge
from lenient.core.errors import DamagedError, LenientError, MachineError, TeacherError, UsageError
from lenient.core.manifest import FORMAT, MARKER
from lenient.core.numbers import plain, significant
from lenient.core.schemas import CellSpec, Stored, TeacherSpec
from lenient.models import save_network
from lenient.runs.folder import RunFolder, fingerprint
from toys import digits_like

pytestmark = [
    pytest.mark.timeout(1200),  # many starts of processes, each of seconds, or of minutes on a busy machine
    pytest.mark.usefixtures("bare"),
]

GRIDS = Path(__file__).parents[1] / "grids"
TINY: dict[str, Any] = {
    "name": "tiny",
    "data": "digits",
    "teachers": [{"file": "teacher.safetensors", "label": "T"}],
    "students": "lenient:lenet5-half",
    "rows": {"noise": "noise"},
    "settings": {
        "steps": 4,
        "batch_size": 8,
        "log_every": 2,
        "steps_per_epoch": 2,
        "precision": 32,
        "device": "cpu",
    },
}
CARD = {"input_size": [1, 8, 8], "num_classes": 10, "mean": [0.3], "std": [0.4], "outputs": "logits"}
TEACHER = {"label": "T", "file": "t.safetensors", "path": "teachers/x/t.safetensors", "sha256": "a" * 64,
           "accuracy": 0.5, "arch": "lenient:resnet8", "recipe": None, "epoch": None, "card": CARD}  # fmt: skip


def write_grid(folder: Path, *changes: dict[str, Any], name: str = "grid.yaml") -> Path:
    folder.mkdir(exist_ok=True)
    if not (folder / "teacher.safetensors").exists():
        save_network(folder / "teacher.safetensors", digits_like())
    path = folder / name
    path.write_text(yaml.safe_dump(merge(TINY, *changes), sort_keys=False))
    return path


def grid_of(folder: Path, *changes: dict[str, Any]) -> Grid:
    return load_grid(write_grid(folder, *changes))


def bench(*arguments: object, cwd: Path, start_new_session: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lenient", "bench", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=start_new_session,
    )


def run(*arguments: object, cwd: Path, code: int = 0, **environment: str) -> str:
    done = lenient("bench", *arguments, cwd=cwd, code=code, **environment)
    return done.stdout + done.stderr


def wait_for(what: Callable[[], Any], seconds: float = 300) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = what()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come")


def records(home: Path) -> list[dict[str, Any]]:
    """Of all cells that say they are done."""
    done = sorted(home.glob("cells/*/done"))
    return [json.loads((path.parent / "cell.json").read_text()) for path in done]


def process_of(cell: Path) -> int | None:
    """The process that a cell runs in: the one that has its lock open."""
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # it may have ended
            if os.readlink(handle) == str(cell / ".lock"):
                return int(handle.parts[2])
    return None


def test_help_names_every_flag(tmp_path):
    for command, flags in (
        ("run", "-o -s --launcher --jobs --retry --records --data-root --progress"),
        ("status", "-o -s --jobs --watch"),
    ):
        said = run(command, "--help", cwd=tmp_path)
        assert all(flag in said for flag in flags.split())


# what a grid says


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sedes": 2}, "sedes: no such setting; the nearest is seeds"),
        ({"rows": {"a": {"method": "noise", "recipes": "x"}}}, "rows.a.recipes: no such setting; the nearest is rows."),
        ({"rows": {"a": "nois"}}, "rows.a: method='nois': no such method"),
        ({"rows": {"a": {"method": "noise", "recipe": "x"}}}, "rows.a: x: no such file, nor a recipe of noise"),
        ({"rows": {"a": {"method": "real", "recipe": "digits"}}}, "the row real has no recipes"),
        ({"rows": {"a": {"method": "real", "settings": {"method.tau": 1}}}}, "rows.a: settings.method.tau: no such"),
        ({"rows": {"a": {"method": "dafl", "settings": {"method.student_lrs": 1}}}}, "is method.student_lr"),
        ({"settings": {"step": 5}}, "step: no such setting; the nearest is steps"),
        ({"teachers": []}, "teachers"),
        ({"teachers": [{"label": "T"}]}, "needs either file or train"),
        ({"teachers": [{"train": {"arch": "lenient:resnet8", "epohs": 1}}]}, "teachers.0.train.epohs: no such setting; "
         "the nearest is teachers.0.train.epochs"),
        ({"teachers": [3]}, "teachers.0: 3: write settings as key: value"),
        ({"rows": ["dafl"]}, "rows=['dafl']: write a label and a method for each"),
        ({"rows": None, "methods": {"a": "dafl"}}, "methods: no such setting"),
        ({"teachers": [{"train": {}}]}, "teachers.0.train.arch: is missing"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": [1, 1]}, "seeds=[1, 1]"),
        ({"name": "a/b"}, "name='a/b'"),
    ],
)  # fmt: skip
def test_a_grid_is_refused_in_one_line_that_names_the_key(changes, words, tmp_path):
    path = write_grid(tmp_path, changes)
    with pytest.raises(UsageError) as caught:
        load_grid(path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_grid_that_is_not_there_is_said_so(tmp_path):
    assert "cannot be read" in run("run", "none.yaml", cwd=tmp_path, code=2)


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"settings": {"label_smoothin": 0.1}}, "teachers.0.train.settings.label_smoothin: no such setting"),
        ({"keep": 9, "epochs": 3}, "teachers.0.train.keep: 9 of 3 epochs"),
    ],
)
def test_a_training_is_refused_before_it_starts(train, words, tmp_path):
    grid = grid_of(tmp_path, {"teachers": [{"train": {"arch": "lenient:resnet8"} | train}]})
    with pytest.raises(UsageError, match=words):
        trainings(grid)


def test_flags_win_over_the_file_and_dots_are_keys(tmp_path):
    grid = load_grid(write_grid(tmp_path), ["settings.steps=7", "seeds=[3, 5]"])
    assert grid.seeds == (3, 5)
    settings = settings_of(grid, "noise", 5)
    assert (settings["steps"], settings["seed"], settings["steps_per_epoch"]) == (7, 5, 2)


def test_teachers_are_labelled_by_order(tmp_path):
    train = {"arch": "lenient:resnet8"}
    entries = [{"train": train | {"keep": 2}}, {"train": train}, {"train": train | {"keep": 2}, "label": "S"},
               {"train": train | {"settings": {"mixup": 0.2}}, "label": "mixed"}]  # fmt: skip
    found = trainings(grid_of(tmp_path, {"teachers": entries}))
    assert [training.expected for training in found] == [["T1", "T2"], ["T3"], ["S1", "S2"], ["mixed"]]
    assert len({training.id for training in found}) == 3  # S is the first one under another name
    with pytest.raises(UsageError, match="two are called mixed"):
        trainings(grid_of(tmp_path, {"teachers": [entries[3], copy.deepcopy(entries[3])]}))


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_grids_that_come_with_the_project_hold(path):
    grid = load_grid(path)
    assert trainings(grid)
    assert cells_of(grid, [TEACHER], None)
    for label, row in grid.rows.items():
        assert settings_of(grid, label, 0)["method"]["name"] == row.method


# which cells


def test_a_cell_is_known_by_what_determines_it_and_by_nothing_else(tmp_path):
    grid = grid_of(tmp_path)
    settings = settings_of(grid, "noise", 0)
    known = cell_id(settings, TEACHER, "lenient:lenet5", "digits")
    later = ("statistics", "student_loss", "student_optimizer")
    before = {key: value for key, value in settings["method"].items() if key not in later}
    assert len(before) == len(settings["method"]) - 3
    same = [
        cell_id(
            settings | {"device": "cuda", "checkpoint_every": 5, "overlap": True, "threads": 3},
            TEACHER,
            "lenient:lenet5",
            "digits",
        ),
        cell_id(settings | {"health": {"coverage": 0.5}}, TEACHER, "lenient:lenet5", "digits"),
        cell_id(
            settings, TEACHER | {"label": "other", "path": "elsewhere", "accuracy": 1.0}, "lenient:lenet5", "digits"
        ),
        cell_id(dict(reversed(settings.items())), TEACHER, "lenient:lenet5", "digits"),
        # as before there was this setting
        cell_id({k: v for k, v in settings.items() if k != "student"}, TEACHER, "lenient:lenet5", "digits"),
        cell_id(settings | {"method": before}, TEACHER, "lenient:lenet5", "digits"),
    ]
    assert set(same) == {known}
    others = [
        cell_id(settings | {"seed": 1}, TEACHER, "lenient:lenet5", "digits"),
        cell_id(settings | {"steps": 5}, TEACHER, "lenient:lenet5", "digits"),
        cell_id(settings | {"student": {"init": "torch"}}, TEACHER, "lenient:lenet5", "digits"),
        cell_id(settings | {"method": settings["method"] | {"student_lr": 0.3}}, TEACHER, "lenient:lenet5", "digits"),
        cell_id(
            settings | {"method": settings["method"] | {"statistics": "batch"}}, TEACHER, "lenient:lenet5", "digits"
        ),
        cell_id(settings, TEACHER | {"sha256": "b" * 64}, "lenient:lenet5", "digits"),
        cell_id(settings, TEACHER | {"card": CARD | {"mean": [0.2]}}, "lenient:lenet5", "digits"),
        cell_id(settings, TEACHER, "lenient:resnet8", "digits"),
        cell_id(settings, TEACHER, "lenient:lenet5", "mnist"),
    ]
    assert len({known, *others}) == 1 + len(others)


def test_cells_are_all_combinations_seed_by_seed(tmp_path):
    grid = grid_of(tmp_path, {"rows": {"real": "real"}, "students": ["lenient:lenet5", "lenient:resnet8"], "seeds": 2})
    cells = cells_of(grid, [TEACHER, TEACHER | {"label": "U", "sha256": "b" * 64}], None)
    assert len(cells) == len({cell.id for cell in cells}) == 2 * 2 * 2 * 2
    assert [cell.seed for cell in cells] == [0] * 8 + [1] * 8
    with pytest.raises(UsageError, match="rows: noise and again are the same"):
        cells_of(grid_of(tmp_path, {"rows": {"again": "noise"}}), [TEACHER], None)
    with pytest.raises(UsageError, match="teachers: T and U are the same"):
        cells_of(grid_of(tmp_path), [TEACHER, TEACHER | {"label": "U"}], None)


# records


def test_numbers_are_short_and_logs_hold_what_there_is():
    assert plain({"a": [0.123456789, 3], "b": None, "c": 123456789.5}, significant) == {
        "a": [0.123457, 3],
        "b": None,
        "c": 1.23457e8,
    }
    lines = [{"step": 1, "health/kept": 0.5}, {"step": 2, "health/kept": 0.6, "health/bn_distance": 1.0}]
    assert logged(lines) == {"step": [1, 2], "kept": [0.5, 0.6], "bn_distance": [None, 1.0]}
    assert logged([{"step": 1, "loss/gradient_cosine": 0.1}]) == {"step": [1], "gradient_cosine": [0.1]}


def test_the_commit_is_that_of_the_packages_own_checkout():
    found = commit()
    assert found is None or len(found.removesuffix("-dirty")) == 40


def test_cost_goes_on_from_the_checkpoint_and_survives_a_line_cut_short(tmp_path):
    path = tmp_path / "cost.jsonl"
    path.write_text(
        '{"step": 4, "cpu_seconds": 10.0, "peak_bytes": 5}\n{"step": 8, "cpu_seconds": 20.0, "peak_bytes": 9}\n{"st'
    )
    meter = Meter(path, torch.device("cpu"))
    meter.start(20, 6)
    meter.step(7, 0)
    path.write_text("")
    meter.line("log", {})
    (line,) = read_costs(path)
    assert line["step"] == 7
    assert 10 <= line["cpu_seconds"] < 15


# running


FINISHED = {"real": "real", "ta": {"method": "ta-dfkd", "settings": {"method.student_steps": 2}}}


@pytest.fixture
def finished(made_once, tmp_path) -> Path:
    """A grid of three rows, run whole, in a folder of the test's own."""

    def make(folder: Path) -> None:
        write_grid(folder, {"rows": FINISHED})
        assert "3/3" in run("run", "grid.yaml", "--jobs", 2, cwd=folder)

    return shutil.copytree(made_once("finished-grid", make), tmp_path / "finished")


def test_each_cell_leaves_its_record(finished):
    home = finished / "runs" / "tiny"
    found = {record["row"]: record for record in records(home)}
    assert set(found) == {"noise", "real", "ta"}
    for row, record in found.items():
        folder = home / "cells" / record["id"]
        assert record["method"] == {"noise": "noise", "real": "real", "ta": "ta-dfkd"}[row]
        assert [step for step, _ in record["curve"]] == [2, 4]
        assert record["last"] == record["curve"][-1][1]
        assert record["acc_max"] == max(value for _, value in record["curve"])
        assert record["mean"] == pytest.approx(sum(value for _, value in record["curve"]) / 2, abs=1e-6)
        assert all(0 <= record[key] <= 1 for key in ("last", "mean", "acc_last_k", "agreement", "teacher_accuracy"))
        assert record["verdict"] in ("ok", "warning", "failed")
        assert "class entropy" in record["checks"]
        assert "prediction" not in record, "four steps are too few to say"
        assert (record["steps"], record["batch_size"], record["steps_per_epoch"], record["k"]) == (4, 8, 2, 1)
        assert record["settings"]["name"] == record["method"]
        assert record["data_title"] == "digits"
        assert record["log"]["step"] == [2, 4]
        assert record["cost"]["images"] >= 4 * 8
        assert all(record["cost"][key] > 0 for key in ("seconds", "cpu_seconds", "teacher_forwards", "peak_bytes"))
        assert set(record["machine"]) == {"device_name", "threads", "torch", "precision", "python", "lenient"}
        assert record["teacher"]["label"] == "T"
        assert set(record["teacher"]) == {"label", "file", "sha256", "accuracy", "arch", "recipe", "epoch"}
        assert "finished-grid" not in json.dumps(record), "a folder of the machine that it was made on"
        assert (folder / "run" / "checkpoints" / "last.pt").exists()
        assert (folder / "run" / "samples" / "images.safetensors").exists() == (row != "real")
    assert len(found["ta"]["log"]["bn_distance"]) == 2
    (teacher,) = json.loads((home / "teachers.json").read_text())
    assert teacher["sha256"] == found["ta"]["teacher"]["sha256"]
    assert len(json.loads((home / "grid.json").read_text())["cells"]) == 3


def test_what_is_done_is_not_done_again(finished):
    cells = finished / "runs" / "tiny" / "cells"
    before = {path: path.stat().st_mtime_ns for path in cells.rglob("*") if path.is_file()}
    said = run("run", "grid.yaml", cwd=finished)
    assert "3 of 3 cells are done already" in said
    assert {path: path.stat().st_mtime_ns for path in cells.rglob("*") if path.is_file()} == before


def test_a_new_label_is_no_new_cell(finished):
    rows = {"noise": "noise", "real": "real", "lenient": {"method": "ta-dfkd", "settings": {"method.student_steps": 2}}}
    path = write_grid(finished, name="renamed.yaml")
    path.write_text(yaml.safe_dump(TINY | {"rows": rows}))
    assert "3 of 3 cells are done already" in run("run", "renamed.yaml", cwd=finished)
    assert {record["row"] for record in records(finished / "runs" / "tiny")} == {"noise", "real", "lenient"}


def test_a_report_of_a_grid_that_never_ran_says_where_it_looked(tmp_path):
    write_grid(tmp_path)
    said = run("report", "grid.yaml", cwd=tmp_path, code=2)
    assert "grid.yaml: there is no runs/tiny; start with `lenient bench run`, or name the folder it wrote" in said


def test_cells_run_elsewhere_are_not_run_again(finished, tmp_path):
    run("report", finished / "runs/tiny", "-o", tmp_path / "known", cwd=tmp_path)
    known = tmp_path / "known/cells.json"
    write_grid(tmp_path, {"rows": {"called anew": "real"}, "seeds": 2})
    shutil.copy(finished / "teacher.safetensors", tmp_path)
    said = run("run", "grid.yaml", "--records", known, cwd=tmp_path)
    assert "2 of these cells are in" in said
    assert "2 were missing here" in said
    assert "2 of 4 cells are done already" in said
    assert f"0/1 to be made first: teacher T; how it goes is in {Path('runs/tiny/teachers')}\n" in said
    home = tmp_path / "runs/tiny"
    assert sorted((record["row"], record["seed"]) for record in records(home)) == [
        ("called anew", 0), ("called anew", 1), ("noise", 0), ("noise", 1)
    ]  # fmt: skip
    assert len(list(home.glob("cells/*/run"))) == 2
    before = {record["id"]: record for record in records(finished / "runs/tiny")}
    taken = [record for record in records(home) if record["id"] in before]
    assert [before[record["id"]] | {"row": record["row"]} for record in taken] == taken
    run("report", "grid.yaml", "-o", tmp_path / "again", cwd=tmp_path)  # its folder is known by its name
    assert len(json.loads((tmp_path / "again/cells.json").read_text())["cells"]) == 4

    grid = load_grid(tmp_path / "grid.yaml")
    (cell, *_) = cells_of(grid, json.loads((home / "teachers.json").read_text()), None)
    assert not cell.take(home, {})  # it has one
    (cell.folder(home) / "done").unlink()
    with tasks.locked(cell.folder(home)):
        assert not cell.take(home, {})  # it runs
    (cell.folder(home) / "run").mkdir()  # of an attempt that was cut off
    assert cell.take(home, {"id": cell.id})
    RunFolder.check(cell.folder(home) / "run")  # is there for a new one
    said = run("run", "grid.yaml", "-s", "settings.steps=6", "-o", "other", "--records", known, cwd=tmp_path, code=2)
    assert "none of its 3 cells" in said
    assert "--records none.json: no such" in run("run", "grid.yaml", "--records", "none.json", cwd=tmp_path, code=2)


def test_status_counts_and_shows_the_last_accuracies(finished):
    said = run("status", "grid.yaml", cwd=finished)
    assert "3 cells: 3 done, 0 running, 0 failed, 0 missing" in said
    assert said.count("1/0/0/0") == 3
    more = run("status", "grid.yaml", "-s", "seeds=2", "--jobs", 3, "--watch", cwd=finished)
    assert "6 cells: 3 done, 0 running, 0 failed, 3 missing; about" in more
    assert "nothing there yet" not in more
    grid = grid_of(finished, {"teachers": [{"train": {"arch": "lenient:resnet8", "keep": 2}}]})
    status = status_of(grid, finished / "runs" / "tiny")
    assert status.teachers == {"T1": None, "T2": None}
    assert status.counts["missing"] == 2


BREAKING = {"method.student_lr": 1000, "method.student_weight_decay": 1e6, "health.patience": 1}


def test_a_cell_that_cannot_be_fails_with_its_reason_until_retry(tmp_path):
    """A learning rate that breaks the student: the run stops itself, and the other cell does not mind."""
    rows = {"bad": {"method": "noise", "settings": BREAKING}}
    write_grid(tmp_path, {"rows": rows})
    home = tmp_path / "runs" / "tiny"
    said = run("run", "grid.yaml", cwd=tmp_path, code=1)
    assert "1 of 2 cells failed" in said
    (failure,) = home.glob("cells/*/failed.json")
    reason = json.loads(failure.read_text())["reason"]
    assert "non-finite" in reason or "not finite" in reason or "nan" in reason.lower(), reason
    assert [record["row"] for record in records(home)] == ["noise"]
    before = failure.stat().st_mtime_ns
    assert "1 failed before: --retry" in run("run", "grid.yaml", cwd=tmp_path, code=1)
    assert failure.stat().st_mtime_ns == before
    status = run("status", "grid.yaml", cwd=tmp_path)
    assert "1 done, 0 running, 1 failed, 0 missing" in status
    assert reason[:40] in status
    run("run", "grid.yaml", "--retry", cwd=tmp_path, code=1)
    assert failure.stat().st_mtime_ns > before


LONG = {"settings": {"steps": 3000, "checkpoint_every": 5, "steps_per_epoch": 1500, "log_every": 20}}


def checkpoint_of(home: Path) -> Path | None:
    return next(iter(home.glob("cells/*/run/checkpoints/last.pt")), None)


def kill_a_worker(home: Path, over: Callable[[], bool]) -> Path:
    """Wait until a cell has a checkpoint, kill its process, and wait until it goes on; return the cell."""
    cell: Path = wait_for(lambda: checkpoint_of(home)).parents[2]
    os.kill(wait_for(lambda: process_of(cell)), signal.SIGKILL)
    wait_for(lambda: over() or "going on from step" in (cell / "run" / "train.log").read_text())
    return cell


KILLED = ["run", "grid.yaml", "-s", "settings.steps=300"]


def test_a_killed_worker_is_taken_up_again_from_its_checkpoint(tmp_path):
    """The cells are forked by the server of the tests."""
    write_grid(tmp_path, LONG)
    home = tmp_path / "runs" / "tiny"
    with begun("-m", "lenient", "bench", *KILLED, cwd=tmp_path) as process:
        cell = kill_a_worker(home, lambda: process.over)
        process.send(signal.SIGINT)
        assert process.end().returncode == 130
    # what is no part of its id may change on the way: it goes on as it was begun
    others = ["-s", "settings.health.patience=3", "-s", "settings.checkpoint_every=7"]
    run(*KILLED, *others, cwd=tmp_path)
    assert len(records(home)) == 1
    assert "going on from step" in (cell / "run" / "train.log").read_text()


@pytest.mark.slow
def test_a_killed_worker_of_a_launchers_own_server_is_taken_up_again(tmp_path):
    write_grid(tmp_path, LONG)
    home = tmp_path / "runs" / "tiny"
    process = bench(*KILLED, cwd=tmp_path)
    kill_a_worker(home, lambda: process.poll() is not None)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=600) == 130
    run(*KILLED, cwd=tmp_path)
    assert len(records(home)) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
def test_a_killed_fork_server_is_started_again_and_no_cell_runs_twice(tmp_path):
    write_grid(tmp_path, {"seeds": 2})
    process = bench("run", "grid.yaml", "-s", "settings.steps=60", cwd=tmp_path)
    cell = wait_for(lambda: next(iter((tmp_path / "runs" / "tiny").glob("cells/*/run/metrics.jsonl")), None)).parents[1]
    status = Path(f"/proc/{wait_for(lambda: process_of(cell))}/status").read_text()
    os.kill(int(re.findall(r"PPid:\s+(\d+)", status)[0]), signal.SIGKILL)
    said, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "another launcher is at it" in said + errors  # its process went on by itself
    assert len(records(tmp_path / "runs" / "tiny")) == 2
    assert "going on from step" not in (cell / "run" / "train.log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
@pytest.mark.parametrize(
    ("sent", "code", "words"),
    [
        ("SIGINT", 130, "interrupted"),
        pytest.param("SIGKILL", 5, "the process that forks cells was killed", marks=pytest.mark.slow),
    ],
)
def test_signals_while_the_fork_server_imports_leave_no_traceback(sent, code, words, tmp_path):
    """Over ten seconds where a core is shared: a launcher and a server of its own import, the latter to the end."""
    write_grid(tmp_path)
    process = bench("run", "grid.yaml", cwd=tmp_path, start_new_session=True)
    begun = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def imports(process: str) -> bool:
        """Whether it is the server, and not what a fork is before it becomes another program, and has got to torch."""
        place = Path("/proc") / process
        with suppress(OSError):
            return "forkserver" in (place / "cmdline").read_text() and "libtorch" in (place / "maps").read_text()
        return False

    server = wait_for(lambda: [child for child in begun.read_text().split() if imports(child)])[0]
    if sent == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C does
    else:
        os.kill(int(server), signal.SIGKILL)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == code, errors
    assert words in errors
    assert "Traceback" not in errors


def test_a_cell_without_a_readable_checkpoint_starts_anew_on_retry(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    write_grid(tmp_path, {"rows": FINISHED})
    home = tmp_path / "runs" / "tiny"
    before = {record["id"]: record["curve"] for record in records(home)}
    cell = home / "cells" / next(iter(before))
    for path in [cell / "done", cell / "cell.json", cell / "run" / "done"]:
        path.unlink()
    for path in (cell / "run" / "checkpoints").glob("*.pt"):
        path.write_bytes(b"what a disk leaves")
    said = run("run", "grid.yaml", cwd=tmp_path, code=1)
    assert re.search(r"last\.pt is damaged \(.*\); start again with --retry", said)
    run("run", "grid.yaml", "--retry", cwd=tmp_path)
    assert {record["id"]: record["curve"] for record in records(home)} == before


@pytest.mark.slow
def test_a_killed_launcher_takes_its_workers_along_and_loses_nothing(tmp_path):
    write_grid(tmp_path, LONG)
    home = tmp_path / "runs" / "tiny"
    run("run", "grid.yaml", "-s", "settings.steps=4", cwd=tmp_path)
    (first,) = records(home)
    process = bench("run", "grid.yaml", cwd=tmp_path)
    cell = wait_for(lambda: checkpoint_of_other(home, first["id"])).parents[2]
    assert state(cell) == "running"
    process.kill()
    process.communicate()
    wait_for(lambda: state(cell) == "missing")
    assert records(home) == [first]
    assert "1 missing" in run("status", "grid.yaml", cwd=tmp_path)
    step = torch.load(cell / "run" / "checkpoints" / "last.pt", weights_only=True)["step"]
    assert 0 < step < 3000
    process = bench("run", "grid.yaml", cwd=tmp_path)  # it goes on, and Ctrl-C stops it with a checkpoint
    wait_for(lambda: "going on from step" in (cell / "run" / "train.log").read_text())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130, errors
    assert "the same command continues" in errors
    assert state(cell) == "missing"
    assert not (cell / "failed.json").exists()
    assert torch.load(cell / "run" / "checkpoints" / "last.pt", weights_only=True)["step"] >= step


def checkpoint_of_other(home: Path, done: str) -> Path | None:
    found = [path for path in home.glob("cells/*/run/checkpoints/last.pt") if path.parents[2].name != done]
    return found[0] if found else None


@pytest.mark.slow
def test_two_launchers_do_not_run_one_cell_twice(tmp_path):
    grid = grid_of(tmp_path)
    home = tmp_path / "home"
    words: list[str] = []
    (training,) = trainings(grid)
    launcher = make_launcher("local", 1, {}, home)
    run_grid(grid, home, launcher, tell=lambda *_: None)
    (cell,) = cells_of(grid, training.teachers(home) or [], None)
    folder = cell.folder(home)
    (folder / "done").unlink()
    # killed after its last step and before its record: only that is made up for
    log = (folder / "run" / "train.log").read_text()
    (folder / "cell.json").unlink()
    with tasks.locked(folder) as mine:
        assert mine
        assert state(folder) == "running"
        write_json(folder / "spec.json", cell.spec)
        process = tasks.start(cell.task(home), 1)  # one that comes past the first look
        assert tasks.conclude(cell.task(home), process.wait()) == "busy"
        second = threading.Thread(
            target=run_grid, args=(grid, home, launcher), kwargs={"tell": lambda *said: words.append(said[2])}
        )
        second.start()
        wait_for(lambda: any("another launcher is at it" in text for text in words))
        assert second.is_alive()
        assert not (folder / "failed.json").exists()
    second.join(timeout=300)  # what the other one has not done is done here, and not said to be done as if it were
    assert len([text for text in words if "another launcher" in text]) == 1
    assert state(folder) == "done"
    assert (folder / "run" / "train.log").read_text() == log


class Scripted:
    """A launcher whose tasks end as is given, one outcome for each time they are run."""

    def __init__(self, *outcomes: str) -> None:
        self.outcomes = list(outcomes)

    def run(self, batch, finished, stop):
        for task in batch:
            finished(task, self.outcomes.pop(0))


@pytest.mark.parametrize("left", ["done", "failed", "missing"])
def test_what_another_launcher_holds_is_waited_for(tmp_path, monkeypatch, left):
    monkeypatch.setattr(running, "LOOK_SECONDS", 0.01)
    task = Task("none", tmp_path / "cell", "a cell")
    now = iter(["running", "running", left])
    monkeypatch.setattr(running, "state", lambda folder: next(now))
    launcher, ended, waited = Scripted("busy", "busy", "done"), [], []
    if left == "missing":  # it starts, finds the folder held again, and starts once more
        now = iter(["running", "missing", "running", "missing"])
    running._run_all([task], launcher, lambda *end: ended.append(end), waited.append, threading.Event())
    assert ended == [(task, "failed" if left == "failed" else "done")]
    assert waited == [task]
    assert launcher.outcomes == ([] if left == "missing" else ["busy", "done"])


def test_a_stop_ends_the_wait(tmp_path):
    stop = threading.Event()
    stop.set()
    running._run_all([Task("none", tmp_path, "a cell")], Scripted("busy"), pytest.fail, lambda _: None, stop)


def test_a_folder_without_locks_is_guarded_by_a_file_with_one_warning(tmp_path, monkeypatch, caplog):
    def flock(handle, kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    for _ in range(2):
        with tasks.locked(tmp_path) as mine:
            assert mine
            assert tasks.state(tmp_path) == "running"
        assert tasks.state(tmp_path) == "missing"
    (said,) = [record.getMessage() for record in caplog.records]
    assert "only the file .lock.soft guards it" in said


@pytest.mark.parametrize(
    "name", ["cells", "teachers", "grid.json", "cells/a", *(f"cells/a/{name}" for name in tasks.NAMES)]
)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_grids_folder_with_a_link_or_a_pipe_by_one_of_our_names_is_refused(tmp_path, name, kind):
    place = tmp_path / "home" / name.rstrip("/")
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path) if kind == "link" else os.mkfifo(place)
    task = Task("none", tmp_path / "home" / "cells" / "a", "a cell")
    with pytest.raises(UsageError, match=f"{re.escape(place.name)} is a {kind}"):
        tasks.check_places(tmp_path / "home", [task])


@pytest.mark.parametrize("name", ["output.log", "cost.jsonl", ".lock"])
def test_what_a_cell_writes_in_place_has_no_second_name(tmp_path, name):
    task = Task("none", tmp_path / "home" / "cells" / "a", "a cell")
    task.folder.mkdir(parents=True)
    (tmp_path / "other").touch()
    os.link(tmp_path / "other", task.folder / name)
    with pytest.raises(UsageError, match=f"{name} is a hard link"):
        tasks.check_places(tmp_path / "home", [task])


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


NOTHING = {"tell": lambda *_: None}


@pytest.mark.parametrize("name", ["thesis.txt", "grid.json", "teachers.json", "cells/a/cell.json", "report.html"])
def test_a_grid_does_not_write_among_somebodys_files(tmp_path, name):
    grid, home = grid_of(tmp_path), tmp_path / "home"
    (home / name).parent.mkdir(parents=True)
    (home / name).write_text("precious")
    with pytest.raises(UsageError, match=rf"^-o {home}: the folder holds other files; choose an empty one$"):
        run_grid(grid, home, Scripted(), **NOTHING)
    assert listing(home) == {name: b"precious"}


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize("name", [MARKER, ".lock", "grid.json", "teachers.json", "cells", "teachers", "slurm"])
def test_a_grid_refuses_a_link_or_a_pipe_by_one_of_its_names(tmp_path, name, kind):
    grid, home, other = grid_of(tmp_path), tmp_path / "home", tmp_path / "other"
    tasks.claim_home(home)
    (home / name).unlink(missing_ok=True)
    other.mkdir()
    (home / name).symlink_to(other) if kind == "link" else os.mkfifo(home / name)
    with pytest.raises(UsageError, match=rf"-o {home}: {re.escape(name)} is a {kind}"):
        run_grid(grid, home, Scripted(), **NOTHING)
    assert not list(other.iterdir())


def test_a_grid_names_its_folder_before_it_writes_and_goes_on_there(tmp_path):
    grid, home = grid_of(tmp_path), tmp_path / "home"
    for _ in range(2):
        with pytest.raises(LenientError, match="teacher T"):
            run_grid(grid, home, Scripted("failed"), **NOTHING)
        marker = json.loads((home / MARKER).read_text())
        assert marker == {"kind": "grid", "format": FORMAT, "files": [*tasks.HOME, *tasks.HOME_FOLDERS]}
    with pytest.raises(UsageError, match=rf"{MARKER}: belongs to no run"):
        RunFolder.create(home)
    RunFolder.create(tmp_path / "run").close()
    with pytest.raises(UsageError, match=rf"{MARKER}: belongs to no grid"):
        run_grid(grid, tmp_path / "run", Scripted(), **NOTHING)


def test_launchers_that_begin_in_one_folder_at_once_do_not_refuse_each_other(tmp_path):
    ended: list[str] = []

    def begin() -> None:
        tasks.claim_home(tmp_path / "home")
        write_json(tmp_path / "home" / "grid.json", {})
        ended.append("well")

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == ["well"] * 8


def test_a_long_path_of_temporary_files_leaves_a_task_its_process(tmp_path, monkeypatch):
    """It holds the socket of the process that forks tasks, whose path may have some hundred bytes."""
    place = tmp_path / ("t" * 100)
    place.mkdir()
    (tmp_path / "cell").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    process = tasks.fork(Task("lenient.bench.cell", tmp_path / "cell", "cell"), 1)
    process.join()
    assert process.exitcode == DamagedError.exit_code, "it has looked for what it is given, which is not there"


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "a/b", ""])
def test_a_grid_is_named_for_a_folder_of_its_own(name):
    field = Grid.model_fields["name"]
    pattern = next(part.pattern for part in field.metadata if hasattr(part, "pattern"))
    assert re.fullmatch(pattern, name) is None
    assert re.fullmatch(pattern, "digits-2.1") is not None


@pytest.mark.parametrize(
    ("error", "resume"),
    [
        (MachineError("-o x: the disk is full; free some space and go on with --resume"), True),
        (DamagedError("last.pt: no checkpoint can be read; start again with --overwrite"), False),
        (UsageError("no"), False),
        (ValueError("no"), False),
    ],
)
def test_only_what_the_machine_refused_is_gone_on_with(tmp_path, monkeypatch, error, resume):
    def work(folder, spec, trust):
        raise error

    write_json(tmp_path / "spec.json", {})
    assert tasks._attempt(work, Stored, tmp_path / "spec.json", False) == getattr(error, "exit_code", 1)
    left = tasks.read_json(tmp_path / "failed.json")
    assert left["resume"] is resume
    assert "--resume" not in left["reason"]
    assert "--overwrite" not in left["reason"]
    assert ("--retry" in left["reason"]) == isinstance(error, MachineError)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": "t"}, "spec.json is damaged (teacher: input should be a valid dictionary"),
        ({"teacher": {"label": "T", "path": 3}}, "spec.json is damaged (teacher.path: input should be a valid string"),
        ({"seed": 2**63}, "spec.json is damaged (seed: "),
        ({"seed": True}, "spec.json is damaged (seed: "),
        ({"settings": []}, "spec.json is damaged (settings: "),
        ({"student": None}, "spec.json is damaged (student: "),
        ({"data": ["digits"]}, "spec.json is damaged (data: "),
        (None, "spec.json: is missing; the same `lenient bench run` writes it again"),
    ],
)
def test_a_damaged_spec_is_said_so(tmp_path, changes, words):
    (cell,) = cells_of(grid_of(tmp_path), [TEACHER], None)
    folder = tmp_path / "cell"
    folder.mkdir()
    if changes is not None:
        write_json(folder / "spec.json", cell.spec | changes)
    assert tasks._attempt(lambda *_: pytest.fail("it ran"), CellSpec, folder / "spec.json", False) == 5
    reason = tasks.read_json(folder / "failed.json")["reason"]
    assert words in reason
    assert len(reason) <= 300


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_what_cells_and_teachers_are_told_is_sound(tmp_path, seed):
    trained = {"train": {"arch": "lenient:resnet8", "epochs": 2, "keep": 2, "keep_above": 0.5}}
    grid = grid_of(tmp_path, {"teachers": [TINY["teachers"][0], trained, {"train": {"arch": "lenient:lenet5"}}]})
    for training in trainings(grid):
        schemas.check(TeacherSpec, specification(training, grid, None), tmp_path, "")
    for cell in cells_of(grid.model_copy(update={"seeds": (seed,)}), [TEACHER], None):
        schemas.check(CellSpec, json.loads(json.dumps(cell.spec)), tmp_path, "")


def test_a_checkpoint_with_several_networks_is_as_many_teachers(tmp_path):
    networks = {key: digits_like(seed) for seed, key in enumerate(("model", "model_ema"))}
    torch.save({key: network.module.state_dict() for key, network in networks.items()}, tmp_path / "both.pt")
    arch = networks["model"].card.arch
    entries = [{"file": "both.pt", "arch": arch, "checkpoint_key": key, "input_size": [1, 8, 8]} for key in networks]
    grid = grid_of(tmp_path, {"teachers": entries})
    plan = trainings(grid)
    assert len({training.id for training in plan}) == 2
    for training, network in zip(plan, networks.values(), strict=True):
        spec = specification(training, grid, None)
        schemas.check(TeacherSpec, spec, tmp_path, "")
        folder = tmp_path / training.id
        folder.mkdir()
        assert make_teacher(folder, spec)
        assert json.loads((folder / "teacher.json").read_text())["teachers"][0]["sha256"] == fingerprint(network.module)


def bare_checkpoint(folder: Path, **facts: Any) -> tuple[Grid, dict[str, Any]]:
    """Write weights alone; return a grid that says of them what is given, and what its teacher's process is given."""
    network = digits_like(3)
    torch.save(network.module.state_dict(), folder / "bare.pt")
    grid = grid_of(folder, {"teachers": [{"file": "bare.pt", "arch": network.card.arch, **facts}]})
    (training,) = trainings(grid)
    spec = json.loads(json.dumps(specification(training, grid, None)))
    schemas.check(TeacherSpec, spec, folder, "")
    return grid, spec


def test_a_grid_says_of_bare_weights_what_they_do_not(tmp_path, capsys):
    _, spec = bare_checkpoint(tmp_path, input_size=[1, 8, 8], num_classes=10, mean=0.3, std=[0.4])
    assert make_teacher(tmp_path, spec)
    made = json.loads((tmp_path / "teacher.json").read_text())["teachers"][0]
    assert made["card"] == CARD
    assert made["sha256"] == fingerprint(digits_like(3).module)
    assert "note: mean 0.3 and std 0.4: from --mean/--std" in capsys.readouterr().out


def test_constants_that_a_grid_says_make_another_teacher_and_silence_leaves_its_name(tmp_path):
    ids = []
    for facts in ({}, {"input_size": [1, 8, 8]}, {"mean": 0.3, "std": 0.4}, {"mean": 0.3, "std": 0.5}):
        grid, spec = bare_checkpoint(tmp_path, **facts)
        ids += [training.id for training in trainings(grid)]
        assert set(spec) == {"data", "device", "sha256", "arch", "name", "source", "data_root", *facts}
    assert len(set(ids)) == 4


def test_what_bare_weights_lack_is_named_by_its_key(tmp_path):
    _, spec = bare_checkpoint(tmp_path)
    with pytest.raises(TeacherError, match=r"is not known: give input_size: \[1,H,W\]$"):
        make_teacher(tmp_path, spec)
    _, spec = bare_checkpoint(tmp_path, input_size=[1, 8, 8], mean=[0.1, 0.2], std=[0.1, 0.2])
    with pytest.raises(TeacherError, match=r"^mean: 2 values for 1 channels") as caught:
        make_teacher(tmp_path, spec)
    assert "--" not in str(caught.value)


@pytest.mark.parametrize("fact", [{"checkpoint_key": "model"}, {"input_size": [1, 8, 8]}, {"num_classes": 10},
                                  {"mean": 0.3, "std": 0.4}])  # fmt: skip
def test_what_is_for_files_is_refused_beside_a_training(tmp_path, fact):
    with pytest.raises(UsageError, match=f"{next(iter(fact))} beside train: it is for a file; leave it out"):
        grid_of(tmp_path, {"teachers": [{"train": {"arch": "lenient:resnet8"}, **fact}]})


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        ({"input_size": [8, 8]}, "teachers.0.input_size=[8, 8]: write [C, H, W], three numbers from 1 to"),
        ({"input_size": [1, 0, 8]}, "teachers.0.input_size=[1, 0, 8]: write"),
        ({"input_size": [1, 8, 10**9]}, "teachers.0.input_size=[1, 8, 1000000000]: write"),
        ({"input_size": [True, 8, 8]}, "teachers.0.input_size=[True, 8, 8]: write"),
        ({"input_size": "1,8,8"}, "teachers.0.input_size='1,8,8': write"),
        ({"num_classes": 1}, "teachers.0.num_classes=1"),
        ({"num_classes": 10**9}, "teachers.0.num_classes=1000000000"),
        ({"mean": 0.3}, "mean and std go together"),
        ({"mean": [], "std": []}, "teachers.0.mean=[]"),
        ({"mean": True, "std": 1}, "teachers.0.mean=True: write a list, as in [1, 2]"),
        ({"mean": 2e6, "std": 1}, "teachers.0.mean"),
        ({"mean": 0, "std": 0}, "teachers.0.std"),
        ({"mean": "a", "std": 1}, "teachers.0.mean='a'"),
        ({"input_sise": [1, 8, 8]}, "the nearest is teachers.0.input_size"),
    ],
)
def test_what_a_grid_says_of_a_file_has_bounds(tmp_path, fact, words):
    with pytest.raises(UsageError) as caught:
        grid_of(tmp_path, {"teachers": [{"file": "teacher.safetensors", **fact}]})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300 + len(str(tmp_path))


@pytest.mark.parametrize("changes", [{"source": None}, {"name": ""}, {"arch": 3}, {"precision": "8"}, {"keep": -1}])
def test_a_damaged_spec_of_a_teacher_is_said_so(tmp_path, changes):
    grid = grid_of(tmp_path)
    (training,) = trainings(grid)
    with pytest.raises(DamagedError, match=r"spec\.json is damaged"):
        schemas.check(TeacherSpec, specification(training, grid, None) | changes, tmp_path / "spec.json", "again")


def test_a_retry_goes_on_where_only_an_input_was_missing(finished, tmp_path):
    """A run that had to be given up stays given up, though: the next retry is not to go on with it."""
    home = shutil.copytree(finished, tmp_path / "g") / "runs" / "tiny"
    folder = home / "cells" / records(home)[0]["id"]
    spec = json.loads((folder / "spec.json").read_text())
    for changes in ({"data": "mnist", "data_root": str(tmp_path)}, {"teacher": {"path": "gone.safetensors"}}):
        with pytest.raises(MachineError, match=r"--data-root|gone\.safetensors") as error:
            run_cell(folder, spec | changes)
        assert not isinstance(error.value, DamagedError)
    tasks._fail(folder, "no data", 2, resume=True)
    assert json.loads((folder / "failed.json").read_text())["resume"]
    tasks._fail(folder, "diverged", 4)
    tasks._fail(folder, "no data", 2, resume=True)
    assert not json.loads((folder / "failed.json").read_text())["resume"]


def test_an_unfinished_run_with_other_settings_is_replaced_by_a_retry_and_by_nothing_else(finished, tmp_path):
    """As an earlier version leaves it, whose settings had other names or defaults."""
    home = shutil.copytree(finished, tmp_path / "g") / "runs" / "tiny"
    folder = home / "cells" / next(cell["id"] for cell in records(home) if cell["method"] != "real")
    for name in ("done", "cell.json", "run/done"):
        (folder / name).unlink()
    config = folder / "run" / "config.yaml"
    changed = yaml.safe_load(config.read_text())
    changed["log_every"] += 1
    config.write_text(yaml.safe_dump(changed))
    assert tasks._attempt(run_cell, CellSpec, folder / "spec.json", False) == UsageError.exit_code
    reason = json.loads((folder / "failed.json").read_text())["reason"]
    assert (
        f"{folder}/run: this unfinished run was begun with other settings (log_every {changed['log_every']}" in reason
    )
    assert reason.endswith("--retry replaces it by a new one")
    assert "--resume" not in reason
    assert yaml.safe_load(config.read_text()) == changed
    assert tasks._attempt(run_cell, CellSpec, folder / "spec.json", False) == 0, "what --retry does"
    assert yaml.safe_load(config.read_text())["log_every"] == changed["log_every"] - 1
    assert (folder / "cell.json").is_file()


def test_a_process_without_a_word_fails_with_its_last_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the task goes to its folder, in this very process
    task = Task("lenient.bench.none", tmp_path / "cell", "a cell")
    write_json(task.spec, {})
    assert tasks.run_task(task, 1, str(tmp_path)) == "failed"
    assert "No module named" in json.loads((task.folder / "failed.json").read_text())["reason"]
    assert tasks.conclude(task, -signal.SIGKILL) == "cut"
    assert tasks.conclude(task, -signal.SIGTERM) == "interrupted"
    assert tasks.conclude(replace(task, name="another"), 130) == "interrupted"


def test_a_teacher_that_cannot_be_trained_is_said_so(tmp_path):
    write_grid(
        tmp_path, {"teachers": [{"train": {"arch": "lenient:resnet8", "keep": 1, "keep_above": 1, "epochs": 1}}]}
    )
    said = run("run", "grid.yaml", cwd=tmp_path, code=1)
    assert "teacher T failed: keep_above: no epoch is above 1.0" in said
    status = status_of(load_grid(tmp_path / "grid.yaml"), tmp_path / "runs" / "tiny")
    assert status.over  # `status --watch` ends
    assert status.counts["failed"] == 1


def test_students_are_checked_before_any_cell(tmp_path):
    write_grid(tmp_path)
    assert "lenient:resnet9" in run("run", "grid.yaml", "-s", "students=lenient:resnet9", cwd=tmp_path, code=2)
    assert not (tmp_path / "runs" / "tiny" / "cells").exists()


# other launchers


def test_launchers_that_are_not_there_are_named(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="--launcher loca: unknown; there are local, ray, slurm"):
        make_launcher("loca", None, {}, tmp_path)
    for kind, package in (("ray", "ray"), ("slurm", "submitit")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UsageError, match=rf"needs {package}; pip install {package}$"):
            make_launcher(kind, None, {}, tmp_path)


@pytest.mark.optional
@pytest.mark.parametrize(
    ("kind", "package", "options", "words"),
    [
        ("slurm", "submitit", {"cpus_per_task": "all"}, "launcher_options: cpus_per_task: 'all' is no number of cores"),
        ("slurm", "submitit", {"cluster": "local", "slurm_partitoin": "gpu"}, "launcher_options: "),
        ("slurm", "submitit", {"cluster": "local", "timeout_min": "long"}, "launcher_options: "),
        ("slurm", "submitit", {}, "launcher_options: .*srun"),
        ("ray", "ray", {"num_cpus": [1]}, r"launcher_options: num_cpus: \[1\] is no number of cores"),
        ("ray", "ray", {"slurm_partition": "gpu"}, "launcher_options: "),
    ],
)
def test_launcher_options_are_refused_in_one_line(tmp_path, monkeypatch, kind, package, options, words):
    pytest.importorskip(package, reason=f"needs the extra {kind}")
    monkeypatch.setenv("PATH", "")  # no Slurm here, be it installed or not
    with pytest.raises(UsageError, match=words) as refused:
        make_launcher(kind, None, options, tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.optional
@pytest.mark.parametrize(("kind", "options"), [("local", {}), ("slurm", {"cluster": "local"})])
def test_a_launcher_writes_nothing_before_the_grid_has_its_folder(tmp_path, kind, options):
    if kind == "slurm":
        pytest.importorskip("submitit", reason="needs the extra slurm")
    make_launcher(kind, None, options, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.optional
def test_a_slurm_job_that_cannot_start_says_why(tmp_path):
    submitit = pytest.importorskip("submitit", reason="needs the extra slurm")
    executor = submitit.AutoExecutor(folder=tmp_path, cluster="local")
    executor.update_parameters(timeout_min=5)
    job = executor.submit(importlib.import_module, "a_package_that_is_not_there")
    with pytest.raises(MachineError, match=r"--launcher slurm: .*No module named 'a_package_that_is_not_there'"):
        _slurm_outcome(job)


@pytest.mark.optional
def test_jobs_that_slurm_refuses_are_said_so(tmp_path, monkeypatch):
    """A stand-in for sbatch, which knows no such partition."""
    pytest.importorskip("submitit", reason="needs the extra slurm")
    for name, text in (("srun", "exit 0"), ("sbatch", "echo 'error: invalid partition\n specified: gpu' >&2; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    slurm = make_launcher("slurm", None, {"slurm_partition": "gpu"}, tmp_path)
    with pytest.raises(UsageError, match=r"launcher_options: Slurm refused .*invalid partition specified: gpu\)$"):
        slurm.run([Task("lenient.bench.none", tmp_path / "cell", "a cell")], lambda *_: None, threading.Event())


@pytest.mark.optional
def test_a_slurm_job_that_was_too_often_at_its_limit_was_cut():
    submitit = pytest.importorskip("submitit", reason="needs the extra slurm")
    error = submitit.core.utils.FailedJobError("Job not requeued because: timed-out too many times.")
    assert _slurm_outcome(SimpleNamespace(exception=lambda: error)) == "cut"


@pytest.mark.slow
def test_slurm_jobs_through_submitit(tmp_path):
    """submitit's local executor runs the very jobs that Slurm would."""
    pytest.importorskip("submitit", reason="needs the extra slurm")
    write_grid(tmp_path, {"launcher_options": {"cluster": "local", "timeout_min": 10}, "seeds": 2})
    said = run("run", "grid.yaml", "--launcher", "slurm", "--jobs", 2, cwd=tmp_path)
    assert "2/2" in said
    assert len(records(tmp_path / "runs" / "tiny")) == 2
    assert list((tmp_path / "runs" / "tiny" / "slurm").glob("*_log.out"))


@pytest.mark.slow
def test_a_ray_cluster_of_two_nodes(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="needs the extra ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        rows = {"bad": {"method": "noise", "settings": BREAKING}}
        write_grid(tmp_path, {"rows": rows, "seeds": 2})
        environment = {"RAY_ADDRESS": cluster.address}
        said = run("run", "grid.yaml", "--launcher", "ray", cwd=tmp_path, code=1, **environment)
        assert "2 of 4 cells failed" in said
        assert len(records(tmp_path / "runs" / "tiny")) == 2
        assert "2 of 4 cells are done already" in run(
            "run", "grid.yaml", "--launcher", "ray", cwd=tmp_path, code=1, **environment
        )
    finally:
        cluster.shutdown()


def test_a_broken_state_file_is_said_so(tmp_path):
    (tmp_path / "failed.json").write_text("{")
    with pytest.raises(LenientError, match="is damaged"):
        tasks.read_json(tmp_path / "failed.json")


def test_an_id_does_not_know_of_settings_that_came_later():
    old = {"steps": 3, "generator": {"width": 8}, "method": {"name": "adi"}}
    now = {"steps": 3, "generator": {"width": 8, "conv_bias": True}, "method": {"name": "adi", "student_lr_end": 0.0}}
    now["student"] = {"init": "as-is"}
    assert without_later(now, SINCE) == old
    other = {**now, "generator": {"width": 8, "conv_bias": False}}
    assert without_later(other, SINCE) == {**old, "generator": other["generator"]}
