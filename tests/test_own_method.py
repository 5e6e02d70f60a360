"""The programs of docs/own-method.md run as they stand there, and are methods like the others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lenient
from lenient.bench.grid import load_grid, settings_of, trusted
from lenient.core.config import merge
from lenient.core.errors import LenientError, UsageError
from lenient.methods import _REGISTERED, METHODS
from lenient.methods.anatomy import method_info
from lenient.methods.own import own_method
from lenient.models import save_network
from lenient.runs.request import Request, resolve
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


# a method named where it lies


@pytest.fixture(scope="module")
def calm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's first method in a file of its own, which leaves a mark when it is run."""
    folder = tmp_path_factory.mktemp("own")
    program = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0].replace('@lenient.register_method("calm")\n', "")
    path = folder / "calm.py"
    path.write_text(f"{program}\n\nfrom pathlib import Path\n\nPath({str(folder / 'mark')!r}).write_text('run')\n")
    save_network(folder / "t.safetensors", digits_like())
    return path


@pytest.fixture
def here(calm_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its folder, as the current one, with no memory of what was imported."""
    monkeypatch.chdir(calm_file.parent)
    own_method.cache_clear()
    (calm_file.parent / "mark").unlink(missing_ok=True)
    return calm_file.parent


RUN = {"teacher": "t.safetensors", "student": "lenient:lenet5-half"}


def test_a_method_is_taken_where_it_lies(here: Path, tmp_path: Path) -> None:
    """With settings, exact resume and images; its name is kept with the whole path of the file."""
    plan = {**PLAN, "method.calm_weight": 2.0}
    whole = lenient.distill(**RUN, method="py:calm.py:Calm", settings={**plan, "steps": 9})
    lenient.distill(**RUN, method="py:calm.py:Calm", settings=plan, output=tmp_path / "r")
    kept = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["method"]
    assert (kept["name"], kept["calm_weight"]) == (f"py:{here / 'calm.py'}:Calm", 2.0)
    longer = lenient.distill(**RUN, method="py:calm.py:Calm", steps=9, output=tmp_path / "r", resume=True)
    pairs = zip(whole.student.state_dict().values(), longer.student.state_dict().values(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    lenient.sample(tmp_path / "r", tmp_path / "drawn", 3, trust_code=True)
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 3


def test_it_is_described_like_the_others(here: Path) -> None:
    info = method_info("py:calm.py:Calm")
    assert info.paper.startswith("DFAD with")
    assert info.settings["calm_weight"] == (0.1, "Weight of the mean square of the teacher's inputs.")


def test_a_run_folder_runs_no_method_that_the_user_did_not_type(here: Path, tmp_path: Path) -> None:
    lenient.distill(**RUN, method="py:calm.py:Calm", settings=PLAN, output=tmp_path / "r")
    own_method.cache_clear()
    (here / "mark").unlink()
    for way in (
        lambda: lenient.sample(tmp_path / "r", tmp_path / "drawn", 3),
        lambda: lenient.distill(**RUN, output=tmp_path / "r", resume=True, steps=9),
    ):
        with pytest.raises(
            LenientError, match=r"its method would run Calm\(\) of .*: to allow that, give .*--trust-code"
        ):
            way()
    lenient.report(tmp_path / "r")
    lenient.export(tmp_path / "r", tmp_path / "s.safetensors", "safetensors")
    assert not (here / "mark").exists()
    lenient.distill(**RUN, output=tmp_path / "r", resume=True, steps=9, trust_code=True)
    assert (here / "mark").exists()


def test_a_grid_runs_no_method_that_the_user_did_not_type(here: Path) -> None:
    grid = {"name": "g", "data": "digits", "teachers": [{"file": "t.safetensors"}], "students": "lenient:lenet5"}
    own = {"method": "py:calm.py:Calm", "settings": {"method.calm_weight": 2}}
    (here / "grid.yaml").write_text(yaml.safe_dump(grid | {"rows": {"a": own}}))
    (here / "recipe.yaml").write_text("method: {name: 'py:calm.py:Calm'}\n")
    (here / "by-recipe.yaml").write_text(
        yaml.safe_dump(grid | {"rows": {"a": {"method": "dfad", "recipe": "recipe.yaml"}}})
    )
    for name in ("grid.yaml", "by-recipe.yaml"):
        with pytest.raises(UsageError, match=r"would run Calm\(\)|the recipe is for"):
            load_grid(Path(name))
    assert not (here / "mark").exists()
    typed = ["rows.a.method=py:calm.py:Calm"]
    for plan in (
        load_grid(Path("grid.yaml"), trust_code=True),
        load_grid(Path("grid.yaml"), typed),
    ):
        found = settings_of(plan, "a", 0)["method"]
        assert (found["name"], found["calm_weight"]) == (f"py:{here / 'calm.py'}:Calm", 2)
    assert trusted(plan, Path("grid.yaml"), typed) >= {f"py:{here / 'calm.py'}:Calm"}  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("py:none.py:Calm", r"--method py:.*none\.py:Calm: no file"),
        ("py:calm.py:Calmer", r"'Calmer' is not there .*did you mean 'Calm'"),
        ("py:calm.py:Calmness", r"is no method: give a class with settings_type"),
        ("py:calm.py", r"give py:package\.module:factory or py:path/file\.py:factory"),
        ("py:empty.py:Half", r"has no build\(context\)"),
        ("py:broken.py:Calm", r"importing .*broken\.py' raised ZeroDivisionError"),
        ("cal", r"no such method; there are .*, and py:FILE\.py:CLASS"),
    ],
)
def test_what_is_no_method_is_one_line(here: Path, name: str, message: str) -> None:
    (here / "empty.py").write_text(
        "from lenient.methods.contract import MethodSettings\nclass Half:\n    settings_type = MethodSettings\n"
    )
    (here / "broken.py").write_text("1 / 0\n")
    with pytest.raises(UsageError, match=message) as caught:
        resolve(Request(method=name))
    assert "\n" not in str(caught.value)
