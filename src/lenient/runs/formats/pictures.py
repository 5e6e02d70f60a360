"""A PNG file for each image: all in one folder, or in one for each class."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lenient.core.text import cell
from lenient.runs.formats.columns import Columns, write_labels
from lenient.runs.formats.shape import Shape
from lenient.runs.parts import About, Part

BLOCK = 4096
"""Bytes that a file takes at least, on most disks."""
PLAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_ -]{0,62}[A-Za-z0-9])?")
"""Names of classes that are names of folders on every system."""
RESERVED = re.compile(r"(?i)con|prn|aux|nul|(com|lpt)[0-9]")
"""Names that one system keeps for devices."""


def png_size(shape: Shape) -> int:
    """Return the bytes of an image at worst, which is noise: it does not shrink."""
    channels = shape.input_size[0]
    pictures, each = (1, shape.pixel_bytes) if channels == 3 else (channels, shape.pixel_bytes // channels)
    return pictures * -(-each // BLOCK) * BLOCK + 10 * len(shape.classes)


def imagefolder_size(shape: Shape) -> int:
    """Return the bytes of an image at worst; those of its labels twice, as `columns_size`."""
    return -(-shape.pixel_bytes // BLOCK) * BLOCK + 2 * shape.label_bytes + 150


def write_png(folder: Path, parts: Iterator[Part], shape: Shape, about: Callable[[], About]) -> None:
    """Write `labels.csv` (file, label, one probability per class) and pictures that it names.

    Images of other than one or three channels are written as one grey PNG per channel, which `labels.csv` calls by
    their common name.
    """
    classes = [cell(name, "csv") for name in shape.classes]
    with open(folder / "labels.csv", "x", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", *classes])
        number = 0
        for part in parts:
            for image, soft in zip(part.images.numpy(), part.logits.softmax(dim=1), strict=True):
                name = f"{number:06d}.png"
                write_pictures(image, folder / name)
                table.writerow([name, classes[int(soft.argmax())], *(f"{value:.6f}" for value in soft.tolist())])
                number += 1


def write_imagefolder(folder: Path, parts: Iterator[Part], shape: Shape, about: Callable[[], About]) -> None:
    """Write `train/CLASS/NUMBER.png`, `train/metadata.jsonl` with a line for each, and `soft_labels.safetensors`, whose
    rows are in the order of numbers."""
    names = class_folders(shape.classes)
    for name in names:  # those without an image, too: who numbers folders numbers classes then
        (folder / "train" / name).mkdir(parents=True)
    number = 0
    with Columns(folder) as columns, open(folder / "train" / "metadata.jsonl", "x", encoding="utf-8") as lines:
        for part in parts:
            rows = part.columns()
            for image, label in zip(rows.pop("images"), rows["labels"].tolist(), strict=True):
                file = f"{names[label]}/{number:06d}.png"
                write_pictures(image, folder / "train" / file)
                line = {"file_name": file, "number": number, "label": label, "class": shape.classes[label]}
                lines.write(json.dumps(line) + "\n")
                number += 1
            columns.add(rows)
        write_labels(folder, columns)


def class_folders(classes: tuple[str, ...]) -> list[str]:
    """Return names of folders whose order as text is that of the classes: their own where these will do, else
    numbers."""
    plain = all(PLAIN.fullmatch(name) and not RESERVED.fullmatch(name) for name in classes)
    if plain and sorted(classes) == list(classes) and len({name.lower() for name in classes}) == len(classes):
        return list(classes)
    digits = len(str(len(classes) - 1))
    return [f"{number:0{digits}d}" for number in range(len(classes))]


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return an image (C, H, W) of one or three channels as a PNG file."""
    content = io.BytesIO()
    shown = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    Image.fromarray(shown).save(content, format="PNG")
    return content.getvalue()


def write_pictures(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write an image (C, H, W) to a new file, or one for each channel where it has not one or three."""
    alone = len(pixels) in (1, 3)
    for number, picture in enumerate([pixels] if alone else pixels[:, None]):
        with open(path if alone else path.with_name(f"{path.stem}-{number}.png"), "xb") as file:
            file.write(png(picture))
