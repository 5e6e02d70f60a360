"""Five trials for every method: its recipe's rates, and each a third and three times as high.

    python benchmarks/trials.py -o benchmarks/results/trials-digits.json
    python benchmarks/trials.py -o benchmarks/results/trials-digits.json --table results/trials-digits.md

So that no method's rates are looked for longer than another's. The student's rate is changed alone, and so are those of
what makes the images, all together. The teacher learns from the `fit` split; agreement of teacher and student is
measured on all training images, none of which a student sees, accuracy on the `holdout` split. No test image is read.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from compare_settings import as_answered, measured, trained

from lenient import distill
from lenient.core.config import parse_overrides
from lenient.data import load_data
from lenient.methods import METHODS
from lenient.models.card import Network
from lenient.runs.folder import environment
from lenient.runs.request import Request, resolve

PICTURES = ("proxy",)
"""Methods that need pictures of the user's."""
STUDENT = "student_lr"


def trials(method: str, recipe: str) -> dict[str, dict[str, float]]:
    """Return the settings of a method's trials by name: five, or three of one that has no rate but its student's."""
    own = resolve(Request(method=method, recipes=recipe)).method
    rates = {name: getattr(own, name) for name in type(own).model_fields if name.endswith("_lr")}
    made = {name: rate for name, rate in rates.items() if name != STUDENT and rate}
    found: dict[str, dict[str, float]] = {"as it is": {}}
    for whose, changed in (("student", {STUDENT: rates[STUDENT]}), ("images", made)):
        for label, times in (("/ 3", 1 / 3), ("x 3", 3.0)):
            if changed:
                found[f"{whose} {label}"] = {name: float(f"{times * rate:.3g}") for name, rate in changed.items()}
    return found


def page(written: Mapping[str, Any], name: str) -> str:
    """Return the page: agreement for each method and trial, the best in bold."""
    cells: Sequence[Mapping[str, Any]] = written["cells"]
    labels = ("as it is", "student / 3", "student x 3", "images / 3", "images x 3")
    lines = [
        f"# The same trials for every method, on {written['data']}",
        "",
        f"Each method's recipe `{written['recipe']}`, {written['steps']} steps, with its rates as they were, and a",
        "third and three times as high: the student's, and those of what makes the images. Agreement of student and",
        "teacher on all training images, none of which a student sees, in %, the best in bold; of one seed, or the",
        "mean of as many as stand in brackets. Where another trial was better than the recipe by a point or more, the",
        "recipe has taken it over; methods that had runs in grids by that recipe were asked with a second seed first.",
        f"A teacher `{written['teacher']}`, a student `{written['student']}`. No test image was read.",
        "",
        f"| method | {' | '.join(labels)} | seconds |",
        "|---" * (len(labels) + 2) + "|",
    ]
    for method in dict.fromkeys(cell["method"] for cell in cells):
        own = [cell for cell in cells if cell["method"] == method]
        found = {label: [cell["agreement"] for cell in own if cell["trial"] == label] for label in labels}
        best = max(statistics.fmean(values) for values in found.values() if values)
        row = [shown(values, best) for values in found.values()]
        lines.append(f"| {method} | {' | '.join(row)} | {statistics.median(cell['seconds'] for cell in own):.0f} |")
    machine = written["machine"]
    lines += ["", f"{len(cells)} runs in `{name}`. Machine: {machine['device_name']}, one thread.", ""]
    return "\n".join(lines)


def shown(values: Sequence[float], best: float) -> str:
    """Return the mean of some seeds in %, in bold where it is the best, and how many there are."""
    if not values:
        return "-"
    mean = statistics.fmean(values)
    text = f"**{100 * mean:.1f}**" if mean == best else f"{100 * mean:.1f}"
    return f"{text} ({len(values)})" if len(values) > 1 else text


def main(
    output: Annotated[Path, typer.Option("-o", help="JSON file; goes on where it ends.")],
    data: str = "digits",
    data_root: str = "",
    methods: Annotated[str, typer.Option(help="Their names, with commas.")] = ",".join(
        name for name in METHODS if name not in PICTURES
    ),
    teacher: str = "lenient:wrn-10-2",
    teacher_set: Annotated[list[str], typer.Option(help="A setting of the teacher's training, e.g. lr=0.02.")] = [],  # noqa: B006
    student: str = "lenient:resnet8-half",
    recipe: str = "digits",
    seeds: int = 2,
    steps: int = 800,
    precision: str = "32",
    table: Annotated[Path | None, typer.Option(help="Write the table to this page, and run nothing.")] = None,
) -> None:
    """Run every trial, seed by seed."""
    if table is not None:
        table.write_text(page(json.loads(output.read_text(encoding="utf-8")), output.name), encoding="utf-8")
        return
    torch.set_num_threads(1)
    fit, holdout, train = (load_data(data, split=name, root=data_root or None) for name in ("fit", "holdout", "train"))
    written: dict[str, Any] = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {"cells": []}
    machine = {key: v for key, v in environment(torch.device("cpu"), precision).items() if key != "command"}
    written |= {"data": data, "teacher": teacher, "student": student, "recipe": recipe, "steps": steps}
    written |= {"machine": machine}
    done = {(cell["method"], cell["trial"], cell["seed"]) for cell in written["cells"]}
    network = trained(teacher, data, fit, parse_overrides(teacher_set), logit_spread=0)
    answered = as_answered(train, network)
    for seed in range(seeds):
        for method in methods.split(","):
            for label, changes in trials(method, recipe).items():
                if (method, label, seed) in done:
                    continue
                began = time.process_time()
                settings = {"steps": steps, "precision": precision, "device": "cpu", "method": changes}
                result = distill(network, student, method=method, recipe=recipe, seed=seed, settings=settings)
                cell = {
                    "method": method,
                    "trial": label,
                    "settings": changes,
                    "seed": seed,
                    **measured(Network(result.student, network.card), holdout, answered),
                    "verdict": result.health.verdict,
                    "seconds": round(time.process_time() - began, 1),
                }
                print(json.dumps(cell), flush=True)
                written["cells"].append(cell)
                output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
