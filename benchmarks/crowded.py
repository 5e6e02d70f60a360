"""What commands take on a quiet machine and beside a busy process, with threads as they were and as they are now.

    python benchmarks/crowded.py -o benchmarks/results/crowded.json --table results/crowded.md

About ten minutes on two cores. Ways take turns within each round, quiet and crowded. *Before* is OpenMP as it comes, so
told by the environment, with all threads. With `--rounds 0` the page is written anew from the file.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from speed_text import figures, machine, spread, table, wrapped

from lenient.core import processes, processors
from lenient.core.files import write
from lenient.runs.folder import environment

AS_IT_COMES = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}
"""How OpenMP waits where nobody says anything: GNU's turns of a loop, Intel's milliseconds."""
ASLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}
ALL = f"threads={processors.available()}"
DISTILL: Mapping[str, tuple[Mapping[str, str], Sequence[str]]] = {
    "before": (AS_IT_COMES, [ALL]),
    "now": ({}, []),
    "short wait, all threads": ({}, [ALL]),
    "asleep at once, all threads": (ASLEEP, [ALL]),
    "asleep at once": (ASLEEP, []),
    "one thread": ({processors.THREADS: "1"}, []),
}
"""The environment and the settings of each way."""
BENCH = ("before", "now")
"""Those that differ for cells, which are told how many threads they have."""
SAMPLE = 1.0
"""Seconds for which a machine is looked at before each command, while nothing of ours runs."""


def main(
    output: Annotated[Path, typer.Option("-o", help="JSON file.")],
    table_to: Annotated[Path | None, typer.Option("--table", help="Write the page to this file.")] = None,
    rounds: Annotated[int, typer.Option(help="How often each is measured.")] = 2,
    steps: Annotated[int, typer.Option(help="Of each run, as the demo makes them.")] = 60,
    busy: Annotated[int, typer.Option(help="Processes beside it.")] = 1,
    ways: Annotated[list[str], typer.Option("--way", help="A way of `DISTILL`, and so on; all if not given.")] = [],  # noqa: B006
) -> None:
    """Measure, and write file and page."""
    if rounds:
        found: dict[str, Any] = {
            "machine": environment(torch.device("cpu"), "auto"),
            "processors": processors.available(),
            "quota": processors.quota(),
            "load": os.getloadavg(),
            **{"rounds": rounds, "steps": steps, "busy": busy},
            "rows": [],
        }
        for row in measured(rounds, steps, busy, ways or list(DISTILL)):
            print(row, flush=True)
            found["rows"].append(row)
            write(output, (json.dumps(found, indent=1) + "\n").encode())
    if table_to is not None:
        table_to.write_text(page(json.loads(output.read_text(encoding="utf-8")), output.name), encoding="utf-8")


def measured(rounds: int, steps: int, busy: int, ways: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield what each command took."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        digits = ["--data", "digits", "--arch", "lenient:wrn-10-2", "-s", "epochs=4", "-o", "teacher.safetensors"]
        command(["train-teacher", *digits], {}, home)
        grid = (
            "{name: crowd, data: digits, teachers: [teacher.safetensors], students: [lenient:resnet8-half], seeds: 2, "
        )
        grid += f"settings: {{steps: {steps}}}, rows: {{ta-dfkd: {{method: ta-dfkd, recipe: digits}}}}}}"
        (home / "grid.yaml").write_text(grid, encoding="utf-8")
        plain = ["--student", "lenient:resnet8-half", "-c", "digits", "--steps", str(steps), "--progress", "none"]
        for number in range(rounds):
            for crowded in (0, busy):
                for name in ways:
                    variables, settings = DISTILL[name]
                    out = f"{number}-{crowded}-{name}"
                    words = ["distill", "teacher.safetensors", *plain, "-o", out]
                    words += [word for setting in settings for word in ("-s", setting)]
                    row = timed(words, variables, home, crowded)
                    report = json.loads((home / out / "report.json").read_text(encoding="utf-8"))
                    threads = json.loads((home / out / "env.json").read_text(encoding="utf-8"))["threads"]
                    of_it = {"steps_seconds": report["seconds"], "threads": threads}
                    yield {"command": "distill", "way": name, "round": number, "busy": crowded, **row, **of_it}
                for name in (name for name in ways if name in BENCH):
                    variables, _ = DISTILL[name]
                    words = ["bench", "run", "grid.yaml", "--jobs", "2", "-o", f"grid-{number}-{crowded}-{name}"]
                    row = timed(words, variables, home, crowded)
                    yield {"command": "bench run --jobs 2", "way": name, "round": number, "busy": crowded, **row}


def timed(words: Sequence[str], variables: Mapping[str, str], home: Path, busy: int) -> dict[str, float | None]:
    """Run a command beside so many busy processes; return its seconds, and how busy others kept the machine before."""
    others = processors.Others()
    time.sleep(SAMPLE)
    before = others.processors()
    with crowd(busy):
        spent, start = os.times(), time.perf_counter()
        command(words, variables, home)
        seconds, now = time.perf_counter() - start, os.times()
    cpu = now.children_user + now.children_system - spent.children_user - spent.children_system
    return {"seconds": seconds, "cpu_seconds": cpu, "others": before}


def command(words: Sequence[str], variables: Mapping[str, str], home: Path) -> None:
    """Run `lenient WORDS` with these variables and none besides that say something of threads."""
    left = {name: value for name, value in os.environ.items() if name not in (*processors.SAID, processors.THREADS)}
    full = [sys.executable, "-m", "lenient", *words]
    done = subprocess.run(
        full, cwd=home, env=processes.safely({**left, **variables}), capture_output=True, encoding="utf-8"
    )
    if done.returncode not in (0, 4):  # so short a run may well be judged as failed
        raise SystemExit(done.stderr)


@contextmanager
def crowd(count: int) -> Iterator[None]:
    """Keep so many processors busy."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def page(found: Mapping[str, Any], name: str) -> str:
    """Return the page."""
    busy, count = found["busy"], found["processors"]
    fair = count / max(count - busy, 1)
    others = [row["others"] for row in found["rows"] if row["others"] is not None]
    load = f"{max(others):.1f} at most" if others else "not known"
    lines = [
        "# On a machine that is shared",
        "",
        *wrapped(
            f"Written by `benchmarks/crowded.py` from `{name}`; no figure is typed. Whole commands, of runs of "
            f"{found['steps']} steps of the demo, quiet and beside {busy} process(es) that never rest: seconds, median "
            f"(least to most) of {found['rounds']} rounds in which all take turns. *Times*: crowded over the quiet "
            f"seconds of *before*; the fair share of {count} processors beside {busy} is {fair:.2f}. *Processor*: "
            "seconds of processors that it took, waiting in loops included."
        ),
        "",
        *wrapped(
            "*Before* is OpenMP's own way to wait and a thread for each processor. *Now* is what the command does by "
            "itself: a short wait, and as many threads as a trial finds best. The other rows tell these two apart."
        ),
        "",
        f"{machine({**found['machine'], 'threads': count})}.",
        *wrapped(
            f"Before each command, while none of ours ran, others kept so many of its processors busy: {load}; load "
            f"average {found['load'][0]:.1f} at the start. Figures from a machine that is not quiet say little."
        ),
    ]
    for told in dict.fromkeys(row["command"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["command"] == told]
        lines += ["", f"## `lenient {told}`", "", *table(*_columns(rows, busy))]
    lines += ["", "## Command", "", "```bash"]
    start = f"python benchmarks/crowded.py -o benchmarks/results/{name} --table results/{Path(name).stem}.md"
    lines += [f"{start} --rounds {found['rounds']} --steps {found['steps']} --busy {busy}", "```"]
    return "\n".join(lines) + "\n"


def _columns(rows: Sequence[Mapping[str, Any]], busy: int) -> tuple[list[str], list[list[str]]]:
    def of(way: str, crowded: int, key: str) -> list[Any]:
        return [row[key] for row in rows if (row["way"], row["busy"]) == (way, crowded) and key in row]

    stepping = "steps_seconds" in rows[0]
    usual = of("before", 0, "seconds")
    heads = ["way", "quiet", "crowded", "times"]
    if stepping:  # of cells, whose processes others start, their processors' seconds are not known
        heads += [f"{name}, {when}" for name in ("processor", "steps alone", "threads") for when in heads[1:3]]
    lines = []
    for way in dict.fromkeys(row["way"] for row in rows):
        quiet, full = of(way, 0, "seconds"), of(way, busy, "seconds")
        if not quiet or not full:  # it was interrupted
            continue
        times = figures(statistics.median(full) / statistics.median(usual)) if usual else ""
        line = [way, spread(quiet), spread(full), times]
        if stepping:
            line += [spread(of(way, each, key)) for key in ("cpu_seconds", "steps_seconds") for each in (0, busy)]
            line += [", ".join(sorted({str(value) for value in of(way, each, "threads")})) for each in (0, busy)]
        lines.append(line)
    return heads, lines


if __name__ == "__main__":
    typer.run(main)
