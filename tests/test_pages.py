"""Every command and every program that the pages show is run: small where it takes long, or by a test named here."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
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


def shown(page: Path) -> Iterator[str]:
    """Yield each command of a page, of its fences and of its text, on one line and without comment."""
    lines = [
        *fences(page, "", "bash"),
        *(inside for inside in fences(page, "{code-cell} ipython3") if "%%bash" in inside),
    ]
    typed = re.findall(r"^lenient .*", "\n".join(lines).replace("\\\n", " "), re.MULTILINE)
    typed += re.findall(r"`(lenient\s[a-z][^`]*)`", FENCE.sub("", page.read_text(encoding="utf-8")))
    yield from (" ".join(shlex.split(line, comments=True)) for line in typed)


COMMANDS = {line: page for page in PAGES if page.name != "CHANGELOG.md" for line in shown(page)}
"""Each with a page that shows it."""
ELSEWHERE = {
    "lenient demo": "test_acceptance.py",
    "lenient bench ": "test_bench_run.py, test_bench_report.py",
    "lenient inspect timm:resnet18": "fetches weights",
    "lenient inspect my-folder": "test_models_huggingface.py",
    "lenient distill my-folder": "test_models_huggingface.py",
    "lenient methods py:": "test_own_method.py, and `make docs`",
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


def understood(line: str) -> bool:
    """Whether typer takes a command as it stands; False where a page names it without all that it needs.

    Raises what typer says of any other fault, and AssertionError for a flag that is none of the command's.
    """
    words, found = shlex.split(line)[1:], typer.main.get_command(app)
    while words and hasattr(found, "commands"):
        found, words = found.commands[words[0]], words[1:]
    known = {flag for option in found.params for flag in option.opts}
    assert {word for word in words if re.match("--?[a-z]", word)} <= known, line
    try:
        found.make_context("lenient", words)
    except Exception as error:
        if type(error).__name__ in ("MissingParameter", "BadOptionUsage", "NoArgsIsHelpError"):
            return False
        raise
    return True


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
    for name in ("other", "runs/mine", "runs/noise", "runs/device", "runs/timm"):
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
    "data-set.md": "test_data_set.py",
    "own-method.md": "test_own_method.py",
    "noise.md": "below",
}
"""A page with lines of Python -> what runs them."""


def test_every_program_of_the_pages_is_run() -> None:
    assert {page.name for page in PAGES for _ in fences(page, "python")} == PROGRAMS.keys()


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
