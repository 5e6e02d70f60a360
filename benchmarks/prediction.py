"""How well can a student be judged without real images? Fits the table of `lenient.training.prediction`.

    python benchmarks/prediction.py measure runs/digits runs/mnist -o benchmarks/results/prediction.json
    python benchmarks/prediction.py fit benchmarks/results/prediction.json --table results/prediction.md
    python benchmarks/prediction.py check benchmarks/results/prediction-families.json --table PAGE

`measure` adds finished runs of grids: their recorded answers to several kinds of images (`lenient.training.answers`),
those to inverted images, made anew where a run has none, and the agreement of student and teacher on images held out of
the training data, which no student sees. Test images are never read. Students of real images are left out.

`fit` leaves out one teacher after another, then one data set after another, and says how well what was fitted to the
others orders and predicts those left out; beside it stand single numbers, among them agreement on a run's own images.
It writes `src/lenient/training/prediction.json`. `check` holds that table against runs that it was not fitted to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from scipy.stats import spearmanr

from lenient.bench.report.features import run_folder
from lenient.bench.report.records import read_grid
from lenient.core.numbers import plain, significant
from lenient.data import load_data
from lenient.evaluation import evaluate
from lenient.models import Network
from lenient.runs.folder import RunFolder, environment
from lenient.runs.reopen import reopen
from lenient.training.answers import compared
from lenient.training.inverted import IMAGES, inverted
from lenient.training.prediction import features, fitted, logit, predicted
from lenient.training.verdict import SHIFT

TABLE = Path(__file__).parents[1] / "src" / "lenient" / "training" / "prediction.json"
LEVEL = 0.9
"""Share of left-out runs that intervals are to hold."""

app = typer.Typer(add_completion=False, no_args_is_help=True)
Cells = Sequence[Mapping[str, Any]]


def measured(folder: Path, known: set[str], images: int, data_root: str | None) -> Iterator[dict[str, Any]]:
    """Yield what is known of each finished run of a grid that is not known yet."""
    grid = read_grid(folder)
    held_out = load_data(grid.data, split="holdout", root=data_root)
    order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))
    held_out = held_out.subset(order[:images])
    drawn: dict[tuple[str, int], torch.Tensor] = {}
    for cell in grid.cells:
        if cell.method == "real" or cell.wanted.id in known:
            continue
        run = run_folder(folder, cell)
        summary = json.loads((run / "report.json").read_text(encoding="utf-8"))
        config = RunFolder(run).read_config() or {}
        sha = config["run"]["teacher"]["sha256"][:12]
        distillation, teacher = reopen(run, "cpu")
        with teacher:
            answers = dict(summary["answers"])
            if "inverted" not in answers and teacher.batch_norms:
                if (sha, cell.seed) not in drawn:
                    drawn[sha, cell.seed] = inverted(teacher, distillation.runtime, distillation.streams, IMAGES)
                shown = drawn[sha, cell.seed]
                answers["inverted"] = compared(distillation.teacher_logits(shown), distillation.student_logits(shown))
        own, judge = Network(distillation.student, teacher.card), Network(teacher.module, teacher.card)
        found = evaluate(own, held_out, teacher=judge)
        checks = {check["name"]: check["value"] for check in summary["health"]["checks"]}
        yield {
            "id": cell.wanted.id,
            "grid": grid.name,
            "data": grid.data,
            "teacher": sha,
            "row": cell.row,
            "seed": cell.seed,
            "classes": teacher.card.num_classes,
            "agreement": found.agreement,
            "answers": answers,
            "shift": checks.get(SHIFT),
            "verdict": summary["health"]["verdict"],
        }


@app.command()
def measure(
    folders: Annotated[list[Path], typer.Argument(help="Folders of grids.")],
    output: Annotated[Path, typer.Option("-o", help="JSON file; runs that it has are not measured again.")],
    data_root: str = "",
    images: Annotated[int, typer.Option(help="Held-out images, at most.")] = 2000,
) -> None:
    """Measure finished runs."""
    cells = json.loads(output.read_text(encoding="utf-8"))["cells"] if output.exists() else []
    machine = {key: v for key, v in environment(torch.device("cpu"), "32").items() if key != "command"}
    for folder in folders:
        for cell in measured(folder, {cell["id"] for cell in cells}, images, data_root or None):
            cells.append(plain(cell, significant))
            print(cell["grid"], cell["row"], cell["teacher"], cell["seed"], cell["agreement"], flush=True)
            output.write_text(json.dumps({"cells": cells, "machine": machine}) + "\n", encoding="utf-8")


class Line:
    """Least squares on some features, their weights kept small: the logit of the agreement."""

    def __init__(self, cells: Cells, names: Sequence[str]) -> None:
        rows = [features(cell["answers"], cell["shift"]) or {} for cell in cells]
        inputs = np.array([[1.0, *(row[name] for name in names)] for row in rows])
        small = np.diag([0.0, *(1e-3 for _ in names)]) * len(cells)
        truth = np.array([logit(cell["agreement"]) for cell in cells])
        self.names = names
        self.solution = np.linalg.solve(inputs.T @ inputs + small, inputs.T @ truth)

    def __call__(self, cell: Mapping[str, Any]) -> float:
        """Return the logit expected of a run."""
        own = features(cell["answers"], cell["shift"]) or {}
        return float(self.solution @ [1.0, *(own[name] for name in self.names)])


def left_out(cells: Cells, key: str, names: Sequence[str]) -> list[float]:
    """Return each run's logit by a line fitted to those whose `key` is another."""
    lines = {
        value: Line([cell for cell in cells if cell[key] != value], names) for value in {cell[key] for cell in cells}
    }
    return [lines[cell[key]](cell) for cell in cells]


def margin(cells: Cells, found: Sequence[float]) -> float:
    """Return the distance in logits that holds `LEVEL` of the runs, of n the ceil((n + 1) LEVEL)-th."""
    misses = sorted(abs(logit(cell["agreement"]) - value) for cell, value in zip(cells, found, strict=True))
    return misses[min(math.ceil((len(misses) + 1) * LEVEL), len(misses)) - 1]


def judged(cells: Cells, found: Sequence[float], key: str) -> str:
    """Return a row's figures: rank correlation over all and, within teachers, its median; errors; coverage."""
    truth = [cell["agreement"] for cell in cells]
    shares = [1 / (1 + math.exp(-value)) for value in found]
    error = np.median([abs(a - b) for a, b in zip(truth, shares, strict=True)])
    square = math.sqrt(np.mean([(logit(a) - value) ** 2 for a, value in zip(truth, found, strict=True)]))
    return f"{ranks(cells, found)} | {100 * error:.1f} | {square:.2f} | {100 * held(cells, found, key):.0f}"


def held(cells: Cells, found: Sequence[float], key: str) -> float:
    """Return the share of runs inside intervals as wide as the others' ask, those whose `key` is another."""
    inside: list[bool] = []
    for value in {cell[key] for cell in cells}:
        others = [(cell, f) for cell, f in zip(cells, found, strict=True) if cell[key] != value]
        wide = margin(*zip(*others, strict=True))  # type: ignore[arg-type]
        inside += [
            abs(logit(cell["agreement"]) - f) <= wide
            for cell, f in zip(cells, found, strict=True)
            if cell[key] == value
        ]
    return float(np.mean(inside))


def ranks(cells: Cells, found: Sequence[float]) -> str:
    """Return the rank correlation of something with the agreement: over all runs, and the median within a teacher."""
    truth = [cell["agreement"] for cell in cells]
    teachers = [cell["teacher"] for cell in cells]
    within = []
    for teacher in dict.fromkeys(teachers):
        own = [n for n, other in enumerate(teachers) if other == teacher]
        if len(own) > 3:
            within.append(spearmanr([truth[n] for n in own], [found[n] for n in own])[0])
    return f"{spearmanr(truth, found)[0]:.2f} | {np.median(within):.2f}"


SINGLE: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "agreement on fresh images of the run": lambda cell: cell["answers"]["fresh"]["agreement"],
    "agreement on augmented ones": lambda cell: cell["answers"]["augmented"]["agreement"],
    "agreement on interpolated ones": lambda cell: cell["answers"]["interpolated"]["agreement"],
    "agreement on crops of photographs": lambda cell: cell["answers"]["photo"]["agreement"],
    "batch-norm shift, small first": lambda cell: -(cell["shift"] or 0.0),
    "agreement on inverted images": lambda cell: cell["answers"]["inverted"]["agreement"],
    "distance on inverted images, small first": lambda cell: -cell["answers"]["inverted"]["distance"],
    "divergence on inverted images, small first": lambda cell: -cell["answers"]["inverted"]["divergence"],
}
LINES: Mapping[str, Sequence[str]] = {
    "agreement": ("agreement",),
    "distance": ("distance",),
    "shift": ("shift",),
    "agreement and distance": ("agreement", "distance"),
    "agreement and shift": ("agreement", "shift"),
    "distance and shift": ("distance", "shift"),
    "divergence and shift": ("divergence", "shift"),
    "agreement, distance and shift": ("agreement", "distance", "shift"),
    "divergence, dispersion and shift": ("divergence", "dispersion", "shift"),
}
TAKEN = "divergence, dispersion and shift"
"""The closest, whatever is left out."""


def page(cells: Cells, written: Mapping[str, Any], name: str) -> str:
    """Return the page."""
    data = list(dict.fromkeys(cell["data"] for cell in cells))
    lines = [
        "# A student without a test set",
        "",
        "What tells, without any real image, on what share of real images a student answers as its teacher does?",
        f"{len(cells)} runs of {written['teachers']} teachers on {' and '.join(data)}; each compared with the",
        "agreement on images held out of the training data. Students of real images are left out; no test image was",
        "read. All have ten classes.",
        "",
        "Rank correlation of single numbers with that agreement, over all runs and, as a median, within a teacher:",
        "",
        "| number | all | within |",
        "|---|---|---|",
        *(f"| {what} | {ranks(cells, [number(cell) for cell in cells])} |" for what, number in SINGLE.items()),
        "",
        "Inverted images are made by the teacher alone (`lenient/training/inverted.py`): no student has learned from",
        "them. A line is fitted to the logits of the agreement, on runs of other teachers, or of other data: to",
        "agreement, distance of the logits, divergence of student from teacher and dispersion of the student's logits",
        "beside the teacher's on inverted images, and to the shift of the run's own. Root mean square errors are of",
        "logits:",
        "",
        "| fitted to | left out | all | within | median error, points | root mean square | inside their interval, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for what, names in LINES.items():
        for key, word in (("teacher", "a teacher"), ("data", "a data set")):
            if len({cell[key] for cell in cells}) > 1:
                lines.append(f"| {what} | {word} | {judged(cells, left_out(cells, key, names), key)} |")
    lines += [
        "",
        f"Intervals are as wide as {LEVEL:.0%} of the other runs ask, each judged while its teacher, or its data set,",
        f"was left out. What `report` shows is the line of {TAKEN}, fitted to all; it was chosen",
        "on these very figures, for its errors.",
        "",
        f"Runs in `{name}`; machine: {written['machine']}.",
        "",
    ]
    return "\n".join(lines)


@app.command()
def fit(
    measured: Annotated[Path, typer.Argument(help="What `measure` wrote.")],
    table: Annotated[Path, typer.Option(help="The page.")],
    output: Annotated[Path, typer.Option("-o", help="The table that the library reads.")] = TABLE,
) -> None:
    """Fit the table and write the page."""
    stored = json.loads(measured.read_text(encoding="utf-8"))
    cells = [cell for cell in stored["cells"] if features(cell["answers"], cell["shift"]) is not None]
    names = LINES[TAKEN]
    line, apart = Line(cells, names), left_out(cells, "teacher", LINES[TAKEN])
    rows = [features(cell["answers"], cell["shift"]) or {} for cell in cells]
    counts = [cell["classes"] for cell in cells]
    written = {
        "intercept": round(float(line.solution[0]), 4),
        "weights": {name: round(float(weight), 4) for name, weight in zip(names, line.solution[1:], strict=True)},
        "ranges": {name: [round(edge([row[name] for row in rows]), 4) for edge in (min, max)] for name in names},
        "classes": [min(counts), max(counts)],
        "margin": round(margin(cells, apart), 4),
        "level": round(held(cells, apart, "teacher"), 3),
        "runs": len(cells),
        "teachers": len({cell["teacher"] for cell in cells}),
        "data": sorted({cell["data"] for cell in cells}),
    }
    output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    page_of = written | {"machine": stored["machine"]["device_name"]}
    table.write_text(page(cells, page_of, measured.name), encoding="utf-8")


def checked(written: Mapping[str, Any], name: str) -> str:
    """Return the page on runs that the library's table was not fitted to."""
    told = [(cell, predicted(cell["answers"], cell["shift"], cell["classes"])) for cell in written["cells"]]
    known = [(cell, found) for cell, found in told if found is not None]
    shares = [cell["agreement"] for cell, _ in known]
    below = [cell["agreement"] < found.low for cell, found in known]
    above = [cell["agreement"] > found.high for cell, found in known]
    lines = [
        "# What was expected of students of methods that the table has not seen",
        "",
        f"{len(known)} runs of [a grid](digits-families/tables/table-3.md) with one method of each family. *Expected*",
        "is by the library's table ([how it was fitted](prediction.md)), to which none of these runs belongs: the",
        "share of real images on which a student answers as its teacher, and the interval that held",
        f"{fitted()['level']:.0%} of left-out runs. *Agreement* is that on images held out of the training data. In %,",
        "medians over seeds.",
        "",
        "| row | runs | expected | agreement | inside | below it | above it |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in dict.fromkeys(cell["row"] for cell, _ in known):
        own = [n for n, (cell, _) in enumerate(known) if cell["row"] == row]
        low, middle, high, share = (
            100 * float(np.median([value(*known[n]) for n in own]))
            for value in (
                lambda _, found: found.low,
                lambda _, found: found.expected,
                lambda _, found: found.high,
                lambda cell, _: cell["agreement"],
            )
        )
        counts = (sum(below[n] for n in own), sum(above[n] for n in own))
        expected = f"{middle:.0f} ({low:.0f} to {high:.0f})"
        lines.append(
            f"| {row} | {len(own)} | {expected} | {share:.1f} | {len(own) - sum(counts)} | {counts[0]} | {counts[1]} |"
        )
    inside = len(known) - sum(below) - sum(above)
    rank = spearmanr(shares, [found.expected for _, found in known])[0]
    lines += [
        "",
        f"Inside: {inside} of {len(known)}; {sum(below)} below and {sum(above)} above. Rank correlation of what was",
        f"expected with the agreement: {rank:.2f}.",
        "",
        f"Runs in `{name}`; machine: {written['machine']['device_name']}.",
        "",
    ]
    return "\n".join(lines)


@app.command()
def check(
    measured: Annotated[Path, typer.Argument(help="What `measure` wrote of runs that the table was not fitted to.")],
    table: Annotated[Path, typer.Option(help="The page.")],
) -> None:
    """Write the page that holds the library's table against other runs."""
    written = json.loads(measured.read_text(encoding="utf-8"))
    table.write_text(checked(written, measured.name), encoding="utf-8")


if __name__ == "__main__":
    app()
