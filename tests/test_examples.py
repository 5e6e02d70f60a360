"""The examples in the docstrings of public names run as they stand there; docs/api.md shows all of these names."""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path

import pytest

import lenient
from lenient.methods import _REGISTERED, METHODS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")
NAMES = re.findall(r"^\.\. auto\w+:: lenient\.(\w+)$", PAGE, re.MULTILINE)
"""In the order of the page: the first ones leave behind what the others take, a teacher's file and a run."""
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
