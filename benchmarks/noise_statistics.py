"""Students of noise: what they are worth by what the teacher's batch norms, and then their own, normalise by.

    lenient train-teacher --data digits --arch lenient:wrn-10-2 --epochs 12 -o runs/teacher.safetensors
    python benchmarks/noise_statistics.py runs/teacher.safetensors -o benchmarks/results/noise-statistics.json
    python benchmarks/noise_statistics.py -o benchmarks/results/noise-statistics.json --table PAGE.md

Each student is trained once and measured on the test images by every kind of statistics (`lenient evaluate
--statistics`): as training left them, of the test batch, and estimated anew on images of its source, on crops of two
photographs, and on training images without labels. Runs that the file holds are not made again.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from lenient.data import ImageSet, load_data
from lenient.evaluation import evaluate
from lenient.models import build_student, load_network
from lenient.models.card import Network
from lenient.runs.folder import environment
from lenient.runs.request import Request, resolve
from lenient.synthesis.photo import crops
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.metrics import class_counts, spread
from lenient.training.trainer import Distillation

STUDENT = "lenient:resnet8-half"
STEPS = 300
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "running": ("digits", {}),
    "batch": ("digits", {"method.statistics": "batch"}),
    "batch, published settings": ("published", {"steps_per_epoch": 20}),
}
"""What the teacher's batch norms normalise by: recipe and settings of the student of noise."""
SEEDS = (0, 1, 2)
COUNTS = (64, 256, 1024)
"""Training images, labels unread, that statistics are estimated on."""


def ways(run: Distillation, training: ImageSet) -> dict[str, tuple[str, ImageSet | Tensor | None]]:
    """Return by what a student is measured: the kind of statistics, and the images to estimate them on."""
    card = run.teacher.card
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))
    return {
        "running": ("running", None),
        "batch": ("batch", None),
        "synthetic": ("synthetic", torch.cat(list(run.statistics_batches()))),
        "photographs": ("adapted", crops(1024, card.input_size, run.streams, "photographs", 0)),
        **{f"adapted {count}": ("adapted", training.subset(order[:count])) for count in COUNTS},
    }


def measure(teacher: Network, row: str, seed: int, training: ImageSet, test: ImageSet) -> dict[str, Any]:
    """Train a student and measure it in every way; accuracies are fractions."""
    recipe, own = ROWS[row]
    asked = {**own, "steps": STEPS, "precision": "32", "device": "cpu"}
    settings = resolve(Request(method="noise", recipes=[recipe], settings=asked, seed=seed))
    student = build_student(STUDENT, teacher.card, seed=seed)
    started, counts = time.monotonic(), torch.zeros(teacher.card.num_classes)
    with FrozenTeacher(teacher, settings.runtime()) as frozen:
        run = Distillation(frozen, student, settings, frozen.runtime)
        while run.step < STEPS:
            _, output = run.take_update()
            counts += class_counts(output.batch.logits("train", "teacher").argmax(dim=1), len(counts))
        seconds = time.monotonic() - started
        by = ways(run, training)
    student.module.eval()
    found = {
        name: round(evaluate(student, test, statistics=kind, images=images).accuracy, 4)
        for name, (kind, images) in by.items()
    }
    entropy = round(spread(counts.tolist())[1], 3)
    return {"row": row, "seed": seed, "steps": STEPS, "batch_size": settings.batch_size, "entropy": entropy,
            "seconds": round(seconds, 1), "accuracy": found}  # fmt: skip


def page(written: Mapping[str, Any], output: str) -> str:
    """Return the page: a line for what the teacher normalised by, a column for what the student is measured by."""
    runs = written["runs"]
    names = list(runs[0]["accuracy"])
    lines = [
        "# Noise, and what batch norms normalise by",
        "",
        "Students of noise (`--method noise`) on digits, accuracy on test images in %: mean, least to most over",
        f"{len(SEEDS)} seeds. Rows: what the teacher's batch norms normalise by (`method.statistics`). Columns: what",
        "those of the finished student normalise by as it is measured (`lenient evaluate --statistics`). Each student",
        f"is trained once, for {runs[0]['steps']} steps; {STUDENT} of a lenient:wrn-10-2 with",
        f"{100 * written['teacher']:.1f} %. Test images chose nothing.",
        "",
        f"| teacher by | {' | '.join(names)} | entropy of its classes |",
        f"|---|{'---|' * (len(names) + 1)}",
    ]
    for row in dict.fromkeys(run["row"] for run in runs):
        own = [run for run in runs if run["row"] == row]
        cells = [_spread([100 * run["accuracy"][name] for run in own]) for name in names]
        entropy = statistics.fmean(run["entropy"] for run in own)
        lines.append(f"| {row} | {' | '.join(cells)} | {entropy:.2f} |")
    lines += [
        "",
        "`batch` is transductive: every answer depends on the other test images, and none can be given to one image.",
        "It is what is published of such students, and no main number. `synthetic` is what is delivered: statistics",
        "estimated anew on images of the source, noise. `photographs`: on 1,024 crops of two photographs. `adapted k`:",
        "on k training images without labels; that is not data-free. Entropy: of the classes that the teacher names;",
        "1 is even. `published settings`: the recipe `published` with fewer steps, of 256 images; the others have 128.",
        "",
        f"{len(runs)} runs in `{output}`. Machine: {written['machine']['device_name']}, one thread of a shared core.",
        "",
    ]
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.fmean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main(
    output: Annotated[Path, typer.Option("-o", help="JSON file.")],
    teacher: Annotated[str | None, typer.Argument(help="A classifier of digits.", show_default=False)] = None,
    table: Annotated[Path | None, typer.Option(help="Write the page, and measure nothing.")] = None,
) -> None:
    """Measure what is not there yet, or write the page on what was measured."""
    written: dict[str, Any] = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {"runs": []}
    if table is not None:
        table.write_text(page(written, output.name), encoding="utf-8")
        return
    if teacher is None:
        raise typer.BadParameter("name the teacher")
    torch.set_num_threads(1)
    network = load_network(teacher)
    training, test = (load_data("digits", split=split) for split in ("train", "test"))
    written["teacher"] = round(evaluate(network, test).accuracy, 4)
    written["machine"] = {k: v for k, v in environment(torch.device("cpu"), "32").items() if k != "command"}
    known = {(run["row"], run["seed"]) for run in written["runs"]}
    for seed in SEEDS:
        for row in ROWS:
            if (row, seed) not in known:
                written["runs"].append(measure(network, row, seed, training, test))
                print(json.dumps(written["runs"][-1]), flush=True)
                output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
