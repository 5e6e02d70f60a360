"""A generator that is the teacher in reverse: from maps of its last stage to those of the first, to images (CPNet)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from lenient.core.reductions import full
from lenient.generators.upsampling import Space

Shape = tuple[int, int, int]
"""Channels, height and width of maps."""


class CoupledGenerator(nn.Module):
    """Latents (N, latent_dim) to images (N, C, H, W) in pixel units, by way of maps of given shapes.

    A linear layer and a batch norm give the first maps; each block turns maps into the next ones: nearest up-sampling
    where their size differs, a 3x3 convolution, a batch norm and a leaky ReLU; the last convolution gives pixels.

    Args:
        image: shape of the images.
        cuts: shapes of the maps on the way, from the latents on.
        latent_dim: length of the latents.
    """

    space: Space = "pixels"

    def __init__(self, image: Shape, cuts: Sequence[Shape], latent_dim: int) -> None:
        super().__init__()
        self.first, self.size = cuts[0], image[1:]
        self.sizes = [(height, width) for _, height, width in cuts[1:]]
        channels, height, width = self.first
        self.project = nn.Linear(latent_dim, channels * height * width)
        self.start = nn.BatchNorm2d(channels)
        self.blocks = nn.ModuleList(_block(before[0], after[0]) for before, after in pairwise(cuts))
        self.to_pixels = nn.Conv2d(cuts[-1][0], image[0], 3, padding=1)

    @property
    def taps(self) -> tuple[nn.Module, ...]:
        """What puts out the maps on the way, in their order."""
        return (self.start, *self.blocks)

    def forward(self, latents: Tensor) -> Tensor:
        """Draw one image per latent vector, float32."""
        maps = self.start(self.project(latents).view(-1, *self.first))
        for size, block in zip(self.sizes, self.blocks, strict=True):
            maps = block(_resized(maps, size))
        images: Tensor = full(self.to_pixels(_resized(maps, self.size))).sigmoid()
        return images


def _block(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2))


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if maps.shape[2:] == size else F.interpolate(maps, size=size, mode="nearest")
