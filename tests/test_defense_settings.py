"""The part `defense` of the settings: names, errors, files, grids, and runs that are gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import lenient
from lenient.bench.cells import cell_id
from lenient.bench.grid import load_grid, settings_of
from lenient.core.config import keys_of
from lenient.core.errors import TeacherError, UsageError
from lenient.defenses.abd import ABDSettings
from lenient.models.card import Network
from lenient.runs.autotune import trial
from lenient.runs.folder import RunFolder
from lenient.runs.request import Request, resolve
from lenient.student.unlearn import Unlearning
from toys import QUICK, TA_QUICK, digits_like, quick, settings, tiny_card, tiny_student, tiny_teacher

pytestmark = pytest.mark.usefixtures("bare_module")

ABD = {"name": "abd", "shuffle": {"trials": 0, "layers": 2}, "unlearn": {"share": 0.5, "rounds": 2}}


def asked(*overrides: str):
    return resolve(Request(overrides=overrides)).defense


def test_there_is_none_by_default_and_a_name_is_short_for_its_settings():
    assert asked().model_dump() == {"name": "none"}
    assert asked("defense=none") == asked("defense.name=none") == asked()
    assert asked("defense=abd") == asked("defense.name=abd")
    found = asked("defense=abd", "defense.unlearn.share=0.1", "defense.shuffle.layers=3")
    assert (found.unlearn.share, found.shuffle.layers, found.shuffle.copies) == (0.1, 3, 3)
    assert resolve(Request(settings={"defense": "abd"})).defense == asked("defense=abd")


@pytest.mark.parametrize(("override", "said"), [
    ("defense=abc", r"^-s defense='abc': write one of none, abd$"),
    ("defense=3", r"^-s defense=3: write a name, or settings as key: value$"),
    ("defense.unlearn.share=0.1", r"^-s defense.unlearn: defense is none; give -s defense=abd too, or leave it out$"),
])  # fmt: skip
def test_what_is_no_defence_is_said_in_one_line(override, said):
    with pytest.raises(UsageError, match=said):
        asked(override)


@pytest.mark.parametrize(("override", "said"), [
    ("defense.unlearn.shar=0.1", r"^-s defense.unlearn.shar: no such setting; the nearest is defense.unlearn.share$"),
    ("defense.unlearn.share=2", r"^-s defense.unlearn.share=2: input should be less than or equal to 1$"),
    ("defense.shuffle.copies=0", r"^-s defense.shuffle.copies=0: input should be greater than or equal to 1$"),
])  # fmt: skip
def test_settings_of_a_defence_are_checked_like_others(override, said):
    with pytest.raises(UsageError, match=said):
        asked("defense=abd", override)


def test_a_run_goes_on_with_its_defence_to_the_bit_and_can_be_sampled_from(tmp_path, bare):
    plan = {**QUICK, "method": TA_QUICK, "defense": ABD, "report": {"images": False}}
    teacher = tmp_path / "teacher.safetensors"
    lenient.models.save_network(teacher, digits_like())
    whole, part = tmp_path / "whole", tmp_path / "part"

    class StopError(Exception):
        pass

    class Watch:
        def start(self, total_steps, step):
            pass

        def step(self, step, images):
            if step == 4:
                raise StopError

        def line(self, event, values):
            pass

        def stop(self):
            pass

    plan |= {"checkpoint_every": 1}
    lenient.distill(teacher, "lenient:resnet8-half", output=whole, settings=plan)
    with pytest.raises(StopError):
        lenient.distill(teacher, "lenient:resnet8-half", output=part, settings=plan, observers=[Watch()])
    assert RunFolder(part).load_checkpoint(torch.device("cpu"))["step"] < 6
    lenient.distill(teacher, "lenient:resnet8-half", output=part, resume=True)
    found = [
        RunFolder(path).load_checkpoint(torch.device("cpu"))["networks"]["student"]["module"] for path in (whole, part)
    ]
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    written = yaml.safe_load((part / "config.yaml").read_text())
    assert written["defense"]["unlearn"]["share"] == 0.5
    assert written["defense"]["shuffle"]["copies"] == 3
    lenient.sample(part, tmp_path / "images", 4)
    assert len(list((tmp_path / "images").glob("*.png"))) == 4
    with pytest.raises(UsageError, match=r"--resume: defense.*leave it out"):
        lenient.distill(teacher, "lenient:resnet8-half", output=part, resume=True, settings={"defense": "none"})


def test_rows_of_a_grid_may_differ_in_their_defence_and_those_without_one_are_known_as_before(tmp_path: Path):
    text = """
        name: guarded
        data: digits
        teachers: [{file: a.safetensors}]
        students: lenient:resnet8-half
        rows:
          plain: {method: ta-dfkd}
          guarded: {method: ta-dfkd, settings: {defense: abd}}
          more: {method: ta-dfkd, settings: {defense: {name: abd, unlearn: {share: 0.1}}}}
    """
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    grid = load_grid(path)
    rows = {label: settings_of(grid, label, 0) for label in grid.rows}
    teacher = {"sha256": "0", "card": {}}
    ids = {label: cell_id(settings, teacher, "s", "digits") for label, settings in rows.items()}
    assert len(set(ids.values())) == 3
    before = {key: value for key, value in rows["plain"].items() if key != "defense"}
    assert cell_id(before, teacher, "s", "digits") == ids["plain"]


def test_a_perturbation_of_the_teacher_needs_its_gradient_whatever_the_method():
    class Deaf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(30, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(images.detach().flatten(1))

    plan = {
        **quick("noise"),
        "method": {"name": "noise"},
        "defense": {"name": "abd", "unlearn": {"share": 0.5, "rounds": 1}},
    }
    student = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    deaf = Network(Deaf().eval(), tiny_card())
    with pytest.raises(TeacherError, match="gradient"):
        lenient.distill(deaf, student, settings=plan)
    plan["defense"]["unlearn"]["perturbed"] = "student"
    assert lenient.distill(deaf, student, settings=plan).summary.steps == 6


def test_a_trial_looks_at_steps_that_unlearn_too(monkeypatch):
    """So that a budget and a batch size hold to the end of the run."""
    made = []
    true = Unlearning.hyper_gradient
    monkeypatch.setattr(Unlearning, "hyper_gradient", lambda self, new, delta: made.append(1) or true(self, new, delta))
    plan = settings(steps=400, defense={**ABD, "unlearn": {"share": 0.02, "rounds": 1}})
    trial(plan, tiny_teacher(), tiny_student())
    assert made
    made.clear()
    trial(settings(steps=400), tiny_teacher(), tiny_student())
    assert not made


def test_the_page_lists_the_settings_as_they_are():
    page = (Path(__file__).parents[1] / "docs" / "defenses" / "abd.md").read_text(encoding="utf-8")
    for key in keys_of(ABDSettings):
        section, _, name = key.partition(".")
        if not name:
            continue
        field = getattr(ABDSettings(), section).__class__.model_fields[name]
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        assert f"| `{key}` | {default} | {' '.join(field.description.split())} |" in page
