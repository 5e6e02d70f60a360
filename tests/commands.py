"""Python as a process of its own, without the seconds that importing torch takes each time.

The processes are forked from one that has imported what commands need and has done nothing else, and so are those that
they start for cells of the bench. A test of what is imported, or of a process that others start or join, starts its
own. With BARE in the environment runs leave out what takes longer than few steps: see `bare`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from lenient.bench.tasks import IMPORTED

HERE = Path(__file__).parent
LIMIT = 600
"""Seconds after which a process is killed."""

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when the server imports torch
_STARTING = threading.Lock()
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        *(*IMPORTED, "torch.export._trace", "sympy.tensor.tensor", "torch._inductor.ir", "torch.utils.tensorboard"),
        *("lenient.cli", "lenient.cli.distill", "lenient.api", "lenient.methods.ta_dfkd", "bare", "frozen"),
    ]
)


def lenient(
    *words: object, cwd: Path, code: int | tuple[int, ...] = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `lenient WORDS` to its end, which must be one of the exit codes `code`, without a traceback."""
    done = python("-m", "lenient", *words, cwd=cwd, **environment)
    expected = code if isinstance(code, tuple) else (code,)
    assert done.returncode in expected, f"{done.returncode}: {done.stdout[-1500:]} {done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
    return done


def python(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python WORDS` to its end: `-m MODULE`, `-c CODE` or a file, and their arguments.

    Args:
        environment: what differs from that of the tests.
    """
    with begun(*words, cwd=cwd, **environment) as process:
        return process.end()


@dataclass(frozen=True)
class Begun:
    """A python that is under way."""

    words: list[str]
    process: BaseProcess
    said: list[Path]

    @property
    def pid(self) -> int:
        assert self.process.pid is not None, "it was started"
        return self.process.pid

    @property
    def over(self) -> bool:
        return self.process.exitcode is not None

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self, seconds: float = LIMIT) -> subprocess.CompletedProcess[str]:
        """Wait for its end and return how it came, and what it said."""
        self.process.join(seconds)
        said = [path.read_text(errors="replace") for path in self.said]
        assert self.process.exitcode is not None, f"it goes on after {seconds} s: {said}"
        return subprocess.CompletedProcess(self.words, self.process.exitcode, *said)


@contextmanager
def begun(*words: object, cwd: Path, **environment: str) -> Iterator[Begun]:
    """Start what `python` runs; it is killed where it has not ended by the end of the block."""
    arguments = [str(word) for word in words]
    _start_server()
    with tempfile.TemporaryDirectory() as place:
        said = [Path(place) / name for name in ("stdout", "stderr")]
        process = _SERVER.Process(target=_run, args=(arguments, cwd, os.environ | environment, said))
        process.start()
        try:
            yield Begun(arguments, process, said)
        finally:
            process.kill()
            process.join()


def _start_server() -> None:
    """Before the first process; the server finds what it imports of these tests by its path alone."""
    with _STARTING, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
        forkserver.ensure_running()


def _run(words: Sequence[str], cwd: Path, environment: Mapping[str, str], said: Sequence[Path]) -> None:
    for number, path in enumerate([Path(os.devnull), *said]):
        handle = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(handle, number)
        os.close(handle)
    # This process's own children come from the same server, which it would otherwise start anew, for it cannot wait for
    # one that is not its child; there is no public name for this.
    forkserver._forkserver.ensure_running = lambda: None
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    how, *rest = words
    sys.argv = [how] if how in ("-m", "-c") else [how, *rest]
    sys.path[0] = str(cwd)
    if how == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif how == "-c":
        exec(rest[0], {"__name__": "__main__"})
    else:
        sys.path[0] = str(Path(how).parent)
        runpy.run_path(how, run_name="__main__")
