"""The examples in the docstrings of public names run as they stand there; docs/api.md shows all of these names."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import lenient
import lenient.errors
import lenient.losses
from lenient.core.config import resolve_dotted
from lenient.methods import _REGISTERED, METHODS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")
NAMES = re.findall(r"^\.\. auto\w+:: lenient\.(\w+)$", PAGE, re.MULTILINE)
"""In the order of the page: the first ones leave behind what the others take, a teacher's file and a run."""
LOSSES = re.findall(r"^\.\. autofunction:: (lenient\.losses\.[\w.]+)$", PAGE, re.MULTILINE)
FINDER = doctest.DocTestFinder(recurse=False)


def examples(name: str) -> doctest.DocTest:
    (found,) = FINDER.find(getattr(lenient, name), f"lenient.{name}", globs={"lenient": lenient, "__name__": name})
    return found


@pytest.mark.usefixtures("bare")
def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failures: list[str] = []
    for name in NAMES:
        doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(examples(name), out=failures.append)
    for table in (METHODS, _REGISTERED):
        table.pop("mine", None)
    assert not failures, "".join(failures)


def test_every_function_has_an_example() -> None:
    functions = [name for name in NAMES if inspect.isfunction(getattr(lenient, name))]
    assert len(functions) > 8
    assert not [name for name in functions if not examples(name).examples]


def test_the_page_shows_every_public_name() -> None:
    assert sorted(NAMES) == sorted(set(lenient.__all__) - {"__version__"})


def test_the_page_shows_what_functions_return_and_raise() -> None:
    shown = {name.rpartition(".")[2] for name in re.findall(r"^\.\. auto\w+:: (lenient\.[\w.]+)$", PAGE, re.MULTILINE)}
    functions = [value for name in NAMES if inspect.isfunction(value := getattr(lenient, name))]
    returned = {name for one in functions for name in re.findall(r"\b[A-Z]\w+", str(one.__annotations__["return"]))}
    assert {"Measures", "Result", "Written"} <= returned
    assert returned - {"Callable", "None", "Path", "T"} <= shown
    assert set(lenient.errors.__all__) <= shown


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_an_example_that_runs(name: str) -> None:
    place, _, own = name.rpartition(".")
    function = resolve_dotted(f"{place}:{own}")
    given = {"torch": torch, own: function, "kl_divergence": resolve_dotted("lenient.losses.distances:kl_divergence")}
    (found,) = FINDER.find(function, name, globs=given)
    assert found.examples
    told: list[str] = []
    doctest.DocTestRunner().run(found, out=told.append)
    assert not told, "".join(told)


def test_the_page_shows_every_loss() -> None:
    found = set()
    for module in pkgutil.iter_modules(lenient.losses.__path__, "lenient.losses."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if inspect.isfunction(value) and value.__module__ == module.name and not name.startswith("_"):
                found.add(f"{module.name}.{name}")
    assert sorted(LOSSES) == sorted(found)


def test_the_loop_of_the_page_teaches_its_student(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(program, "api.md", "exec", dont_inherit=True), {})
    value, unit = capsys.readouterr().out.split()
    assert unit == "nats"
    assert float(value) < 0.01, "begins near 0.5"
