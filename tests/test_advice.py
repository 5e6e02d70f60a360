"""Advice is followed to its end: the situation is made, the message read, and what it says is done and works."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import bare  # noqa: F401 - runs without figures and traced file
import lenient
from commands import lenient as in_a_process
from fuzzing import command
from lenient.core.files import lock_folder
from lenient.models import save_network
from test_fuzz_runs import make_runs
from toys import TinyNet, digits_like

SHORT = "distill t.safetensors --preset smoke --steps 2 --batch-size 8 --device cpu --precision 32"
STUDENT = "--student lenient:lenet5-half --progress none"
DISTILL = f"{SHORT} -s overlap=false -s generator.width=4 -s generator.latent_dim=8 {STUDENT}"
AGAIN = "distill t.safetensors --progress plain --resume -o finished"
"""Goes on with a run as it is."""
TOYS = Path(__file__).with_name("toys.py")
FACTS = "--input-size 1,8,8 --num-classes 4 --mean 0.5 --std 0.5"
NETS = """
import torch
from torch import nn

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))

def ten():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)

    def forward(self, images):
        return self.head(self.norm(self.conv(images)).relu().mean((2, 3)))

class Multiplied(Tiny):
    def __init__(self):
        super().__init__()
        self.head = nn.Parameter(self.head.weight.detach())

    def forward(self, images):
        return self.norm(self.conv(images)).relu().mean((2, 3)) @ self.head

class Stiff(Tiny):
    def forward(self, images):
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("expected m1 and m2 to have the same dtype")
        return super().forward(images)

class Ten(Tiny):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 10)

    def forward(self, images):
        return super().forward(images * 2 if float(images.sum()) > 1e9 else images)
"""
GRID = {
    "name": "g",
    "data": "digits",
    "teachers": [{"file": "t.safetensors"}],
    "students": "lenient:lenet5-half",
    "rows": {"a": "noise"},
    "settings": {"steps": 2, "batch_size": 8, "precision": "32", "device": "cpu", "steps_per_epoch": 2},
}


STRANGE = f"{DISTILL.replace('lenient:lenet5-half', 'py:nets.py:ten')} --method zskt -o new"
"""A student that has no maps."""
MULTIPLIED = f"{SHORT.replace('t.safetensors', 'py:nets.py:Multiplied')} {FACTS} {STUDENT} --method dafl -o new"
"""A teacher whose logits come from no layer."""
STIFF = MULTIPLIED.replace("Multiplied", "Stiff").replace("dafl", "dfad")
"""A teacher that does not run in bfloat16."""
CONTRASTED = MULTIPLIED.replace("Multiplied", "plain").replace("dafl", "cmi -s method.bn_weight=0")
ALIGNED = MULTIPLIED.replace("dafl", "cpnet -s method.embeddings=one-hot")
UNGUIDED = MULTIPLIED.replace("Multiplied", "plain").replace("dafl", "ta-dfkd")
BY_BATCH = MULTIPLIED.replace("Multiplied", "plain").replace("dafl", "noise -s method.statistics=batch")
"""Teachers that lack what a method asks for: batch norms, a last layer, batch norms again."""
TRUSTED = "--teacher-arch py:nets.py:Ten"


@dataclass(frozen=True)
class Hint:
    """A command, what it advises, and what a user does then."""

    asked: str
    says: str
    then: str = ""
    """The command that works; by default the same again."""
    makes: Callable[[], object] = lambda: None
    """What makes the situation."""
    does: Callable[[], object] = lambda: None
    """What the user does before the second command."""


def write(path: str, content: str) -> Callable[[], object]:
    return lambda: Path(path).write_text(content)


def remove(path: str) -> Callable[[], object]:
    return lambda: Path(path).unlink()


def damage(path: str, line: int = 0) -> Callable[[], object]:
    """Spoil a line of a text file."""

    def spoil() -> None:
        lines = Path(path).read_text().splitlines(keepends=True)
        lines[line] = "{]\n"
        Path(path).write_text("".join(lines))

    return spoil


def cut(path: str, line: int) -> Callable[[], object]:
    return lambda: Path(path).write_text("".join(Path(path).read_text().splitlines(keepends=True)[:line]))


LOCKED: list[object] = []


def busy() -> None:
    LOCKED.append(lock_folder(Path("interrupted").absolute()))
    assert LOCKED[-1] is not None


HINTS = {
    # the run folder
    "resume": Hint(f"{DISTILL} -o finished", "go on with --resume", AGAIN),
    "overwrite": Hint(f"{DISTILL} -o finished", "or replace it with --overwrite", f"{DISTILL} -o finished --overwrite"),
    "lengthen": Hint(AGAIN, "lengthen it with --steps N", f"{AGAIN} --steps 8"),
    "or replace": Hint(AGAIN, "or replace it with --overwrite", f"{DISTILL} -o finished --overwrite"),
    "shorter": Hint(f"{AGAIN} --steps 2", "was planned for 6; it can only be lengthened", f"{AGAIN} --steps 7"),
    "no settings": Hint(
        AGAIN, "replace with --overwrite", f"{DISTILL} -o finished --overwrite", makes=remove("finished/config.yaml")
    ),
    "damaged settings": Hint(
        AGAIN,
        "start again with --overwrite",
        f"{DISTILL} -o finished --overwrite",
        makes=damage("finished/config.yaml"),
    ),
    "checkpoints": Hint(
        AGAIN,
        "start again with --overwrite",
        f"{DISTILL} -o finished --overwrite",
        makes=lambda: [Path(f"finished/checkpoints/{name}.pt").write_text("") for name in ("last", "previous")],
    ),
    "a line of metrics": Hint(
        "report interrupted",
        "cut the file off before that line",
        makes=damage("interrupted/metrics.jsonl", 1),
        does=cut("interrupted/metrics.jsonl", 1),
    ),
    "or overwrite": Hint(
        "report finished",
        "start again with --overwrite",
        f"{DISTILL} -o finished --overwrite",
        makes=damage("finished/metrics.jsonl", 1),
    ),
    "short metrics": Hint(
        "distill t.safetensors --progress none --resume -o interrupted",
        "start again with --overwrite",
        f"{DISTILL} -o interrupted --overwrite",
        makes=cut("interrupted/metrics.jsonl", 1),
    ),
    "summary": Hint(
        AGAIN,
        "`lenient report finished` writes it again",
        makes=damage("finished/report.json"),
        does=lambda: command("report", "finished"),
    ),
    "others' folder": Hint(
        f"{DISTILL} -o mine",
        "choose an empty one",
        f"{DISTILL} -o empty",
        makes=lambda: [os.mkdir("mine"), write("mine/a", "")(), os.mkdir("empty")],
    ),
    "a stranger": Hint(
        f"{DISTILL} -o new",
        "trackers.json is there, and no run wrote it; move it elsewhere",
        f"{DISTILL} -o new --overwrite",
        makes=lambda: [command(*shlex.split(f"{DISTILL} -o new")), write("new/trackers.json", "{}")()],
        does=lambda: shutil.move("new/trackers.json", "elsewhere"),
    ),
    "a link": Hint(f"{DISTILL} -o link", "choose another", f"{DISTILL} -o new", makes=lambda: os.symlink("no", "link")),
    "busy": Hint(
        "distill t.safetensors --progress none --resume -o interrupted",
        "choose another folder",
        f"{DISTILL} -o new",
        makes=busy,
    ),
    "another teacher": Hint(
        AGAIN.replace("t.saf", "u.saf"),
        "was made with another teacher; name that one",
        AGAIN,
        makes=lambda: save_network(Path("u.safetensors"), digits_like(5)),
    ),
    "or another folder": Hint(
        AGAIN.replace("t.saf", "u.saf"),
        "or another -o DIR",
        f"{DISTILL.replace('t.saf', 'u.saf')} -o new",
        makes=lambda: save_network(Path("u.safetensors"), digits_like(5)),
    ),
    "other mean": Hint(f"{AGAIN} --mean 0.1 --std 0.2", "check --mean", AGAIN),
    "other setting": Hint(f"{AGAIN} --batch-size 4", "leave it out", AGAIN),
    "other student": Hint(f"{AGAIN} --student lenient:resnet8", "leave --student out", AGAIN),
    "no student yet": Hint(
        "evaluate interrupted --data digits --device cpu",
        "go on with it: lenient distill TEACHER --resume -o interrupted",
        does=lambda: command(*shlex.split("distill t.safetensors --resume -o interrupted --progress none")),
    ),
    "no checkpoint yet": Hint(
        "sample interrupted -n 1 -o s",
        "wait for the run to write one",
        makes=lambda: shutil.move("interrupted/checkpoints", "kept"),
        does=lambda: shutil.move("kept", "interrupted/checkpoints"),
    ),
    "samples": Hint(
        "sample finished -n 1 -o mine",
        "choose another",
        "sample finished -n 1 -o new",
        makes=lambda: [os.mkdir("mine"), write("mine/a", "")()],
    ),
    "no run": Hint("report .", "give what `distill -o` wrote", "report finished"),
    # settings
    "nearest": Hint(
        f"{DISTILL} --method ta-dfkd -s method.taw=0.5 --print-config",
        "the nearest is method.selection.tau",
        f"{DISTILL} --method ta-dfkd -s method.selection.tau=0.5 --print-config",
    ),
    "pair": Hint(
        f"{DISTILL} -s method.student_lr --print-config",
        "for example -s method.student_lr=0.1",
        f"{DISTILL} -s method.student_lr=0.1 --print-config",
    ),
    "quotes": Hint(
        f"{DISTILL} -s 'device=!cpu' --print-config",
        "or put text in quotes",
        f"{DISTILL} -s 'device=\"cpu\"' --print-config",
    ),
    "lengths": Hint(
        "distill t.safetensors --steps 3 --epochs 1 --print-config",
        "give one of them",
        "distill t.safetensors --epochs 1 --print-config",
    ),
    "budget": Hint(
        "distill t.safetensors --budget soon --print-config",
        "write a time such as 90s, 30m or 1h30m",
        "distill t.safetensors --budget 1h30m --print-config",
    ),
    "epochs": Hint(
        "distill t.safetensors --epochs 0 --print-config",
        "give 1 to ",
        "distill t.safetensors --epochs 1 --print-config",
    ),
    "recipe": Hint(
        "distill t.safetensors --method dfad -c r.yaml --print-config",
        "drop one of the two",
        "distill t.safetensors -c r.yaml --print-config",
        makes=write("r.yaml", "method: dafl"),
    ),
    "device": Hint(f"{DISTILL} --device toaster -o new", "use --device auto or cpu", f"{DISTILL} --device auto -o new"),
    "attention": Hint(STRANGE, "-s method.attention_weight=0", f"{STRANGE} -s method.attention_weight=0"),
    "of the family": Hint(
        STRANGE,
        "or take a --student of the teacher's family",
        f"{STRANGE} --student lenient:resnet8-half",
    ),
    "activations": Hint(MULTIPLIED, "-s method.activation_weight=0", f"{MULTIPLIED} -s method.activation_weight=0"),
    "contrast": Hint(CONTRASTED, "-s method.contrastive_weight=0", f"{CONTRASTED} -s method.contrastive_weight=0"),
    "alignment": Hint(ALIGNED, "-s method.align_weight=0", f"{ALIGNED} -s method.align_weight=0"),
    "statistics": Hint(BY_BATCH, "use -s method.statistics=running", BY_BATCH.replace("=batch", "=running")),
    "precision": Hint(
        f"{STIFF} --precision bf16",
        "use --precision 32",
        f"{STIFF} --precision 32",
    ),
    # teachers
    "which network": Hint(
        "inspect w.pt",
        "give --teacher-arch, for example lenient:resnet18",
        "inspect w.pt --teacher-arch lenient:resnet8 --input-size 1,8,8",
    ),
    "size": Hint(
        "inspect w.pt --teacher-arch lenient:resnet8",
        "give --input-size 1,",
        "inspect w.pt --teacher-arch lenient:resnet8 --input-size 1,8,8",
    ),
    "own class": Hint(
        f"inspect whole.pt {FACTS}",
        "for example py:my_net.py:TinyNet",
        f"inspect whole.pt {FACTS} --teacher-arch {shlex.quote(f'py:{TOYS}:TinyNet')}",
    ),
    "classes": Hint(
        "inspect lenient:resnet8 --input-size 1,8,8",
        "give --num-classes N",
        "inspect lenient:resnet8 --input-size 1,8,8 --num-classes 5",
    ),
    "mean": Hint("inspect t.safetensors --mean 0.5", "give both", "inspect t.safetensors --mean 0.5 --std 0.5"),
    "fit": Hint(
        "inspect w.pt --teacher-arch lenient:resnet18 --input-size 1,8,8",
        "correct --teacher-arch",
        "inspect w.pt --teacher-arch lenient:resnet8 --input-size 1,8,8",
    ),
    "an architecture": Hint(
        f"inspect lenient:resnet8 {FACTS} --teacher-arch lenient:resnet8",
        "leave the flag out",
        f"inspect lenient:resnet8 {FACTS}",
    ),
    "key": Hint(
        f"inspect lenient:resnet8 {FACTS} --checkpoint-key a", "leave it out", f"inspect lenient:resnet8 {FACTS}"
    ),
    "bytes": Hint(
        f"inspect lenient:resnet8 {FACTS} --mean 128 --std 64",
        "divide 0..255 values by 255",
        f"inspect lenient:resnet8 {FACTS} --mean 0.502 --std 0.251",
    ),
    "no batch norm": Hint(UNGUIDED, "-s method.bn_weight=0", f"{UNGUIDED} -s method.bn_weight=0"),
    "a setting of another method": Hint(
        f"{DISTILL} --method noise -o new", "leave it out", f"{SHORT} {STUDENT} --method noise -o new"
    ),
    "a method of another setting": Hint(
        f"{DISTILL} --method noise -o new", "take another --method", f"{DISTILL} --method dfad -o new"
    ),
    "another method": Hint(UNGUIDED, "take --method auto", UNGUIDED.replace("--method ta-dfkd", "--method auto")),
    "head": Hint(
        "inspect py:nets.py:Tiny --input-size 1,8,8 --num-classes 7",
        "or give --num-classes 4",
        "inspect py:nets.py:Tiny --input-size 1,8,8 --num-classes 4",
    ),
    # export, evaluate, train
    "traced": Hint(
        f"export new --format pt2 -o x.pt2 {TRUSTED}",
        "use --format safetensors",
        f"export new --format safetensors -o x.safetensors {TRUSTED}",
        makes=lambda: command(*shlex.split(f"{DISTILL} -o new --student py:nets.py:Ten")),
    ),
    "exported": Hint(
        "export finished --format safetensors -o x.safetensors",
        "or replace it with --overwrite",
        "export finished --format safetensors -o x.safetensors --overwrite",
        makes=write("x.safetensors", ""),
    ),
    "opset": Hint(
        "export finished --format pt2 --opset 17 -o x.pt2",
        "leave it out for pt2",
        "export finished --format pt2 -o x.pt2",
    ),
    "data": Hint(
        "evaluate finished --data digit --device cpu",
        "the nearest is digits",
        "evaluate finished --data digits --device cpu",
    ),
    "ending": Hint(
        "train-teacher --data digits --arch lenient:lenet5 --epochs 1 -o t",
        "a file that ends in .safetensors",
        "train-teacher --data digits --arch lenient:lenet5 --epochs 1 -o u.safetensors",
    ),
    "kept": Hint(
        "train-teacher --data digits --arch lenient:lenet5 --epochs 1 --keep 2 -o u.safetensors",
        "or lower --keep",
        "train-teacher --data digits --arch lenient:lenet5 --epochs 1 --keep 1 -o u.safetensors",
    ),
    "more epochs": Hint(
        "train-teacher --data digits --arch lenient:lenet5 --epochs 1 --keep 2 -o u.safetensors",
        "raise --epochs",
        "train-teacher --data digits --arch lenient:lenet5 --epochs 2 --keep 2 -o u.safetensors",
    ),
    # grids
    "grid": Hint(
        "bench status g.yaml -o home",
        "start with `lenient bench run`",
        does=lambda: in_a_process("bench", "run", "g.yaml", "-o", "home", cwd=Path.cwd()),
    ),
}
ELSEWHERE = {
    "use --method dafl-adv": "test_models_onnx.py: test_our_own_export_comes_back_with_its_constants",
    "-s generator.factory=NAME": "test_own_method.py: test_a_run_folder_runs_no_generator_that_the_user_did_not_type",
    "`lenient bench status`": "test_bench_run.py: test_a_cell_that_cannot_be_fails_with_its_reason_until_retry",
    "`lenient train-teacher -s`": "no message",
    "-s method.first_batches=0": "is what was typed",
    "`lenient distill`": "no message",
}
"""Recipes in the texts of the package that are followed by other tests, or by none and why."""
RECIPE = re.compile(r"-s [a-z_]+(?:\.[a-z_]+)+=[\w.]+|`lenient [^`]*`|\buse --[a-z-]+ [\w-]+|pip install [\w'\[]+")


@pytest.fixture
def place(made_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a teacher, its bare weights, networks of one's own, a finished and an interrupted run."""
    folder = shutil.copytree(made_once("runs-to-damage", make_runs), tmp_path / "place")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BARE", "1")
    Path("nets.py").write_text(NETS)
    Path("g.yaml").write_text(yaml.safe_dump(GRID))
    torch.save(digits_like().module.state_dict(), "w.pt")
    torch.save(TinyNet(), "whole.pt")
    return folder


FAST = ("resume", "overwrite", "attention")
"""Whole runs that are fast tests none the less: of each kind one."""


def whole_run(hint: Hint) -> bool:
    """Whether a run is made from its start to its report, which takes seconds."""
    words = f"{hint.asked} {hint.then}"
    return (
        " -o new" in words
        or (" --overwrite" in words and "distill" in words)
        or "bench" in words
        or "--epochs 2" in words
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if whole_run(hint) and name not in FAST else [])
        for name, hint in HINTS.items()
    ],
)
def test_what_a_message_says_works(name: str, place: Path) -> None:
    hint = HINTS[name]
    hint.makes()
    refused = command(*shlex.split(hint.asked))
    assert refused.code != 1, refused
    assert hint.says in refused.printed + refused.said, refused
    hint.does()
    followed = command(*shlex.split(hint.then or hint.asked))
    assert followed.code in (0, 4), followed
    assert hint.says not in followed.printed + followed.said


def texts(path: Path) -> Iterator[str]:
    """Yield the literal texts of a module, but for its docstrings."""
    tree = ast.parse(path.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_every_recipe_in_a_message_is_followed() -> None:
    """A flag with its value, a setting with its value, a command: who writes one into a message adds it above."""
    modules = sorted(Path(lenient.__file__).parent.rglob("*.py"))
    found = {recipe for path in modules for text in texts(path) for recipe in RECIPE.findall(text)}
    followed = " ".join(hint.says for hint in HINTS.values())
    assert len(found) > 10
    assert {recipe for recipe in found if recipe not in followed and recipe not in ELSEWHERE} == set()


def test_what_a_method_refuses_leaves_the_run_before_alone(place: Path) -> None:
    """With --overwrite, too: the folder is emptied for a run that can be."""
    before = Path("finished/report.json").read_bytes()
    refused = command(*shlex.split(f"{STRANGE} -o finished --overwrite"))
    assert refused.code == 3, refused
    assert Path("finished/report.json").read_bytes() == before
