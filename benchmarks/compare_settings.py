"""Compare settings on images held out of the training data: how library defaults are chosen.

    python benchmarks/compare_settings.py adversarial --data digits -o benchmarks/results/adversarial-digits.json \
        --recipe digits --try js="method.adversarial=js" --try coded="method.adversarial=js-coded"

Teachers are trained on the `fit` split. Students are measured on images that none of them sees: accuracy on `holdout`,
and agreement with the teacher on all training images, which needs no labels. Test images are never
read. Every cell is one (variant, teacher, seed); a cell that the output file has already is not run again. With
`--table PAGE` it writes the table and runs nothing.

Variants whose steps cost differently are compared at equal seconds: `-s steps=N` that no run reaches, `--read 30 --read
90`, and constant rates, so that what is read after 30 seconds is what a run of 30 seconds comes to. They are seconds
of a processor, so that what else the machine does is not counted.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from lenient import distill
from lenient.core.config import parse_overrides
from lenient.data import ImageSet, load_data
from lenient.evaluation import accuracy
from lenient.models import Network, build_student
from lenient.models.card import Card, PixelClassifier
from lenient.runs.folder import environment
from lenient.supervised import TeacherRecipe, default_recipe, train_classifier


def trained(
    arch: str, data: str, images: ImageSet, changes: Mapping[str, Any], logit_spread: float, keep: Path | None = None
) -> Network:
    """Train a teacher on `images`; with a spread, scale its last linear layer to that deviation of its logits.

    With `keep` its weights are written to that folder, and another time read from it.
    """
    card = Card(None, images.input_size, len(images.classes), tuple(images.mean), tuple(images.std), images.classes)
    network = build_student(arch, card, seed=0, role="teacher")
    told = [data, images.split, arch.rpartition(":")[2], *(f"{key}={value}" for key, value in changes.items())]
    told += [f"spread={logit_spread:g}"] if logit_spread else []
    file = keep and keep / f"{'-'.join(told)}.pt"
    if file and file.exists():
        network.module.load_state_dict(torch.load(file, weights_only=True))
        network.module.eval()
        return network
    train_classifier(network, images, TeacherRecipe(**default_recipe(data) | dict(changes)))
    if logit_spread:
        *_, head = (module for module in network.module.modules() if isinstance(module, nn.Linear))
        with torch.no_grad():
            logits = PixelClassifier(network.module.eval(), card)(next(images.batches(1000))[0])
            factor = logit_spread / (logits - logits.mean(dim=1, keepdim=True)).std()
            for values in head.parameters():
                values *= factor
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(network.module.state_dict(), file)
    return network


def as_answered(images: ImageSet, teacher: Network) -> ImageSet:
    """Return the images labelled by the teacher: accuracy on them is agreement, and the teacher is asked but once."""
    with torch.no_grad():
        classifier = PixelClassifier(teacher.module.eval(), teacher.card)
        found = [classifier(batch).argmax(1) for batch, _ in images.batches(1000)]
    return dataclasses.replace(images, labels=torch.cat(found))


class Readings:
    """An observer that measures a student after so many processor seconds of its run, and ends it at the last."""

    def __init__(self, student: Network | str, holdout: ImageSet, answered: ImageSet, seconds: Sequence[float]) -> None:
        self.student, self.images = student, (holdout, answered)
        self.seconds = sorted(seconds)
        self.taken: list[dict[str, float]] = []

    def start(self, total_steps: int, step: int) -> None:
        """Begin to count."""
        self.began = time.process_time()

    def step(self, step: int, images: int) -> None:
        """Measure, where it is time; what that takes is not counted."""
        now = time.process_time()
        if len(self.taken) == len(self.seconds) or now - self.began < self.seconds[len(self.taken)]:
            return
        assert isinstance(self.student, Network), "built here where there are readings"
        training = self.student.module.training
        measures = measured(self.student, *self.images)
        self.taken.append({"seconds": round(now - self.began, 1), "step": step, **measures})
        self.student.module.train(training)
        self.began += time.process_time() - now
        if len(self.taken) == len(self.seconds):
            os.kill(os.getpid(), signal.SIGINT)

    def line(self, event: str, values: Mapping[str, Any]) -> None:
        """Let lines pass."""

    def stop(self) -> None:
        """Do nothing: all is taken."""


def measured(student: Network, holdout: ImageSet, answered: ImageSet) -> dict[str, float]:
    """Return the student's accuracy on images held out, and its agreement with the teacher on all training images."""
    return {"accuracy": accuracy(student, holdout), "agreement": accuracy(student, answered)}


def main(
    name: Annotated[str, typer.Argument(help="What is compared.")],
    output: Annotated[Path, typer.Option("-o", help="JSON file; goes on where it ends.")],
    data: str = "digits",
    data_root: str = "",
    teachers: str = "lenient:wrn-10-2,lenient:resnet20,lenient:wrn-16-1",
    teacher_set: Annotated[list[str], typer.Option(help="A setting of the teachers' training, e.g. lr=0.02.")] = [],  # noqa: B006
    logit_spread: Annotated[float, typer.Option(help="Scale teachers' last layers to this deviation of logits.")] = 0,
    student: str = "lenient:resnet8-half",
    seeds: int = 3,
    recipe: str = "digits",
    common: Annotated[list[str], typer.Option("-s", help="A setting of all variants.")] = [],  # noqa: B006
    variants: Annotated[list[str], typer.Option("--try", help='NAME="key=value key=value".')] = [],  # noqa: B006
    read: Annotated[list[float], typer.Option(help="Measure after so many seconds, and end at the last.")] = [],  # noqa: B006
    precision: str = "bf16",
    keep: Annotated[Path | None, typer.Option(help="Write the teachers to this folder, or take them from it.")] = None,
    threads: int = 1,
    table: Annotated[Path | None, typer.Option(help="Write the table to this page, and run nothing.")] = None,
) -> None:
    """Run every cell, and say for each variant the median and the range."""
    if table is not None:
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(page(json.loads(output.read_text(encoding="utf-8")), output), encoding="utf-8")
        return
    torch.set_num_threads(threads)
    fit, holdout, train = (
        load_data(data, split=split, root=data_root or None) for split in ("fit", "holdout", "train")
    )
    written: dict[str, Any] = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {"cells": []}
    machine = {key: v for key, v in environment(torch.device("cpu"), precision).items() if key != "command"}
    planned = len(teachers.split(",")) * seeds * len(variants)
    written |= {"planned": max(planned, written.get("planned", 0))}
    written |= {"name": name, "data": data, "recipe": recipe, "common": common, "machine": machine}
    written |= {"teacher_set": teacher_set, "logit_spread": logit_spread}
    done = {(cell["variant"], cell["teacher"], cell["seed"]) for cell in written["cells"]}
    networks = {
        arch: trained(arch, data, fit, parse_overrides(teacher_set), logit_spread, keep) for arch in teachers.split(",")
    }
    answered = {arch: as_answered(train, teacher) for arch, teacher in networks.items()}
    for seed in range(seeds):
        for arch, teacher in networks.items():
            right = accuracy(teacher, holdout)
            for variant in variants:
                label, _, text = variant.partition("=")
                if (label, arch, seed) in done:
                    continue
                settings = parse_overrides([*common, *text.split(), f"precision={precision}"])
                started = time.monotonic()
                learner = build_student(student, teacher.card, seed=seed) if read else student
                readings = Readings(learner, holdout, answered[arch], read)
                result = distill(
                    teacher, learner, recipe=recipe or (), seed=seed, settings=settings, observers=[readings]
                )
                seconds = time.monotonic() - started
                if result.interrupted and len(readings.taken) < max(len(read), 1):
                    raise SystemExit(130)  # somebody wants us to stop; the cell is for another time
                cell = {
                    "variant": label,
                    "settings": text,
                    "teacher": arch,
                    "teacher_accuracy": right,
                    "seed": seed,
                    **measured(Network(result.student, teacher.card), holdout, answered[arch]),
                    **({"readings": readings.taken} if read else {}),
                    "verdict": result.health.verdict,
                    "seconds": round(seconds, 1),
                }
                print(json.dumps(cell), flush=True)
                written["cells"].append(cell)
                written["summary"] = summary(written["cells"])
                output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    for label, row in summary(written["cells"]).items():
        print(label, row)


def page(written: dict[str, Any], output: Path) -> str:
    """Return the page with the table: agreement with the teacher, in %, per teacher and over all."""
    cells = written["cells"]
    teachers = list(dict.fromkeys(cell["teacher"] for cell in cells))
    readings = len(cells[0].get("readings", ()))
    times = [
        f"after {statistics.median(cell['readings'][k]['seconds'] for cell in cells):.0f} s" for k in range(readings)
    ]
    recipe = f"the recipe `{written['recipe']}` with" if written["recipe"] else "defaults with"
    titles = ["variant", "settings", *(times or ["all"]), *(f"`{teacher}`" for teacher in teachers)]
    lines = [
        f"# {written['name']}, on {written['data']}",
        "",
        f"Teachers are trained on the fit split. Common to all variants: {recipe}",
        f"`{' '.join(written['common'])}`. Agreement of student and teacher on all training images, none of which a",
        "student sees, in %: median (least to most; runs). No test image was read.",
        *(["Each run was read after equal seconds; columns of single teachers are the last reading."] if times else []),
        "",
        f"| {' | '.join(titles)} | {'steps' if times else 'seconds'} |",
        "|---" * (len(titles) + 1) + "|",
    ]
    for label in dict.fromkeys(cell["variant"] for cell in cells):
        own = [cell for cell in cells if cell["variant"] == label]
        columns = [spread([cell["readings"][k]["agreement"] for cell in own]) for k in range(readings)]
        columns = columns or [spread([cell["agreement"] for cell in own])]
        columns += [spread([cell["agreement"] for cell in own if cell["teacher"] == name]) for name in teachers]
        cost = statistics.median(cell["readings"][-1]["step"] if times else cell["seconds"] for cell in own)
        settings = f"`{own[0]['settings']}`" if own[0]["settings"] else "defaults"
        lines.append(f"| {label} | {settings} | " + " | ".join(columns) + f" | {cost:.0f} |")
    machine = written["machine"]
    planned = written.get("planned", len(cells))
    count = f"{len(cells)} runs" if planned <= len(cells) else f"{len(cells)} of {planned} runs, the rest is to come,"
    lines += ["", f"{count} in `{output.name}`. Machine: {machine['device_name']}, one thread each.", ""]
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Return median, least and most, in %."""
    if not values:
        return "-"
    median, least, most = (f"{100 * value:.1f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{median} ({least} to {most}; {len(values)})"


def summary(cells: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return median, least and most accuracy and agreement of each variant, and its median seconds."""
    rows: dict[str, dict[str, float]] = {}
    for label in dict.fromkeys(cell["variant"] for cell in cells):
        own = [cell for cell in cells if cell["variant"] == label]
        rows[label] = {"runs": len(own), "seconds": statistics.median(cell["seconds"] for cell in own)}
        for measure in ("accuracy", "agreement"):
            values = [cell[measure] for cell in own]
            spread = {"median": statistics.median(values), "least": min(values), "most": max(values)}
            rows[label] |= {f"{measure}_{name}": value for name, value in spread.items()}
    return rows


if __name__ == "__main__":
    typer.run(main)
