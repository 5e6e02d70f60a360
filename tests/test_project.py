"""What the project promises about itself: it is portable, documented, pinned, layered, and quick to start."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "lenient"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Written so that none of them matches its own source.
FOREIGN = {
    "an absolute path": r"(?<![\w.~}*])/(?:root|work|opt|mnt|home/\w+|Users/\w+)/|\b[A-Z]:\\{1,2}Users\b",
    "a file address": r"\bfile:/{2}",
    "a package index": r"--(?:extra-)?index-url|--find[-]links|/simple[/]|\bpypi[.]org|download[.]pytorch[.]org",
    "a credential": r"\bhf_[A-Za-z0-9]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}|-----BEGIN [A-Z ]*PRIVATE",
}


def project_files() -> list[Path]:
    """Every file that a clone would hold, found without git so that an unpacked archive is checked as well."""
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in (".ci", ".github", "benchmarks", "grids", "src", "docs", "tests"):
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    left_behind = re.compile(r"__pycache__|\.egg-info|\.hypothesis|\.coverage|\.DS_Store")
    return sorted(path for path in files if not left_behind.search(path.relative_to(ROOT).as_posix()))


def canonical(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_names(requirements: list[str]) -> set[str]:
    """Names without extras, versions and markers."""
    return {canonical(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in requirements}


def constraint_lines() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("what", FOREIGN)
def test_no_file_names_one_machine(what: str) -> None:
    pattern = re.compile(FOREIGN[what])
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in project_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, f"{what} in:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("an absolute path", 'open("/' + 'home/ann/teacher.pt")'),
        ("an absolute path", "cd /" + "work/main"),
        ("a file address", "pkg @ file:" + "///wheels/pkg.whl"),
        ("a package index", "pip install torch --index" + "-url https://example.org"),
        ("a credential", "hf" + "_" + "a1" * 17),
    ],
)
def test_the_search_would_find_one(what: str, text: str) -> None:
    assert re.search(FOREIGN[what], text)


@pytest.mark.parametrize("text", ["docs/work/page.md", "~/opt/x", "see src/root/a.py", "N/A", "images/home"])
def test_the_search_leaves_relative_paths_alone(text: str) -> None:
    assert not any(re.search(pattern, text) for pattern in FOREIGN.values())


def test_every_module_has_a_docstring() -> None:
    silent = [
        path.relative_to(ROOT).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


UNSAID = """
Path(p).read_text()
p.write_text("a", newline="")
open(p)
open(p, mode="a")
subprocess.run(c, text=True)
with_encoding = open(p, "rb"), open(p, encoding="utf-8"), p.read_text(encoding="utf-8"), files.read_text(p)
"""


def unsaid(text: str) -> list[int]:
    """Lines with a call that takes the machine's encoding, which is another one on the next machine."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or "encoding" in {word.arg for word in node.keywords}:
            continue
        name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        mode = given.get("mode", ast.unparse(node.args[1]) if len(node.args) > 1 else "")
        reads = name.endswith((".read_text", ".write_text")) and not name.startswith("files.")
        if reads or (name == "open" and "b" not in mode) or given.get("text") == "True":
            found.append(node.lineno)
    return found


def test_no_text_is_read_or_written_in_the_machines_encoding() -> None:
    assert unsaid(UNSAID) == [2, 3, 4, 5, 6]
    sources = [*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    assert len(sources) > 100
    found = {str(path.relative_to(ROOT)): lines for path in sources if (lines := unsaid(path.read_text("utf-8")))}
    assert not found


def test_every_module_stands_on_one_floor() -> None:
    contract = next(c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["id"] == "floors")
    assert contract["exhaustive"]
    listed = [name.strip(" ()") for layer in contract["layers"] for name in re.split("[:|]", layer)]
    assert len(listed) == len(set(listed))
    present = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    present |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert present <= set(listed)


def test_no_page_and_no_message_asks_an_index_for_us() -> None:
    """We hold no name there: whoever typed such a command would get what others have put under it."""
    texts = [path for path in project_files() if path.suffix == ".md" or PACKAGE in path.parents]
    asking = re.compile(r"lenient\[[a-z]")
    assert len(texts) > 100
    assert not [path for path in texts if asking.search(path.read_text(encoding="utf-8", errors="ignore"))]


def test_constraints_are_names_and_versions_only() -> None:
    strange = [line for line in constraint_lines() if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line)]
    assert not strange


def test_every_dependency_is_pinned_once() -> None:
    names = [canonical(line.split("==")[0]) for line in constraint_lines()]
    assert len(names) == len(set(names))
    extras = PROJECT["project"]["optional-dependencies"]
    needed = requirement_names(
        PROJECT["project"]["dependencies"]
        + [
            r
            for extra in ("dev", "docs", "onnx", "tensorboard", "readers", "transformers", "hub")
            for r in extras[extra]
        ]
    )
    assert needed - {"lenient"} <= set(names)


def test_what_is_skipped_for_a_library_fails_where_all_are_installed(tmp_path: Path) -> None:
    """`make test-slow` installs every library that a test asks for, and takes none for missing."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "pytest -m 'slow or optional' --nothing-missing" in makefile
    installed = re.search(r"^test-slow:.*\n\t\$\(PIP\) -e '\.\[(.*)\]'$", makefile, re.MULTILINE)
    assert installed
    assert {"dev", "docs", "ray", "slurm", "wandb", "mlflow", "readers"} == set(installed[1].split(","))
    (tmp_path / "test_one.py").write_text(
        "import pytest\n\ndef test_one(): pytest.importorskip('no_such_library')\n", "utf-8"
    )
    for more, words in (([], "1 skipped"), (["--nothing-missing"], "No module named 'no_such_library'")):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "conftest", *more]
        command += ["-c", str(ROOT / "pyproject.toml"), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=ROOT / "tests")
        assert words in done.stdout, done.stdout


def test_version_is_told_once() -> None:
    import lenient

    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "lenient.__version__"}
    elsewhere = ["pyproject.toml", "CITATION.cff", "README.md", "CONTRIBUTING.md", "Makefile", "Dockerfile"]
    found = [name for name in elsewhere if lenient.__version__ in (ROOT / name).read_text("utf-8").split()]
    assert not found


def test_ci_runs_what_people_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert {"make check", "make test", "make docs"} <= set(script.read_text(encoding="utf-8").splitlines())


IMPORT = "import lenient"
COMMAND = """
import runpy
try:
    runpy.run_module("lenient", run_name="__main__", alter_sys=True)
except SystemExit as stop:
    assert not stop.code, stop.code
"""
REPORT = """
import json, sys
heavy = {"torch", "torchvision", "timm", "sklearn", "matplotlib"} & sys.modules.keys()
print("\\n" + json.dumps(sorted(heavy)))
"""


@pytest.mark.parametrize(
    ("code", "arguments"),
    [(IMPORT, []), (COMMAND, ["--help"]), (COMMAND, ["distill", "--help"]), (COMMAND, ["bench", "run", "--help"])],
    ids=["import", "help", "distill-help", "bench-help"],
)
def test_starts_without_the_heavy_libraries(code: str, arguments: list[str]) -> None:
    command = [sys.executable, "-c", code + REPORT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_public_names_are_no_modules() -> None:
    """A submodule of the same name would take a public function's place as soon as it is imported."""
    import lenient

    for _ in range(2):
        for name in lenient.__all__:
            assert name == "__version__" or callable(getattr(lenient, name)), name
    names = {path.stem for path in (ROOT / "src" / "lenient").iterdir()}
    assert not names & set(lenient.__all__)


def test_files_that_pages_name_are_there() -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "README.md"]
    named = {(page.name, name) for page in pages for name in re.findall(r"`([a-z_/]+\.py)`", page.read_text("utf-8"))}
    assert len(named) > 40
    gone = [(page, name) for page, name in named if not ((ROOT / name).exists() or (PACKAGE / name).exists())]
    assert not gone


def test_only_the_door_stands_at_the_root_of_the_package() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "api.py", "errors.py"}
