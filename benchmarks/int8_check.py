"""What `lenient export --int8 --check` sees: how often a file in 8 bits gives the float network's class, by what images
its ranges were taken from, sound ones and such that ruin it.

    python benchmarks/int8_check.py --table results/int8-check.md

Networks of digits, trained here. It judges no method: it is where the thresholds of the check come from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from lenient.data import ImageSet, load_data
from lenient.evaluation import accuracy
from lenient.models import build_student
from lenient.models.card import Card, Network, PixelClassifier
from lenient.runs.export import ALIKE, LOST, OnnxModule, export_onnx
from lenient.runs.folder import environment
from lenient.runs.int8 import agreement, write_int8
from lenient.supervised import TeacherRecipe, default_recipe, train_classifier

IMAGES = 512
SOUND = ("real", "noise", "noise of little contrast")


def trained(arch: str, images: ImageSet, epochs: int) -> Network:
    """Return a classifier of digits."""
    card = Card(None, images.input_size, len(images.classes), tuple(images.mean), tuple(images.std), images.classes)
    network = build_student(arch, card, seed=0, role="teacher")
    train_classifier(network, images, TeacherRecipe(**(default_recipe("digits") | {"epochs": epochs})))
    return network


def calibrations(images: ImageSet) -> dict[str, Tensor]:
    """Return images (N, C, H, W), uint8, to take ranges from, the sound ones first."""
    noise = (torch.rand(IMAGES, *images.input_size, generator=torch.Generator().manual_seed(0)) * 255).byte()
    real = torch.cat([(part * 255).round().byte() for part, _ in images.batches(IMAGES)])[:IMAGES]
    grey = torch.full((4, *images.input_size), 128, dtype=torch.uint8)
    return dict(zip(SOUND, (real, noise, (noise // 8 + 112).byte()), strict=True)) | {
        "grey alone": grey,
        "black alone": torch.zeros_like(grey[:1]),
    }


def rows(network: Network, arch: str, kinds: dict[str, Tensor], test: ImageSet) -> list[list[str]]:
    """Write the network in 8 bits by each kind of images, and measure what came of it."""
    found = []
    classifier, before = PixelClassifier(network.module, network.card).eval(), accuracy(network, test)
    with tempfile.TemporaryDirectory() as folder:
        program, path = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        export_onnx(network, program)
        for name, images in kinds.items():
            write_int8(program, images, path)
            written = OnnxModule(str(path))
            alike, after = agreement(classifier, written, images), accuracy(written, test)
            said = "broken" if alike < ALIKE else "", "broken" if before - after > LOST else ""
            figures = (f"{100 * value:.2f}" for value in (alike, before, after))
            found.append([arch, name, *figures, *said])
    return found


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(
    table: Annotated[Path, typer.Option(help="Where to write the page.")],
    archs: Annotated[
        str, typer.Option(help="Networks, by commas.")
    ] = "lenient:lenet5,lenient:resnet8,lenient:wrn-10-1",
    epochs: Annotated[int, typer.Option(help="Of each training.")] = 12,
) -> None:
    """Train the networks, write them in 8 bits, and write the page."""
    torch.set_num_threads(1)
    training, test = load_data("digits", split="train"), load_data("digits", split="test")
    kinds = calibrations(training)
    heads = [
        "network",
        "ranges of",
        "class alike, %",
        "accuracy in float, %",
        "in 8 bits, %",
        "by its class",
        "by accuracy",
    ]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for arch in archs.split(","):
        lines += [_row(cells) for cells in rows(trained(arch, training, epochs), arch, kinds, test)]
    machine = environment(torch.device("cpu"), "32")["device_name"]
    lost = f"{100 * LOST:g}"
    page = f"""# What the check of a file in 8 bits sees

`python benchmarks/int8_check.py --table results/int8-check.md`

Networks of digits in 8 bits by onnxruntime, by the images that ranges are taken from. *Class alike* is the share of
those very images on which the file's class is the float network's: what `lenient export --int8 --check` says without
data. Below {ALIKE:.0%} it calls the file broken, and with `--eval-data` where more than {lost} points of accuracy
are lost.

{chr(10).join(lines)}

Ranges of {", ".join(SOUND[:-1])} and {SOUND[-1]} are sound, the others ruin the file. Whoever looks at the images that
ranges were taken from does not see that: the classes of what is black alone agree. Only real images tell.

Machine: {machine}, one thread of a shared core. {len(test)} test images; one seed.
"""
    table.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
