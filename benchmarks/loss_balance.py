"""What steers a generator? The gradients of the terms of its objective, one by one, at the end of runs of grids.

    python benchmarks/loss_balance.py runs/mnist runs/class-prior -o benchmarks/results/loss-balance.json
    python benchmarks/loss_balance.py -o benchmarks/results/loss-balance.json --table results/loss-balance.md

The size of a loss says little: a class entropy at its highest is large and pulls nowhere. So every term, weighed, is
differentiated alone on fresh batches; its share is the norm of its gradient in the generator's parameters, of the sum
of all terms' norms.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lenient.bench.report.features import run_folder
from lenient.bench.report.records import NO_GENERATOR, read_grid
from lenient.losses.objective import Objective
from lenient.methods.steps import GeneratorStep
from lenient.runs.folder import environment
from lenient.runs.reopen import reopen
from lenient.teacher.batch import Clock

BATCHES = 2


def measure(folder: Path) -> list[dict[str, Any]]:
    """Return the norm of each term's gradient for every run in a grid's folder that has a generator."""
    grid = read_grid(folder)
    found = []
    for cell in grid.cells:
        run = run_folder(folder, cell)
        if cell.method in NO_GENERATOR or not (run / "config.yaml").is_file():
            continue
        distillation, teacher = reopen(run, "cpu")
        step = distillation.algorithm.updates["generator"].step
        parameters = list(distillation.algorithm.updates["generator"].module.parameters())
        assert isinstance(step, GeneratorStep), "every method of these grids has one"
        norms = {}
        with teacher:
            for name, term in step.objective.terms.items():
                alone = replace(step, objective=Objective({name: term}))
                norms[name] = statistics.fmean(gradient(alone, parameters, batch) for batch in range(BATCHES))
        found.append({"grid": grid.name, "row": cell.row, "teacher": cell.teacher, "seed": cell.seed, "norms": norms})
        print(json.dumps(found[-1]), flush=True)
    return found


def gradient(step: GeneratorStep, parameters: Sequence[torch.nn.Parameter], batch: int) -> float:
    """Return the norm of what one batch adds to the generator's gradient."""
    for parameter in parameters:
        parameter.grad = None
    step(Clock(batch))
    return float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))


def page(written: Mapping[str, Any], output: str) -> str:
    """Return the page: for each row the shares of its terms."""
    cells: Sequence[Mapping[str, Any]] = written["cells"]
    terms = list(dict.fromkeys(name for cell in cells for name in cell["norms"]))
    lines = [
        "# What steers the generators",
        "",
        "Shares of the terms of the generator's objective in its gradient, in %: norms of each weighed term's own",
        f"gradient, of their sum, at the end of a run, on {BATCHES} batches. Medians over teachers and seeds. The",
        "noise of a batch counts in a norm, and batch-norm statistics have the most of it. A dash: no such term.",
        "",
        f"| grid | row | runs | {' | '.join(name.replace('_', ' ') for name in terms)} |",
        "|---" * (3 + len(terms)) + "|",
    ]
    for grid, row in dict.fromkeys((cell["grid"], cell["row"]) for cell in cells):
        own = [cell["norms"] for cell in cells if (cell["grid"], cell["row"]) == (grid, row)]
        lines.append(f"| {grid} | {row} | {len(own)} | {' | '.join(share(own, name) for name in terms)} |")
    machine = written["machine"]
    return "\n".join([*lines, "", f"{len(cells)} runs in `{output}`. Machine: {machine['device_name']}.", ""])


def share(runs: Sequence[Mapping[str, float]], name: str) -> str:
    """Return a term's median share, of two digits."""
    shares = [100 * norms[name] / sum(norms.values()) for norms in runs if name in norms]
    if not shares:
        return "-"
    middle = statistics.median(shares)
    return f"{middle:.{max(0, 1 - math.floor(math.log10(max(middle, 0.01))))}f}"


def main(
    output: Annotated[Path, typer.Option("-o", help="JSON file.")],
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders of grids.", show_default=False)] = None,
    table: Annotated[Path | None, typer.Option(help="Write the page, and measure nothing.")] = None,
) -> None:
    """Measure all runs, or write the page on what was measured."""
    if table is not None:
        table.write_text(page(json.loads(output.read_text(encoding="utf-8")), output.name), encoding="utf-8")
        return
    cells = [cell for folder in folders or [] for cell in measure(folder)]
    machine = {key: v for key, v in environment(torch.device("cpu"), "32").items() if key != "command"}
    output.write_text(json.dumps({"cells": cells, "machine": machine}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
