"""Strong changes of finished images, whose labels the teacher gives anew: those of ZSKD (Nayak et al., ICML 2019)."""

from __future__ import annotations

import math
from functools import cache
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from lenient.core import ranks
from lenient.core.runtime import sent
from lenient.core.seeding import Streams

SCALES = (0.9, 0.75, 0.6)
SHIFT = 0.2
"""Share of a side that an image is moved by, in one of four directions."""
ANGLES = tuple(-90.0 + 20.0 * number for number in range(10))
"""Degrees, evenly from -90 to 90."""
PEPPERED, DEVIATION = 0.05, 0.1
"""Share of the pixels that become black or white, and the deviation of normal noise in pixel units: our choice, since
the released code's are not known to us."""

Matrix = tuple[tuple[float, ...], ...]
"""Rows (3 x 3) that lead from a place in the distorted image to one in the image, both in [-1, 1]."""
SAME: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@cache
def kinds(aspect: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the 106 distortions of images whose height is `aspect` times their width: matrices (106, 2, 3) as
    `affine_grid` takes them, and (106,) bool twice: with black and white pixels, with noise.

    As it is, 3 scales, 4 moves, 10 turns, 3 mirrorings (the last at the diagonal, which stretches what is no square),
    pixels, noise; then each scale with each move, move with turn, scale with turn, and pixels with noise.
    """
    scales = [_matrix((1 / own, 0, 0), (0, 1 / own, 0)) for own in SCALES]
    moves = [
        _matrix((1, 0, x), (0, 1, y)) for x, y in ((2 * SHIFT, 0), (-2 * SHIFT, 0), (0, 2 * SHIFT), (0, -2 * SHIFT))
    ]
    turns = [_turn(math.radians(angle), aspect) for angle in ANGLES]
    mirrors = [_matrix((-1, 0, 0), (0, 1, 0)), _matrix((1, 0, 0), (0, -1, 0)), _matrix((0, 1, 0), (1, 0, 0))]
    pairs = [*product(scales, moves), *product(moves, turns), *product(scales, turns)]
    moved = [SAME, *scales, *moves, *turns, *mirrors, *(_after(*pair) for pair in pairs)]
    matrices = torch.tensor([*moved, SAME, SAME, SAME], dtype=torch.float64)[:, :2]
    numbers = torch.arange(len(matrices))
    peppered, noisy = numbers >= len(moved), numbers >= len(moved)
    peppered[len(moved) + 1] = noisy[len(moved)] = False
    return matrices, peppered, noisy


def _matrix(across: tuple[float, float, float], down: tuple[float, float, float]) -> Matrix:
    return (across, down, SAME[2])


def _turn(angle: float, aspect: float) -> Matrix:
    cos, sin = math.cos(angle), math.sin(angle)
    return _matrix((cos, -sin * aspect, 0), (sin / aspect, cos, 0))


def _after(first: Matrix, then: Matrix) -> Matrix:
    """Return both, one after the other: a place is led back through the second, then through the first."""
    return tuple(
        tuple(sum(a * b for a, b in zip(row, column, strict=True)) for column in zip(*then, strict=True))
        for row in first
    )


def distorted(images: Tensor, streams: Streams, name: str, update: int) -> Tensor:
    """Return this rank's images (N, C, H, W) in pixel units, each with a distortion drawn from the 106, by the key of a
    random stream for the whole batch. What comes in from outside is black; the gradient to the images is kept."""
    count, _, height, width = images.shape
    whole = count * ranks.count()
    matrices, peppered, noisy = (sent(own, images.device) for own in kinds(height / width))
    kind = ranks.mine(streams.integers(f"{name}/kind", update, (whole,), len(matrices)))
    grid = F.affine_grid(matrices[kind].to(images.dtype), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    at = ranks.mine(streams.uniform(f"{name}/pepper", update, (whole, 1, height, width)))
    hit = (peppered[kind].view(-1, 1, 1, 1)) & (at < PEPPERED)
    moved = torch.where(hit, (at < PEPPERED / 2).to(moved.dtype), moved)
    noise = ranks.mine(streams.normal(f"{name}/noise", update, (whole, *images.shape[1:])))
    return moved + DEVIATION * noise.to(moved.dtype) * noisy[kind].view(-1, 1, 1, 1)
