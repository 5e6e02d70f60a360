"""A teacher whose logits spread far teaches as one with the usual ones, where a run divides them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from lenient import distill
from lenient.core.config import merge
from lenient.core.errors import UsageError
from lenient.models.card import Network
from lenient.runs.autotune import LOUD, USUAL, fitting_temperature
from lenient.teacher.frozen import FrozenTeacher
from toys import CPU, tiny_teacher

PLAN = {"steps": 6, "batch_size": 8, "precision": "32", "device": "cpu", "log_every": 3}


def loud(times: float) -> Network:
    teacher = tiny_teacher()
    with torch.no_grad():
        for values in teacher.module.head.parameters():
            values *= times
    return teacher


def student_of(teacher: Network, method: str, temperature: float | str) -> dict[str, torch.Tensor]:
    plan = merge(PLAN, {"method": {"name": method}, "teacher": {"temperature": temperature}})
    if method == "zskd":
        plan = merge(plan, {"method": {"iterations": 2, "first_batches": 1}})
    return distill(teacher, "lenient:resnet8-half", settings=plan).student.state_dict()


@pytest.mark.parametrize("method", ["ta-dfkd", "zskd", "stable"])
def test_logits_that_are_divided_teach_as_those_that_need_not_be(method: str) -> None:
    quiet, divided = student_of(loud(1), method, 1.0), student_of(loud(32), method, 32.0)
    assert all(torch.equal(values, divided[name]) for name, values in quiet.items())
    assert any(not torch.equal(values, quiet[name]) for name, values in student_of(loud(32), method, 1.0).items())


def test_auto_divides_what_spreads_too_far_and_nothing_else() -> None:
    assert fitting_temperature(loud(1), CPU) == 1
    found = fitting_temperature(loud(1000), CPU)
    assert found > 1000 * 1 / LOUD, "the toy's logits deviate by one at least"
    assert fitting_temperature(loud(1000 / found), CPU) == 1
    assert fitting_temperature(loud(3000), CPU) == pytest.approx(3 * found, rel=0.05)
    assert USUAL < LOUD


def test_a_run_keeps_what_auto_came_to(tmp_path: Path) -> None:
    plan = merge(PLAN, {"teacher": {"temperature": "auto"}})
    distill(loud(1000), "lenient:lenet5-half", settings=plan, output=tmp_path / "r")
    kept = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["teacher"]["temperature"]
    assert kept == fitting_temperature(loud(1000), CPU)
    resumed = distill(loud(1000), "lenient:lenet5-half", steps=8, output=tmp_path / "r", resume=True)
    assert resumed.summary.steps == 8
    assert yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["teacher"]["temperature"] == kept


def test_a_copy_of_the_teacher_begins_with_its_logits(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"-s teacher\.temperature=4: a copy of the teacher"):
        distill(loud(1), "int8:copy", settings=merge(PLAN, {"teacher": {"temperature": 4}}))
    plan = merge(PLAN, {"teacher": {"temperature": "auto"}})
    distill(loud(1000), "int8:copy", settings=plan, output=tmp_path / "r")
    assert yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["teacher"]["temperature"] == 1


def test_what_is_read_of_the_last_layer_is_divided_too() -> None:
    with FrozenTeacher(tiny_teacher(), CPU) as teacher:
        divided = teacher.softened(4.0)
        for one, other in zip(teacher.head, divided.head, strict=True):
            torch.testing.assert_close(other, one / 4)
        images = torch.rand(2, 1, 6, 5)
        torch.testing.assert_close(divided.respond(images).logits, teacher.respond(images).logits / 4)
        copied = divided.altered(lambda module: None)
        torch.testing.assert_close(copied.respond(images).logits, divided.respond(images).logits)
        assert teacher.forwards == 6, "views of a teacher count together"
