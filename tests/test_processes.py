"""Processes that are started do not run what lies in the working folder; leftovers of a launcher silence nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lenient
from lenient.bench.tasks import Task, start, write_json
from lenient.cli import main
from lenient.core import processes, ranks
from lenient.models import save_network
from toys import digits_like

PLANTED = ("threading", "torch", "lenient", "numpy", "multiprocessing", "json", "typing")
LAUNCHED = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with modules that leave a mark there when they are imported."""
    for name in PLANTED:
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'mark')!r}, 'a').write({name!r})\nraise SystemExit(9)"
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mark"


def test_a_task_does_not_look_in_the_working_folder(planted: Path, tmp_path: Path) -> None:
    task = Task("lenient.bench.none", tmp_path / "cell", "a cell")
    write_json(task.spec, {})
    start(task, 1).wait()
    assert "No module named lenient.bench.none" in (task.folder / "output.log").read_text()
    assert not planted.exists()


def test_what_is_started_in_the_block_does_not_either(planted: Path) -> None:
    code = "import threading, json; print(threading.__file__)"
    with processes.safe_path():
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "planted" not in said
    assert not planted.exists()
    assert processes.SAFE not in os.environ


def test_the_package_is_found_where_it_was_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert processes.safely({"A": "b"}) == {"A": "b", "PYTHONSAFEPATH": "1"}
    monkeypatch.chdir(Path(lenient.__file__).parents[1])
    assert processes.safely({"A": "b"}) == {"A": "b"}
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert processes.safely({}) == {"PYTHONSAFEPATH": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["bench run", "distill --devices 2"])
def test_no_process_of_a_command_looks_in_the_working_folder(planted: Path, tmp_path: Path, how: str) -> None:
    save_network(tmp_path / "t.safetensors", digits_like())
    settings = {"steps": 2, "batch_size": 4, "precision": "32", "device": "cpu"}
    grid = {"name": "g", "data": "digits", "teachers": [{"file": "t.safetensors"}], "students": "lenient:lenet5-half"}
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(grid | {"rows": {"noise": "noise"}, "settings": settings}))
    words = ["bench", "run", "g.yaml"]
    if how != "bench run":
        words = ["distill", "t.safetensors", "--student", "lenient:lenet5-half", "--devices", "2", "-o", "run"]
        words += [word for key, value in settings.items() for word in ("-s", f"{key}={value}")]
    done = subprocess.run([sys.executable, "-P", "-m", "lenient", *words], capture_output=True, text=True)
    assert done.returncode in (0, 4), done.stderr
    assert not planted.exists()


@pytest.mark.parametrize(
    ("environment", "among_several", "speaks"),
    [
        ({}, False, True),
        ({"RANK": "1"}, False, True),
        ({"RANK": "x"}, False, True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False, True),
        ({"RANK": "x", "WORLD_SIZE": "2", **LAUNCHED}, False, True),
        ({"RANK": "1", "WORLD_SIZE": "", **LAUNCHED}, False, True),
        ({"RANK": "2", "WORLD_SIZE": "2", **LAUNCHED}, False, True),
        ({"RANK": "-1", "WORLD_SIZE": "2", **LAUNCHED}, False, True),
        ({"RANK": "0", "WORLD_SIZE": "1", **LAUNCHED}, False, True),
        ({"RANK": "1", "WORLD_SIZE": "2", **LAUNCHED}, True, True),
        ({"RANK": "0", "WORLD_SIZE": "2", **LAUNCHED, "TORCHELASTIC_RUN_ID": "a"}, True, True),
        ({"RANK": "1", "WORLD_SIZE": "2", **LAUNCHED, "TORCHELASTIC_RUN_ID": "a"}, True, False),
    ],
)
def test_only_a_process_that_torchrun_started_beside_another_is_silent(
    environment: dict[str, str],
    among_several: bool,
    speaks: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", *LAUNCHED):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ranks.launched() == among_several
    monkeypatch.setattr(sys, "argv", ["lenient", "inspect", "no-such-file.pt"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3
    assert ("no-such-file.pt" in capsys.readouterr().err) == speaks
