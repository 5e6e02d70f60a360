"""What a run is told of its student after a quarter of its steps, and the alarm where that is too little."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lenient.core.schemas import read_metrics
from lenient.runs.folder import RunFolder
from lenient.training.answers import answers, forecast
from lenient.training.inverted import IMAGES
from lenient.training.result import Result
from lenient.training.trainer import Distillation
from lenient.training.verdict import FORECAST
from toys import distillation

PLAN = {"steps": 16, "log_every": 2, "method": {"name": "ta-dfkd"}}
BAD = {"expected": 0.4, "low": 0.2, "high": 0.6}


class Seen:
    """Keeps the events of a run."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def start(self, total_steps: int, step: int) -> None: ...

    def step(self, step: int, images: int) -> None: ...

    def line(self, event: str, values: Any) -> None:
        self.events.append((event, dict(values)))

    def stop(self) -> None: ...

    def of(self, *kinds: str) -> list[tuple[str, dict[str, Any]]]:
        return [event for event in self.events if event[0] in kinds]


def told(run: Distillation, forecast: Any) -> tuple[Seen, Result]:
    run.forecast, seen = forecast, Seen()
    run.observers = (seen,)
    return seen, run.run()


def test_a_run_is_told_once_by_the_first_line_after_a_quarter_of_its_steps():
    asked: list[tuple[int, float]] = []

    def noting(run: Distillation, progress: float) -> dict[str, float]:
        asked.append((run.step, progress))
        return BAD

    seen, result = told(distillation(**PLAN), noting)
    assert asked == [(4, 0.25)]
    assert seen.of("forecast") == [("forecast", {"step": 4, **BAD})]
    (alarm,) = [values for _, values in seen.of("alarm") if values["name"] == FORECAST]
    assert alarm["step"] == 4
    assert "20% to 60%" in alarm["message"]
    assert not [check for check in result.health.checks if check.name == FORECAST], "the verdict asks at the end"


@pytest.mark.parametrize("found", [None, {"expected": 0.5, "low": 0.1, "high": 0.9}])
def test_no_alarm_where_enough_is_expected_or_nothing_known(found):
    seen, _ = told(distillation(**PLAN), lambda run, progress: found)
    assert len(seen.of("forecast")) == (found is not None)
    assert not [values for _, values in seen.of("alarm") if values["name"] == FORECAST]


def test_late_lines_of_a_run_whose_lines_are_far_apart_tell_nothing():
    seen, _ = told(distillation(**PLAN | {"log_every": 16}), lambda run, progress: BAD)
    assert not seen.of("forecast")


def test_it_asks_inverted_images_which_are_made_once_and_leaves_no_trace(monkeypatch):
    monkeypatch.setattr("lenient.training.answers.PART", 0)  # whatever they cost
    monkeypatch.setattr("lenient.training.prediction.fitted", lambda: FIT)
    plain, watched = distillation(**PLAN), distillation(**PLAN)
    plain.run()
    seen, _ = told(watched, forecast)
    ((_, found),) = seen.of("forecast")
    assert found["low"] < found["expected"] < found["high"]
    assert watched.teacher.forwards == plain.teacher.forwards + IMAGES, (
        "asked about them once; to draw them is not counted"
    )
    for a, b in zip(plain.student.state_dict().values(), watched.student.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    drawn = watched.inverted
    assert drawn is not None
    assert answers(watched)["inverted"]["images"] == len(drawn)
    assert watched.inverted is drawn
    assert answers(plain)["inverted"] == answers(watched)["inverted"], "whenever they are drawn, they are the same"


def test_a_run_that_goes_on_is_told_as_one_that_was_never_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("lenient.training.answers.PART", 0)
    monkeypatch.setattr("lenient.training.prediction.fitted", lambda: FIT)
    whole, _ = told(distillation(**PLAN), forecast)
    for stop in (3, 5):  # before and after it is told
        folder = RunFolder.create(tmp_path / str(stop))
        folder.open_logs(0)
        first = distillation(**PLAN)
        first.folder, first.forecast = folder, forecast
        first.run(until=lambda run=first, stop=stop: run.step >= stop)
        second = distillation(**PLAN)
        second.resume(folder)
        later, _ = told(second, forecast)
        before = [event for event in read_metrics(folder.path / "metrics.jsonl") if event["event"] == "forecast"]
        folder.close()
        again = [{"event": kind, **values} for kind, values in later.of("forecast")]
        assert [event["step"] for event in [*before, *again]] == [4]
        assert [event["expected"] for event in [*before, *again]] == pytest.approx(
            [values["expected"] for _, values in whole.of("forecast")], rel=1e-6
        )


FIT = {
    "intercept": 0.5,
    "weights": {"distance": -1.0, "shift": -0.5},
    "ranges": {"distance": [-7, 7], "shift": [-7, 7]},
    "margin": 1.0,
    "classes": [2, 100],
    "level": 0.9,
    "runs": 3,
    "teachers": 2,
    "data": ["digits"],
}


def test_the_page_counts_alarms_by_what_came_of_the_runs(tmp_path):
    made = [(0.3, 0.2, "a"), (0.3, 0.6, "b"), (0.7, 0.4, "c"), (0.9, 0.9, "d"), (1.0, 0.45, "e"), (0.95, None, "f")]
    runs = [
        {
            "id": name,
            "source": "digits",
            "share": share,
            "told": expected and {"step": 200, "low": 0.1, "expected": expected, "high": 0.95},
            "alarms": ["coverage"] if name in "ad" else [],
            "pixels": None
            if name == "e"
            else {"contrast": 0.5 if name == "b" else 1.2, "overshoot": 0.4 * (name == "d")},
        }
        for share, expected, name in made
    ]
    written = {"runs": runs, "machine": {"device_name": "a machine"}}
    (tmp_path / "found.json").write_text(json.dumps(written), encoding="utf-8")
    script = Path(__file__).parents[1] / "benchmarks" / "forecast.py"
    command = [sys.executable, str(script), "-o", "found.json", "--table", "page.md"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| digits, expected below 0.5 | 1 of 2 | 1 of 1 | 1 of 2 |" in page
    assert "| all, pixels | 1 of 2 | 0 of 1 | 1 of 1 |" in page
    assert "| all, either | 2 of 2 | 1 of 1 | 1 of 1 |" in page
    assert "| coverage | 1 of 2 | 0 of 1 | 1 of 2 |" in page
    assert "5 runs in `found.json`; 1 more were told nothing" in page
