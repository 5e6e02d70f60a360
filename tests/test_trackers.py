"""Trackers: asked for by name, the same run after a resume, and never the end of a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from commands import lenient
from lenient.cli import trackers
from lenient.cli.trackers import Tracker
from lenient.core.errors import UsageError
from lenient.runs.folder import RunFolder
from toys import settings

QUICK = ["--preset", "smoke", "--device", "cpu", "--precision", "32", "-s", "generator.width=4", "-s", "log_every=10"]
RUN = ["--student", "lenient:lenet5-half", "--eval-data", "digits", "-o", "run", "--progress", "plain"]


class Kept(Tracker):
    """Keeps what it gets, until it breaks."""

    name = "kept"

    def begin(self, step: int) -> None:
        self.got: list[tuple[int, dict[str, float]]] = []

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        if step > 2:
            raise ConnectionError("no network")
        self.got.append((step, dict(numbers)))

    def end(self) -> None:
        raise AssertionError("it was left alone before")


def test_numbers_have_the_names_of_their_events_and_a_failing_tracker_is_left_alone(tmp_path, caplog):
    tracker = Kept(RunFolder(tmp_path), settings())
    tracker.start(9, 0)
    tracker.line("log", {"step": 1, "seconds": 3.0, "loss/student": 0.5, "images": 8, "epoch": 1})
    tracker.line("eval", {"step": 2, "accuracy": 0.25})
    tracker.line("alarm", {"step": 2, "message": "x"})
    with caplog.at_level(logging.WARNING, "lenient"):
        tracker.line("log", {"step": 3, "loss/student": 0.5})
    tracker.line("log", {"step": 4, "loss/student": 0.5})
    tracker.stop()
    assert tracker.got == [(1, {"loss/student": 0.5}), (2, {"eval/accuracy": 0.25})]
    assert [record.getMessage() for record in caplog.records] == ["kept failed and is switched off: no network"]


def test_a_tracker_that_cannot_be_reached_is_said_in_one_line(tmp_path, monkeypatch, caplog):
    class Away(Kept):
        def begin(self, step: int) -> None:
            raise RuntimeError("log in\nfirst")

    tracker = Away(RunFolder(tmp_path), settings())
    with caplog.at_level(logging.WARNING, "lenient"):  # one that nobody asked for ends no run
        tracker.start(9, 0)
    tracker.line("log", {"step": 1, "loss/student": 0.5})
    assert [record.getMessage() for record in caplog.records] == ["kept cannot be used here: log in first"]
    monkeypatch.setattr(trackers, "ASKED_FOR", ("kept",))
    with pytest.raises(UsageError, match=r"^--track kept: log in first$"):
        tracker.start(9, 0)


def test_trackers_are_known_by_name_and_need_their_package(monkeypatch):
    with pytest.raises(UsageError, match="--track neptune: unknown; there are wandb, mlflow"):
        trackers.known(["neptune"])
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^--track wandb: needs wandb; pip install wandb$"):
        trackers.known(["wandb"])
    with pytest.raises(UsageError, match=r"^--track mlflow: needs mlflow-skinny; pip install mlflow-skinny$"):
        trackers.known(["mlflow"])
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    assert trackers.known(["wandb", "mlflow", "wandb"]) == ("wandb", "mlflow")


def test_names_are_remembered_beside_each_other(tmp_path):
    tracker = Kept(RunFolder(tmp_path), settings())
    assert tracker.remembered() == {}
    other = Kept(RunFolder(tmp_path), settings())
    other.name = "wandb"  # type: ignore[misc]
    other.remember("a")
    tracker.remember("b")
    assert tracker.remembered() == {"wandb": "a", "kept": "b"}


@pytest.mark.slow
def test_wandb_gets_the_log_and_goes_on_with_the_run(digits_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    wanted = {"WANDB_MODE": "offline"}
    lenient("distill", digits_file, *QUICK, *RUN, "--track", "wandb", cwd=tmp_path, code=4, **wanted)
    more = ["--resume", "--steps", 40, "--track", "wandb"]
    lenient("distill", digits_file, *QUICK, *RUN, *more, cwd=tmp_path, code=4, **wanted)
    name = json.loads((tmp_path / "run" / "trackers.json").read_text())["wandb"]
    first, second = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert b"loss/student" in first.read_bytes()
    assert b"eval/accuracy" in second.read_bytes()


@pytest.mark.slow
def test_mlflow_gets_the_log_and_goes_on_with_the_run(
    digits_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    lenient("distill", digits_file, *QUICK, *RUN, "--track", "mlflow", cwd=tmp_path, code=4)
    more = ["--resume", "--steps", 40, "--track", "mlflow"]
    lenient("distill", digits_file, *QUICK, *RUN, *more, cwd=tmp_path, code=4)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("lenient").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["method.name"] == "bn-adv"
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "loss/student")]
    assert steps == [10, 20, 30, 40]
