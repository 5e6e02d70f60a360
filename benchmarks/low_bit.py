"""Networks in few bits: accuracy of copies of a teacher after AdaDFQ, and of its own file in 8 bits, by onnxruntime.

    lenient train-teacher --data mnist --split fit --arch lenient:wrn-10-1 --epochs 1 -o runs/teacher.safetensors
    python benchmarks/low_bit.py runs/teacher.safetensors -o benchmarks/results/low-bit.json --steps 200 --images 2000
    python benchmarks/low_bit.py -o benchmarks/results/low-bit.json --table results/low-bit.md

A copy (`--student int8:copy`) learns from AdaDFQ's images by the recipe for its bits, at its rate and others, which
held-out training images compare; at the recipe's rate it is measured on test images, too, in torch and after its
export. The teacher's own file (`lenient export --int8`) takes its ranges from real, synthetic and noise images. Runs
that the file holds are not made again.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from lenient.core.config import Settings
from lenient.core.modes import mode
from lenient.data import ImageSet, load_data
from lenient.evaluation import accuracy
from lenient.models import load_network
from lenient.models.card import Network
from lenient.models.students import copy_student
from lenient.runs.export import OnnxModule, export_onnx
from lenient.runs.folder import environment
from lenient.runs.int8 import write_int8
from lenient.runs.request import Request, resolve
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.trainer import Distillation

RATES = (1e-6, 3e-6, 1e-5)
RECIPES = {8: "int8", 4: "low-bit"}
IMAGES = 512
"""That ranges are taken from: of the teacher's own file, and of a copy that only looks."""


def exported(network: Network, test: ImageSet) -> tuple[float, int]:
    """Return the accuracy of a network's ONNX file by onnxruntime, a fraction, and the file's bytes."""
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(network, path := Path(folder) / "network.onnx")
        return accuracy(OnnxModule(str(path)), test), path.stat().st_size


def recipe(bits: int, seed: int = 0, **changes: Any) -> Settings:
    """Return the settings of the recipe for so many bits, but for some."""
    asked = {"precision": "32", "device": "cpu", "overlap": False} | changes
    return resolve(Request(method="adadfq", recipes=[RECIPES[bits]], settings=asked, seed=seed))


def copied(
    teacher: Network, bits: int, settings: Settings, holdout: ImageSet, test: ImageSet | None
) -> tuple[dict[str, Any], Tensor]:
    """Let a copy learn and measure it, on test images only where they are given; return also images of the run,
    (IMAGES, C, H, W), uint8.
    """
    student, started = copy_student(f"int{bits}:copy", teacher), time.monotonic()
    with FrozenTeacher(teacher, settings.runtime()) as frozen:
        run = Distillation(frozen, student, settings, frozen.runtime)
        while run.step < settings.steps:
            run.take_update()
        seconds = time.monotonic() - started
        size = settings.batch_size
        drawn = torch.cat([run.algorithm.source.sample(size, "report", n) for n in range(IMAGES // size)])
        images = (drawn.detach().float().clamp(0, 1) * 255).round().byte().contiguous()
        looking = copy_student(f"int{bits}:copy", teacher)
        with torch.no_grad(), mode(looking.module, "train"):
            for part in drawn.split(size):
                looking.module(frozen.normalize(part))
    looking.module.eval(), student.module.eval()
    found: dict[str, Any] = {
        "bits": bits,
        "rate": settings.method.student_lr,
        "seed": settings.seed,
        "steps": settings.steps,
        "batch_size": size,
        "seconds": round(seconds, 1),
        "holdout": {"ranges only": _accuracy(looking, holdout), "learned": _accuracy(student, holdout)},
    }
    if test is not None:
        after, found["bytes"] = exported(student, test)
        found["test"] = {
            "ranges only": _accuracy(looking, test),
            "learned": _accuracy(student, test),
            "onnxruntime": round(after, 4),
        }
    return found, images


def _accuracy(network: Network, images: ImageSet) -> float:
    return round(accuracy(network, images), 4)


def after_training(
    program: Path, synthetic: Tensor, training: ImageSet, test: ImageSet, seed: int = 0
) -> dict[str, float]:
    """Return the accuracy of a network's ONNX file `program` in 8 bits, by the images that its ranges are taken from.

    `seed` draws the real ones and the noise.
    """
    random = torch.Generator().manual_seed(seed)
    real = training.subset(torch.randperm(len(training), generator=random)[:IMAGES])
    pictures = {
        "real": torch.cat([(images * 255).round().byte() for images, _ in real.batches(IMAGES)]),
        "synthetic": synthetic,
        "noise": (torch.rand(synthetic.shape, generator=random) * 255).byte(),
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        for name, images in pictures.items():
            write_int8(program, images, path)
            found[name] = round(accuracy(OnnxModule(str(path)), test), 4)
    return found


def page(written: Mapping[str, Any], output: str) -> str:
    """Return the page: how copies do at each rate, what is left of the recipe's, and the teacher's own file."""
    runs, teacher, own = written["runs"], written["teacher"], written["int8"]
    chosen = [run for run in runs if "test" in run]
    names = list(chosen[0]["test"])
    rated = ", ".join(f"`{name}`: {recipe(bits).method.student_lr:g}" for bits, name in RECIPES.items())
    rates, seeds = sorted({run["rate"] for run in runs}), sorted({run["seed"] for run in runs})
    lines = [
        "# Networks in few bits",
        "",
        f"A {teacher['arch']} of {written['data']}, its copies in few bits and its own file in 8: accuracy in %.",
        f"Medians of {len(seeds)} seeds, least to most in parentheses.",
        "",
        "Copies (`--student int8:copy`): *ranges only* takes ranges from the images of AdaDFQ's generator and learns",
        f"nothing; the others have learned for {runs[0]['steps']} steps of {runs[0]['batch_size']} images",
        "(`--method adadfq -c int8` or `-c low-bit`), at rates (`-s method.student_lr=RATE`) that fall",
        f"to nothing, on {written['images']:,} held-out training images, of which the teacher gets",
        f"{_percent(teacher['holdout'])}:",
        "",
        _row(["bits", "ranges only", *(f"{rate:g}" for rate in rates)]),
        _row(["---"] * (len(rates) + 2)),
        *(_row([bits, *_held_out(runs, bits, rates)]) for bits in RECIPES),
        "",
        f"At the rate of the recipe ({rated}), on {written['images']:,} test images. *onnxruntime* is the",
        "student after its export, computed in integers.",
        "",
        _row(["bits", *names, "kB of the ONNX file"]),
        _row(["---"] * (len(names) + 2)),
        *(_row(_tested([run for run in chosen if run["bits"] == bits])) for bits in RECIPES),
        _row(["32: the teacher", "", "", _percent(teacher["onnxruntime"]), _kilobytes(teacher)]),
        "",
        "The teacher's own file in 8 bits (`lenient export --int8`), by the images that ranges are taken from,",
        f"{IMAGES} each:",
        "",
        _row(["float", *own]),
        _row(["---"] * (len(own) + 1)),
        _row([_percent(teacher["onnxruntime"]), *map(_percent, own.values())]),
        "",
        "`real` are training images without labels, which is not data-free. `synthetic` are those of the first run",
        "of 8 bits.",
        "",
        f"{len(runs)} runs in `{output}`. Machine: {written['machine']['device_name']}, one thread of a shared core.",
        "",
    ]
    return "\n".join(lines)


def _held_out(runs: Sequence[Mapping[str, Any]], bits: int, rates: Sequence[float]) -> list[str]:
    """How copies of so many bits do on held-out images: what only looks, then each rate."""
    found = [run for run in runs if run["bits"] == bits]
    looking = {run["seed"]: run["holdout"]["ranges only"] for run in found if "test" in run}
    return [
        _spread(looking.values()),
        *(_spread(run["holdout"]["learned"] for run in found if run["rate"] == rate) for rate in rates),
    ]


def _tested(runs: Sequence[Mapping[str, Any]]) -> list[object]:
    """A row of the table of test images."""
    return [
        runs[0]["bits"],
        *(_spread(run["test"][name] for run in runs) for name in runs[0]["test"]),
        _kilobytes(runs[0]),
    ]


def _spread(shares: Iterable[float]) -> str:
    found = sorted(shares)
    return f"{_percent(statistics.median(found))} ({_percent(found[0])} to {_percent(found[-1])})"


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _kilobytes(measured: Mapping[str, Any]) -> str:
    return f"{measured['bytes'] / 1000:.0f}"


def main(
    output: Annotated[Path, typer.Option("-o", help="JSON file.")],
    teacher: Annotated[str | None, typer.Argument(help="A classifier.", show_default=False)] = None,
    data: Annotated[str, typer.Option(help="What it classifies.")] = "mnist",
    steps: Annotated[int, typer.Option(help="Of a copy.")] = 300,
    images: Annotated[int, typer.Option(help="Held-out and test images, the first of a fixed order.")] = 10_000,
    rates: Annotated[list[float] | None, typer.Option(help="The student's, beside the recipe's.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each rate.")] = 3,
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
    size = network.card.input_size
    training, *measured = (load_data(data, split=name, input_size=size) for name in ("fit", "holdout", "test"))
    holdout, test = (_some(part, images) for part in measured)
    written["data"], written["images"] = test.title, len(test)
    written["machine"] = {k: v for k, v in environment(torch.device("cpu"), "32").items() if k != "command"}

    def keep() -> None:
        output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")

    if "teacher" not in written:
        by_runtime, held = exported(network, test)
        own = {"accuracy": accuracy(network, test), "holdout": accuracy(network, holdout), "onnxruntime": by_runtime}
        written["teacher"] = {"arch": network.card.arch, "bytes": held, **{k: round(v, 4) for k, v in own.items()}}
        keep()
    known = {(run["bits"], run["rate"], run["seed"]) for run in written["runs"]}
    usual = {bits: recipe(bits).method.student_lr for bits in RECIPES}
    for seed, bits, rate in itertools.product(range(seeds), RECIPES, sorted({*usual.values(), *(rates or RATES)})):
        if (bits, rate, seed) in known:
            continue
        settings = recipe(bits, seed, steps=steps, **{"method.student_lr": rate})
        found, synthetic = copied(network, bits, settings, holdout, test if rate == usual[bits] else None)
        written["runs"].append(found)
        print(json.dumps(found), flush=True)
        if "int8" not in written:
            with tempfile.TemporaryDirectory() as folder:
                export_onnx(network, program := Path(folder) / "float.onnx")
                written["int8"] = after_training(program, synthetic, training, test)
            print(json.dumps(written["int8"]), flush=True)
        keep()


def _some(images: ImageSet, count: int) -> ImageSet:
    return images.subset(torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count])


if __name__ == "__main__":
    typer.run(main)
