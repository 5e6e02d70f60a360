"""What the README says can be done, can be done."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from toys import QUICK, tiny_teacher

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text()
FOLDERS = (".", "docs", "docs/methods", "docs/defenses", "docs/tutorials", "docs/verdict", "results")
PAGES = [path for folder in FOLDERS for path in (README.parent / folder).glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!http|mailto)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_the_table_of_methods_is_what_the_methods_say():
    from lenient.cli.methods import markdown

    found = re.search(r"<!-- methods -->\n(.*?)<!-- end of methods -->", TEXT, re.DOTALL).group(1)
    assert found == markdown(), "python benchmarks/results.py methods"


def test_make_targets_exist():
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", TEXT, re.MULTILINE):
        assert f"\n{target}:" in makefile


@pytest.mark.usefixtures("bare")
def test_the_python_lines_run(tmp_path, monkeypatch):
    import lenient

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), "orange").save("cat.jpg")
    true = lenient.distill

    def quick(*args, **kwargs):
        plan = {key: value for key, value in QUICK.items() if key != "seed"}
        return true(*args, settings=plan, **kwargs)

    monkeypatch.setattr(lenient, "distill", quick, raising=False)
    teacher = tiny_teacher(channels=3, size=(32, 32), classes=10).module
    names = {"model": teacher}
    for lines in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(lines, names)
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    assert (tmp_path / "my-student" / "model.safetensors").exists()


@pytest.mark.parametrize("recipe", ["digits", "published"])
def test_recipes_named_in_the_docs_exist(recipe):
    from lenient.methods import recipes

    assert recipe in recipes("ta-dfkd")
