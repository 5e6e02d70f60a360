"""Strongly changed parts of the two photographs: cut out, turned, sheared, some in other colours.

After Asano, Saeed, "The Augmented Image Prior", ICLR 2023, arXiv 2112.00725, whose code makes 50,000 of them once.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lenient.core.runtime import sent
from lenient.core.seeding import Streams
from lenient.synthesis.photo import NAMES, in_these_channels, pictures

FIRST_SIDE = 0.5
"""Side of the first cut, as a share of the largest of the images' shape that fits into the picture."""
AREAS, SHAPE = (1 / 500, 1.0), 4 / 3
"""Of the second cut: its area as shares of the first, and how far its shape may be from the images'."""
LARGER = math.sqrt(2)
"""What it is scaled to, in sides of the images, so that there is something around them when it is turned."""
TURN = SHEAR = 30.0
"""Degrees at most, in both directions."""
BRIGHT = CONTRAST = SATURATION = 0.4
HUE = 0.1
"""How far the factors are from 1 at most, and the hue from its own in turns of the circle of colours."""
GREY = (0.299, 0.587, 0.114)
"""Shares of the colours in grey."""


def patches(count: int, input_size: tuple[int, int, int], streams: Streams, name: str, update: int) -> Tensor:
    """Return patches (count, C, H, W) in [0, 1], float32 on the streams' device, by the key of a random stream."""
    rng = streams.numpy(name, update)
    size = input_size[1:]
    made = np.stack([_patch(rng, pictures()[rng.integers(len(NAMES))], *size) for _ in range(count)])
    images = torch.from_numpy(made).permute(0, 3, 1, 2).float() / 255
    chosen = torch.from_numpy(rng.random((count, 1, 1, 1)) < 0.5)
    images = torch.where(chosen, coloured(images, rng), images)
    return sent(in_these_channels(images, input_size[0], streams, name, update), streams.device)


def _patch(rng: Generator, picture: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    """Cut one patch (H, W, 3) out of a picture."""
    largest = min(picture.height / height, picture.width / width)
    first = (FIRST_SIDE * largest * width, FIRST_SIDE * largest * height)
    wide, tall = (side * share for side, share in zip(first, second_cut(rng), strict=True))
    left, top = rng.uniform(0, picture.width - first[0]), rng.uniform(0, picture.height - first[1])
    left, top = left + rng.uniform(0, first[0] - wide), top + rng.uniform(0, first[1] - tall)
    larger = (int(LARGER * width), int(LARGER * height))
    box = (left, top, left + wide, top + tall)
    part = picture.resize(larger, Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    angle, shear = np.deg2rad(rng.uniform(-1, 1, 2) * (TURN, SHEAR))
    a, b, d, e = math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle)
    a, b = a + math.tan(shear) * d, b + math.tan(shear) * e  # where a pixel comes from: turned back, then sheared back
    c, f = (larger[0] - a * width - b * height) / 2, (larger[1] - d * width - e * height) / 2  # from the middle
    shown = part.transform((width, height), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR)
    return np.asarray(shown)


def second_cut(rng: Generator) -> tuple[float, float]:
    """Return width and height of the second cut as shares of the first: one that does not fit is drawn again."""
    while True:
        area, shape = rng.uniform(*AREAS), SHAPE ** rng.uniform(-1, 1)
        wide, tall = math.sqrt(area * shape), math.sqrt(area / shape)
        if wide <= 1 and tall <= 1:
            return wide, tall


def coloured(images: Tensor, rng: Generator) -> Tensor:
    """Return images (N, 3, H, W) in [0, 1] in other light and colours; the order of these is one draw for the batch.

    Hue is turned around the axis of greys.
    """
    light, contrast, colour = (
        torch.from_numpy(1 + limit * rng.uniform(-1, 1, (len(images), 1, 1, 1))).float()
        for limit in (BRIGHT, CONTRAST, SATURATION)
    )
    angles = torch.from_numpy(2 * math.pi * HUE * rng.uniform(-1, 1, len(images))).float()

    def grey(images: Tensor) -> Tensor:
        return (images * torch.tensor(GREY).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)

    def blended(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
        return other + factor * (images - other)

    changes = (
        lambda images: images * light,
        lambda images: blended(images, grey(images).mean(dim=(2, 3), keepdim=True), contrast),
        lambda images: blended(images, grey(images), colour),
        lambda images: torch.einsum("nij,njhw->nihw", hue(angles), images),
    )
    for number in rng.permutation(len(changes)):
        images = changes[number](images).clamp(0, 1)
    return images


def hue(angles: Tensor) -> Tensor:
    """Return the maps (N, 3, 3) of colours that turn them by angles (N,) around the axis of greys."""
    axis = torch.full((3, 3), 1 / 3)
    root = math.sqrt(1 / 3)
    across = torch.tensor([[0.0, -root, root], [root, 0.0, -root], [-root, root, 0.0]])
    cosine, sine = angles.cos().view(-1, 1, 1), angles.sin().view(-1, 1, 1)
    return cosine * torch.eye(3) + sine * across + (1 - cosine) * axis
