"""The up-sampling convolutional generator of DAFL and its descendants, for any image size."""

from __future__ import annotations

import math

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lenient.config import Settings


class GeneratorSettings(Settings):
    """Shape of the generator; TA-DFKD at 32x32 has 8.4 M parameters (recipe `published`), the defaults 0.2 M."""

    latent_dim: int = Field(100, ge=1)
    """Length of the latent vector z (paper: 1000)."""
    width: int = Field(32, ge=2)
    """Channels of the first feature maps; the last stage has half (released code: 128)."""
    bn_eps: float = Field(1e-5, gt=0)
    """Epsilon of the batch norms after convolutions (released code: 0.8, most likely meant as the momentum)."""
    stages: int | None = Field(None, ge=1, le=6)
    """Doublings of the feature map; by default two, more where the first map would exceed 16x16."""


class UpsamplingGenerator(nn.Module):
    """Latents (N, latent_dim) to images (N, C, H, W) in [0, 1]: linear, then nearest up-sampling and 3x3 convolutions.

    Equal to the generator of TA-DFKD's released code where two doublings lead to the image size (multiples of 4);
    for other sizes each map is rounded up and the up-sampling goes to the exact size.
    """

    def __init__(self, input_size: tuple[int, int, int], settings: GeneratorSettings | None = None) -> None:
        super().__init__()
        settings = settings or GeneratorSettings()
        channels, height, width = input_size
        stages = settings.stages or max(2, math.ceil(math.log2(max(height, width) / 16)))
        self.sizes = [(math.ceil(height / 2**k), math.ceil(width / 2**k)) for k in range(stages, -1, -1)]
        self.latent_dim, self.width = settings.latent_dim, settings.width
        self.project = nn.Linear(self.latent_dim, self.width * self.sizes[0][0] * self.sizes[0][1])
        self.stem = nn.BatchNorm2d(self.width)
        widths = [self.width] * stages + [max(self.width // 2, 1)]
        self.convs = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 3, padding=1) for i in range(stages))
        self.norms = nn.ModuleList(nn.BatchNorm2d(widths[i + 1], eps=settings.bn_eps) for i in range(stages))
        self.to_pixels = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Draw one image per latent vector."""
        maps = self.project(latents).view(-1, self.width, *self.sizes[0])
        maps = F.leaky_relu(self.stem(maps), 0.2)
        for size, conv, norm in zip(self.sizes[1:], self.convs, self.norms, strict=True):
            maps = F.leaky_relu(norm(conv(F.interpolate(maps, size=size, mode="nearest"))), 0.2)
        images: Tensor = self.to_pixels(maps).float().sigmoid()
        return images
