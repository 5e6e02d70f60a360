"""The synthetic images of a run as rows of small pictures, one row per class, each row one PNG inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lenient.core.numbers import percent
from lenient.reporting.collect import Samples

MAX_CLASSES = 20
MAX_COLUMNS = 10
MAX_SIDE = 64  # pixels of one picture in the page; larger images are shrunk to it


@dataclass(frozen=True)
class Strip:
    """One class: its name, how sure the teacher is of the pictures shown, and the pictures side by side."""

    name: str
    confidence: str
    count: int
    width: int
    height: int
    uri: str
    description: str


def strips(samples: Samples, classes: Sequence[str]) -> list[Strip]:
    """The first pictures of the first classes that have any, in the order in which they were stored."""
    return [_strip(samples, int(label), classes) for label in np.unique(samples.labels)[:MAX_CLASSES]]


def class_name(label: int, classes: Sequence[str]) -> str:
    """The name of a class; `class 3` when names are unknown."""
    return classes[label] if 0 <= label < len(classes) else f"class {label}"


def _strip(samples: Samples, label: int, classes: Sequence[str]) -> Strip:
    chosen = np.flatnonzero(samples.labels == label)[:MAX_COLUMNS]
    tiles = [tile(samples.images[index]) for index in chosen]
    side, height = tiles[0].shape[1], tiles[0].shape[0]
    gap = max(1, side // 10)
    canvas = np.zeros((height, MAX_COLUMNS * (side + gap) - gap, 4), dtype=np.uint8)  # transparent where nothing is
    for column, picture in enumerate(tiles):
        canvas[:, column * (side + gap) : column * (side + gap) + side] = picture
    name = class_name(label, classes)
    sure = percent(float(samples.confidence[chosen].mean())) if samples.confidence is not None else ""
    description = f"{len(tiles)} synthetic images that the teacher calls {name}"
    return Strip(name, sure, len(tiles), canvas.shape[1], height, _data_uri(canvas), description)


def tile(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One image (C, H, W) as RGBA (H, W, 4), at most MAX_SIDE wide and high."""
    from PIL import Image

    channels = image[:3] if len(image) >= 3 else image[:1]  # the first three channels as colour, else the first as grey
    colour = np.broadcast_to(channels, (3, *channels.shape[1:])).transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(colour)).convert("RGBA")
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    return np.asarray(picture)


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
