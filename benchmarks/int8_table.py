"""Networks in 8 bits, by the images that ranges of activations are taken from: real, synthetic and noise.

    python benchmarks/int8_table.py mnist lenient:wrn-10-1 --epochs 1 --steps 240 --student lenient:resnet8-half \\
        --keep runs/int8 -o benchmarks/results/int8-table.json
    python benchmarks/int8_table.py --table results/int8-table.md -o benchmarks/results/int8-table.json

The first command trains a teacher on nine tenths of the training images, runs the default method on it for a while,
and writes the teacher's file in 8 bits (`lenient export --int8`) by each kind of images, three draws of each; with
`--student` also the student's. It measures them on all test images. Teachers and runs stay in `--keep`: a killed
command goes on, and rows that the JSON holds are not made again. The second writes the page. The other teachers are
`mnist lenient:lenet5 --epochs 2`, `cifar10 py:benchmarks/plain_networks.py:mobile --epochs 3` and
`cifar10 lenient:lenet5 --epochs 3`, all with `--precision 32 --steps 120`.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from low_bit import IMAGES, after_training
from torch import Tensor

import lenient
from lenient.data import ImageSet, load_data
from lenient.evaluation import accuracy
from lenient.models import Network, load_network
from lenient.runs.export import OnnxModule, export_onnx
from lenient.runs.folder import environment

DRAWS = 3
KINDS = ("real", "synthetic", "noise")
NEAR = 0.005
"""Accuracy that 8 bits may cost, as far as we ask: half a point."""
TENTH = 0.001
CHEAP = "lenient:resnet8-half"
"""Who learns in runs that are made for their images alone."""


def teacher_of(data: str, arch: str, epochs: int, precision: str, place: Path, root: str | None) -> Network:
    """Return the teacher that lies at `place`; one that is trained now, where none does."""
    if not place.is_file():
        lenient.train_teacher(
            data,
            arch,
            place,
            epochs=epochs,
            data_root=root,
            split="fit",
            device="cpu",
            precision=precision,
            on_epoch=lambda epoch: print(f"{place.stem}: epoch {epoch.epoch}, loss {epoch.loss:.3f}", flush=True),
        )
    return load_network(place, arch=arch)


def distilled(teacher: Path, arch: str, student: str, steps: int, folder: Path) -> tuple[str, Network, list[Tensor]]:
    """Let the default method run; return its name, its student, and for each draw images (IMAGES, C, H, W), uint8.

    A run that was cut off goes on.
    """
    plan = {"overlap": False, "fallback": False}
    begun = (folder / "config.yaml").is_file()
    if not (folder / "report.json").is_file():
        print(f"{folder.name}: {steps} steps of {student}", flush=True)
        given = {} if begun else {"steps": steps, "seed": 0, "precision": "32", "settings": plan}
        lenient.distill(teacher, student, output=folder, resume=begun, device="cpu", arch=arch, **given)
    images = [lenient.synthesize(folder, IMAGES, seed=draw, trust_code=True).images for draw in range(DRAWS)]
    return lenient.report(folder).method, load_network(folder), images


def measured(network: Network, synthetic: Sequence[Tensor], training: ImageSet, test: ImageSet) -> dict[str, Any]:
    """Return the accuracy of a network's ONNX file in float, and in 8 bits by kind and draw."""
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(network, program := Path(folder) / "float.onnx")
        whole = round(accuracy(OnnxModule(str(program)), test), 4)
        draws = [after_training(program, images, training, test, seed) for seed, images in enumerate(synthetic)]
    return {"float": whole, **{kind: [draw[kind] for draw in draws] for kind in KINDS}}


def named(arch: str) -> str:
    """Return the last part of a SPEC, which tells networks of ours apart."""
    return re.sub(r"[^\w.-]+", "-", arch.rpartition(":")[2])


def page(written: Mapping[str, Any], output: str) -> str:
    """Return the page: a row for each network, a column for each kind of images."""
    rows: Sequence[Mapping[str, Any]] = written["rows"]
    counts = ", ".join(dict.fromkeys(f"{row['images']:,}" for row in rows))
    lines = [
        "# In 8 bits, by the images that ranges are taken from",
        "",
        "Accuracy in % of networks' ONNX files by onnxruntime, in float and in 8 bits (`lenient export --int8`), whose",
        f"ranges of activations are those of {IMAGES} images: *real* ones, of the training images, which is not",
        "data-free; *synthetic* ones of a short run of the default method on the teacher; *noise*, each value drawn",
        f"evenly from black to white. On all test images ({counts}). Means of {DRAWS} draws of images, least to most",
        "in parentheses; of synthetic ones all draws are from one run. Teachers were trained on nine tenths of the",
        "training images for so many *epochs*, one training each. Students are those of the runs, distilled without",
        "data, far from their end; their teacher stands in the row above.",
        "",
        _row(["data", "network", "epochs", "float", *KINDS, "run"]),
        _row(["---"] * (len(KINDS) + 5)),
        *(_row([row["data"], _title(row), _epochs(row), _percent(row["float"]), *map(_cell, _kinds(row)),
                f"{row['method']}, {row['steps']:,} steps"]) for row in rows),
        "",
        *_said(rows),
        "",
        "Sony's toolkit reports 69.86 in float, 69.60, 69.57 and 8.3 in these columns for a ResNet-18 on ImageNet;",
        "that is another network, other data and another way to choose ranges, and no figure here is to be held",
        "against it.",
        "",
        f"{len(rows)} rows in `{output}`. Machine: {written['machine']['device_name']}, one thread of a shared core.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _said(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say what the table shows: where 8 bits are near float, and where noise does as well as real images."""
    yield "What a kind of images loses is the mean below float; a file that is above it loses nothing."
    yield ""
    for kind in KINDS:
        far = [f"{_where(row)} ({100 * _lost(row, kind):.2f} points)" for row in rows if _lost(row, kind) > NEAR]
        near = f"{len(rows) - len(far)} of {len(rows)}"
        yield f"- By *{kind}* images {near} files lose at most half a point" + _list("; more", far)
    for kind in KINDS[:2]:
        worse = [_where(row) for row in rows if _apart(row, kind)]
        yield (
            f"- Every draw of noise loses more than every draw of {kind} images, by over a tenth of a point, in "
            f"{len(worse)} of {len(rows)} rows" + _list("", worse)
        )


def _apart(row: Mapping[str, Any], kind: str) -> bool:
    """Return whether the best draw of noise loses more than the worst of `kind`, by over ten images of 10,000."""
    worst: float = min(*row[kind], row["float"])
    return worst - max(row["noise"]) > TENTH


def _lost(row: Mapping[str, Any], kind: str) -> float:
    lost: float = max(0.0, row["float"] - fmean(row[kind]))
    return lost


def _where(row: Mapping[str, Any]) -> str:
    return f"{_title(row)} of {row['data']}"


def _list(words: str, names: Sequence[str]) -> str:
    return f"{words}: {', '.join(names)}." if names else "."


def _kinds(row: Mapping[str, Any]) -> list[list[float]]:
    return [row[kind] for kind in KINDS]


def _title(row: Mapping[str, Any]) -> str:
    return row["network"] if row["role"] == "teacher" else f"{row['network']}, student"


def _epochs(row: Mapping[str, Any]) -> str:
    return str(row["epochs"]) if row["role"] == "teacher" else ""


def _cell(values: Sequence[float]) -> str:
    return f"{_percent(fmean(values))} ({_percent(min(values))} to {_percent(max(values))})"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def main(
    output: Annotated[Path, typer.Option("-o", help="JSON file.")],
    data: Annotated[str | None, typer.Argument(help="What the teacher classifies.", show_default=False)] = None,
    arch: Annotated[str | None, typer.Argument(help="The teacher's SPEC.", show_default=False)] = None,
    epochs: Annotated[int, typer.Option(help="Of the teacher's training.")] = 3,
    precision: Annotated[str, typer.Option(help="Of the teacher's training.")] = "bf16",
    steps: Annotated[int, typer.Option(help="Of the run.")] = 240,
    student: Annotated[str | None, typer.Option(help="A student to measure as well.", show_default=False)] = None,
    keep: Annotated[Path, typer.Option(help="For teachers and runs.")] = Path("runs/int8"),
    data_root: Annotated[str | None, typer.Option(help="Where data sets lie.", show_default=False)] = None,
    table: Annotated[Path | None, typer.Option(help="Write the page, and measure nothing.", show_default=False)] = None,
) -> None:
    """Measure what is not there yet of one teacher, or write the page on what was measured."""
    written: dict[str, Any] = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {"rows": []}
    if table is not None:
        table.write_text(page(written, output.name), encoding="utf-8")
        return
    if data is None or arch is None:
        raise typer.BadParameter("name the data and the teacher's SPEC")
    torch.set_num_threads(1)
    place = keep / f"{data}-{named(arch)}.safetensors"
    teacher = teacher_of(data, arch, epochs, precision, place, data_root)
    learner = student or CHEAP
    folder = keep / f"{place.stem}-{named(learner)}-{steps}"
    method, learned, synthetic = distilled(place, arch, learner, steps, folder)
    size = teacher.card.input_size
    training, test = (load_data(data, split=split, root=data_root, input_size=size) for split in ("fit", "test"))
    wanted = [("teacher", named(arch), teacher)] + ([("student", named(learner), learned)] if student else [])
    for role, name, network in wanted:
        row = {"data": test.title, "network": name, "role": role, "of": named(arch)}
        if any(known.items() >= row.items() for known in written["rows"]):
            continue
        print(f"{name}: in 8 bits, by {DRAWS} draws of {IMAGES} images of each kind", flush=True)
        found = measured(network, synthetic, training, test)
        row |= {"epochs": epochs, "steps": steps, "method": method, "images": len(test), **found}
        written["rows"].append(row)
        written["machine"] = {k: v for k, v in environment(torch.device("cpu"), "32").items() if k != "command"}
        output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    typer.run(main)
