"""The commands as a user runs them: real processes, real files."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from commands import begun, lenient, python
from lenient.api import sample as write_sample
from lenient.cli import main
from toys import TinyNet

pytestmark = pytest.mark.usefixtures("bare")  # what is left out so is in one run, `done_run`

COMMANDS = ["demo", "train-teacher", "inspect", "distill", "evaluate", "report", "sample", "export", "methods"]
TRAIN = ["train-teacher", "--data", "digits", "--arch", "lenient:lenet5", "-o", "t.safetensors"]
QUICK = ["--preset", "smoke", "--device", "cpu", "--precision", "32", "-s", "generator.width=4", "--progress", "plain"]
# Twenty steps teach nothing: the verdict `failed` (4) is what these runs should end in.
TAUGHT_NOTHING = 4
ANY_VERDICT = (0, 4)


@pytest.fixture
def done_run(made_once, digits_file, tmp_path, monkeypatch) -> Path:
    """A run of twenty steps, complete with figures and traced student, in a folder of the test's own.

    What it said on stderr lies beside it.
    """

    def make(folder: Path) -> None:
        more = ["--student", "lenient:lenet5-half", "--eval-data", "digits", "-o", "run"]
        with monkeypatch.context() as complete:
            complete.delenv("BARE")
            done = lenient("distill", digits_file, *QUICK, *more, cwd=folder, code=TAUGHT_NOTHING)
        (folder / "stderr").write_text(done.stderr)

    return shutil.copytree(made_once("done-run", make), tmp_path / "done") / "run"


# help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_flag(command, tmp_path):
    text = lenient(command, "--help", cwd=tmp_path).stdout
    assert "Usage" in text
    if command == "distill":
        for flag in ("--student", "--method", "--preset", "--epochs", "--steps", "--budget", "--batch-size", "--seed",
                     "--eval-data", "--data-root", "-c", "-s", "-o", "--resume", "--overwrite", "--select", "--device",
                     "--precision", "--dry-run", "--print-config", "--track", "--progress", "--teacher-arch",
                     "--input-size", "--num-classes", "--mean", "--std"):  # fmt: skip
            assert flag in text, flag


# distill


def test_distill_says_what_it_found_before_it_starts(digits_file, tmp_path):
    said = lenient("distill", digits_file, *QUICK, "-o", "r", cwd=tmp_path, code=TAUGHT_NOTHING).stdout
    for words in ("77,754 parameters, 10 classes, images 1x8x8", "mean 0.3", "student   lenient:", "bn-adv, 20 steps"):
        assert words in said
    assert said.index("measuring what is best here: overlap") < said.index("machine   cpu, 32")
    assert said.index("mean") < said.index("verdict")
    assert "Agreement on synthetic images is not accuracy" in said
    assert "report.html" in said


def test_the_run_folder_holds_what_it_should(done_run):
    report = json.loads((done_run / "report.json").read_text())
    assert report["health"]["verdict"] == "failed"
    for key in ("accuracy", "acc_max", "acc_last_k", "k", "agreement", "params"):
        assert key in report["student"]
    assert 0.9 < report["teacher"]["accuracy"] <= 1
    html = (done_run / "report.html").read_text()
    assert "<svg" in html
    assert "tensorboard" in {path.name for path in done_run.iterdir()}


def test_the_student_loads_with_torch_alone(done_run, tmp_path):
    code = (
        "import torch, sys; m = torch.export.load('student.pt2').module();"
        "assert m(torch.rand(5, 1, 8, 8)).shape == (5, 10); assert m(torch.rand(1, 1, 8, 8)).shape == (1, 10);"
        "assert 'lenient' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=done_run / "student", check=True)


def test_the_readme_of_the_student_works_as_written(done_run):
    text = (done_run / "student" / "README.md").read_text()
    snippets = text.split("```python\n")[1:]
    assert len(snippets) == 2
    code = "\n".join(snippet.split("```")[0] for snippet in snippets)
    done = python("-c", code, cwd=done_run / "student")
    assert done.returncode == 0, done.stderr


def test_a_dry_run_writes_nothing(digits_file, tmp_path):
    said = lenient("distill", digits_file, *QUICK, "--dry-run", cwd=tmp_path).stdout
    assert "ms a step, about" in said
    assert "memory" in said
    assert "machine   cpu, 32" in said
    assert not list(tmp_path.iterdir())


def test_print_config_is_a_recipe(digits_file, tmp_path):
    text = lenient(
        "distill", digits_file, "--method", "ta-dfkd", "--print-config", "-s", "method.selection.tau=0.6", cwd=tmp_path
    ).stdout
    (tmp_path / "mine.yaml").write_text(text)
    again = lenient("distill", digits_file, "--print-config", "-c", "mine.yaml", cwd=tmp_path).stdout
    assert again == text
    assert "tau: 0.6" in text


def test_plain_progress_is_lines_and_none_is_the_outcome_alone(done_run, digits_file, tmp_path):
    assert "step 20/20" in (done_run.parent / "stderr").read_text()
    silent = [*QUICK[:-1], "none", "-o", "b"]
    quiet = lenient("distill", digits_file, *silent, cwd=tmp_path, code=TAUGHT_NOTHING)
    assert quiet.stdout.startswith("verdict   failed: ")
    assert [line.split()[0] for line in quiet.stdout.splitlines()[-3:]] == ["time", "student", "report"]
    assert "step 20/20" not in quiet.stderr
    assert "machine" not in quiet.stdout


def test_rich_progress_draws_a_bar(digits_file, tmp_path):
    done = lenient("distill", digits_file, *QUICK[:-1], "rich", "-o", "a", cwd=tmp_path, code=TAUGHT_NOTHING)
    assert "20/20" in done.stderr


def test_an_epoch_budget_and_a_time_budget(digits_file, tmp_path):
    lenient("distill", digits_file, *QUICK, "--epochs", 1, "-o", "a", cwd=tmp_path, code=TAUGHT_NOTHING)
    assert json.loads((tmp_path / "a" / "report.json").read_text())["steps"] == 10
    lenient("distill", digits_file, *QUICK, "--budget", "1s", "-o", "b", cwd=tmp_path, code=ANY_VERDICT)
    assert json.loads((tmp_path / "b" / "report.json").read_text())["steps"] > 1


def test_a_demo_does_not_replace_a_run_unasked(done_run):
    refused = lenient("demo", "-o", done_run, cwd=done_run.parent, code=2)
    assert "--overwrite" in refused.stderr
    assert (done_run / "report.html").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupt_writes_a_checkpoint_exits_130_and_resume_goes_on(number, digits_file, tmp_path):
    arguments = ["distill", digits_file, *QUICK, "--steps", 100000, "-s", "log_every=1", "-o", "r"]
    metrics = tmp_path / "r" / "metrics.jsonl"
    with begun("-m", "lenient", *arguments, cwd=tmp_path) as process:
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.read_text().count("\n") > 3):
            assert time.monotonic() < deadline
            assert not process.over, process.end().stderr
            time.sleep(0.05)
        process.send(number)
        done = process.end(60)
    assert done.returncode == 130, done.stderr
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
    step = torch.load(tmp_path / "r" / "checkpoints" / "last.pt", weights_only=True)["step"]
    assert step > 0
    said = lenient("distill", digits_file, "--steps", 50, "--resume", "-o", "r", cwd=tmp_path, code=2)
    assert "can only be lengthened" in said.stderr


def test_the_same_command_without_a_folder_resumes_in_the_default_one(digits_file, tmp_path):
    lenient("distill", digits_file, *QUICK, "--steps", 10, cwd=tmp_path, code=ANY_VERDICT)
    again = lenient("distill", digits_file, *QUICK, "--steps", 12, "--resume", cwd=tmp_path, code=ANY_VERDICT)
    (report,) = (tmp_path / "runs").glob("*/report.json")
    assert json.loads(report.read_text())["steps"] == 12, again.stderr


def test_resume_of_a_complete_run_says_so_and_exits_by_its_verdict(done_run, digits_file):
    again = lenient("distill", digits_file, "--resume", "-o", done_run, cwd=done_run.parent, code=TAUGHT_NOTHING)
    assert f"{yaml.safe_load((done_run / 'config.yaml').read_text())['steps']} steps of" in again.stdout
    assert "choose another with --method" not in again.stdout, "the run has a method"
    assert "complete already" in again.stdout


# other commands


def test_inspect(digits_file, tmp_path):
    text = lenient("inspect", digits_file, cwd=tmp_path).stdout
    for words in (
        "lenient:resnet8",
        "1x8x8",
        "batch norm",
        "bn-adv",
        "expect        of the accuracy of small teachers, ",
        "student",
    ):
        assert words in text
    found = json.loads(lenient("inspect", digits_file, "--json", cwd=tmp_path).stdout)
    assert found["num_classes"] == 10
    assert {"ta-dfkd", "dafl", "meta-dfkd"} <= {*found["methods"]}
    assert "noise" not in found["methods"]
    assert {one["method"] for one in found["expected"]} == {"bn-adv"}


def test_evaluate(done_run, digits_file, tmp_path):
    text = lenient("evaluate", digits_file, "--data", "digits", "--teacher", digits_file, cwd=tmp_path).stdout
    assert "accuracy" in text
    assert "agreement    100.00%" in text
    found = json.loads(lenient("evaluate", done_run, "--data", "digits", "--json", cwd=tmp_path).stdout)
    report = json.loads((done_run / "report.json").read_text())
    assert found["accuracy"] == pytest.approx(report["student"]["accuracy"], abs=1e-6)
    assert "statistics   running: as stored" in text


def test_evaluate_by_other_statistics(digits_file, tmp_path):
    asked = ["--statistics", "adapted", "--adapt-to", "digits", "--adapt-images", 64]
    text = lenient("evaluate", digits_file, "--data", "digits", *asked, cwd=tmp_path).stdout
    assert "statistics   adapted: estimated anew on real images without labels, 64 of them" in text


def test_sample(done_run, tmp_path):
    said = lenient("sample", done_run, "-n", 5, "-o", "s", cwd=tmp_path).stdout
    assert "5 images" in said
    rows = list(csv.DictReader((tmp_path / "s" / "labels.csv").open()))
    assert len(rows) == 5 == len(list((tmp_path / "s").glob("*.png")))
    assert sum(float(rows[0][str(digit)]) for digit in range(10)) == pytest.approx(1, abs=1e-4)
    assert "choose another" in lenient("sample", done_run, "-n", 5, "-o", "s", cwd=tmp_path, code=2).stderr


def test_a_compiled_run_is_sampled_without_a_compiler(done_run, tmp_path, monkeypatch):
    run = shutil.copytree(done_run, tmp_path / "run")
    recipe = (run / "config.yaml").read_text()
    assert "compile: false" in recipe
    (run / "config.yaml").write_text(recipe.replace("compile: false", "compile: true"))
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    assert write_sample(run, tmp_path / "s", 5).images == 5


@pytest.mark.parametrize("kind", ["safetensors", "pt2", "onnx", "hub"])
def test_export_and_check(kind, done_run, tmp_path):
    name = {"safetensors": "m.safetensors", "pt2": "m.pt2", "onnx": "m.onnx", "hub": "hub"}[kind]
    said = lenient("export", done_run, "--format", kind, "-o", name, "--check", cwd=tmp_path).stdout
    assert "outputs agree within" in said
    if kind == "hub":
        assert (tmp_path / "hub" / "README.md").read_text().startswith("---\n")


def test_export_check_fails_where_outputs_differ(done_run, tmp_path, monkeypatch):
    from lenient.core.errors import MachineError
    from lenient.runs import export

    true = export._read_back
    monkeypatch.setattr(export, "_read_back", lambda *given: lambda x: true(*given)(x) * 1.01)
    with pytest.raises(MachineError, match=r"--check: .* gives other outputs"):
        export.export(done_run, "pt2", tmp_path / "m.pt2", check=True)


def test_report_is_rewritten_equal(done_run, tmp_path, monkeypatch):
    monkeypatch.delenv("BARE")
    before = (done_run / "report.html").read_text()
    (done_run / "report.html").unlink()
    lenient("report", done_run, cwd=tmp_path)
    assert (done_run / "report.html").read_text() == before


def test_methods(tmp_path):
    text = lenient("methods", cwd=tmp_path).stdout
    rows = {line.split()[0]: line for line in text.splitlines() if line.split()}
    for name, words in {"ta-dfkd": "mixture", "dafl": "0.05 one-hot", "mb-dfkd": "bank", "meta-dfkd": "retain"}.items():
        assert words in rows[name], rows[name]
    every = json.loads(lenient("methods", "--json", cwd=tmp_path).stdout)
    assert every["zskt"]["anatomy"]["student"] == "KL + 2500 attention"
    assert every["ta-dfkd"]["anatomy"]["class prior"] == ""
    page = lenient("methods", "--markdown", cwd=tmp_path).stdout
    assert page.startswith("| `--method` | images come from |")
    assert "[`adi`](docs/methods/deepinversion.md) | pixels | balanced | label + 10 statistics" in page
    named = {line.split("`")[1] for line in page.splitlines() if "last layer or class names" in line}
    assert named == {"nayer", "cpnet"}
    refused = lenient("methods", "zskd", "--markdown", cwd=tmp_path, code=2).stderr
    assert "--markdown: prints the table of all methods" in refused
    one = lenient("methods", "ta-dfkd", cwd=tmp_path).stdout
    for words in ("2402.12406", "tau", "0.5", "published"):
        assert words in one
    fields = json.loads(lenient("methods", "ta-dfkd", "--json", cwd=tmp_path).stdout)["settings"]
    assert {"selection.tau", "replay.slots", "selection.max_iterations"} <= set(fields)


def test_train_teacher_keeps_checkpoints(tmp_path):
    arguments = TRAIN
    said = lenient(*arguments, "--epochs", 4, "--keep", 2, "--keep-above", 0.05, cwd=tmp_path).stdout
    assert "held-out accuracy" in said
    assert len(list(tmp_path.glob("t-e*.safetensors"))) == 2
    assert (tmp_path / "t.safetensors").exists()
    again = lenient(*arguments, cwd=tmp_path, code=2)
    assert "--overwrite" in again.stderr
    assert not [path.name for path in tmp_path.iterdir() if path.suffix != ".safetensors"]


def test_checkpoints_do_not_take_the_place_of_a_folder(tmp_path):
    (tmp_path / "t-e003.safetensors").mkdir()
    said = lenient(*TRAIN, "--epochs", 4, "--keep", 2, "--overwrite", cwd=tmp_path, code=2).stderr
    assert said == "lenient: -o t-e003.safetensors: is a folder; choose another name\n"


def test_a_folder_of_classes_has_to_be_split_to_train_on(tmp_path):
    for name in "ab":
        (tmp_path / "d" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (8, 8)).save(tmp_path / "d" / name / f"{number}.png")
    wanted = [*TRAIN, "--data", "imagefolder:d", "--input-size", "1,8,8", "--epochs", 1]
    assert "give --split fit" in lenient(*wanted, cwd=tmp_path, code=2).stderr
    lenient(*wanted, "--split", "fit", cwd=tmp_path)


def test_a_current_folder_that_is_gone_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr("sys.argv", ["lenient", "inspect", str(tmp_path / "t.safetensors")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 5
    said = capsys.readouterr().err
    assert said == "lenient: the current folder no longer exists (No such file or directory); change to one that does\n"


def test_an_error_of_the_system_is_one_line(monkeypatch, capsys):
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/a/teacher.pt")

    monkeypatch.setattr("lenient.cli.app", refused)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 5
    assert capsys.readouterr().err == "lenient: /a/teacher.pt: Permission denied\n"


# bad input: (arguments, exit code, words)

FACTORY = """
import torch
from torch import nn
class Says(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.conv, self.norm, self.answer = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), answer
    def forward(self, x):
        y = self.norm(self.conv(x)).mean((2, 3))
        return self.answer(y)
def nan(): return Says(lambda y: y * float("nan"))
def pair(): return Says(lambda y: (y, y))
def maps(): return Says(lambda y: y[:, :, None, None].expand(-1, -1, 3, 3))
def logits(): return Says(lambda y: {"logits": y})
def soft(): return Says(lambda y: y.softmax(1))
def no_norm(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
def crash(): raise ValueError("factory broke")
"""
FACTS = ["--input-size", "1,8,8", "--mean", "0.5", "--std", "0.5", "--num-classes", "4"]


@pytest.fixture
def factories(tmp_path) -> Path:
    (tmp_path / "nets.py").write_text(FACTORY)
    torch.save(TinyNet().state_dict(), tmp_path / "tiny.pt")
    torch.save(TinyNet(), tmp_path / "pickle.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "tiny.pt").read_bytes()[:300])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    (tmp_path / "bad.yaml").write_text("steps: 5\nmethod:\n  taw: 0.5\n")
    return tmp_path


BAD: list[tuple[list[str], int, str]] = [
    (["distill", "nowhere.safetensors"], 3, "nowhere.safetensors"),
    (["distill", "cut.safetensors"], 3, "cut.safetensors"),
    (["distill", "cut.pt", "--teacher-arch", "lenient:resnet8", *FACTS], 3, "cut.pt"),
    (["distill", "pickle.pt", *FACTS], 3, "py:"),
    (["distill", "tiny.pt", *FACTS], 3, "--teacher-arch"),
    (["distill", "tiny.pt", "--teacher-arch", "lenient:resnet8", *FACTS], 3, "conv1.weight"),
    (["distill", "py:nets.py:nan", *FACTS], 3, "NaN"),
    (["distill", "py:nets.py:pair", *FACTS], 3, "nothing tells which are the logits: wrap it"),
    (["distill", "py:nets.py:maps", *FACTS], 3, "logits"),
    (["distill", "py:nets.py:crash", *FACTS], 3, "factory broke"),
    (["distill", "py:nets.py:no_norm", *FACTS, "--method", "ta-dfkd"], 3, "-s method.bn_weight=0"),
    (["distill", "py:nets.py:logits", "--input-size", "3,8,8", "--num-classes", "4"], 3, "--input-size"),
    (["distill", "py:nets.py:logits", *FACTS, "--num-classes", "7"], 3, "--num-classes"),
    (["distill", "DIGITS", "--input-size", "8"], 2, "--input-size"),
    (["distill", "DIGITS", "--mean", "a,b"], 2, "--mean"),
    (["distill", "DIGITS", "--student", "lenient:resnet9"], 2, "resnet9"),
    (["distill", "DIGITS", "-c", "bad.yaml"], 2, "the nearest is method.selection.tau"),
    (["distill", "DIGITS", "-c", "none.yaml"], 2, "-c none.yaml"),
    (["distill", "DIGITS", "-s", "stepz=4"], 2, "the nearest is steps"),
    (["distill", "DIGITS", "--method", "magic"], 2, "--method magic"),
    (["distill", "DIGITS", "--preset", "magic"], 2, "--preset magic"),
    (["distill", "DIGITS", "--budget", "soon"], 2, "--budget soon"),
    (["distill", "DIGITS", "--device", "toaster"], 2, "--device toaster"),
    (["distill", "DIGITS", "--precision", "8"], 2, "precision"),
    (["distill", "DIGITS", "--progress", "loud"], 2, "--progress loud"),
    (["distill", "DIGITS", "--batch-size", "1"], 2, "batch_size"),
    (["distill", "DIGITS", "-o", "."], 2, "holds other files"),
    (["distill", "DIGITS", "--eval-data", "cats", "-o", "r"], 2, "cats"),
    (["distill", "DIGITS", "--eval-data", "mnist", "--data-root", "nowhere", "-o", "r"], 2, "--data-root"),
    (["distill", "DIGITS", "-o", "nets.py/run"], 5, "cannot be written"),
    (["distill", "DIGITS", "--no-such-flag"], 2, "--no-such-flag"),
    (["evaluate", "DIGITS", "--data", "cats"], 2, "cats"),
    (["export", "DIGITS", "--format", "tflite", "-o", "x"], 2, "--format tflite"),
    (["sample", "nowhere", "-n", "1", "-o", "s"], 2, "nowhere"),
    (["report", "nowhere"], 2, "nowhere"),
    (["methods", "magic"], 2, "magic"),
    (["inspect", "timm:no_such_net"], 3, "no_such_net"),
    (["inspect", "torchvision:no_such_net"], 3, "no_such_net"),
    (["train-teacher", "--data", "digits", "--arch", "lenient:lenet5", "-o", "t.txt"], 2, ".safetensors"),
    ([*TRAIN, "--precision", "fp16"], 2, "--precision fp16: there are 32, bf16"),
    ([*TRAIN, "--keep", "-3"], 2, "--keep -3"),
    ([*TRAIN, "--keep", "2", "--keep-above", "high"], 2, "--keep-above high: write numbers"),
    ([*TRAIN, "--keep-above", "0.9"], 2, "--keep-above 0.9: give one accuracy, such as 0.9, with --keep N"),
    ([*TRAIN[:-1], "/dev/null/t.safetensors"], 5, "cannot be written"),
    (["sample", "nowhere", "-o", "nets.py"], 2, "is a file, not a folder"),
    (["distill", "DIGITS", "--steps", "0"], 2, "steps=0"),
    (["distill", "DIGITS", "--epochs", "0"], 2, "--epochs 0"),
    (["distill", "DIGITS", "--batch-size", "0"], 2, "batch_size=0"),
    (["distill", "DIGITS", "--seed", "-5"], 2, "seed=-5"),
    (["distill", "DIGITS", "-s", "method=3"], 2, "method: 3"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), BAD)
def test_bad_input_is_one_line_with_the_flag_to_change(
    arguments, code, words, factories, digits_file, capsys, monkeypatch
):
    """In this process, for speed; the other tests here use real ones."""
    from lenient.cli import main

    monkeypatch.chdir(factories)
    before = {path.name for path in factories.iterdir()}
    replaced = [str(digits_file) if word == "DIGITS" else word for word in arguments]
    monkeypatch.setattr(sys, "argv", ["lenient", *replaced])
    monkeypatch.setattr("lenient.core.progress.AFTER", 3600.0)  # however slow the machine is
    with pytest.raises(SystemExit) as caught:
        main()
    said = capsys.readouterr().err.strip()
    assert caught.value.code == code, said
    assert words in said, said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1 or "Usage" in said or "def build():" in said, said
    if code == 3:
        assert {path.name for path in factories.iterdir()} - before <= {"__pycache__"}


LONGER = ["distill", "DIGITS", "--resume", "--steps", "30", "-o", "RUN", "--student", "lenient:lenet5-half"]
EVALUATE = ["evaluate", "RUN", "--data", "digits"]
EXPORT = ["export", "RUN", "--format", "safetensors", "-o", "x.safetensors"]
DAMAGED = [
    (LONGER, "config.yaml"),
    (LONGER, "checkpoints/last.pt"),
    (LONGER, ".lenient.json"),
    (LONGER, "metrics.jsonl"),
    (EVALUATE, "student/model.safetensors"),
    (EXPORT, "student/model.safetensors"),
]


@pytest.mark.parametrize(
    ("arguments", "name"), DAMAGED, ids=lambda value: value if isinstance(value, str) else value[0]
)
def test_a_damaged_run_is_one_line_that_names_the_file(
    arguments, name, done_run, digits_file, capsys, monkeypatch, tmp_path
):
    (done_run / name).write_bytes(b"\x00" * 99)
    before = {path: path.read_bytes() for path in done_run.rglob("*") if path.is_file() and path.name != ".lock"}
    monkeypatch.chdir(tmp_path)
    places = {"DIGITS": str(digits_file), "RUN": str(done_run)}
    monkeypatch.setattr("sys.argv", ["lenient", *(places.get(word, word) for word in arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lenient: ")]
    assert end.value.code in (2, 3, 5)
    assert name in line
    assert len(line) <= 300
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("name", ["logits", "soft"])
def test_dicts_with_logits_and_probabilities_are_taken(name, factories):
    args = ["distill", f"py:nets.py:{name}", *FACTS, *QUICK, "--student", "lenient:lenet5-half", "-o", "r"]
    done = lenient(*args, cwd=factories, code=TAUGHT_NOTHING)
    if name == "soft":
        assert "probabilities" in done.stdout


def test_without_batch_norm_knowingly(factories):
    args = ["distill", "py:nets.py:no_norm", *FACTS, *QUICK, "--student", "lenient:lenet5-half", "-o", "r"]
    lenient(*args, "-s", "method.bn_weight=0", cwd=factories, code=TAUGHT_NOTHING)


def test_without_batch_norm_a_method_is_taken_that_needs_none(factories):
    seen = lenient("inspect", "py:nets.py:no_norm", *FACTS, cwd=factories).stdout
    assert re.search(r"^method +dafl-adv \(the teacher has no batch norm", seen, re.MULTILINE)
    assert re.search(r"^unfit .*ta-dfkd.* \(no batch norm\)", seen, re.MULTILINE)
    args = ["distill", "py:nets.py:no_norm", *FACTS, *QUICK, "--student", "lenient:lenet5-half", "--dry-run"]
    said = lenient(*args, cwd=factories).stdout
    assert "dafl-adv, because the teacher has no batch norm" in said
    said = lenient(*args, "--method", "ta-dfkd", cwd=factories, code=3).stderr
    assert "--method auto" in said


def test_an_unwritable_folder(digits_file, tmp_path):
    if os.geteuid() == 0:
        target: Any = "/proc/lenient-run"
    else:
        (tmp_path / "locked").mkdir(mode=0o500)
        target = tmp_path / "locked" / "run"
    said = lenient("distill", digits_file, *QUICK, "-o", target, cwd=tmp_path, code=5).stderr
    assert "cannot be written" in said


def test_a_batch_too_large_for_memory_names_the_flag(digits_file, tmp_path):
    large = ("--batch-size", 2**20, "-s", "generator.width=4096")
    said = lenient("distill", digits_file, *QUICK, *large, "-o", "r", cwd=tmp_path, code=5).stderr
    assert "--batch-size" in said
