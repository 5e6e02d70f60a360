"""New images out of images: cut and turned, crossed, coloured anew, or pasted onto another ground."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lenient.core import ranks
from lenient.core.seeding import Streams

ZOOM, TURN, MOVE = (0.7, 1.15), 20.0, 0.15
"""Sides of what is cut out as shares of the image; degrees at most; and how far its middle may lie from the image's."""
SIDES = (0.4, 0.9)
"""Of the box that another image is taken from, as shares of the image."""


def mutated(images: Tensor, partners: Tensor, grounds: Tensor, streams: Streams, name: str, update: int) -> Tensor:
    """Return this rank's images (N, C, H, W) in [0, 1], each changed in one of four ways, by chance.

    A part of it, turned; a box of `partners` (N, C, H, W) in it; its channels scaled, shifted and half of the time
    turned into their negative; or a box of it on `grounds` (N, C, H, W).
    """
    count, channels, height, width = images.shape

    def draw(what: str, *shape: int) -> Tensor:
        whole = streams.uniform(f"{name}/{what}", update, (count * ranks.count(), *shape))
        return ranks.mine(whole).to(images.dtype)

    inside = boxes(draw("box", 4), height, width)
    gains, offsets = 0.5 + draw("gain", channels, 1, 1), 0.4 * draw("offset", channels, 1, 1) - 0.2
    negative = draw("negative", 1, 1, 1) < 0.5
    ways = (
        _cut(images, draw("cut", 4)),
        torch.where(inside, partners, images),
        torch.where(negative, 1 - images, images) * gains + offsets,
        torch.where(inside, images, grounds),
    )
    chosen = (draw("way") * len(ways)).long()
    return torch.stack(ways)[chosen, torch.arange(count, device=images.device)].clamp(0, 1)


def boxes(draws: Tensor, height: int, width: int) -> Tensor:
    """Return which pixels lie in a box, one for each of draws (N, 4), inside of the image: (N, 1, H, W) bool."""
    sides = SIDES[0] + (SIDES[1] - SIDES[0]) * draws[:, :2]
    starts = draws[:, 2:] * (1 - sides)

    def within(axis: int, length: int) -> Tensor:
        middles = (torch.arange(length, device=draws.device) + 0.5) / length
        low = starts[:, axis, None]
        return (middles >= low) & (middles < low + sides[:, axis, None])

    return (within(0, height)[:, :, None] & within(1, width)[:, None, :])[:, None]


def _cut(images: Tensor, draws: Tensor) -> Tensor:
    """Return a turned part of each image (N, C, H, W) in its size, edges repeated."""
    zoom = ZOOM[0] + (ZOOM[1] - ZOOM[0]) * draws[:, 0]
    angle = math.radians(TURN) * (2 * draws[:, 1] - 1)
    move = 2 * MOVE * (2 * draws[:, 2:] - 1)
    stretch = images.shape[3] / images.shape[2]
    sine, cosine = zoom * angle.sin(), zoom * angle.cos()
    rows = (cosine, -sine / stretch, move[:, 0], sine * stretch, cosine, move[:, 1])
    maps = torch.stack(rows, dim=1).view(-1, 2, 3).to(images.dtype)
    places = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, places, padding_mode="border", align_corners=False)
