"""A sheet of a run's images, a row for each class, for the pages of the methods.

    python benchmarks/sheet.py runs/mnist-inversion/cells/ID/run -o docs/images/deepinversion-mnist.png

`samples/` holds those of 512 images that the teacher is surest of, up to 8 of a class; none is picked by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from safetensors.torch import load_file


def sheet(images: torch.Tensor, labels: torch.Tensor, columns: int, scale: int) -> Image.Image:
    """Return images (N, C, H, W) uint8 of one or three channels, a row for each of their labels (N,), enlarged."""
    _, channels, height, width = images.shape
    classes = labels.unique().tolist()
    canvas = torch.full((channels, len(classes) * (height + 1), columns * (width + 1)), 255, dtype=torch.uint8)
    for row, label in enumerate(classes):
        for column, image in enumerate(images[labels == label][:columns]):
            top, left = row * (height + 1), column * (width + 1)
            canvas[:, top : top + height, left : left + width] = image
    shown = canvas.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(shown).resize((scale * shown.shape[1], scale * shown.shape[0]), Image.Resampling.NEAREST)


def main(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    output: Annotated[Path, typer.Option("-o", help="PNG file.")],
    columns: Annotated[int, typer.Option(help="Images in a row.")] = 8,
    scale: Annotated[int, typer.Option(help="Enlarged so many times.")] = 2,
) -> None:
    """Draw the sheet."""
    held = load_file(run / "samples" / "images.safetensors")
    sheet(held["images"], held["labels"], columns, scale).quantize(16).save(output, optimize=True)


if __name__ == "__main__":
    typer.run(main)
