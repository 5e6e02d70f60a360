"""The encoder that makes a memory generator trainable as a variational autoencoder (PRE-DFKD)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Encoder(nn.Module):
    """Images (N, C, H, W) in normalised space to mean and log-variance of latents, (N, latent_dim) each.

    Every column of every channel is divided by its L2 norm first, as released, so brightness is not encoded. Three
    convolutions and two halvings by nearest neighbour lead to about an eighth of the height and width.
    """

    def __init__(self, input_size: tuple[int, int, int], latent_dim: int, width: int, bn_eps: float = 1e-5) -> None:
        super().__init__()
        channels, height, width_ = input_size
        narrow = max(width // 2, 1)
        self.sizes = [(_half(height), _half(width_))]
        strided = ((self.sizes[0][0] + 1) // 2, (self.sizes[0][1] + 1) // 2)
        self.sizes.append((_half(strided[0]), _half(strided[1])))
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(channels, narrow, 3, padding=1),
                nn.Conv2d(narrow, width, 3, padding=1),
                nn.Conv2d(width, width, 3, stride=2, padding=1),
            ]
        )
        self.norms = nn.ModuleList(
            [nn.BatchNorm2d(narrow, eps=bn_eps), nn.BatchNorm2d(width, eps=bn_eps), nn.BatchNorm2d(width)]
        )
        positions = self.sizes[1][0] * self.sizes[1][1]
        self.mean = nn.Linear(width * positions, latent_dim)
        self.log_variance = nn.Linear(width * positions, latent_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance."""
        maps = F.normalize(images, dim=2)
        maps = F.leaky_relu(self.norms[0](self.convs[0](maps)), 0.2)
        maps = F.leaky_relu(self.norms[1](self.convs[1](maps)), 0.2)
        maps = self.norms[2](self.convs[2](F.interpolate(maps, size=self.sizes[0], mode="nearest")))
        code = F.interpolate(maps, size=self.sizes[1], mode="nearest").flatten(1)
        return self.mean(code), self.log_variance(code)


def _half(size: int) -> int:
    return max(size // 2, 1)
