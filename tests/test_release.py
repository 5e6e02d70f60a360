"""What is released is whole: both distributions hold what they should, and work where nothing else of ours is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
import yaml

from commands import python
from conftest import Once

ROOT = Path(__file__).resolve().parents[1]
LEFT = (".git", ".venv*", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
AT_THE_ROOT = ("build", "dist", "runs", "data-*")
"""Left out there alone: `src/lenient/runs` is code."""
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2])"


def call(*words: object, cwd: Path, codes: tuple[int, ...] = (0,)) -> str:
    """Run a program without what this environment tells Python, and return what it printed."""
    bare = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=bare, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode in codes, f"{words}: {done.stdout[-1500:]} {done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(made_once: Once) -> Path:
    """A folder with the source distribution, and the wheel that is built from it, as `make dist` does."""
    pytest.importorskip("setuptools", "77")

    def make(folder: Path) -> None:
        shutil.copytree(ROOT, folder / "tree", ignore=left_out)
        call(sys.executable, "-c", BUILD, "sdist", folder, cwd=folder / "tree")
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            archive.extractall(folder / "unpacked", filter="data")
        call(sys.executable, "-c", BUILD, "wheel", folder, cwd=next((folder / "unpacked").iterdir()))

    return made_once("dist", make)


def left_out(place: str, names: list[str]) -> set[str]:
    """Which of the names in a folder of a tree belong to no distribution."""
    root = (Path(place) / "pyproject.toml").exists()
    return shutil.ignore_patterns(*LEFT, "*.pyc", ".DS_Store", *(AT_THE_ROOT if root else ()))(place, names)


def files_below(folder: Path) -> set[str]:
    found = set()
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - left_out(place, folders))
        found |= {(Path(place) / name).relative_to(folder).as_posix() for name in set(names) - left_out(place, names)}
    return found


def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    import lenient

    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        about = next(name.split("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(wheel.read(f"{about}/METADATA").decode())
        entry = wheel.read(f"{about}/entry_points.txt").decode()
    package = {name.removeprefix("lenient/") for name in names if name.startswith("lenient/")}
    assert package == files_below(ROOT / "src" / "lenient")
    assert {
        "py.typed",
        "reporting/template.html.j2",
        "reporting/compare.html.j2",
        "training/prediction.json",
        "runs/job.py",
    } <= package
    assert {name.split("/")[0] for name in names} == {"lenient", about}
    assert f"{about}/licenses/LICENSE" in names
    assert metadata["Version"] == lenient.__version__
    assert "lenient = lenient.__main__:main" in entry
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert metadata["Author"] == citation["authors"][0]["name"]
    assert metadata["License-Expression"] == citation["license"]
    assert metadata["Keywords"].split(",") == citation["keywords"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_all("Project-URL") is None, "we hold no address"
    tested = {"Operating System :: POSIX :: Linux"}  # as the README says; others are untested
    assert {line for line in metadata.get_all("Classifier") if line.startswith("Operating")} == tested


def test_the_source_distribution_holds_what_a_clone_holds(dist: Path) -> None:
    unpacked = files_below(next((dist / "unpacked").iterdir()))
    expected = files_below(dist / "tree") - {"src/lenient.egg-info/" + name for name in unpacked}
    ignored = {name for name in expected if name.startswith("results/") and name.endswith("/report.html")}
    missing = {name for name in expected - ignored - unpacked if name.split("/")[0] != "data"}
    assert not missing
    assert unpacked - expected == {"PKG-INFO", "setup.cfg"}


ALIEN = """
import sys
sys.dont_write_bytecode = True
import importlib, os, pkgutil, signal
import torch, torchvision, timm, sklearn, matplotlib, filelock
for name in [name for name in sys.modules if name.split(".")[0] == "lenient"]:
    del sys.modules[name]
for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty", "tty"):
    sys.modules[name] = None
for home, names in {
    os: "fork setsid sched_getaffinity getuid geteuid killpg mkfifo O_NOFOLLOW O_NONBLOCK O_DIRECTORY",
    signal: "SIGHUP SIGUSR1 SIGUSR2 SIGALRM SIGKILL pthread_sigmask SIG_BLOCK SIG_SETMASK SIG_UNBLOCK",
}.items():
    for name in names.split():
        if hasattr(home, name):
            delattr(home, name)
import lenient
for found in pkgutil.walk_packages(lenient.__path__, "lenient."):
    if found.name != "lenient.__main__":
        importlib.import_module(found.name)
print(len([name for name in sys.modules if name.startswith("lenient.")]))
"""


def test_every_module_is_imported_without_what_only_unix_has(tmp_path: Path) -> None:
    """As on Windows; nobody has run it there."""
    done = python("-c", ALIEN, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) > 200


def test_forms_and_citation_can_be_read() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["authors"] == [{"name": "The lenient authors"}]
    assert "version" not in citation, "it is said once, by the package"
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) == 3
    for path in forms:
        form = yaml.safe_load(path.read_text("utf-8"))
        assert {"name", "description", "body"} <= form.keys(), path.name
        fields = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert len(fields) == len(set(fields)) > 0


def test_the_steps_of_the_image_work(tmp_path: Path) -> None:
    """Those of the Dockerfile, on what .dockerignore lets through: pip builds the wheel with the tools that are here,
    and says what it would install of it alone. No image is made."""
    pytest.importorskip("setuptools", "77")
    let = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    assert let == {"LICENSE", "README.md", "constraints.txt", "pyproject.toml", "src"}
    (source := tmp_path / "source").mkdir()
    shutil.copytree(ROOT / "src", source / "src", ignore=left_out)
    for name in let - {"src"}:  # a context that lacks a file of the package's metadata builds nothing
        shutil.copy(ROOT / name, source / name)
    here = {"pip wheel": "pip wheel --no-build-isolation", "pip install": "pip install --no-deps --dry-run"}
    steps = [
        line.split(None, 1) for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines() if line[:1] not in "#"
    ]
    said = ""
    for kind, words in steps:
        if kind == "COPY":
            *stage, origin, target = words.split()
            assert not stage or ["FROM", f"python:3.12-slim AS {stage[0].partition('=')[2]}"] in steps
            assert (tmp_path / origin[1:] if stage else source / origin).exists(), words
            if origin == "constraints.txt":
                shutil.copy(source / origin, tmp_path / target[1:])
        elif kind == "RUN":
            for name, command in here.items():
                words = words.replace(name, f"'{sys.executable}' -m {command}")
            said += call("sh", "-ec", re.sub(r"(?<=\s)/(?=wheels|files)", f"{tmp_path}/", words), cwd=source)
    import lenient

    assert f"Would install lenient-{lenient.__version__}" in said
    assert (tmp_path / "files").stat().st_mode & 0o1777 == 0o1777
    last = dict(steps)  # of each kind
    assert last["USER"] not in ("0", "root")
    assert json.loads(last["ENTRYPOINT"]) == ["lenient"]


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(dist: Path, tmp_path: Path) -> None:
    """Installs everything, some GB, with the pins; then a teacher, a student, its report and its program."""
    call(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    there = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    wheel = next(dist.glob("*.whl"))
    call(there / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    tried(there, tmp_path)
    source = next(dist.glob("*.tar.gz"))
    call(there / "python", "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", source, cwd=tmp_path)
    call(there / "lenient", "methods", "bn-adv", cwd=tmp_path)


@pytest.mark.slow
def test_both_are_built_as_make_does(dist: Path, tmp_path: Path) -> None:
    """In an environment of its own, which has what the build names and nothing else."""
    shutil.copytree(ROOT, tmp_path / "tree", ignore=left_out)
    call(sys.executable, "-m", "build", cwd=tmp_path / "tree")
    built = {path.name for path in (tmp_path / "tree" / "dist").iterdir()}
    assert built == {path.name for pattern in ("*.whl", "*.tar.gz") for path in dist.glob(pattern)}


def tried(there: Path, folder: Path) -> None:
    """Go the demo's way in few steps, with the programs of an environment."""
    import lenient

    place = call(there / "python", "-c", "import lenient; print(lenient.__file__)", cwd=folder).strip()
    assert Path(place).is_relative_to(there.parent)
    assert call(there / "lenient", "--version", cwd=folder) == f"lenient {lenient.__version__}\n"
    teacher, run = folder / "teacher.safetensors", folder / "run"
    made = "--data", "digits", "--arch", "lenient:lenet5", "--epochs", 2, "-o", teacher
    call(there / "lenient", "train-teacher", *made, cwd=folder)
    asked = "--preset", "smoke", "--eval-data", "digits", "-o", run
    call(there / "lenient", "distill", teacher, *asked, cwd=folder, codes=(0, 4))  # 4: so few steps teach nothing
    report = json.loads((run / "report.json").read_text("utf-8"))
    assert 0 <= report["student"]["accuracy"] <= 1
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "student" / "student.pt2").is_file()
    call(there / "lenient", "report", run, cwd=folder)
    call(there / "lenient", "methods", "ta-dfkd", cwd=folder)


def test_the_lowest_versions_are_those_of_the_project() -> None:
    """What `make test-versions` installs: a bound of every direct requirement, those of extras of extras, too."""
    done = call(sys.executable, ROOT / "tests" / "lowest.py", "dev", cwd=ROOT).splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {"torch==2.8", "onnx==1.17", "pytest==8.3"} <= set(done)
    extras = project["optional-dependencies"]
    asked = project["dependencies"], extras["dev"], extras["onnx"], extras["tensorboard"]
    wanted = {line.replace(">=", "==") for lines in asked for line in lines if not line.startswith("lenient[")}
    assert wanted <= set(done)


def test_supported_versions_in_the_readme_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line)
    lowest = dict(line.split(">=") for line in project["dependencies"])
    text = (ROOT / "README.md").read_text("utf-8")
    for name in ("torch", "torchvision", "timm", "numpy"):
        assert f"| {name} | {lowest[name]} | {pins[name]} |" in text, name
    pythons = [line.rsplit(" ", 1)[1] for line in project["classifiers"] if " :: 3." in line]
    assert f"| Python | {pythons[0]} | {pythons[-1]} |" in text
