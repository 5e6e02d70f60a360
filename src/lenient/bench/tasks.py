"""One process of the bench and its folder: who holds it, how it ends, and what it leaves behind.

A task is a folder with `spec.json`, which fits `SPEC` of the task's module; `work` there does it, and `python -m MODULE
FOLDER/spec.json`, after which stand the names in it that may run code or visit places, or `--trust-code` for all. At
the end `done` is written, after everything else; what cannot be done leaves `failed.json`. The folder is locked for as
long as the process lives, and the kernel releases the lock however it dies, so that no task runs twice at once and none
is left half done unnoticed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from lenient.core import files, processes, processors, schemas
from lenient.core.errors import DamagedError, LenientError, MachineError
from lenient.core.files import disk_errors
from lenient.core.manifest import Manifest
from lenient.core.schemas import Failed, Stored
from lenient.core.signals import end_on_signals, end_plainly
from lenient.models.trust import Trusted

Outcome = Literal["done", "failed", "busy", "interrupted", "cut"]
"""How a process ended; `busy`: another one holds the folder; `interrupted`: asked to stop; `cut`: killed."""

Work = Callable[[Path, Any, Trusted], bool]
"""What a task's module does: folder, what `spec.json` holds, and what of the names in there it may use."""

State = Literal["done", "running", "failed", "missing"]

INTERRUPTED, BUSY = 130, 75
LOCK_SECONDS = 2.0
"""How long a process waits for a lock, which `state` takes for an instant."""
LOOK_SECONDS = 0.1
"""How long `state` waits, for another look may have it for an instant."""
PARENT = "LENIENT_BENCH_PARENT"
"""Process id of the launcher; a task ends itself, with a checkpoint, when its launcher is gone."""
OUTPUT = "output.log"
"""The file in a task's folder that takes what its processes print."""
TRUST_ALL = "--trust-code"
NAMES = ("spec.json", OUTPUT, "done", "failed.json", "cell.json", "cost.jsonl", "teacher.json", *files.LOCKS, "run/")
"""What lies in the folders of tasks."""
HOME, HOME_FOLDERS = ("teachers.json", "grid.json"), ("cells/", "teachers/", "slurm/")
"""What lies in the folder of a grid."""
SOCKET_NAME = 107
"""Bytes of the longest path of a socket on Linux."""
LOST = 255
"""What a forked process is said to have ended with where the server that would know was killed."""
IMPORTED = (
    *("torch._dynamo", "torch.export", "sklearn.datasets", "torchmetrics.functional.classification"),
    *("matplotlib.backends.backend_svg", "lenient.bench.cell", "lenient.bench.teachers"),
)
"""What a cell comes to import, be it late: a dozen seconds of a core, as much as a small cell needs for itself."""


@dataclass(frozen=True)
class Task:
    """A process to run."""

    module: str
    """Its main module."""
    folder: Path
    """An absolute path."""
    name: str
    """What people call it."""
    trust: Trusted = False
    """What of the names in files it may use; never read from a file itself."""

    @property
    def spec(self) -> Path:
        """The file that says what to do."""
        return self.folder / "spec.json"


# files


def write_json(path: Path, value: Any) -> None:
    """Write a file that is there complete or not at all, as it was or as it is now."""
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, json.dumps(value) + "\n")


def read_json(path: Path, model: type[BaseModel] = Stored) -> Any:
    """Return what a file of ours holds, None where there is none; raises DamagedError where it does not fit `model`."""
    return schemas.read_json(path, model, "remove its folder and run again")


def state(folder: Path) -> State:
    """Say where a task stands."""
    if (folder / "done").exists():
        return "done"
    if _held(folder):
        return "running"
    if (folder / "failed.json").exists():
        return "failed"
    return "done" if (folder / "done").exists() else "missing"  # it may have ended between two looks


def claim_home(home: Path) -> None:
    """Make a grid's folder, or go on with one that a grid has made; its marker says so before anything else is written.

    Raises:
        UsageError: it is no folder, holds something and no marker of a grid, or one of our names is a link, a pipe or a
            device.
        DamagedError: the marker is damaged.
        MachineError: it cannot be written.
    """
    manifest = Manifest(home, "grid", HOME, dict.fromkeys(HOME_FOLDERS, ".*"))
    with disk_errors(home):
        manifest.check()
        check_places(home)
        home.mkdir(parents=True, exist_ok=True)
        lock = files.lock_folder(home, LOCK_SECONDS)  # another launcher may begin here at this moment
        if lock is None:
            raise MachineError(f"-o {home}: another process holds {files.LOCKS[0]} there; try again")
        try:
            manifest.check()
            manifest.claim(*HOME, *HOME_FOLDERS)
        finally:
            lock.release()


def check_places(home: Path, tasks: Iterable[Task] = ()) -> None:
    """Refuse a grid's folder where one of our names is a link, a pipe or a device; raises UsageError."""
    with disk_errors(home):
        files.check_folder(home)
        files.check_kinds(home, (*HOME, *HOME_FOLDERS))
        for task in tasks:
            files.check_kinds(task.folder.parent, [f"{task.folder.name}/"])
            files.check_kinds(task.folder, NAMES)
            files.check_alone(task.folder, (OUTPUT, "cost.jsonl", *files.LOCKS))


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock; yields False where another process has it."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = files.lock_folder(folder, LOCK_SECONDS)
    if lock is None:
        yield False
        return
    try:
        files.sweep(folder, spare="spec.json")  # which launchers write without the lock
        yield True
    finally:
        lock.release()


def _held(folder: Path) -> bool:
    if not (folder / files.LOCKS[0]).exists():
        return False
    lock = files.Lock(folder / files.LOCKS[0])
    try:
        if not lock.take(LOOK_SECONDS):
            return True
    except OSError:  # a folder that nobody here may write to, as of somebody else
        return False
    lock.release()
    return False


# the process itself


def main(work: Work, model: type[BaseModel], spec: Path | None = None, trust: Trusted = False) -> None:
    """Run `work(folder, spec, trust)` as a process of its own and exit; it returns False where it was asked to stop.

    `model`: what `spec.json` must be.
    """
    if spec is None:
        spec, *names = Path(sys.argv[1]).absolute(), *sys.argv[2:]
        trust = frozenset(names) if TRUST_ALL not in names else True
    end_on_signals()
    _follow_parent()
    with locked(spec.parent) as mine:
        code = _attempt(work, model, spec, trust) if mine else BUSY
    end_plainly()
    sys.exit(code)


def _attempt(work: Work, model: type[BaseModel], spec: Path, trust: Trusted) -> int:
    folder = spec.parent
    if (folder / "done").exists():
        return 0
    try:
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
        content = read_json(spec, model)
        if content is None:
            raise DamagedError(f"{spec}: is missing; the same `lenient bench run` writes it again")
        if not work(folder, content, trust):
            return INTERRUPTED
    except KeyboardInterrupt:
        return INTERRUPTED
    except LenientError as error:
        print(f"lenient: {error}", file=sys.stderr)
        resume = isinstance(error, MachineError) and not isinstance(error, DamagedError)
        return _fail(folder, str(error), error.exit_code, resume=resume)
    except Exception as error:
        traceback.print_exc()
        return _fail(folder, f"{type(error).__name__}: {error}", 1)
    (folder / "failed.json").unlink(missing_ok=True)
    write_json(folder / "done", {})
    return 0


def _fail(folder: Path, reason: str, code: int, *, resume: bool = False) -> int:
    """Leave the reason; `resume`: what there is may be gone on with, any other failure would come again from there.

    A reason that is still there is that of an attempt before, whose run no other has taken up since.
    """
    before = read_json(folder / "failed.json", Failed)
    resume = resume and (before is None or bool(before.get("resume")))
    for flag in ("--resume", "--overwrite"):  # those of a single run; here one flag does both
        reason = reason.replace(flag, "--retry")
    write_json(folder / "failed.json", {"reason": " ".join(reason.split()), "exit_code": code, "resume": resume})
    return code


def _follow_parent() -> None:
    """Ask this very process to stop as soon as its launcher is gone: nobody waits for it, nor could stop it."""
    parent, launcher = os.environ.pop(PARENT, None), multiprocessing.parent_process()
    if parent is None and launcher is None:
        return

    def watch() -> None:
        if launcher is not None:
            launcher.join()
        while parent is not None and os.getppid() == int(parent):
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


# the launcher's side


def start(task: Task, threads: int) -> subprocess.Popen[bytes]:
    """Start a task in a session of its own, its words appended to OUTPUT."""
    environment = _environment(threads) | {PARENT: str(os.getpid())}
    with disk_errors(task.folder), files.append(task.folder / OUTPUT) as words:
        return subprocess.Popen(
            [sys.executable, "-m", task.module, str(task.spec), *_trust_words(task.trust)],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C is the launcher's to pass on, once
        )


def _environment(threads: int) -> dict[str, str]:
    """Return that of a task with so many threads, whoever started this process."""
    return processors.waiting(processes.safely(os.environ | {processors.THREADS: str(threads)}))


def _trust_words(trust: Trusted) -> list[str]:
    """Return it as arguments of `main`."""
    return sorted(trust) if isinstance(trust, frozenset) else [TRUST_ALL] if trust else []


def fork(task: Task, threads: int) -> BaseProcess:
    """Start a task as `start` does, forked from a process that has imported what tasks need and done nothing else.

    That process, the server, starts with the first task. Other systems than Linux do not fork safely: there each
    process imports anew, and so it does where the path of temporary files leaves no room for the server's socket.

    Raises:
        MachineError: no space for its words, or the server was killed as it started.
    """
    room = len(os.fsencode(tempfile.gettempdir())) + len("/pymp-########/listener-########") <= SOCKET_NAME
    context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" and room else "spawn")
    context.set_forkserver_preload(list(IMPORTED))
    with disk_errors(task.folder):
        files.append(task.folder / OUTPUT).close()
    environment = _environment(threads)
    process: BaseProcess = context.Process(target=_forked, args=(task, environment), name=task.name)
    before = dict(os.environ)
    os.environ.update(environment)  # the server's libraries read it once
    resource_tracker.ensure_running()  # which would let signals through again
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as long as the server imports, it would die
    try:
        process.start()
    except EOFError:
        raise MachineError("the process that forks cells was killed; the same command goes on") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        os.environ.clear()
        os.environ.update(before)
    return process


def _forked(task: Task, environment: Mapping[str, str]) -> None:
    os.setsid()  # a terminal's Ctrl-C is the launcher's to pass on, once
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with files.append(task.folder / OUTPUT) as words:
        os.dup2(words.fileno(), 1)
        os.dup2(words.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    module = import_module(task.module)
    main(module.work, module.SPEC, task.spec, task.trust)


def settled(task: Task) -> Outcome | None:
    """Say what is known before a process is started: it is done by now, or another launcher is at it."""
    known: dict[State, Outcome] = {"done": "done", "running": "busy"}
    return known.get(state(task.folder))


def conclude(task: Task, code: int) -> Outcome:
    """Say how a process ended; one that left no reason for its failure gets its last words as one."""
    if code == 0 and (task.folder / "done").exists():
        return "done"
    if code == BUSY:
        return "busy"
    if code in (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
        return "interrupted"
    if code < 0 or code == LOST:
        return "cut"
    if not (task.folder / "failed.json").exists():
        _fail(task.folder, _last_words(task.folder / OUTPUT) or f"exit code {code}", code)
    return "failed"


def _last_words(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace", encoding="utf-8").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def run_task(task: Task, threads: int, folder: str) -> Outcome:
    """Run a task to its end, from the working folder of the launcher; one that is killed is taken up once more."""
    os.chdir(folder)
    known = settled(task)
    if known is not None:
        return known
    outcome: Outcome = "cut"
    for _ in range(2):
        process = start(task, threads)
        try:
            outcome = conclude(task, process.wait())
        except BaseException:  # cancelled: the process writes its checkpoint first
            process.terminate()
            process.wait()
            raise
        if outcome != "cut":
            break
    return outcome
