"""Every command and every program that the pages show is run: small where it takes long, or by a test named here.

What else they would have a shell do is looked up: targets of make, extras and requirements, scripts and their flags.
"""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import typer.main
from safetensors.torch import save_file

import bare  # noqa: F401 - runs without figures and traced file
import lenient
from fuzzing import command
from lenient.bench.grid import load_grid
from lenient.cli import app
from lenient.methods import _REGISTERED, METHODS
from lenient.models import save_network
from toys import digits_like, write_pictures

ROOT = Path(__file__).parents[1]
PAGES = [
    page
    for folder in ("", "docs", "results")
    for page in sorted((ROOT / folder).glob("**/*.md" if folder == "docs" else "*.md"))
]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def fences(page: Path, *kinds: str) -> Iterator[str]:
    """Yield what stands between the fences of these kinds."""
    yield from (inside for kind, inside in FENCE.findall(page.read_text(encoding="utf-8")) if kind in kinds)


def typed(page: Path) -> Iterator[str]:
    """Yield each line that a page would have a shell run, in fences and in its text, with what belongs to it."""
    inside = [*fences(page, "", "bash"), *(cell for cell in fences(page, "{code-cell} ipython3") if "%%bash" in cell)]
    lines = "\n".join(inside).replace("\\\n", " ")
    yield from re.findall(r"^(?!#|%%bash)([^\n]*<<'EOF'\n.*?^EOF$|[^\n]+)$", lines, re.DOTALL | re.MULTILINE)
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    spans = re.findall(r"`((?:lenient\s[a-z]|(?:make|pip|docker|python)\s)[^`]*)`", text)
    yield from (" ".join(span.split()) for span in spans)


LINES = {line: page for page in PAGES if page.name != "CHANGELOG.md" for line in typed(page)}
"""Each with a page that shows it."""
COMMANDS = {
    " ".join(shlex.split(line, comments=True)): page for line, page in LINES.items() if line.startswith("lenient ")
}
"""Those of our own, on one line and without comment."""
ELSEWHERE = {
    "lenient demo": "test_acceptance.py",
    "lenient bench ": "test_bench_run.py, test_bench_report.py",
    "lenient inspect timm:resnet18": "fetches weights",
    "lenient inspect my-folder": "test_models_huggingface.py",
    "lenient distill my-folder": "test_models_huggingface.py",
    "lenient methods py:": "test_own_method.py, and `make docs`",
    "docker build": "test_release.py, which goes its steps",
    "python -m tf2onnx.convert": "test_models_onnx.py has what it writes",
}
"""How a command begins -> what runs the like of it."""
STANDING_FOR = {
    "RUN...": "other",
    "RUN": "finished",
    "TEACHER": "t.safetensors",
    "MODEL": "t.safetensors",
    "SPEC": "lenient:lenet5",
    "[NAME]": "ta-dfkd",
    "NAME": "ta-dfkd",
    "DATA": "digits",
    "imagefolder:DIR": "imagefolder:labelled",
    "DIR": "made",
    "FILE --check": "made.onnx --check",
    "FILE": "made.safetensors",
    "mnist ": "digits ",
    "timm:resnet50": "timm:test_resnet --input-size 3,32,32",
    "timm:resnet10t": "timm:test_resnet",
    "--classes pictures/train": "--classes five.txt",  # as many as that network has
    "--eval-data imagefolder:pictures": "",
    "--calibrate runs/timm/samples": "--calibrate pictures",  # of its size
    "--method nayer": "--method nayer -s method.iterations=2 -s method.first_batches=1 -s method.batch_images=8",
}
"""What a page writes -> what is run."""
SMALL = "--preset smoke --steps 2 --batch-size 8 --device cpu --precision 32 --progress none --overwrite"
SMALLER = {"distill": SMALL, "train-teacher": "--epochs 1 --overwrite", "sample": "-n 2 --overwrite"}
"""Flags that come after those of the page, and win."""
NET = """
from torch import nn

def build():
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    return nn.Sequential(*layers)
"""


def taken(found: Any, words: list[str]) -> bool:
    """Whether typer takes a command as it stands; False where a page names it without all that it needs.

    Raises what typer says of any other fault, and AssertionError for a flag that is none of the command's.
    """
    while words and hasattr(found, "commands"):
        found, words = found.commands[words[0]], words[1:]
    known = {flag for option in found.params for flag in option.opts}
    assert {word for word in words if re.match("--?[a-z]", word)} <= known, words
    try:
        found.make_context("lenient", words)
    except Exception as error:
        if type(error).__name__ in ("MissingParameter", "BadOptionUsage", "NoArgsIsHelpError"):
            return False
        raise
    return True


def understood(line: str) -> bool:
    """The same of one of our own."""
    return taken(typer.main.get_command(app), shlex.split(line)[1:])


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIRED = set(re.findall(r"^[\w-]+", "\n".join(chain(PROJECT["dependencies"], *EXTRAS.values())), re.MULTILINE))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def look_up_target(words: Sequence[str]) -> None:
    assert {word for word in words if "=" not in word} <= TARGETS


def look_up_requirement(words: Sequence[str]) -> None:
    assert words[0] == "install"
    for name, _, extras in (word.rstrip("]").partition("[") for word in words[1:] if word[0] != "-"):
        assert name in {".", "PATH", *REQUIRED}, name
        assert set(filter(None, extras.split(","))) <= EXTRAS.keys(), extras


def look_up_script(words: Sequence[str]) -> None:
    """One of our own, with flags that it has; a program that stands there is run below."""
    name, *words = words
    if name == "-" or [name, *words][-2:] == ["-m", "lenient"]:
        return
    assert (ROOT / name).is_file(), name
    module = importlib.import_module(Path(name).stem)
    if not hasattr(module, "app") and hasattr(module, "typer"):
        module.app = typer.Typer()
        module.app.command()(module.main)
    assert taken(typer.main.get_command(module.app), words) if hasattr(module, "app") else not words


KNOWN = {"make": look_up_target, "pip": look_up_requirement, "python": look_up_script}
"""What a line begins with -> what finds out whether it can be followed."""


@pytest.mark.parametrize("line", [line for line in LINES if not line.startswith(("lenient ", *ELSEWHERE))])
def test_a_line_of_the_pages_can_be_followed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    words = shlex.split(line, comments=True)
    while re.match(r"[A-Z_]+=", words[0]):  # of the environment
        del words[0]
    if ">" in words:
        del words[words.index(">") :]
    KNOWN[words[0]](words[1:])


def test_commands_and_their_flags_are_there() -> None:
    assert sum(map(understood, COMMANDS)) > 50
    grids = {word for line in COMMANDS for word in line.split() if word.startswith("grids/")}
    assert all((ROOT / name).is_file() for name in grids)


def make_place(folder: Path) -> None:
    """What commands of the pages name."""
    save_network(folder / "t.safetensors", digits_like())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BARE", "1")
        patch.chdir(folder)  # the run names its teacher from here
        ended = command("distill", "t.safetensors", "-o", "finished", *SMALL.split())
        assert ended.code in (0, 4), ended
    for name in ("other", "runs/mine", "runs/noise", "runs/device", "runs/timm", "runs/drawn"):
        shutil.copytree(folder / "finished", folder / name)
    for name in ("teacher", "mnist", "lenet5"):
        shutil.copy(folder / "t.safetensors", folder / f"{name}.safetensors")
    weights = timm.create_model("test_resnet", num_classes=5).state_dict()
    for name in ("my-model", "model"):
        save_file(weights, folder / f"{name}.safetensors")
    torch.save({"state_dict": weights}, folder / "checkpoint.pth")
    (folder / "five.txt").write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
    (folder / "my_net.py").write_text(NET)
    exec(NET, names := {})
    torch.save(names["build"](), folder / "model.pt")
    np.save(folder / "names.npy", np.random.default_rng(0).normal(size=(10, 6)).astype("float32"))
    for name in ("pictures", "patches", *(f"labelled/test/{label}" for label in range(10))):
        (folder / name).mkdir(parents=True)
        write_pictures(folder / name, 2)
    lenient.export(folder / "finished", folder / "model.pt2", "pt2")


@pytest.fixture
def place(made_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that as the working folder."""
    folder = shutil.copytree(made_once("named-by-pages", make_place), tmp_path / "place")
    monkeypatch.setenv("BARE", "1")
    monkeypatch.chdir(folder)
    return folder


def whole(line: str) -> bool:
    """Whether a test here runs the command: those of `results` take hours, and come to the records that are there."""
    return not line.startswith(tuple(ELSEWHERE)) and COMMANDS[line].parent.name != "results" and understood(line)


@pytest.mark.parametrize("line", [*filter(whole, COMMANDS)])
def test_a_command_of_the_pages_runs(line: str, place: Path) -> None:
    if "onnx" in line:
        pytest.importorskip("onnxruntime")
    if "model.onnx" in line:
        lenient.export("finished", "model.onnx", "onnx")
    for written, meant in STANDING_FOR.items():
        line = line.replace(written, meant)
    words = shlex.split(line)[1:]
    ended = command(*words, *SMALLER.get(words[0], "").split())
    assert ended.code in (0, 4), ended


PROGRAMS = {
    "README.md": "test_readme.py",
    "api.md": "test_examples.py",
    "own-method.md": "test_own_method.py",
    "noise.md": "below",
}
"""A page with lines of Python -> what runs them."""


def test_every_program_of_the_pages_is_run() -> None:
    assert {page.name for page in PAGES for _ in fences(page, "python")} == PROGRAMS.keys()


@pytest.mark.parametrize("line", [line for line in LINES if "<<'EOF'" in line])
def test_a_program_among_commands_runs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(line.partition("\n")[2].removesuffix("EOF").replace("range(50)", "range(1)"), {})
    assert any(tmp_path.iterdir())


def test_a_student_of_noise_is_adapted_as_its_page_says(place: Path) -> None:
    (program,) = fences(ROOT / "docs/methods/noise.md", "python")
    names: dict[str, Any] = {"images": torch.rand(16, 1, 8, 8)}
    exec(program, names)
    means = [layer.running_mean for _, layer in names["batch_norm_layers"](names["student"])]
    stored = [layer.running_mean for _, layer in names["batch_norm_layers"](lenient.load("runs/noise"))]
    assert means
    assert not any(torch.equal(one, other) for one, other in zip(means, stored, strict=True))


@pytest.mark.parametrize("page", [page for page in PAGES if any(fences(page, "yaml"))], ids=lambda page: page.name)
def test_a_grid_of_the_pages_is_understood(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row's settings are checked; own-method.md's names the file that its first program is put into."""
    (grid,) = fences(page, "yaml")
    (tmp_path / "grid.yaml").write_text(grid, encoding="utf-8")
    program = next(fences(ROOT / "docs/own-method.md", "python"))
    (tmp_path / "calm.py").write_text(program, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert len(load_grid(Path("grid.yaml"), trust_code=True).rows) > 2
    METHODS.pop("calm", None)
    _REGISTERED.pop("calm", None)
