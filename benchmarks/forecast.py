"""Does a run tell in time that it fails? What runs were told of their students after a quarter of their steps, what
their pixels showed then, and what came of them.

    python benchmarks/forecast.py runs/digits --sabotage sabotage.json -o benchmarks/results/forecast.json
    python benchmarks/forecast.py -o benchmarks/results/forecast.json --table results/forecast.md

The first adds finished runs of grids, students of real images left out, and those of `sabotage.py`; the second writes
the page. Accuracy is on test images, which no run looks at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lenient.bench.report.features import run_folder
from lenient.bench.report.records import read_grid
from lenient.core.numbers import plain, significant
from lenient.core.schemas import read_metrics
from lenient.runs.folder import environment
from lenient.training.health import SETTLED
from lenient.training.verdict import AGREEMENT, FORECAST, HealthSettings

FAILED, SOUND = 0.5, 0.85
"""Shares of the teacher's accuracy below and from which a student counts as one or the other."""
TOLD = ("step", "low", "expected", "high")
Runs = Sequence[Mapping[str, Any]]


def of_grid(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what each finished run of a grid was told, and what came of it."""
    grid = read_grid(folder)
    for cell in grid.cells:
        if cell.method == "real":
            continue
        events = read_metrics(run_folder(folder, cell) / "metrics.jsonl")
        steps = max(event["step"] for event in events if event["event"] == "log")
        early = [event for event in events if event["event"] == "alarm" and 3 * event["step"] <= steps]
        logs = [{k.removeprefix("health/"): v for k, v in event.items()} for event in events if event["event"] == "log"]
        yield {
            "id": cell.wanted.id,
            "source": grid.name,
            "what": cell.row,
            "seed": cell.seed,
            "verdict": cell.raw["verdict"],
            "share": cell.number("last") / cell.number("teacher_accuracy"),
            "told": told(next((event for event in events if event["event"] == "forecast"), None)),
            "alarms": sorted({event["name"] for event in early} - {AGREEMENT} | disagreeing(logs, steps)),
            "pixels": pixels(logs, steps),
        }


def of_sabotage(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the same of the runs of `sabotage.py`, by the accuracy of the teacher with its own constants."""
    for run in json.loads(file.read_text(encoding="utf-8"))["runs"]:
        if "refused" in run:
            continue
        what = f"{run['name']}, {run['method']}"
        yield {
            "id": f"{what}, {run['kind']}, {run['seed']}",
            "source": "sabotage",
            "what": what,
            "seed": run["seed"],
            "verdict": run["verdict"],
            "share": run["student"] / run["right_teacher"],
            "told": told(run["forecast"]),
            "alarms": None,
            "pixels": pixels(run["early"], run["steps"]),
        }


def told(event: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what the page reads of a forecast."""
    return None if event is None else {name: event[name] for name in TOLD}


def pixels(lines: Sequence[Mapping[str, Any]], steps: int) -> dict[str, float] | None:
    """Return the least contrast and the most overshoot between a quarter and a third of a run, where they were seen."""
    seen = [line for line in telling(lines, steps) if "contrast" in line]
    if not seen:
        return None
    beyond = max(max(-line["dark"], line["bright"] - 1, 0.0) for line in seen)
    return {"contrast": min(line["contrast"] for line in seen), "overshoot": beyond}


def disagreeing(lines: Sequence[Mapping[str, Any]], steps: int) -> set[str]:
    """Return the alarm of a student that does not agree with its teacher, where it rang; in runs of today it waits."""
    limit = HealthSettings().agreement / 3
    gains = [
        (line["probe_agreement"] - line["probe_chance"]) / max(1 - line["probe_chance"], 1e-9)
        for line in telling(lines, steps)
        if "probe_agreement" in line
    ]
    return {AGREEMENT} if any(gain < limit for gain in gains) else set()


def telling(lines: Sequence[Mapping[str, Any]], steps: int) -> list[Mapping[str, Any]]:
    """Return the lines between the share of a run from which alarms ring and a third of it."""
    return [line for line in lines if steps * SETTLED <= line["step"] <= steps / 3]


def row(label: str, runs: Runs, rings: Callable[[Mapping[str, Any]], bool]) -> str:
    """Return how many runs of each kind have an alarm."""
    failed = [run for run in runs if run["share"] < FAILED]
    sound = [run for run in runs if run["share"] >= SOUND]
    between = [run for run in runs if FAILED <= run["share"] < SOUND]
    counts = [f"{sum(map(rings, group))} of {len(group)}" for group in (failed, between, sound)]
    return f"| {label} | {' | '.join(counts)} |"


def page(written: Mapping[str, Any], output: str) -> str:
    """Return the page."""
    limits = HealthSettings()
    limit = limits.expected
    runs = [run for run in written["runs"] if run["told"] is not None]
    untold = len(written["runs"]) - len(runs)
    others = [run for run in runs if run["alarms"] is not None]
    head = ["| alarm | failed | between | sound |", "|---|---|---|---|"]
    lines = [
        "# Forecast of failure",
        "",
        "After a quarter of its steps a run is told what to expect of its student as it stands (event `forecast`), by",
        "its answers to images that the teacher alone draws. Where the teacher's answer is expected on less than",
        f"{limit:.0%} of real images, there is an alarm. *Failed*: the student came to less than {FAILED:.0%} of the",
        f"teacher's accuracy; *sound*: to {SOUND:.0%} of it or more. Runs with that alarm, by what came of them:",
        "",
        *head,
    ]
    for source in sorted({run["source"] for run in runs}):
        lines.append(
            row(f"{source}, expected below {limit:g}", [r for r in runs if r["source"] == source], below(limit))
        )
    lines += [row(f"all, expected below {value:g}", runs, below(value)) for value in (0.4, limit, 0.6)]
    lines += [
        "",
        "Of the sabotaged runs most failed for constants of the teacher that are wrong: the student answers as a",
        "teacher that is itself wrong, as it is described, and no forecast of their agreement can tell. The pixels",
        f"can: a contrast below {limits.contrast:g} or an overshoot above {limits.overshoot:g} is an alarm from a",
        "quarter of a run on. The same runs, where pixels were seen between it and a third (or at three tenths):",
        "",
        *head,
    ]
    seen = [run for run in runs if run["pixels"] is not None]
    for source in sorted({run["source"] for run in seen}):
        lines.append(row(f"{source}, pixels", [run for run in seen if run["source"] == source], clipped(limits)))
    lines += [
        row("all, pixels", seen, clipped(limits)),
        row("all, either", seen, lambda run: below(limits.expected)(run) or clipped(limits)(run)),
        "",
        "The limits are the verdict's, which were chosen on the ends of the sabotaged runs and on no other. Other",
        "alarms within a third of the steps, of the runs of grids:",
        "",
        *head,
    ]
    for name in sorted({name for run in others for name in run["alarms"] if name != FORECAST}):
        lines.append(row(name, others, lambda run, name=name: name in run["alarms"]))
    lines += [
        "",
        f"{len(runs)} runs in `{output}`; {untold} more were told nothing: too short for what the images cost, or",
        f"begun before runs were told. Machine: {written['machine']['device_name']}.",
        "",
    ]
    return "\n".join(lines)


def below(limit: float) -> Callable[[Mapping[str, Any]], bool]:
    """Return whether less than so much was expected of a run."""
    return lambda run: run["told"]["expected"] < limit


def clipped(limits: HealthSettings) -> Callable[[Mapping[str, Any]], bool]:
    """Return whether a run's pixels spanned too little, or reached too far."""
    return lambda run: run["pixels"]["contrast"] < limits.contrast or run["pixels"]["overshoot"] > limits.overshoot


def main(
    output: Annotated[Path, typer.Option("-o", help="JSON file; what it has of the same runs is replaced.")],
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders of grids.")] = None,
    sabotage: Annotated[Path | None, typer.Option(help="JSON file of sabotage.py.")] = None,
    table: Annotated[Path | None, typer.Option(help="Write the page.")] = None,
) -> None:
    """Collect runs, or write the page."""
    written = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {"runs": []}
    found = {run["id"]: run for run in written["runs"]}
    for folder in folders or []:
        found |= {run["id"]: plain(run, significant) for run in of_grid(folder)}
    if sabotage is not None:
        found |= {run["id"]: plain(run, significant) for run in of_sabotage(sabotage)}
    if folders or sabotage is not None:
        machine = {key: v for key, v in environment(torch.device("cpu"), "auto").items() if key != "command"}
        written = {"runs": list(found.values()), "machine": machine}
        output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    if table is not None:
        table.write_text(page(written, output.name), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
