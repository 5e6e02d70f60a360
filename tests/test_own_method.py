"""The programs of docs/own-method.md run as they stand there, and are methods like the others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lenient
from lenient.core.config import merge
from lenient.methods import _REGISTERED, METHODS
from lenient.models import save_network
from toys import QUICK, digits_like

PAGE = (Path(__file__).parents[1] / "docs" / "own-method.md").read_text(encoding="utf-8")
SHAPE = ("generator", "steps_per_epoch")
PLAN = {key: value for key, value in QUICK.items() if key not in SHAPE} | {"generator.width": 4}


@pytest.fixture(scope="module")
def written() -> Iterator[dict[str, Any]]:
    """What the page defines."""
    names: dict[str, Any] = {"__name__": "own_method"}
    for program in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(program, "own-method.md", "exec", dont_inherit=True), names)
    yield names
    for name in ("calm", "patient"):
        del METHODS[name], _REGISTERED[name]


@pytest.mark.parametrize("name", ["calm", "patient"])
def test_it_is_a_method_like_the_others(written: dict[str, Any], name: str, tmp_path: Path) -> None:
    """Settings by name, exact resume, images, and a line in the list."""
    save_network(tmp_path / "t.safetensors", digits_like())
    run = {"teacher": tmp_path / "t.safetensors", "student": "lenient:lenet5-half", "method": name}
    plan = PLAN if name == "calm" else {**PLAN, "steps": 10}
    whole = lenient.distill(**run, settings={**plan, "steps": plan["steps"] + 3})
    lenient.distill(**run, settings=plan, output=tmp_path / "r")
    longer = lenient.distill(**run, steps=plan["steps"] + 3, output=tmp_path / "r", resume=True)
    pairs = zip(whole.student.state_dict().values(), longer.student.state_dict().values(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    lenient.sample(tmp_path / "r", tmp_path / "drawn", 3)
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 3
    assert lenient.list_methods()[name].paper.startswith(("DFAD with", "Pixels that"))


def test_an_object_runs_with_its_own_settings(written: dict[str, Any]) -> None:
    def trained(weight: float) -> torch.Tensor:
        method = written["Calm"](written["Settings"](calm_weight=weight, student_steps=1))
        plan = merge(QUICK, {"steps": 4})
        student = lenient.distill(digits_like(), "lenient:lenet5-half", method=method, settings=plan).student
        return torch.cat([parameter.flatten() for parameter in student.parameters()])

    assert torch.equal(trained(0.1), trained(0.1))
    assert not torch.equal(trained(0.1), trained(50.0)), "the term counts"
