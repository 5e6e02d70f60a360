"""Procedural images: figures on a ground, drawn by chance and after nobody's data.

A ground is flat, chequered, a gradient or a part of a photograph; on it lie up to three figures: ellipses, rectangles,
symmetric polygons and stars, blobs, and lines. There are no glyphs of a font: to a teacher that reads, they would be
training images.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from lenient.core.runtime import sent
from lenient.core.seeding import Streams
from lenient.synthesis.photo import patch

Pixels = NDArray[np.float32]
Points = NDArray[np.float64]
Size = tuple[int, int, int]

MOST_FIGURES = 3
"""On one ground."""


def drawings(numbers: range, input_size: Size, streams: Streams, name: str, photos: float = 0.0) -> Tensor:
    """Return the images of these numbers, (n, C, H, W) float32 in [0, 1] on the streams' device; a share `photos` of
    them are parts of photographs, without figures.

    Each depends on the streams' seed, `name`, `photos` and its own number only, however they are put together.
    """

    def made(number: int) -> Pixels:
        rng = streams.numpy(name, number)
        return patch(rng, input_size) if rng.random() < photos else _drawing(rng, input_size)

    return sent(torch.from_numpy(np.stack([made(number) for number in numbers])), streams.device)


def _drawing(rng: Generator, size: Size) -> Pixels:
    """Draw one image (C, H, W)."""
    image = GROUNDS[rng.integers(len(GROUNDS))](rng, size)
    for _ in range(rng.integers(MOST_FIGURES + 1)):
        points = FIGURES[rng.integers(len(FIGURES))](rng)
        closed = bool((points[0] == points[-1]).all())
        corners = points * rng.uniform(0.08, 0.45) @ _turn(rng.uniform(0, 2 * math.pi)) + rng.uniform(0.2, 0.8, 2)
        if closed:
            image = _laid(image, _mask(corners, size), _colour(rng, size))
        if not closed or rng.random() < 1 / 3:
            image = _laid(image, _mask(corners, size, rng.uniform(0.02, 0.12)), _colour(rng, size))
    return image


def _laid(image: Pixels, mask: Pixels, colour: Pixels) -> Pixels:
    return image + mask * (colour - image)


def _mask(corners: Points, size: Size, line: float | None = None) -> Pixels:
    """Return how far each pixel (H, W) is covered by a polygon, or by a line of a width, all in shares of the image."""
    height, width = size[1:]
    fine = 3 if max(height, width) <= 64 else 2
    canvas = Image.new("L", (width * fine, height * fine))
    pen = ImageDraw.Draw(canvas)
    points = [(float(x), float(y)) for x, y in corners * (width * fine, height * fine)]
    if line is None:
        pen.polygon(points, fill=255)
    else:
        pen.line(points, fill=255, width=max(1, round(line * fine * min(height, width))), joint="curve")
    return np.asarray(canvas.reduce(fine), dtype=np.float32) / np.float32(255)


def _colour(rng: Generator, size: Size) -> Pixels:
    """Return a colour (C, 1, 1); a third are black, white or a grey."""
    channels = size[0]
    kind = rng.integers(9)
    values = rng.random(channels) if kind > 2 else np.full(channels, (0.0, 1.0, rng.random())[kind])
    return np.asarray(values, dtype=np.float32).reshape(-1, 1, 1)


def _grid(size: Size, rng: Generator) -> tuple[Pixels, Pixels]:
    """Return both coordinates of each pixel (H, W), in shares of the image, turned."""
    height, width = size[1:]
    down, across = np.meshgrid(
        np.linspace(-0.5, 0.5, height, dtype=np.float32), np.linspace(-0.5, 0.5, width, dtype=np.float32), indexing="ij"
    )
    angle = rng.uniform(0, 2 * math.pi)
    return down * math.cos(angle) + across * math.sin(angle), across * math.cos(angle) - down * math.sin(angle)


def _flat(rng: Generator, size: Size) -> Pixels:
    return np.broadcast_to(_colour(rng, size), size)


def _checks(rng: Generator, size: Size) -> Pixels:
    """Return checks of two colours; where one side is long, stripes."""
    down, across = _grid(size, rng)
    counts = rng.uniform(1, 8, 2) * (1, rng.integers(2))
    odd = (np.floor(down * counts[0]) + np.floor(across * counts[1])) % 2
    return _laid(_flat(rng, size), odd.astype(np.float32), _colour(rng, size))


def _gradient(rng: Generator, size: Size) -> Pixels:
    down, _ = _grid(size, rng)
    span = np.float32(max(float(np.ptp(down)), 1e-6))
    return _laid(_flat(rng, size), (down - down.min()) / span, _colour(rng, size))


def _photo(rng: Generator, size: Size) -> Pixels:
    return patch(rng, size)


def _round(radius: Points) -> Points:
    """Return points of a closed line around the origin, (n + 1, 2), by its radius at equal angles (n,)."""
    angles = np.linspace(0, 2 * math.pi, len(radius), endpoint=False)
    points = radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.concatenate([points, points[:1]])


def _ellipse(rng: Generator) -> Points:
    return _round(np.ones(24)) * (1, rng.uniform(0.3, 1))


def _rectangle(rng: Generator) -> Points:
    return _round(np.ones(4)) @ _turn(math.pi / 4) * (1, rng.uniform(0.1, 1))


def _polygon(rng: Generator) -> Points:
    """Return a symmetric polygon, half of the time a star."""
    corners = rng.integers(3, 9)
    return _round(np.tile((1.0, rng.uniform(0.3, 0.9)), corners) if rng.random() < 0.5 else np.ones(corners))


def _blob(rng: Generator) -> Points:
    angles = np.linspace(0, 2 * math.pi, 32, endpoint=False)
    orders = np.arange(1, 5)[:, None]
    waves = rng.normal(size=(4, 1)) / orders * np.cos(orders * angles + rng.uniform(0, 2 * math.pi, (4, 1)))
    return _round(np.clip(1 + 0.35 * waves.sum(axis=0), 0.2, 2))


def _line(rng: Generator) -> Points:
    """Return an open line, straight or bent once or twice."""
    bends = int(rng.integers(1, 4))
    place = np.linspace(0, 1, 16)[:, None]
    shares = [math.comb(bends, k) * place**k * (1 - place) ** (bends - k) for k in range(bends + 1)]  # a Bézier curve
    return np.concatenate(shares, axis=1) @ rng.uniform(-1, 1, (bends + 1, 2))


def _turn(angle: float) -> Points:
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


GROUNDS: tuple[Callable[[Generator, Size], Pixels], ...] = (_flat, _checks, _gradient, _photo)
FIGURES: tuple[Callable[[Generator], Points], ...] = (_ellipse, _rectangle, _polygon, _blob, _line)
