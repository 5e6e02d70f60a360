"""Every method at one budget of steps, over the checkpoints of one teacher's training and several seeds.

    python benchmarks/family.py benchmarks/results/family-digits.json --jobs 2
    python benchmarks/family.py benchmarks/results/family-digits.json --table docs/results/digits.md

Beside the methods stand three baselines: the students of noise, of a frozen untrained generator, and of the training
images. Accuracy is measured after each epoch on test images; nothing is chosen by it. Every cell is one (row, teacher,
seed); a cell that the output file has already is not run again.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lenient import distill
from lenient.bench.real import RealImages
from lenient.config import parse_overrides
from lenient.data import load_data
from lenient.methods import METHODS, recipes
from lenient.models import load_network
from lenient.run import environment

ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "real images": ("real", ()),
    "noise images": ("noise", ()),
    "frozen generator": ("ta-dfkd", ("method.generator_lr=0",)),
    **{name: (name, ()) for name in METHODS if name not in ("noise", "ta-dfkd")},
    "meta-dfkd, generative": ("meta-dfkd", ("method.replay=generative",)),
    "ta-dfkd, all three losses": ("ta-dfkd", ("method.class_prior_weight=1", "method.selection=none")),
    "ta-dfkd, no selection": ("ta-dfkd", ("method.selection=none",)),
    "ta-dfkd": ("ta-dfkd", ()),
}
"""Row of the table -> method and the settings that differ from its recipe."""
BASELINES = ("noise images", "frozen generator")
"""Rows that learn nothing but what any images teach."""


def run_cell(
    row: str, teacher: str, seed: int, data: str, root: str | None, student: str, common: list[str]
) -> dict[str, Any]:
    """Run one cell in a process of its own."""
    torch.set_num_threads(1)
    name, changes = ROWS[row]
    network = load_network(teacher)
    settings = parse_overrides([*changes, *common])
    started = time.process_time()
    if name == "real":
        train = load_data(data, split="train", root=root, input_size=network.card.input_size)
        result = distill(
            network, student, method=RealImages(train), seed=seed, settings=settings, eval_data=data, data_root=root
        )
    else:
        recipe = data if data in recipes(name) else ()
        result = distill(
            network, student, method=name, recipe=recipe, seed=seed, settings=settings, eval_data=data, data_root=root
        )
    curve = [entry["accuracy"] for entry in result.history]
    return {
        "row": row,
        "teacher": Path(teacher).stem,
        "teacher_accuracy": result.summary["teacher"]["accuracy"],
        "seed": seed,
        "last": curve[-1],
        "mean": statistics.fmean(curve),
        "max": max(curve),
        "agreement": result.summary["student"]["agreement"],
        "verdict": result.health["verdict"],
        "seconds": round(time.process_time() - started, 1),
        "curve": [round(value, 4) for value in curve],
    }


def teachers_of(data: str, root: str | None, arch: str, count: int, folder: Path) -> list[str]:
    """Train one teacher and keep `count` of its checkpoints; return their files, the earliest first."""
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(folder.glob(f"{data}-e*.safetensors"), key=lambda path: int(path.stem.rpartition("e")[2]))
    if len(found) >= count:
        return [str(path) for path in found]
    place = ["--data-root", root] if root else []
    keep = ["--keep", str(count), "--keep-above", "0.9", "--overwrite", "-o", str(folder / f"{data}.safetensors")]
    command = ["lenient", "train-teacher", "--data", data, "--arch", arch, *keep, *place]
    subprocess.run([sys.executable, "-m", *command], check=True)
    return teachers_of(data, root, arch, count, folder)


def page(written: dict[str, Any]) -> str:
    """Return the page with the table of medians over seeds and teachers, and of each teacher's last accuracy."""
    cells = sorted(written["cells"], key=lambda cell: int(cell["teacher"].rpartition("e")[2]))
    teachers = {cell["teacher"]: cell["teacher_accuracy"] for cell in cells}
    heads = [f"T{number} ({value:.1%})" for number, value in enumerate(teachers.values(), 1)]
    lines = [
        f"# Every method on {written['data']}",
        "",
        f"Teachers: {len(teachers)} checkpoints of one training of `{written['arch']}`, T1 the earliest, with their",
        f"test accuracy. Student: `{written['student']}`, {written['steps']} steps of 128 images,",
        f"{written['seeds']} seeds, the recipe `{written['data']}` of each method. *Last* is the accuracy after the",
        "last step, *mean* the mean over 20 evenly spaced evaluations, both in % on test images: median over seeds",
        "(least to most); nothing was chosen by them. *Ahead*: runs of how many whose last accuracy beats the students",
        "of noise and of a frozen, untrained generator with the same teacher and seed. *Margin*: by how many points",
        "over the better of the two, at the median. A method learns only where that is clear.",
        "",
        "| student of | last, all teachers | mean, all teachers | ahead | margin | " + " | ".join(heads) + " | CPU s |",
        "|---|---|---|---|---|" + "---|" * (len(heads) + 1),
    ]
    floor = floors(cells)
    for row in ROWS:
        own = [cell for cell in cells if cell["row"] == row]
        if not own:
            continue
        columns = [_spread([cell[key] for cell in own]) for key in ("last", "mean")]
        margins = [cell["last"] - floor[key] for cell in own if (key := (cell["teacher"], cell["seed"])) in floor]
        if row in BASELINES or not margins:
            columns += ["", ""]
        else:
            columns.append(f"{sum(margin > 0 for margin in margins)}/{len(margins)}")
            columns.append(f"{100 * statistics.median(margins):+.1f}")
        for teacher in teachers:
            columns.append(_spread([cell["last"] for cell in own if cell["teacher"] == teacher]))
        seconds = statistics.median(cell["seconds"] for cell in own)
        lines.append(f"| {row} | " + " | ".join(columns) + f" | {seconds:.0f} |")
    machine = written["machine"]
    lines += [
        "",
        f"{len(cells)} runs. Machine: {machine['device_name']}, one thread each; torch {machine['torch']}. Command:",
        "",
        "```bash",
        f"python benchmarks/family.py benchmarks/results/family-{written['data']}.json --steps {written['steps']}",
        f"python benchmarks/family.py benchmarks/results/family-{written['data']}.json "
        f"--table docs/results/{written['data']}.md",
        "```",
    ]
    return "\n".join(lines) + "\n"


def floors(cells: list[dict[str, Any]]) -> dict[tuple[str, int], float]:
    """Return the better of the two baselines without learning, for each teacher and seed that has both."""
    found: dict[tuple[str, int], list[float]] = {}
    for cell in cells:
        if cell["row"] in BASELINES:
            found.setdefault((cell["teacher"], cell["seed"]), []).append(cell["last"])
    return {key: max(values) for key, values in found.items() if len(values) == len(BASELINES)}


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    median, least, most = (f"{100 * value:.1f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{median} ({least} to {most})"


def main(
    output: Annotated[Path, typer.Argument(help="JSON file; goes on where it ends.")],
    data: str = "digits",
    data_root: str = "",
    arch: str = "lenient:wrn-10-2",
    student: str = "lenient:resnet8-half",
    teachers: int = 5,
    seeds: int = 3,
    steps: int = 800,
    jobs: int = 1,
    only: Annotated[str, typer.Option(help="Rows to run, separated by semicolons; all by default.")] = "",
    folder: Annotated[Path, typer.Option(help="Where the teachers are kept.")] = Path("runs/family"),
    table: Annotated[Path | None, typer.Option(help="Write the table to this page, and run nothing.")] = None,
) -> None:
    """Run every cell that is missing, and say what came of each."""
    written: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {"cells": []}
    if table is not None:
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(page(written))
        return
    root = data_root or None
    paths = teachers_of(data, root, arch, teachers, folder)
    common = [f"steps={steps}", f"rhythm.steps_per_epoch={max(steps // 20, 1)}", "precision=bf16", "device=cpu"]
    written |= {"data": data, "student": student, "arch": arch, "steps": steps, "seeds": seeds}
    machine = environment(torch.device("cpu"), "bf16")
    written["machine"] = {key: value for key, value in machine.items() if key != "command"}  # it names local paths
    done = {(cell["row"], cell["teacher"], cell["seed"]) for cell in written["cells"]}
    rows = only.split(";") if only else list(ROWS)
    wanted = [
        (row, path, seed)
        for seed in range(seeds)
        for path in paths
        for row in rows
        if (row, Path(path).stem, seed) not in done
    ]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run_cell, row, path, seed, data, root, student, common) for row, path, seed in wanted]
        for number, future in enumerate(as_completed(futures), 1):
            cell = future.result()
            print(f"{number}/{len(wanted)}", {key: value for key, value in cell.items() if key != "curve"}, flush=True)
            written["cells"].append(cell)
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
