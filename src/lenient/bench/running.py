"""Running a grid: teachers first, then every cell that is missing; the same again goes on where it stopped."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lenient.bench.cells import Cell, cells_of
from lenient.bench.grid import Grid
from lenient.bench.launchers import Finished, Launcher
from lenient.bench.report.records import read_records
from lenient.bench.tasks import Outcome, Task, check_places, claim_home, read_json, state, write_json
from lenient.bench.teachers import Training, specification, trainings
from lenient.core.errors import LenientError, MachineError, UsageError
from lenient.core.schemas import Failed
from lenient.core.signals import stop_on_signals
from lenient.models import build_student
from lenient.models.card import Card
from lenient.models.names import parse_spec
from lenient.models.trust import Trusted, UntrustedSettingError, require

Tell = Callable[[int, int, str], None]
"""Called after each process that ended, with how many have, of how many, and in words how it ended."""
ELSEWHERE = "another launcher is at it; waiting for it"
LOOK_SECONDS = 1.0


def run_grid(
    grid: Grid,
    home: Path,
    launcher: Launcher,
    *,
    data_root: str | None = None,
    retry: bool = False,
    records: Path | None = None,
    trust: Trusted = False,
    tell: Tell,
) -> bool:
    """Run what is missing of a grid in the folder `home`; return False where it was asked to stop.

    Finished cells are skipped, those cut off go on from their checkpoints, and failed ones stay so unless `retry`.
    What another launcher is running is left to it and waited for; what that one leaves undone is done here. Cells that
    `records`, the `cells.json` of a report, holds were run elsewhere and are not run again. `trust` says what of the
    names in the grid and in files may be used: see `lenient.bench.grid.trusted`.

    Raises:
        LenientError: cells failed, or a teacher did; the message says how many and why.
        MachineError: cells were killed; the same command goes on with them.
        UsageError: the records cannot be read; or the folder holds something that no grid wrote.
    """
    elsewhere = {} if records is None else {cell.wanted.id: cell.raw for cell in read_records(records).cells}
    root = data_root or os.environ.get("LENIENT_DATA")
    root = None if root is None else str(Path(root).absolute())
    with stop_on_signals() as stop:
        plan = trainings(grid)
        claim_home(home)
        check_places(home, [training.task(home) for training in plan])
        _make_teachers(grid, plan, home, launcher, root, trust, tell, stop)
        if stop.is_set():
            return False
        teachers = [teacher for training in plan for teacher in training.teachers(home) or []]
        write_json(home / "teachers.json", teachers)
        _check_students(grid, teachers, trust)
        cells = cells_of(grid, teachers, root)
        check_places(home, [cell.task(home) for cell in cells])
        _write_plan(grid, home, cells)
        if records is not None:
            known = [cell for cell in cells if cell.id in elsewhere]
            if not known:
                raise UsageError(
                    f"--records {records}: none of its {len(elsewhere)} cells is one of this grid; their settings or "
                    "their teachers' weights are others; leave the flag out to run all cells here"
                )
            taken = sum(cell.take(home, elsewhere[cell.id]) for cell in known)
            tell(taken, len(cells), f"{len(known)} of these cells are in {records}, {taken} were missing here")
        _run_cells(cells, home, launcher, retry, trust, tell, stop)
        return not stop.is_set()


def _make_teachers(
    grid: Grid,
    plan: Sequence[Training],
    home: Path,
    launcher: Launcher,
    root: str | None,
    trust: Trusted,
    tell: Tell,
    stop: Any,
) -> None:
    tasks = []
    for training in plan:
        task = training.task(home, trust)
        if state(task.folder) != "done" and task not in tasks:
            write_json(task.spec, specification(training, grid, root))
            tasks.append(task)
    ended: list[tuple[Task, Outcome]] = []

    def finished(task: Task, outcome: Outcome) -> None:
        ended.append((task, outcome))
        tell(len(ended), len(tasks), f"{task.name}: {_reason(task) if outcome == 'failed' else outcome}")

    if tasks:
        names = ", ".join(task.name for task in tasks)
        tell(0, len(tasks), f"to be made first: {names}; how it goes is in {home / 'teachers'}")
    _run_all(tasks, launcher, finished, lambda task: tell(len(ended), len(tasks), f"{task.name}: {ELSEWHERE}"), stop)
    for task, outcome in [] if stop.is_set() else ended:
        if outcome == "failed":
            raise LenientError(f"{task.name} failed: {_reason(task)}")
        if outcome in ("cut", "interrupted"):
            raise MachineError(f"{task.name} was killed; the same command trains it again")


def _run_all(
    tasks: Sequence[Task], launcher: Launcher, finished: Finished, waiting: Callable[[Task], None], stop: Any
) -> None:
    """Run tasks until none is left that another launcher holds: one may be stopping, or be killed with its work undone.

    `waiting` is called once for each that is held.
    """
    held: dict[Task, None] = {}
    named = set[Task]()

    def ended(task: Task, outcome: Outcome) -> None:
        if outcome != "busy":
            finished(task, outcome)
            return
        held[task] = None
        if task not in named:
            named.add(task)
            waiting(task)

    ready = list(tasks)
    while ready or held:
        if ready:  # a launcher may have a cluster to reach
            launcher.run(ready, ended, stop)
            ready = []
        if stop.wait(LOOK_SECONDS if held else 0):
            return
        for task in list(held):
            now = state(task.folder)
            if now == "running":
                continue
            del held[task]
            if now == "missing":
                ready.append(task)
            else:  # the other one has been through with it
                finished(task, now)


def _reason(task: Task) -> str:
    failure = read_json(task.folder / "failed.json", Failed)
    return "no reason given" if failure is None else str(failure["reason"])


def _check_students(grid: Grid, teachers: Sequence[dict[str, Any]], trust: Trusted) -> None:
    """A student that cannot be built is refused now rather than by each of its cells."""
    facts = teachers[0]["card"]
    card = Card(None, tuple(facts["input_size"]), facts["num_classes"], tuple(facts["mean"]), tuple(facts["std"]))
    for spec in grid.students:
        if spec != "auto":
            require(spec, trust, where="the grid", what="its student", kind=UntrustedSettingError)
            if not parse_spec(spec, "students").copies:
                build_student(spec, card, seed=0)


def _write_plan(grid: Grid, home: Path, cells: Sequence[Cell]) -> None:
    """`grid.json`: the grid as it is now, and which of the cells in the folder are its own, in order."""
    named = [{"id": c.id, "row": c.row, "teacher": c.teacher, "student": c.student, "seed": c.seed} for c in cells]
    values = grid.model_dump(mode="json", exclude={"launcher_options"})
    for row in values["rows"].values():
        row["recipe"] = [Path(name).name for name in row["recipe"]]
    for teacher in values["teachers"]:
        teacher["file"] = None if teacher["file"] is None else Path(teacher["file"]).name
    write_json(home / "grid.json", values | {"cells": named})


def _run_cells(
    cells: Sequence[Cell], home: Path, launcher: Launcher, retry: bool, trust: Trusted, tell: Tell, stop: Any
) -> None:
    waiting: dict[Task, Cell] = {}
    states = Counter[str]()
    for cell in cells:
        now = state(cell.folder(home))
        states[now] += 1
        if now == "done":
            cell.relabel(home)
        elif now != "failed" or retry:
            task = cell.task(home, trust)
            write_json(task.spec, cell.spec)
            waiting[task] = cell
    done, outcomes = len(cells) - len(waiting), Counter[Outcome]()
    kept = f", {states['failed']} failed before: --retry" if states["failed"] and not retry else ""
    tell(done, len(cells), f"{states['done']} of {len(cells)} cells are done already{kept}")

    def finished(task: Task, outcome: Outcome) -> None:
        outcomes[outcome] += 1
        tell(done + sum(outcomes.values()), len(cells), f"{task.name}: {_words(waiting[task], home, task, outcome)}")

    def elsewhere(task: Task) -> None:
        tell(done + sum(outcomes.values()), len(cells), f"{task.name}: {ELSEWHERE}")

    _run_all(list(waiting), launcher, finished, elsewhere, stop)
    if stop.is_set():
        return
    failed = outcomes["failed"] + (0 if retry else states["failed"])
    if outcomes["cut"] or outcomes["interrupted"]:
        count = outcomes["cut"] + outcomes["interrupted"]
        raise MachineError(f"{count} of {len(cells)} cells were killed; the same command goes on with them")
    if failed:
        raise LenientError(
            f"{failed} of {len(cells)} cells failed; `lenient bench status` says why, --retry tries again"
        )


def _words(cell: Cell, home: Path, task: Task, outcome: Outcome) -> str:
    if outcome == "failed":
        return f"failed: {_reason(task)}"
    record = cell.record(home)
    if record is None:
        return "killed" if outcome == "cut" else outcome
    return f"{record['last']:.1%}, {record['verdict']}, {record['cost']['seconds']:.0f} s"
