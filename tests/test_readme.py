"""What the README says can be done, can be done."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from commands import lenient
from toys import QUICK, tiny_teacher

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text()
COMMANDS = re.findall(r"^lenient [^#\n]*", "\n".join(re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)), re.MULTILINE)


@cache
def options_of(command: str) -> str:
    return lenient(command, "--help", cwd=README.parent).stdout


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


def test_every_flag_of_every_command_exists():
    shown = [*COMMANDS, *re.findall(r"`(lenient [a-z-]+[^`]*)`", TEXT)]
    assert len(shown) > 8
    for line in shown:
        command = line.split()[1]
        if command == "COMMAND":
            continue
        known = options_of(command)
        for flag in re.findall(r"(?<!\S)--?[a-z][a-z-]*", line):
            assert flag in known, f"{flag} in: {line}"


def test_the_python_lines_run(tmp_path, monkeypatch):
    import lenient

    snippet = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    true = lenient.distill

    def quick(*args, **kwargs):
        plan = {key: value for key, value in QUICK.items() if key != "seed"}
        return true(*args, settings=plan, **kwargs)

    monkeypatch.setattr(lenient, "distill", quick, raising=False)
    teacher = tiny_teacher(channels=3, size=(32, 32), classes=10).module
    exec(snippet, {"model": teacher})
    assert (tmp_path / "runs" / "mine" / "report.html").exists()


@pytest.mark.parametrize("recipe", ["digits", "published"])
def test_recipes_named_in_the_docs_exist(recipe):
    from lenient.methods import recipes

    assert recipe in recipes("ta-dfkd")
