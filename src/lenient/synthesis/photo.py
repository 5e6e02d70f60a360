"""Crops of two photographs that come with scikit-learn: images that are no noise, and of nobody's data.

A single picture, cropped and scaled in many ways, holds enough of what natural images are made of to learn a good deal
from (Asano and Saeed, "The Augmented Image Prior", ICLR 2023, arXiv 2112.00725).
"""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lenient.core.runtime import sent
from lenient.core.seeding import Streams

NAMES = ("china.jpg", "flower.jpg")
AREAS = (1 / 500, 1 / 2)
"""Of a patch, as shares of the picture."""
LEAST_AREA = 0.02
"""Of a crop, as a share of the largest that fits into the picture."""
_TRIES = 1000
"""Draws until a patch fits, of which images as long as 100 : 1 need about a hundred."""


@cache
def pictures() -> tuple[Image.Image, ...]:
    """Return the pictures in RGB. scikit-learn's code is not imported for them."""
    found = find_spec("sklearn")
    assert found is not None, "a dependency"
    assert found.origin is not None, "a package with code"
    folder = Path(found.origin).parent / "datasets" / "images"
    return tuple(Image.open(folder / name).convert("RGB") for name in NAMES)


@cache
def photographs() -> tuple[Tensor, ...]:
    """Return them as (3, H, W) float32 in [0, 1] on the CPU."""
    return tuple(torch.tensor(np.asarray(each)).permute(2, 0, 1).float() / 255 for each in pictures())


def crops(count: int, input_size: tuple[int, int, int], streams: Streams, name: str, update: int) -> Tensor:
    """Return random crops (count, C, H, W) in [0, 1], float32 on the streams' device.

    Each is a part of one picture in the images' own shape, of an area uniform between `LEAST_AREA` of the largest that
    fits and all of it, flipped half of the time, and scaled with antialiasing. Grey networks see the mean of the
    colours; for other numbers of channels the three are mixed anew in each image.

    Args:
        count: how many.
        input_size: (C, H, W) of the images.
        streams: whose draws these are.
        name: of the random stream.
        update: its number.
    """
    channels, height, width = input_size
    draws = torch.rand((count, 4), generator=streams.host(name, update)).tolist()
    made = [_crop(photographs()[index % len(NAMES)], height, width, *draw) for index, draw in enumerate(draws)]
    return sent(in_these_channels(torch.stack(made), channels, streams, name, update), streams.device)


def in_these_channels(images: Tensor, channels: int, streams: Streams, name: str, update: int) -> Tensor:
    """Return images (N, 3, H, W) in so many channels: the mean of the colours, or these mixed anew in each image."""
    if channels == 1:
        return images.mean(dim=1, keepdim=True)
    mixing = mixing_of(len(images), channels, streams, f"{name}/channels", update)
    return images if mixing is None else torch.einsum("nkc,nchw->nkhw", mixing.to(images.device), images)


def mixing_of(count: int, channels: int, streams: Streams, name: str, update: int = 0) -> Tensor | None:
    """Return how each of so many images mixes three colours, (count, channels, 3) on the streams' device; None for 1
    or 3 channels, which need no mixing."""
    if channels in (1, 3):
        return None
    mixing = torch.rand((count, channels, 3), generator=streams.host(name, update))
    return (mixing / mixing.sum(dim=2, keepdim=True)).to(streams.device)


def _crop(picture: Tensor, height: int, width: int, size: float, down: float, across: float, flip: float) -> Tensor:
    rows, columns = picture.shape[1:]
    largest = min(rows / height, columns / width)
    scale = largest * (LEAST_AREA + (1 - LEAST_AREA) * size) ** 0.5
    tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = round(down * (rows - tall)), round(across * (columns - wide))
    part = picture[None, :, top : top + tall, left : left + wide]
    if flip < 0.5:
        part = part.flip(3)
    shown = F.interpolate(part, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return shown[0].clamp(0, 1)


def patch(rng: Generator, input_size: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return a part of one of the pictures, scaled to (C, H, W), float32 in [0, 1].

    Its area is uniform between two shares of the picture, its shape that of the images within 4 : 3; one that does not
    fit is drawn again, and cut where the images are so long that none does. Channels are as in `crops`.
    """
    picture = pictures()[rng.integers(len(NAMES))]
    _, height, width = input_size
    for _ in range(_TRIES):
        area = rng.uniform(*AREAS) * picture.width * picture.height
        shape = width / height * (4 / 3) ** rng.uniform(-1, 1)
        wide, tall = math.sqrt(area * shape), math.sqrt(area / shape)
        if wide <= picture.width and tall <= picture.height:
            break
    wide, tall = min(wide, picture.width), min(tall, picture.height)
    left, top = rng.uniform(0, picture.width - wide), rng.uniform(0, picture.height - tall)
    box = (left, top, left + wide, top + tall)
    shown = picture.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    colours = np.asarray(shown, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    return in_channels(colours, rng, input_size[0])


def in_channels(colours: NDArray[np.float32], rng: Generator, channels: int) -> NDArray[np.float32]:
    """Return an image (3, H, W) in so many channels: the mean of the colours, or these mixed anew."""
    if channels == 3:
        return colours
    mixing = rng.random((channels, 3)) if channels > 1 else np.ones((1, 3))
    mixed = np.tensordot(mixing / mixing.sum(axis=1, keepdims=True), colours, 1)
    return np.asarray(mixed, dtype=np.float32)
