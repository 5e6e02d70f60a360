"""A run whose method `auto` took, and whose forecast raises the alarm, goes on with another method, once."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import lenient
from commands import python
from lenient.core.errors import DamagedError
from lenient.core.schemas import read_metrics
from lenient.methods.choice import STURDY, choose
from lenient.models import build_student, save_network
from lenient.runs.folder import RunFolder
from lenient.runs.reopen import reopen
from lenient.training.result import FellBack
from lenient.training.settings import DistillSettings
from lenient.training.trainer import Fallback
from test_methods import STABLE
from toys import digits_like, distillation, tiny_card

pytestmark = pytest.mark.usefixtures("bare_module")

BAD = {"expected": 0.1, "low": 0.05, "high": 0.3}
GOOD = BAD | {"expected": 0.9}
STEPS = 16
AT = 4
"""The first line after a quarter of them."""
STUDENT = "lenient:resnet8-half"
SHARED = {"batch_size": 8, "log_every": 2, "steps_per_epoch": 4, "device": "cpu", "precision": "32"}
PLAN = SHARED | {"checkpoint_every": 3, "overlap": False, "generator": {"width": 6, "latent_dim": 7}}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_network(path, digits_like())
    return path


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What every run is told, which a test may change."""
    found = dict(BAD)
    monkeypatch.setattr("lenient.runs.job.forecast", lambda run, progress: found)
    return found


def distilled(teacher: Path, folder: Path, steps: int = STEPS, plan: Any = PLAN, **more: Any) -> lenient.Result:
    return lenient.distill(teacher, STUDENT, steps=steps, settings=plan, output=folder, **more)


def student(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "student" / "model.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_metrics(folder / "metrics.jsonl") if event["event"] == kind]


def config(folder: Path) -> dict[str, Any]:
    found = RunFolder(folder).read_config()
    assert found is not None
    return found


def test_a_run_that_is_likely_to_fail_goes_on_as_one_of_the_other_method_over_the_steps_that_remain(
    teacher: Path, tmp_path: Path, told: dict[str, float]
) -> None:
    run = tmp_path / "run"
    result = distilled(teacher, run)
    found = config(run)
    assert found["method"]["name"] == result.summary.method == STURDY
    assert found["run"]["fell_back"] == {"before": "bn-adv", "step": AT}
    assert "fallback" not in found["run"], "once"
    assert "generator" not in found, "the other method has none"
    assert (found["steps"], result.summary.steps) == (STEPS, STEPS)
    assert result.summary.fell_back == FellBack("bn-adv", AT)
    (event,) = events(run, "fallback")
    assert event == {"event": "fallback", "step": AT, "before": "bn-adv", "method": STURDY}
    assert len(events(run, "forecast")) == 1
    lines = events(run, "log")
    assert [line["step"] for line in lines] == [*range(2, STEPS + 1, 2)]
    images = [line["images"] for line in lines]
    assert images == sorted(images), "all that were made are counted"
    assert "when bn-adv was likely to fail" in (run / "report.html").read_text()
    named = distilled(teacher, tmp_path / "named", STEPS - AT, SHARED, method=STURDY)
    assert same(student(run), student(tmp_path / "named"))
    assert result.health.verdict == named.health.verdict
    values = [{check.name: check.value for check in own.health.checks} for own in (result, named)]
    assert values[0] == values[1], "the verdict is about the run as it ended"


@pytest.mark.parametrize(("settings", "more"), [
    ({}, {"method": "bn-adv"}),
    ({"method": {"student_steps": 2}}, {}),
    ({"fallback": False}, {}),
    ({"generator": {"factory": "py:own.py:made"}}, {}),
])  # fmt: skip
def test_a_run_keeps_a_method_that_somebody_chose(
    teacher: Path, tmp_path: Path, told: dict[str, float], settings: Any, more: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = "from lenient.generators.upsampling import UpsamplingGenerator as G\nfrom torch import nn\n"
    own += "def made(card):\n    return nn.Sequential(nn.Linear(7, 64), nn.Unflatten(1, (1, 8, 8)))\n"
    (tmp_path / "own.py").write_text(own)
    plan = {**PLAN, **settings, "generator": {**PLAN["generator"], **settings.get("generator", {})}}
    if "factory" in plan["generator"]:
        plan["generator"] = {"factory": plan["generator"]["factory"], "latent_dim": 7}
    run = tmp_path / "run"
    result = distilled(teacher, run, plan=plan, **more)
    assert [event["name"] for event in events(run, "alarm") if event["name"] == "forecast"] == ["forecast"]
    assert not events(run, "fallback")
    assert config(run)["method"]["name"] == result.summary.method == "bn-adv"
    assert not {"fallback", "fell_back"} & config(run)["run"].keys()


def test_without_an_alarm_the_method_and_its_weights_stay(
    teacher: Path, tmp_path: Path, told: dict[str, float]
) -> None:
    told |= GOOD
    result = distilled(teacher, tmp_path / "open")
    assert config(tmp_path / "open")["run"]["fallback"] == {"name": STURDY}
    assert (result.summary.method, result.summary.fell_back) == ("bn-adv", None)
    distilled(teacher, tmp_path / "named", method="bn-adv")
    assert same(student(tmp_path / "open"), student(tmp_path / "named"))


def test_a_run_in_memory_falls_back_as_well(teacher: Path, told: dict[str, float]) -> None:
    result = lenient.distill(teacher, STUDENT, steps=STEPS, settings=PLAN)
    assert (result.summary.method, result.summary.fell_back) == (STURDY, FellBack("bn-adv", AT))


def test_a_teacher_that_nothing_is_forecast_of_has_no_fallback() -> None:
    plain = build_student("lenient:lenet5", tiny_card(size=(8, 8), classes=10), seed=0, role="teacher")
    assert choose(plain).fallback is None
    assert choose(digits_like()).fallback == STURDY


KILLED = """
import os, signal, sys
import lenient
from lenient.runs import job
from lenient.runs.folder import RunFolder

moment, seen = os.environ["MOMENT"], []
saved, wrote = RunFolder.save_checkpoint, RunFolder.write_config
job.forecast = lambda run, progress: {"expected": 0.1, "low": 0.05, "high": 0.3}

def die(when):
    if moment == when:
        os.kill(os.getpid(), signal.SIGKILL)

def save(folder, state):
    changed = state["fell_back"] is not None
    seen.append(changed)
    if changed:
        die(f"before checkpoint {sum(seen)}")
    saved(folder, state)
    if changed:
        die(f"after checkpoint {sum(seen)}")

def write(folder, config):
    if "fell_back" in config["run"]:
        die("before the settings")
    wrote(folder, config)

RunFolder.save_checkpoint, RunFolder.write_config = save, write
lenient.distill(
    os.environ["TEACHER"], STUDENT, steps=STEPS, settings=PLAN, output=os.environ["FOLDER"],
    resume=os.path.exists(os.environ["FOLDER"]),
)
"""


def process(teacher: Path, folder: Path, moment: str, code: int) -> None:
    script = f"STUDENT, STEPS, PLAN = {(STUDENT, STEPS, PLAN)!r}\n{KILLED}"
    done = python("-c", script, cwd=folder.parent, TEACHER=str(teacher), FOLDER=str(folder), MOMENT=moment)
    assert done.returncode == code, done.stderr


@pytest.fixture(scope="module")
def whole(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody killed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    process(teacher, folder, "", 0)
    return folder


MOMENTS = [
    "before checkpoint 1",  # what there is is of the method before
    "before the settings",  # the checkpoint has changed, and the settings have not
    "before checkpoint 2",  # both have, and the checkpoint before has not
    "after checkpoint 2",
    "after checkpoint 3",  # some steps later
]


@pytest.mark.parametrize("moment", [
    moment if moment == "before the settings" else pytest.param(moment, marks=pytest.mark.slow) for moment in MOMENTS
])  # fmt: skip
def test_killed_at_any_moment_of_the_change_it_ends_as_if_it_had_not_been(
    teacher: Path, whole: Path, tmp_path: Path, moment: str
) -> None:
    cut = tmp_path / "cut"
    process(teacher, cut, moment, -signal.SIGKILL)
    process(teacher, cut, "", 0)
    assert same(student(whole), student(cut))
    assert config(whole) == config(cut)
    for kind in ("fallback", "forecast", "alarm", "classes"):
        assert events(whole, kind) == events(cut, kind)
    assert [line["step"] for line in events(whole, "log")] == [line["step"] for line in events(cut, "log")]


def test_a_run_that_fell_back_can_be_lengthened_and_drawn_from(
    teacher: Path, tmp_path: Path, told: dict[str, float]
) -> None:
    run = tmp_path / "run"
    distilled(teacher, run)
    longer = distilled(teacher, run, STEPS + 6, resume=True)
    assert (longer.summary.steps, longer.summary.fell_back) == (STEPS + 6, FellBack("bn-adv", AT))
    assert len(events(run, "fallback")) == 1
    opened, frozen = reopen(run)
    with frozen:
        assert opened.context.steps == STEPS + 6 - AT
        assert opened.algorithm.source.sample(3, "x", 0).shape == (3, 1, 8, 8)


TINY: dict[str, Any] = {"steps": 16, "log_every": 2, "method": {"name": "ta-dfkd"}}


def test_both_checkpoints_are_of_the_other_method_once_the_settings_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a damaged one costs no more than it ever does; of settings of the method before, both are refused by name."""
    folder = RunFolder.create(tmp_path / "run")
    folder.open_logs(0)
    run = distillation(**TINY)
    seen: list[Any] = []
    saved = folder.save_checkpoint

    def save(state: dict[str, Any]) -> None:
        seen.append((state["step"], state["fell_back"]))
        saved(state)

    monkeypatch.setattr(folder, "save_checkpoint", save)
    run.folder, run.forecast, run._untrained = folder, lambda run, progress: BAD, run.student.state_dict()
    run.fallback = Fallback(run.settings.with_method(STABLE), lambda changed: seen.append(changed.settings.method.name))
    run.run(until=lambda: run.step == AT + 1)
    fell_back = {"before": "ta-dfkd", "step": AT}
    assert seen == [(AT, fell_back), STURDY, (AT, fell_back), (AT + 1, fell_back)]
    folder.close()
    with pytest.raises(DamagedError, match="of another method than the settings, before or after the run fell back"):
        distillation(**TINY).resume(folder)


def test_settings_of_another_method_are_those_that_it_takes() -> None:
    settings = DistillSettings(steps=7, seed=3, generator={"width": 9}, health={"kept": 0.2})
    changed = settings.with_method({"name": STURDY, "grow": 32})
    assert (changed.steps, changed.seed, changed.health.kept) == (7, 3, 0.2)
    assert (changed.method.name, changed.method.model_dump()["grow"]) == (STURDY, 32)
    assert "generator" not in changed.model_dump()
    assert settings.method.name == "bn-adv"


def test_the_page_on_falling_back_has_each_case_by_each_way(tmp_path: Path) -> None:
    def made(case: str, way: str, seed: int, agreement: float) -> dict[str, Any]:
        facts = {"case": case, "digits": "grey", "seed": seed, "way": way, "first": "ta-dfkd", "told": 0.2}
        facts |= {"step": 100, "method": "dafl"} if way != "method kept" else {"step": None, "method": "ta-dfkd"}
        return facts | {
            "chance": 0.3,
            "agreement": agreement,
            "accuracy": 0.1,
            "verdict": "warning",
            "seconds": 10.0 + seed,
        }

    runs = [
        made("normalised twice", way, seed, 0.5 + seed / 10)
        for way in ("method kept", "student anew")
        for seed in (0, 1)
    ]
    written = {"runs": runs, "machine": {"device_name": "a machine"}}
    (tmp_path / "found.json").write_text(json.dumps(written), encoding="utf-8")
    script = Path(__file__).parents[1] / "benchmarks" / "fallback.py"
    done = python(script, "-o", "found.json", "--table", "page.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    row = "20.0 (20.0, 20.0) | 30.0 (30.0, 30.0) | student anew | 55.0 (50.0, 60.0) | 10.0 (10.0, 10.0)"
    assert f"| normalised twice | grey | {row} | warning, warning | 10 |" in page
    assert "student kept |" not in page
    assert "goes on with `dafl` over" in page
    assert "4 runs in `found.json`" in page
