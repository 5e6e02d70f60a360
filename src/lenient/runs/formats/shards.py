"""Tar files of samples, as the library webdataset reads them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenient.core import files
from lenient.runs.formats.pictures import png
from lenient.runs.formats.shape import Shape
from lenient.runs.parts import About, Part

LARGE = 256 * 2**20
"""Bytes after which a new file begins."""
MEMBER = 1024
"""Bytes that a tar adds to each member at most; an array's own header is among them."""


def webdataset_size(shape: Shape) -> int:
    """Return the bytes of an image at worst."""
    return shape.pixel_bytes + shape.label_bytes + (3 + 3 * bool(shape.crops)) * MEMBER


def write_webdataset(folder: Path, parts: Iterator[Part], shape: Shape, about: Callable[[], About]) -> None:
    """Write `train-NUMBER.tar`; of image NUMBER its `.png`, `.cls` (the label as text), `.logits.npy`, and of its crops
    `.crop_boxes.npy`, `.crop_flips.npy` and `.crop_logits.npy`."""
    samples = _samples(parts)
    sample = next(samples, None)
    shard = 0
    while sample is not None:
        with (
            files.replacing(folder / f"train-{shard:06d}.tar") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            while sample is not None and file.tell() < LARGE:
                for name, content in sample.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                sample = next(samples, None)
        shard += 1


def _samples(parts: Iterator[Part]) -> Iterator[dict[str, bytes]]:
    """Yield what a tar holds of each image, by name."""
    number = 0
    for part in parts:
        rows = part.columns()
        images, labels = rows.pop("images"), rows.pop("labels")
        for place, image in enumerate(images):
            name = f"{number:06d}"
            arrays = {f"{name}.{column}.npy": _npy(array[place]) for column, array in rows.items()}
            yield {f"{name}.png": png(image), f"{name}.cls": b"%d" % labels[place], **arrays}
            number += 1


def _npy(array: NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()
