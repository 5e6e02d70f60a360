"""What takes long and has no steps says that it is at work, and nothing else does."""

from __future__ import annotations

import inspect as introspection
import logging
import re
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer import Exit

import lenient
from fuzzing import command as run
from lenient.cli.distill import finish
from lenient.core import progress
from lenient.core.errors import UsageError
from lenient.core.progress import for_command, for_function, working
from lenient.models import build_student, save_network
from lenient.runs.synthesis import Written
from lenient.training.display import Afterwards, PlainProgress, watching
from toys import digits_like


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_takes_long_says_so_again_and_again(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    def again() -> bool:
        said.append(capsys.readouterr().err)
        return "".join(said).count("writing s.onnx, ") >= 2

    with working("writing s.onnx", after=0.01, every=0.01):
        wait_for(again)
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr().err == "", "it is over"


@pytest.mark.parametrize(("kind", "after"), [("none", 0.0), ("auto", 3600.0)])
def test_nothing_is_said_of_what_is_short_or_unwatched(
    kind: str, after: float, capsys: pytest.CaptureFixture[str]
) -> None:
    with working("writing s.onnx", kind, after=after):
        time.sleep(0.05)
    assert capsys.readouterr() == ("", "")


def test_what_can_be_counted_says_how_many_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    def counted() -> bool:
        said.append(capsys.readouterr().err)
        return "drawing images, 30 of 40, " in "".join(said)

    with working("drawing images", total=40, after=0.01, every=0.01) as count:
        wait_for(lambda: " s so far" in capsys.readouterr().err)
        count(30)
        wait_for(counted)
    assert " s left" in "".join(said)


def test_plain_lines_begin_soon_and_become_rarer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown, said = PlainProgress(), []
    shown.start(1000, 0)
    for step in range(1, 35):
        now = float(step)
        shown.step(step, 0)
        said += [step] if capsys.readouterr().err.startswith(f"step {step}/1000, ") else []
    assert said == [2, 12, 22, 32]


@pytest.mark.parametrize(("verdict", "told"), [("ok", True), ("warning", True), ("failed", False)])
def test_a_run_ends_with_the_command_that_comes_next(verdict: str, told: bool) -> None:
    """Unless its student is of no use."""
    nobody = SimpleNamespace(accuracy=None)
    summary = SimpleNamespace(
        teacher=nobody, student=nobody, prediction=None, fell_back=None, foreign=None, estimated_on=None, seconds=1.0
    )
    health, said = SimpleNamespace(verdict=verdict, reasons=["so"], note=""), list[str]()
    ended: Any = SimpleNamespace(interrupted=False, health=health, summary=summary)
    with nullcontext() if told else pytest.raises(Exit):
        finish(ended, Path("my runs/one"), said.append)
    next_one = "next      lenient export 'my runs/one' --format onnx -o student.onnx --check"
    assert (said[-1] == next_one) == told


def test_training_a_teacher_ends_with_the_command_that_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = "train-teacher --data digits --arch lenient:lenet5 --epochs 1 --device cpu -o"
    ended = run(*plan.split(), "my teacher.safetensors")
    assert ended.printed.endswith("next: lenient distill 'my teacher.safetensors'\n"), ended


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    save_network(Path("my teacher.safetensors"), digits_like())
    return "my teacher.safetensors"


def next_of(*words: str) -> list[str]:
    """The words of the command that another one ends with."""
    ended = run(*words)
    assert ended.code == 0, ended
    last = ended.printed.splitlines()[-1]
    assert last.startswith("next: "), ended
    return shlex.split(last.removeprefix("next: "))


@pytest.mark.parametrize("kind", ["safetensors", "pt2"])
def test_a_file_that_was_exported_is_measured_by_the_command_that_comes_next(teacher: str, kind: str) -> None:
    program, *words = next_of("export", teacher, "--format", kind, "-o", f"the net.{kind}")
    ended = run(*("digits" if word == "imagefolder:DIR" else word for word in words))
    assert (program, ended.code) == ("lenient", 0), ended
    assert "accuracy" in ended.printed


def test_a_folder_for_a_hub_is_sent_next_and_a_file_in_8_bits_is_run(teacher: str) -> None:
    assert next_of("export", teacher, "--format", "hub", "-o", "my hub") == ["hf", "upload", "ORG/NAME", "my hub"]


@pytest.mark.parametrize("kind", ["pt2", "onnx", "safetensors"])
def test_who_exports_code_is_told_to_trust_it(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes in few bits are run by a runtime; a network of one's own is made by one's own code."""
    monkeypatch.chdir(tmp_path)
    Path("my_net.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n", "utf-8"
    )
    arch = "py:my_net.py:make" if kind == "safetensors" else "int8:lenient:resnet8"
    if kind == "onnx":
        pytest.importorskip("onnx")
    save_network(Path("t.safetensors"), build_student(arch, digits_like().card, seed=0))
    program, *words = next_of("export", "t.safetensors", "--format", kind, "-o", f"s.{kind}", "--trust-code")
    assert (program, words[-1]) == ("lenient", "--trust-code")


def test_inspecting_a_teacher_leads_on_to_distilling_it_so(teacher: str) -> None:
    facts = ["--mean", "0.2", "--std", "0.4"]
    assert next_of("inspect", teacher, *facts) == ["lenient", "distill", teacher, *facts]


def test_images_and_methods_say_what_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lenient.api.sample", lambda *_, **__: Written(4, 0.5))
    assert run("sample", "run", "-o", "my set").printed.endswith(
        f"next: look at them; {Path('my set', 'README.md')} says how to read them\n"
    )
    assert next_of("methods", "dafl") == ["lenient", "distill", "TEACHER", "--method", "dafl"]
    assert next_of("methods")[:3] == ["lenient", "methods", "NAME"]


def test_alarms_and_evaluations_have_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    shown = PlainProgress()
    shown.start(10, 0)
    for event, values in (
        ("alarm", {"step": 4, "message": "too dark"}),
        ("classes", {"step": 4}),
        ("eval", {"step": 5, "accuracy": 0.5}),
    ):
        shown.line(event, values)
    assert capsys.readouterr().err == "alarm at step 4: too dark\nstep 5: accuracy 50.00%\n"


@pytest.mark.parametrize("kind", ["plain", "rich"])
def test_an_alarm_is_said_once_where_nobody_keeps_the_log(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("lenient")
    for one in (log, logging.root):
        monkeypatch.setattr(one, "handlers", [])
    with watching(kind) as (shown, _):
        shown.start(10, 0)
        log.warning("alarm at step 4: too dark")
        shown.line("alarm", {"step": 4, "message": "too dark"})
        shown.stop()
    assert capsys.readouterr().err.count("too dark") == 1


@pytest.mark.parametrize(
    ("words", "doing"),
    [
        ("inspect t", "looking at t"),
        ("evaluate t --data digits --device cpu", "measuring t"),
        ("distill t --print-config", "loading t"),
        ("train-teacher --data digits --arch lenient:lenet5 --epochs 1 -o new.safetensors", "reading digits"),
        ("distill t --dry-run --preset smoke --batch-size 4 --precision 32 --device cpu", "measuring"),
    ],
)
def test_a_command_that_may_take_long_says_what_it_does(
    words: str, doing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_network(Path("t.safetensors"), digits_like())
    monkeypatch.setattr(progress, "AFTER", 0.0)
    ended = run(*re.sub(r" t\b", " t.safetensors", words, count=1).split())
    assert ended.code == 0, ended
    assert re.search(rf"^{doing}\S*, \d+ s so far$", ended.said, re.MULTILINE), ended


def test_an_error_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"), working("writing s.onnx", after=3600.0):
        raise ValueError("no")


def test_what_follows_the_last_step_is_said_to_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(progress, "say", said.append)
    with ExitStack() as ending:
        shown = Afterwards(ending, "plain")
        shown.start(10, 0)
        shown.step(10, 10)
        assert not said
        monkeypatch.setattr(progress, "AFTER", 0.01)
        shown.stop()
        wait_for(lambda: bool(said))
    assert said[0].startswith("measuring the student")


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The lines that a notebook's cell would show, each with all that it said: an IPython is pretended to be there."""
    lines: list[list[str]] = []

    class Handle:
        def __init__(self, line: list[str]) -> None:
            self.line = line

        def update(self, data: dict[str, str], *, raw: bool) -> None:
            self.line.append(data["text/plain"])

    def display(data: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        lines.append([data["text/plain"]])
        return Handle(lines[-1])

    shell = SimpleNamespace(kernel=None)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    return lines


def test_a_function_shows_itself_where_somebody_looks_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool | str] = ["auto", True, "rich", "plain", "none", False]
    assert [for_function(kind) for kind in asked] == ["none", "none", "rich", "plain", "none", "none"]
    assert [for_command(kind) for kind in ("auto", "rich", "plain", "none")] == ["plain", "rich", "plain", "none"]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert [for_function(kind) for kind in asked] == ["rich", "rich", "rich", "plain", "none", "none"]
    assert for_command("auto") == "rich"
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace()))
    assert for_function("auto") == "rich", "IPython on a terminal"
    monkeypatch.setattr(progress.processes, "speaks", lambda: False)
    assert {for_function(kind) for kind in asked} == {"none"}, "one of several processes speaks for all"
    with pytest.raises(UsageError, match="--progress bar: unknown; there are auto, rich, plain, none"):
        for_function("bar")


def test_a_notebook_shows_a_line_that_changes(cell: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert [for_function(kind) for kind in ("auto", "rich", "plain", False)] == ["notebook"] * 2 + ["plain", "none"]
    with working("writing s.onnx", "notebook", after=0.01, every=0.01):
        wait_for(lambda: bool(cell) and len(cell[0]) > 2)
    with watching("notebook") as (shown, _):
        shown.start(2, 0)
        shown.step(1, 4)
        shown.step(2, 8)
        shown.line("alarm", {"step": 2, "message": "too dark"})
    assert len(cell) == 2
    assert cell[0][0] == "writing s.onnx, 0 s so far"
    assert cell[0][-1] == "writing s.onnx: 0 s"
    assert cell[1] == ["step 2/2, 0 s left"]
    assert capsys.readouterr() == ("", "alarm at step 2: too dark\n"), "what must not be lost"


def test_every_function_that_may_take_long_can_be_told_what_to_show() -> None:
    functions = {name for name in lenient.__all__ if introspection.isfunction(getattr(lenient, name))}
    for name in functions - {"list_methods", "register_method"}:
        shown = introspection.signature(getattr(lenient, name)).parameters.get("progress")
        assert shown is not None, name
        assert (shown.default, shown.kind) == ("auto", shown.KEYWORD_ONLY), name


PLAN: dict[str, Any] = {"batch_size": 4, "device": "cpu", "precision": "32"}
WORK: dict[str, tuple[Callable[..., object], str]] = {
    "load": (lambda **more: lenient.load("my teacher.safetensors", **more), "loading my teacher"),
    "predict": (
        lambda **more: lenient.load("my teacher.safetensors").predict(torch.rand(300, 1, 8, 8), **more),
        "looking at images",
    ),
    "inspect": (lambda **more: lenient.inspect("my teacher.safetensors", **more), "looking at my teacher"),
    "evaluate": (
        lambda **more: lenient.evaluate("my teacher.safetensors", "digits", device="cpu", **more),
        "measuring my teacher",
    ),
    "export": (
        lambda **more: lenient.export("my teacher.safetensors", "s.pt2", "pt2", overwrite=True, **more),
        "writing s.pt2",
    ),
    "distill": (
        lambda **more: lenient.distill("my teacher.safetensors", "lenient:resnet8-half", steps=2, **PLAN, **more),
        "step 2/2",
    ),
    "synthesize": (
        lambda **more: lenient.synthesize("my teacher.safetensors", 4, "dfad", steps=2, **PLAN, **more),
        "making images: updates",
    ),
    "train_teacher": (
        lambda **more: lenient.train_teacher("digits", "lenient:lenet5", "t.safetensors", epochs=1, overwrite=True,
                                             device="cpu", **more),
        "epoch 1 of 1, step ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WORK)
def test_a_function_shows_what_it_is_at(
    name: str, teacher: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for; by itself and where it is not wanted it leaves the streams alone, however long it takes."""
    work, doing = WORK[name]
    monkeypatch.setattr(progress, "AFTER", 0.0)
    monkeypatch.setattr("lenient.supervised.training.PROGRESS_SECONDS", 0.0)
    work()
    work(progress=False)
    assert not [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
    work(progress="plain")
    shown = capsys.readouterr()
    assert re.search(f"^{doing}", shown.err, re.MULTILINE)
    assert shown.out == "", "it may be read by a program"
