"""Teachers that normalise their pixels by other constants than those of their images: with generators as released, and
with moments that the teacher's batch norms tell.

    python benchmarks/constants.py -o benchmarks/results/constants.json --table results/constants.md

Teachers learn the `fit` split of digits, and students are measured on `holdout`; no test image is read. A run that the
file has is not made again; with `--seeds 0` the page is written anew.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from compare_settings import spread, trained
from speed_text import machine, table, wrapped

from lenient import distill
from lenient.core.files import write
from lenient.data import ImageSet, load_data
from lenient.evaluation import accuracy
from lenient.models import Network
from lenient.runs.folder import environment

TEACHERS = ("lenient:wrn-10-2", "lenient:resnet20", "lenient:wrn-16-1")
CONSTANTS: Mapping[str, tuple[float, float] | None] = {
    "none: mean 0, std 1": (0.0, 1.0),
    "mean 0.5, std 0.5": (0.5, 0.5),
    "those of the images": None,
}
WAYS: Mapping[str, str | None] = {"as released": None, "by batch norms": "auto"}
STEPS = 1200


def normalised(images: ImageSet, constants: tuple[float, float] | None) -> ImageSet:
    """Return the same images, whose teachers take them by these constants."""
    if constants is None:
        return images
    return dataclasses.replace(images, mean=(constants[0],), std=(constants[1],))


def main(
    output: Annotated[Path, typer.Option("-o", help="JSON file; goes on where it ends.")],
    page_to: Annotated[Path | None, typer.Option("--table", help="Write the page to this file.")] = None,
    seeds: int = 3,
    steps: int = STEPS,
    teachers: str = ",".join(TEACHERS),
) -> None:
    """Run every cell."""
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {"runs": []}
    found["machine"] = found.get("machine") or environment(torch.device("cpu"), "bf16")
    kept = ("arch", "constants", "way", "seed")
    done = {tuple(run[key] for key in kept) for run in found["runs"]}
    for seed in range(seeds):
        for arch in teachers.split(","):
            for name, constants in CONSTANTS.items():
                missing = [way for way in WAYS if (arch, name, way, seed) not in done]
                if not missing:
                    continue
                fit, holdout = (normalised(load_data("digits", split=split), constants) for split in ("fit", "holdout"))
                teacher = trained(arch, "digits", fit, {"seed": seed}, 0)
                for way in missing:
                    started = time.monotonic()
                    plan = {"precision": "bf16", "steps": steps, "generator.output_moments": WAYS[way]}
                    result = distill(
                        teacher, "lenient:resnet8-half", method="bn-adv", recipe="digits", seed=seed, settings=plan
                    )
                    run = {
                        **dict(zip(kept, (arch, name, way, seed), strict=True)),
                        "teacher_accuracy": accuracy(teacher, holdout),
                        "accuracy": accuracy(Network(result.student, teacher.card), holdout),
                        "verdict": result.health.verdict,
                        "steps": steps,
                        "seconds": round(time.monotonic() - started, 1),
                    }
                    print(run, flush=True)
                    found["runs"].append(run)
                    write(output, (json.dumps(found, indent=1) + "\n").encode())
    if page_to is not None:
        page_to.write_text(page(found, output.name), encoding="utf-8")


def page(found: Mapping[str, Any], name: str) -> str:
    """Return the page."""
    runs = found["runs"]

    def cell(constants: str, way: str, key: str = "accuracy") -> str:
        return spread([run[key] for run in runs if (run["constants"], run["way"]) == (constants, way)])

    def verdicts(constants: str, way: str) -> str:
        words: Sequence[str] = [run["verdict"] for run in runs if (run["constants"], run["way"]) == (constants, way)]
        return ", ".join(f"{words.count(word)} {word}" for word in ("ok", "warning", "failed") if word in words)

    rows = [
        [
            constants,
            cell(constants, "as released", "teacher_accuracy"),
            *(text for way in WAYS for text in (cell(constants, way), verdicts(constants, way))),
        ]
        for constants in CONSTANTS
    ]
    heads = ["teacher's constants", "teacher", *(text for way in WAYS for text in (f"student, {way}", "verdicts"))]
    archs = ", ".join(dict.fromkeys(run["arch"] for run in runs))
    lines = [
        "# By which constants a teacher normalises its pixels",
        "",
        *wrapped(
            f"Written by `benchmarks/constants.py` from `{name}`; no figure is typed. Teachers of digits, {archs}, "
            f"that differ in nothing but the constants; method `bn-adv`, recipe `digits`, {runs[0]['steps']:,} steps. "
            "*As released*: the generator's images have mean 0 and deviation 1 in "
            "the teacher's normalised space (`-s generator.output_moments=null`); *by batch norms*: what those tell of "
            "the images that they saw (`auto`, the default). Accuracy in % on images held out of the training data: "
            "median (least to most; runs). No test image was read."
        ),
        "",
        *table(heads, rows),
        "",
        f"{machine(found['machine'] | {'threads': 1})}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
