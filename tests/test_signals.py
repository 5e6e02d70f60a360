"""Signals: which stop, which only warn, and which are left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lenient.cli import main
from lenient.core.errors import UsageError
from lenient.core.signals import (
    STOPS,
    WARNINGS,
    end_on_signals,
    end_plainly,
    passed_on,
    save_on_signals,
    stop_on_signals,
)
from lenient.models import load_network, save_network


@pytest.fixture(autouse=True)
def _as_at_a_start() -> Iterator[None]:
    numbers = [getattr(signal, name) for name in (*STOPS, *WARNINGS)]
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", STOPS)
def test_a_signal_asks_for_a_stop_and_a_second_one_acts_at_once(name: str) -> None:
    end_on_signals()
    with stop_on_signals() as event:
        os.kill(os.getpid(), getattr(signal, name))
        assert event.wait(1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(getattr(signal, name))


def test_a_hang_up_that_was_ignored_at_the_start_stays_so() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    end_on_signals()
    with stop_on_signals() as event:
        signal.raise_signal(signal.SIGHUP)
        assert not event.is_set()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("name", WARNINGS)
def test_a_warning_asks_for_a_checkpoint_and_ends_nothing(name: str) -> None:
    number = getattr(signal, name)
    end_on_signals()
    signal.raise_signal(number)  # while nothing runs
    with save_on_signals() as event, stop_on_signals() as stop:
        assert not event.is_set()
        signal.raise_signal(number)
        assert event.is_set()
        assert not stop.is_set()
    assert signal.getsignal(number) is signal.SIG_IGN


def test_what_somebody_else_handles_is_left_alone() -> None:
    seen = []
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, frame: seen.append(number))
    end_on_signals()
    with save_on_signals() as event:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGUSR1, signal.SIGTERM]
    assert not event.is_set()


def test_warnings_are_passed_on_and_the_dead_passed_over() -> None:
    with subprocess.Popen(["sleep", "60"]) as child, subprocess.Popen(["true"]) as dead:
        dead.wait()
        with passed_on(lambda: [dead.pid, child.pid]):
            signal.raise_signal(signal.SIGUSR1)
            assert child.wait(5) == -signal.SIGUSR1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ignored"), [("SIGHUP", False), ("SIGTERM", False), ("SIGHUP", True), ("SIGUSR1", False)]
)
def test_four_ways_to_signal_a_command(name: str, ignored: bool, tmp_path: Path) -> None:
    teacher = load_network("lenient:resnet8", num_classes=4, input_size=(3, 16, 16), seed=1)
    save_network(tmp_path / "t.safetensors", teacher)
    words = ["-m", "lenient", "distill", "t.safetensors", "--student", "lenient:resnet8-half", "--steps", "100000"]
    words += ["--batch-size", "8", "--precision", "32", "-s", "overlap=false", "-s", "log_every=5", "-o", "run"]
    start = ["nohup"] if ignored else []
    process = subprocess.Popen([*start, sys.executable, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    metrics, checkpoint = tmp_path / "run/metrics.jsonl", tmp_path / "run/checkpoints/last.pt"
    try:
        wait_for(lambda: metrics.exists() and metrics.read_text().count('"log"') > 1)
        process.send_signal(getattr(signal, name))
        if ignored or name == "SIGUSR1":
            before = metrics.read_text().count('"log"')
            wait_for(lambda: metrics.read_text().count('"log"') > before + 2)
            assert checkpoint.exists() == (not ignored)
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
        assert checkpoint.exists()
        assert process.stderr is not None
        assert "a checkpoint is written" in process.stderr.read()
    finally:
        process.kill()


def test_training_a_teacher_outlives_a_warning_and_ends_by_a_hang_up(tmp_path: Path) -> None:
    words = ["-m", "lenient", "train-teacher", "--data", "digits", "--arch", "lenient:lenet5", "-o", "t.safetensors"]
    said = tmp_path / "said"
    with open(said, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *words, "--epochs", "100000"], cwd=tmp_path, stdout=file, stderr=file
        )
    try:
        wait_for(lambda: "epoch 2:" in said.read_text())
        process.send_signal(signal.SIGUSR1)
        wait_for(
            lambda: "warned by a signal: training goes on, but has no checkpoint to continue from\n" in said.read_text()
        )
        epochs = said.read_text().count("accuracy")
        wait_for(lambda: said.read_text().count("accuracy") > epochs + 1)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert said.read_text().endswith("lenient: interrupted\n")
    assert said.read_text().count("warned") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["said"]


def wait_for(condition: object, seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_process_that_winds_itself_up_ends_without_a_trace() -> None:
    """What ends a process raises in it, and torch's finalizers would print that."""
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        end_on_signals()
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        end_plainly()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_interrupt_of_any_command_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lenient.reporting.write_report", interrupted)
    monkeypatch.setattr(sys, "argv", ["lenient", "report", "run"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "lenient: interrupted\n"


@pytest.mark.parametrize("name", WARNINGS)
@pytest.mark.parametrize(
    ("command", "work"),
    [
        ("evaluate run --data digits", "runs.measuring.load_teacher"),
        ("sample run -n 1 -o s", "api.sample"),
        ("report run", "reporting.write_report"),
    ],
)
def test_a_warning_ends_no_command(
    name: str, command: str, work: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that take no notice of it, too: a scheduler sends it to all processes of a job."""

    def warned(*_: object, **__: object) -> None:
        signal.raise_signal(getattr(signal, name))
        raise UsageError("it went on")

    monkeypatch.setattr(f"lenient.{work}", warned)
    monkeypatch.setattr(sys, "argv", ["lenient", *command.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "lenient: it went on\n"


EARLY = """
import os, runpy, signal, sys

class Warned:
    def find_spec(self, name, path=None, target=None):
        if name == "lenient.cli":
            os.kill(os.getpid(), signal.SIGUSR1)

sys.meta_path.insert(0, Warned())
sys.argv = ["lenient", "methods", "noise"]
runpy.run_module("lenient", run_name="__main__", alter_sys=True)
"""


def test_a_warning_that_comes_while_commands_are_imported_ends_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", EARLY], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "noise" in done.stdout
