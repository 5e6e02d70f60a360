"""What images of 64 to 224 pixels and 1,000 classes cost: memory and seconds of a step, maps kept or computed anew.

    python benchmarks/large_images.py -o benchmarks/results/large-images.json
    python benchmarks/large_images.py -o benchmarks/results/large-images.json --table results/large-images.md

Teachers have random weights: what a step costs does not depend on them. Each case is a process of its own, for its peak
of memory; those that the file holds are not measured again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lenient.core import memory
from lenient.models import build_student, choose_student
from lenient.models.card import Card, parameters
from lenient.models.checking import check_classifier
from lenient.runs.autotune import trial
from lenient.runs.folder import environment
from lenient.runs.request import Request, decide, resolve

SIZES, CLASSES, BATCH = (64, 128, 224), 1000, 32
WAYS = {"kept": False, "computed anew": True}


def measured(teacher: str, size: int, way: str, batch: int, classes: int, method: str) -> dict[str, Any]:
    """Return what a few updates of each network cost, on one thread."""
    torch.set_num_threads(1)
    card = Card(None, (3, size, size), classes, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    network = check_classifier(build_student(teacher, card, seed=0, role="teacher"))
    name, _ = choose_student(network)
    student = build_student(name, card, seed=0)
    wanted = {"recompute": WAYS[way], "overlap": False, "precision": "32", "device": "cpu", "batch_size": batch}
    request = Request(method=method, settings=wanted)
    settings = decide(resolve(request), request, network, student)
    before = memory.peak(torch.device("cpu")) or 0
    cost = trial(settings, network, student)
    return {
        "teacher": teacher,
        "student": name,
        "parameters": [parameters(network.module), parameters(student.module)],
        "size": size,
        "way": way,
        "method": method,
        "batch": batch,
        "classes": classes,
        "seconds_per_step": round(cost["seconds_per_step"], 3),
        "megabytes": round((cost["peak_bytes"] - before) / 1e6),
    }


def page(written: Mapping[str, Any], name: str) -> str:
    """Return the page: a line for each size, both ways side by side."""
    cells: Sequence[Mapping[str, Any]] = written["cells"]
    first = cells[0]
    weights = [f"{count / 1e6:.1f} million weights" for count in first["parameters"]]
    lines = [
        "# Large images",
        "",
        f"One step of `{first['method']}` with batches of {first['batch']} images and {first['classes']:,} classes, in",
        f"float32: teacher `{first['teacher']}` ({weights[0]}), student `{first['student']}` ({weights[1]}), which",
        "`auto` takes. *Kept* is the usual way, *computed anew* `-s recompute=true`, which comes to the same bits.",
        "Megabytes are the peak of the process beyond what it holds before the first step, networks and libraries.",
        "",
        "| pixels | kept: MB | seconds a step | computed anew: MB | seconds a step | memory | time |",
        "|---|---|---|---|---|---|---|",
    ]
    for size in dict.fromkeys(cell["size"] for cell in cells):
        both = {cell["way"]: cell for cell in cells if cell["size"] == size}
        if len(both) < len(WAYS):
            continue
        kept, anew = (both[way] for way in WAYS)
        ratios = (anew[key] / kept[key] for key in ("megabytes", "seconds_per_step"))
        lines.append(
            f"| {size} x {size} | {kept['megabytes']:,} | {kept['seconds_per_step']:.1f} | {anew['megabytes']:,} | "
            f"{anew['seconds_per_step']:.1f} | {' | '.join(f'x {ratio:.2f}' for ratio in ratios)} |"
        )
    lines += [
        "",
        "What the generator keeps is the same both ways: its blocks are not computed anew. The machine did other work,",
        "too, so times compare within a line at best.",
        "",
        f"Runs in `{name}`; machine: {written['machine']['device_name']}, one thread.",
        "",
    ]
    return "\n".join(lines)


def main(
    output: Annotated[Path, typer.Option("-o", help="JSON file; what it has is not measured again.")],
    teacher: Annotated[str, typer.Option(help="Its architecture.")] = "torchvision:resnet18",
    sizes: Annotated[str, typer.Option(help="Pixels of a side.")] = ",".join(map(str, SIZES)),
    batch: Annotated[int, typer.Option(help="Images of a step.")] = BATCH,
    classes: Annotated[int, typer.Option(help="That the teacher knows.")] = CLASSES,
    method: Annotated[str, typer.Option(help="How images are made.")] = "bn-adv",
    one: Annotated[str, typer.Option(help="Measure this case, as SIZE:WAY, and print it.", hidden=True)] = "",
    table: Annotated[Path | None, typer.Option(help="Write the page, and measure nothing.")] = None,
) -> None:
    """Measure what is not there yet, or write the page on what was measured."""
    if one:
        size, _, way = one.partition(":")
        print(json.dumps(measured(teacher, int(size), way, batch, classes, method)))
        return
    written: dict[str, Any] = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {"cells": []}
    if table is not None:
        table.write_text(page(written, output.name), encoding="utf-8")
        return
    written["machine"] = {k: v for k, v in environment(torch.device("cpu"), "32").items() if k != "command"}
    known = {(cell["size"], cell["way"]) for cell in written["cells"]}
    for size in map(int, sizes.split(",")):
        for way in (way for way in WAYS if (size, way) not in known):
            told = ["--teacher", teacher, "--batch", str(batch), "--classes", str(classes), "--method", method]
            command = [sys.executable, __file__, "-o", str(output), "--one", f"{size}:{way}", *told]
            done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
            written["cells"].append(json.loads(done.stdout.splitlines()[-1]))
            print(done.stdout.splitlines()[-1], flush=True)
            output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
