"""Crops of two photographs that come with scikit-learn: images that are no noise, and of nobody's data.

A single picture, cropped and scaled in many ways, holds enough of what natural images are made of to learn a good deal
from (Asano and Saeed, "The Augmented Image Prior", ICLR 2023, arXiv 2112.00725).
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lenient.core.seeding import Streams

NAMES = ("china.jpg", "flower.jpg")
LEAST_AREA = 0.02
"""Of a crop, as a share of the largest that fits into the picture."""


@cache
def photographs() -> tuple[Tensor, ...]:
    """Return the pictures, (3, H, W) float32 in [0, 1] on the CPU. scikit-learn's code is not imported for them."""
    import numpy as np
    from PIL import Image

    found = find_spec("sklearn")
    assert found is not None, "a dependency"
    assert found.origin is not None, "a package with code"
    folder = Path(found.origin).parent / "datasets" / "images"
    pixels = [np.asarray(Image.open(folder / name).convert("RGB")) for name in NAMES]
    return tuple(torch.tensor(each).permute(2, 0, 1).float() / 255 for each in pixels)


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
    images = torch.stack(made)
    if channels == 1:
        images = images.mean(dim=1, keepdim=True)
    elif channels != 3:
        mixing = torch.rand((count, channels, 3), generator=streams.host(f"{name}/channels", update))
        images = torch.einsum("nkc,nchw->nkhw", mixing / mixing.sum(dim=2, keepdim=True), images)
    return images.to(streams.device)


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
