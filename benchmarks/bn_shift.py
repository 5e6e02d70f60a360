"""Is the batch-norm shift a measure of what a student is worth? Over finished runs of grids, whatever the method.

    python benchmarks/bn_shift.py runs/mnist runs/digits -o benchmarks/results/bn-shift.json
    python benchmarks/bn_shift.py -o benchmarks/results/bn-shift.json --table results/bn-shift.md

For each run: the shift (`lenient.training.probe.bn_shift`) of fresh images, and the agreement of student and teacher
on images held out of the training data, which no student sees. Real images of as large a batch stand beside them. Test
images are never read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lenient.bench.report.features import run_folder
from lenient.bench.report.records import Grid, read_grid
from lenient.data import ImageSet, load_data
from lenient.evaluation import evaluate
from lenient.models import Network
from lenient.runs.folder import environment
from lenient.runs.reopen import reopen
from lenient.teacher.probes import BatchNorms
from lenient.training.probe import bn_shift
from lenient.training.verdict import HealthSettings

BATCH = 64
"""As many images as a log line looks at."""


def measure(grid: Grid, folder: Path, held_out: ImageSet) -> list[dict[str, Any]]:
    """Return shift and agreement of every run of a grid that drew images, and the shift of real ones."""
    found = []
    for cell in grid.cells:
        if cell.method == "real":
            continue
        distillation, teacher = reopen(run_folder(folder, cell), "cpu")
        with teacher, torch.no_grad():
            real = teacher.runtime.images(next(iter(held_out.batches(BATCH)))[0])
            shifts = []
            for images in (distillation.algorithm.source.sample(BATCH, "probe", 0), real):
                answer = teacher.respond(teacher.normalize(images), (BatchNorms(),))
                shifts.append(round(float(bn_shift(answer.of(BatchNorms))), 4))
        own, judge = Network(distillation.student, teacher.card), Network(teacher.module, teacher.card)
        agreement = evaluate(own, held_out, teacher=judge).agreement
        facts = {"grid": grid.name, "row": cell.row, "teacher": cell.teacher, "seed": cell.seed}
        found.append({**facts, "shift": shifts[0], "real": shifts[1], "agreement": agreement,
                      "verdict": cell.raw["verdict"]})  # fmt: skip
        print(json.dumps(found[-1]), flush=True)
    return found


def page(written: Mapping[str, Any], output: str) -> str:
    """Return the page: each row of a grid, by falling agreement; how shift and agreement go together."""
    cells: Sequence[Mapping[str, Any]] = written["cells"]
    limit = HealthSettings().bn_shift
    lines = [
        "# The batch-norm shift",
        "",
        "How far the teacher sees a run's images from its training data (`health.bn_shift`), beside the agreement of",
        "student and teacher on images held out of the training data, in %: least to most over teachers and seeds. No",
        f"test image was read. Above {limit} a verdict is no `ok`, unless enough is expected of the student by other",
        "images ([how](prediction.md)); that limit was set with seed 0 of MNIST in view.",
        "",
        "| grid | row | runs | shift | agreement | verdicts without the shift |",
        "|---|---|---|---|---|---|",
    ]
    for grid in dict.fromkeys(cell["grid"] for cell in cells):
        own = [cell for cell in cells if cell["grid"] == grid]
        rows = {row: [cell for cell in own if cell["row"] == row] for row in dict.fromkeys(cell["row"] for cell in own)}
        for row, runs in sorted(rows.items(), key=lambda item: -max(cell["agreement"] for cell in item[1])):
            shifts = span([cell["shift"] for cell in runs], 2)
            agreements = span([100 * cell["agreement"] for cell in runs], 1)
            words = [cell["verdict"] for cell in runs]
            verdicts = ", ".join(f"{words.count(word)} {word}" for word in ("ok", "warning", "failed") if word in words)
            lines.append(f"| {grid} | {row} | {len(runs)} | {shifts} | {agreements} | {verdicts} |")
        lines.append(f"| {grid} | *real images* | | {span([cell['real'] for cell in own], 2)} | | |")
    oks = [cell for cell in cells if cell["verdict"] == "ok"]
    kept = [cell for cell in oks if cell["shift"] <= limit]
    lines += ["", f"Of {len(oks)} runs with the verdict `ok`, {len(kept)} keep it. Agreement of those that keep it: "
              f"{span([100 * cell['agreement'] for cell in kept], 1)} %; of those that lose it: "
              f"{span([100 * cell['agreement'] for cell in oks if cell['shift'] > limit], 1)} %."]  # fmt: skip
    lines += ["", f"{len(cells)} runs in `{output}`. Machine: {written['machine']['device_name']}.", ""]
    return "\n".join(lines)


def span(values: Sequence[float], digits: int) -> str:
    """Return least and most."""
    if not values:
        return "-"
    least, most = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return least if math.isclose(min(values), max(values)) else f"{least} to {most}"


def main(
    output: Annotated[Path, typer.Option("-o", help="JSON file.")],
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders of grids.", show_default=False)] = None,
    data_root: str = "",
    images: Annotated[int, typer.Option(help="Held-out images, at most.")] = 2000,
    table: Annotated[Path | None, typer.Option(help="Write the page, and measure nothing.")] = None,
) -> None:
    """Measure all runs, or write the page on what was measured."""
    if table is not None:
        table.write_text(page(json.loads(output.read_text(encoding="utf-8")), output.name), encoding="utf-8")
        return
    cells = []
    for folder in folders or []:
        grid = read_grid(folder)
        held_out = load_data(grid.data, split="holdout", root=data_root or None)
        order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))
        cells += measure(grid, folder, held_out.subset(order[:images]))
    machine = {key: v for key, v in environment(torch.device("cpu"), "32").items() if key != "command"}
    output.write_text(json.dumps({"cells": cells, "machine": machine}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
