"""Does speed cost accuracy? Students after equal steps: the library in both precisions, and the released procedure.

    python benchmarks/accuracy.py benchmarks/results/accuracy.json --teacher mnist.safetensors --data mnist --steps 800
    python benchmarks/accuracy.py benchmarks/results/accuracy.json --table results/precision.md

*As released* is the restatement that `speed.py` times (`published.py`); *released terms* is the recipe `published` in
the library's loop, the same mathematics: the two should come to about the same. Both have the rates given, for the
paper's belong to 72,000 steps: `benchmarks/results/released-rates-mnist.json` has what they were chosen by. Test
accuracy is measured once, at the end. A cell that the file has is not run again.
"""

from __future__ import annotations

import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from published import STUDENT_STEPS, Released

from lenient import distill
from lenient.core.processes import safe_path
from lenient.data import load_data
from lenient.evaluation import evaluate
from lenient.generators.upsampling import GeneratorSettings, UpsamplingGenerator
from lenient.models import build_student, load_network
from lenient.runs.folder import environment

RATES = (0.2, 1e-3)
"""Student's and generator's, of the two released rows."""
RECIPE = {
    "method": {
        "student_lr": RATES[0],
        "generator_lr": RATES[1],
        "student_schedule": "cosine",
        "selection": {"max_rounds": 4},
    },
    "student": {"init": "as-is"},
}
"""What the row of released terms has of ours: rates, a bound on rounds, and a student that starts like the others'."""
ROWS: dict[str, dict[str, Any]] = {
    "ours, bfloat16": {"precision": "bf16"},
    "ours, float32": {"precision": "32"},
    "released terms in our loop, float32": {
        "precision": "32",
        "method": "ta-dfkd",
        "recipe": "published",
        "settings": RECIPE,
    },
    "as released": {},
}


def run_cell(
    row: str, teacher: str, data: str, root: str | None, student: str, steps: int, batch: int, seed: int
) -> dict[str, Any]:
    """Run one cell in a process of its own."""
    torch.set_num_threads(1)
    network = load_network(teacher)
    started = time.process_time()
    if row == "as released":
        accuracy = as_released(network, student, data, root, steps, batch, seed)
    else:
        given = {**ROWS[row], "settings": ROWS[row].get("settings", {})}
        result = distill(
            network,
            student,
            **given,
            steps=steps,
            batch_size=batch,
            seed=seed,
            eval_data=data,
            data_root=root,
            device="cpu",
        )
        accuracy = result.summary.student.accuracy
    seconds = round(time.process_time() - started, 1)
    return {"row": row, "data": data, "seed": seed, "accuracy": accuracy, "seconds": seconds}


def as_released(network: Any, student: str, data: str, root: str | None, steps: int, batch: int, seed: int) -> float:
    """Return the accuracy of the released procedure's student."""
    torch.manual_seed(seed)
    shape = GeneratorSettings(output="sigmoid", latent_dim=1000, width=128, bn_eps=0.8)
    learner = build_student(student, network.card, seed=seed)
    generator = UpsamplingGenerator(network.card.input_size, shape)
    released = Released(
        network, learner.module, generator, shape.latent_dim, batch, torch.device("cpu"), seed, rates=RATES, waste=False
    )
    iterations = -(-steps // STUDENT_STEPS)
    for number in range(iterations):
        released.anneal(number / iterations)
        released.iterate()
    test = load_data(data, split="test", root=root, input_size=network.card.input_size)
    learner.module.eval()
    return evaluate(learner, test).accuracy


INTRODUCTION = """# Precision and the released procedure: accuracy after equal steps

*As released* is the released code's procedure, restated, in float32; its terms are made for 72,000 steps of 1024. Its
student's rate is the better of two on images held out of MNIST's training data (`released-rates-mnist.json`, where the
same terms run in our loop). **The distance of the released rows to ours is no comparison of methods.** Besides terms
and rates, they crop (by up to 4 pixels, half of an image of digits) and flip, which the released code does on CIFAR
only and which turns digits into others; the generator's rate of *as released* falls to 0 where the code's is constant;
and its generator has 128 channels and a z of 1000 where ours has 32 and 100. What precision costs is to be seen from
the two rows of ours.
"""


def page(written: dict[str, Any]) -> str:
    """Return the page: one table for each data set."""
    lines = [INTRODUCTION]
    for data, facts in written["data"].items():
        cells = [cell for cell in written["cells"] if cell["data"] == data]
        seeds = len({cell["seed"] for cell in cells})
        lines += [
            f"`{facts['teacher_arch']}` ({facts['teacher_accuracy']:.2%}) to `{facts['student']}` on {data}: "
            f"{facts['steps']} student steps of {facts['batch']} images, {seeds} seeds,",
            "test accuracy in %: median (least to most). CPU seconds on one thread, evaluation included.",
            "",
            "| | accuracy | CPU seconds |",
            "|---|---|---|",
        ]
        for row in ROWS:
            own = [cell for cell in cells if cell["row"] == row]
            if own:
                accuracy = _spread([100 * cell["accuracy"] for cell in own], 2)
                lines.append(f"| {row} | {accuracy} | {_spread([cell['seconds'] for cell in own], 0)} |")
        lines.append("")
    machine = written["machine"]
    lines += [f"Machine: {machine['device_name']}; torch {machine['torch']}. Commands:", "", "```bash"]
    for data, facts in written["data"].items():
        lines.append(
            f"python benchmarks/accuracy.py benchmarks/results/accuracy.json --data {data} --teacher {facts['file']} "
            f"--steps {facts['steps']}"
        )
    return "\n".join([*lines, "```"]) + "\n"


def _spread(values: list[float], digits: int) -> str:
    median, least, most = (f"{v:.{digits}f}" for v in (statistics.median(values), min(values), max(values)))
    return f"{median} ({least} to {most})"


def main(
    output: Annotated[Path, typer.Argument(help="JSON file; goes on where it ends.")],
    teacher: str = "",
    data: str = "mnist",
    data_root: str = "",
    student: str = "lenient:resnet8-half",
    steps: int = 1000,
    batch: int = 128,
    seeds: int = 3,
    jobs: int = 1,
    only: Annotated[str, typer.Option(help="Rows to run, separated by semicolons; all by default.")] = "",
    table: Annotated[Path | None, typer.Option(help="Write the page, and run nothing.")] = None,
) -> None:
    """Run every cell that is missing, and say what came of each."""
    written: dict[str, Any] = (
        json.loads(output.read_text(encoding="utf-8")) if output.exists() else {"data": {}, "cells": []}
    )
    if table is not None:
        table.write_text(page(written), encoding="utf-8")
        return
    root = data_root or None
    network = load_network(teacher)
    test = load_data(data, split="test", root=root, input_size=network.card.input_size)
    facts = {"teacher_arch": network.card.arch, "teacher_accuracy": evaluate(network, test).accuracy}
    how = {"student": student, "steps": steps, "batch": batch, "file": Path(teacher).name}
    written["data"][data] = facts | how
    machine = environment(torch.device("cpu"), "")
    written["machine"] = {key: value for key, value in machine.items() if key not in ("command", "precision")}
    done = {(cell["row"], cell["data"], cell["seed"]) for cell in written["cells"]}
    rows = only.split(";") if only else list(ROWS)
    wanted = [(row, seed) for seed in range(seeds) for row in rows if (row, data, seed) not in done]
    with safe_path(), ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run_cell, row, teacher, data, root, student, steps, batch, seed) for row, seed in wanted]
        for number, future in enumerate(as_completed(futures), 1):
            cell = future.result()
            print(f"{number}/{len(wanted)}", cell, flush=True)
            written["cells"].append(cell)
            output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
