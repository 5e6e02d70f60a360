"""Who runs the processes of a grid: this machine, a Ray cluster, or Slurm. All of them run the same tasks."""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from lenient.bench.tasks import Outcome, Task, conclude, fork, run_task, settled
from lenient.core import processes, processors
from lenient.core.errors import MachineError, UsageError
from lenient.core.packages import needs
from lenient.core.signals import passed_on

Finished = Callable[[Task, Outcome], None]
LAUNCHERS = ("local", "ray", "slurm")
PAUSE = 0.1
"""Seconds between two looks at the processes."""


class Launcher(Protocol):
    """Runs tasks, several at a time."""

    def run(self, tasks: Sequence[Task], finished: Finished, stop: threading.Event) -> None:
        """Run all tasks and call `finished` after each; once `stop` is set, start none and stop those that run."""
        ...


PLAIN = {
    "ray": (
        *("accelerator_type", "max_retries", "memory", "num_cpus", "num_gpus", "resources", "scheduling_strategy"),
    ),
    "slurm": (
        *("cluster", "cpus_per_task", "gpus_per_node", "mem_gb", "name", "nodes", "tasks_per_node", "timeout_min"),
        *("slurm_account", "slurm_array_parallelism", "slurm_constraint", "slurm_cpus_per_gpu", "slurm_cpus_per_task"),
        *("slurm_exclude", "slurm_exclusive", "slurm_gpus_per_node", "slurm_gpus_per_task", "slurm_gres"),
        *("slurm_mem", "slurm_mem_per_cpu", "slurm_mem_per_gpu", "slurm_nodelist", "slurm_ntasks_per_node"),
        *("slurm_num_gpus", "slurm_partition", "slurm_qos", "slurm_reservation", "slurm_signal_delay_s", "slurm_time"),
    ),
}
"""Options that ask for room on a cluster and nothing else; the others may run code where a task starts."""


def check_options(kind: str, options: Mapping[str, Any], typed: Mapping[str, Any], where: object) -> None:
    """Refuse options of a grid's file `where` that may run code, unless they are among those `typed` by the user.

    Raises:
        UsageError: names the option.
    """
    for name, value in options.items() if kind in PLAIN else ():
        if name in typed and typed[name] == value:
            continue
        if name not in PLAIN[kind] or not _plain(value):
            raise UsageError(
                f"{where}: launcher_options: {name[:40]!r} may run code where {kind} starts a task: to allow that, "
                "give -s launcher_options.KEY=VALUE, or --trust-code"
            )


def _plain(value: Any) -> bool:
    """Whether a value is a number or one word, which no script can take for a line of its own."""
    if isinstance(value, Mapping):
        return all(_plain(name) and not isinstance(part, Mapping) and _plain(part) for name, part in value.items())
    return (
        value is None or isinstance(value, (bool, int, float)) or re.fullmatch(r"[\w.,:/+@%-]*", str(value)) is not None
    )


def make_launcher(kind: str, jobs: int | None, options: Mapping[str, Any], folder: Path) -> Launcher:
    """Return the launcher called `kind`.

    Args:
        jobs: tasks at a time; None means one locally, and elsewhere as many as there is room for.
        options: the grid's `launcher_options`; those of Slurm and Ray mean nothing to the local launcher.
        folder: where a launcher may keep its own files.

    Raises:
        UsageError: no such launcher, or its package is not installed.
    """
    if kind == "local":
        jobs = jobs or 1
        return Local(jobs, max(processors.available() // jobs, 1))
    if kind == "ray":
        return Ray(jobs, options)
    if kind == "slurm":
        return Slurm(jobs, options, folder / "slurm")
    raise UsageError(f"--launcher {kind}: unknown; there are {', '.join(LAUNCHERS)}")


class Local:
    """Processes on this machine, `jobs` at a time with `threads` threads each."""

    def __init__(self, jobs: int, threads: int) -> None:
        self.jobs, self.threads = jobs, threads

    def run(self, tasks: Sequence[Task], finished: Finished, stop: threading.Event) -> None:
        """See `Launcher`. A process that is killed is taken up once more, from its checkpoint."""
        running: dict[BaseProcess, Task] = {}
        with passed_on(lambda: [process.pid for process in list(running) if process.pid is not None]):
            self._run(deque(tasks), running, finished, stop)

    def _run(
        self, waiting: deque[Task], running: dict[BaseProcess, Task], finished: Finished, stop: threading.Event
    ) -> None:
        self._again = set[Task]()
        asked = False
        try:
            while running or (waiting and not stop.is_set()):
                while waiting and len(running) < self.jobs and not stop.is_set():
                    self._begin(waiting.popleft(), running, finished)
                if stop.is_set() and not asked:
                    asked = True
                    for process in running:
                        process.terminate()
                for process in [process for process in running if process.exitcode is not None]:
                    task = running.pop(process)
                    outcome = conclude(task, process.exitcode or 0)
                    if outcome == "cut" and task not in self._again:
                        self._again.add(task)
                        waiting.appendleft(task)
                    else:
                        finished(task, outcome)
                time.sleep(PAUSE)
        except BaseException as error:
            for process in running:  # a second Ctrl-C: at once; else with a checkpoint
                process.kill() if isinstance(error, KeyboardInterrupt) else process.terminate()
            raise

    def _begin(self, task: Task, running: dict[BaseProcess, Task], finished: Finished) -> None:
        known = settled(task)
        if known is None:
            running[fork(task, self.threads)] = task
        else:
            finished(task, known)


class Ray:
    """Tasks of a Ray cluster whose machines share the file system and have the package installed."""

    def __init__(self, jobs: int | None, options: Mapping[str, Any]) -> None:
        try:
            import ray
        except ImportError:
            raise UsageError(f"--launcher ray: {needs('ray')}") from None
        self.ray, self.jobs = ray, jobs
        self.options = {"num_cpus": 1, "max_retries": 3} | dict(options)
        self.threads = _threads(self.options, "num_cpus")
        try:
            self.remote = ray.remote(run_task).options(**self.options)
        except (TypeError, ValueError) as error:
            raise UsageError(f"launcher_options: {str(error).strip().splitlines()[0]}") from None

    def run(self, tasks: Sequence[Task], finished: Finished, stop: threading.Event) -> None:
        """See `Launcher`. Where a machine dies, Ray runs its tasks again elsewhere: from their checkpoints."""
        ray, waiting = self.ray, deque(tasks)
        running: dict[Any, Task] = {}
        asked = False
        began = not ray.is_initialized()
        self._connect()
        try:
            while running or (waiting and not stop.is_set()):
                while waiting and not stop.is_set() and len(running) < (self.jobs or len(tasks)):
                    task = waiting.popleft()
                    running[self.remote.remote(task, self.threads, os.getcwd())] = task
                if stop.is_set() and not asked:
                    asked = True
                    for reference in running:
                        ray.cancel(reference)
                ready, _ = ray.wait(list(running), timeout=10 * PAUSE)
                for reference in ready:
                    finished(running.pop(reference), self._outcome(reference))
        finally:
            if began:
                ray.shutdown()

    def _connect(self) -> None:
        """Join the cluster at $RAY_ADDRESS or on this machine; without one, start one that ends with the grid."""
        ray = self.ray
        if ray.is_initialized():
            return
        # the workers must find the same package as this process, be it installed there or not
        names = ("PYTHONPATH", "LENIENT_DATA")
        carried = {"env_vars": processes.safely({name: os.environ[name] for name in names if name in os.environ})}
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning", "runtime_env": carried}
        address = os.environ.get("RAY_ADDRESS")
        try:
            ray.init(address=address or "auto", **quiet)
        except ConnectionError:
            if address:
                raise MachineError(f"RAY_ADDRESS={address}: no Ray cluster answers there; start it or unset") from None
            ray.init(include_dashboard=False, **quiet)

    def _outcome(self, reference: Any) -> Outcome:
        errors = self.ray.exceptions
        try:
            outcome: Outcome = self.ray.get(reference)
        except (errors.TaskCancelledError, KeyboardInterrupt):
            return "interrupted"
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError):
            return "cut"
        except errors.RayTaskError as error:
            return _unless_asked(error)
        return outcome


def _unless_asked(error: Exception) -> Outcome:
    """A task that was cancelled comes back as the KeyboardInterrupt that it was ended by."""
    if "KeyboardInterrupt" in str(error):
        return "interrupted"
    raise MachineError(f"--launcher ray: a worker could not run its task ({str(error).strip().splitlines()[-1]})")


def _threads(options: Mapping[str, Any], key: str) -> int:
    try:
        return max(int(options[key]), 1)
    except (TypeError, ValueError):
        raise UsageError(f"launcher_options: {key}: {options[key]!r} is no number of cores") from None


class CellCall:
    """What Slurm runs; a job that it takes the machine away from is queued again and goes on from its checkpoint."""

    def __call__(self, task: Task, threads: int, folder: str) -> Outcome:
        """Run the task."""
        return run_task(task, threads, folder)

    def checkpoint(self, task: Task, threads: int, folder: str) -> Any:
        """Return what submitit queues again after a preemption or a timeout."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, task, threads, folder)


class Slurm:
    """Jobs of Slurm through submitit; the nodes share the file system and have the package installed."""

    def __init__(self, jobs: int | None, options: Mapping[str, Any], folder: Path) -> None:
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise UsageError(f"--launcher slurm: {needs('submitit')}") from None
        parameters: dict[str, Any] = {"name": "lenient", "cpus_per_task": 1} | dict(options)
        self.jobs, self.threads = jobs, _threads(parameters, "cpus_per_task")
        self.folder, self.parameters = folder, parameters
        try:
            with tempfile.TemporaryDirectory() as place:  # an executor makes its folder, and the grid's is not yet ours
                self._executor(place)
        except (NameError, TypeError, RuntimeError, ValueError, AssertionError) as error:
            raise UsageError(f"launcher_options: {str(error).strip().splitlines()[0]}") from None

    def run(self, tasks: Sequence[Task], finished: Finished, stop: threading.Event) -> None:
        """See `Launcher`."""
        waiting, call, executor = deque(tasks), CellCall(), self._executor(self.folder)
        running: dict[Any, Task] = {}
        while running or (waiting and not stop.is_set()):
            room = (self.jobs or len(tasks)) - len(running)
            batch = [waiting.popleft() for _ in range(min(room, len(waiting)))] if not stop.is_set() else []
            if batch:
                jobs = self._submit(executor, call, batch)
                running.update(zip(jobs, batch, strict=True))
            if stop.is_set():
                for job in running:
                    with suppress(Exception):  # it may have ended by itself
                        job.cancel()
            for job in [job for job in running if stop.is_set() or job.done()]:
                finished(running.pop(job), "interrupted" if stop.is_set() else _slurm_outcome(job))
            time.sleep(PAUSE)

    def _executor(self, folder: str | Path) -> Any:
        import submitit

        # by itself submitit takes this machine where there is no Slurm
        options = {"cluster": "slurm"} | self.parameters
        executor = submitit.AutoExecutor(folder=folder, cluster=options.pop("cluster"))
        executor.update_parameters(**options)
        return executor

    def _submit(self, executor: Any, call: CellCall, batch: Sequence[Task]) -> list[Any]:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            with processes.safe_path(), executor.batch():  # one array of jobs, with this environment
                return [executor.submit(call, task, self.threads, os.getcwd()) for task in batch]
        except (FailedJobError, FailedSubmissionError) as error:
            why = " ".join(str(error).split()) or "without a word"
            raise UsageError(f"launcher_options: Slurm refused the jobs ({why})") from None


def _slurm_outcome(job: Any) -> Outcome:
    """A job without a result was killed, with its node or by a limit: what it wrote is still there."""
    from submitit.core.utils import FailedJobError

    error = job.exception()
    if error is not None and "Job not requeued" in str(error):  # too often at its limit of time
        return "cut"
    if isinstance(error, FailedJobError):  # the node could not run it: it would not the next time
        trace = [line.strip() for line in str(error).splitlines() if line.strip()]
        ends = [number for number, line in enumerate(trace) if set(line) == {"-"}]
        why = trace[ends[-1] - 1] if ends else trace[0]
        raise MachineError(f"--launcher slurm: a node could not run its job ({why}); its log: {job.paths.stderr}")
    if error is not None:
        return "cut"
    outcome: Outcome = job.result()
    return outcome
