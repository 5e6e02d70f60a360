"""KegNet's networks: a small generator of transposed convolutions that is asked for a class, and a decoder that reads
the latent vector back (Yoo et al., NeurIPS 2019)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from lenient.core.reductions import full
from lenient.generators.upsampling import GeneratorSettings, Space
from lenient.models.card import Card

LEAST = 1e-5
"""Added to an image's deviation, which is 0 where it has one colour."""


class TransposedGenerator(nn.Module):
    """Latents (N, latent_dim) and classes (N,) to images (N, C, H, W): the class as a vector of zeros and a one beside
    the latents, two linear layers, one transposed convolution to 4x4, one for each doubling, tanh.

    Each channel of each image is then centred and divided by its deviation over the image's pixels, so that all images
    have one brightness and contrast. Equal to the paper's at 32x32 with `width` 64; sizes that are no power of two are
    cut out of the middle.
    """

    space: Space = "normalized"

    def __init__(self, card: Card, settings: GeneratorSettings) -> None:
        super().__init__()
        channels, self.height, self.breadth = card.input_size
        self.latent_dim, self.num_classes, width = settings.latent_dim, card.num_classes, settings.width
        doublings = max(math.ceil(math.log2(max(self.height, self.breadth) / 4)), 0)
        widths = [2 * width, *(max(width >> 2 * stage, 4) for stage in range(doublings)), channels]
        self.project = nn.Sequential(
            nn.Linear(self.latent_dim + self.num_classes, 4 * width),
            nn.BatchNorm1d(4 * width),
            nn.ReLU(),
            nn.Linear(4 * width, 2 * width),
            nn.BatchNorm1d(2 * width),
            nn.ReLU(),
        )
        layers: list[nn.Module] = []
        for stage, (before, after) in enumerate(pairwise(widths)):
            layers.append(nn.ConvTranspose2d(before, after, 4, 2, padding=int(stage > 0), bias=False))
            layers += [nn.BatchNorm2d(after), nn.ReLU()] if stage < doublings else [nn.Tanh()]
        self.body = nn.Sequential(*layers)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Draw one image of class `labels[i]` per latent vector, float32."""
        wanted = labels[:, None] == torch.arange(self.num_classes, device=labels.device)
        code = self.project(torch.cat([latents, wanted.to(latents.dtype)], dim=1))
        drawn = full(self.body(code[:, :, None, None]))
        down, across = (drawn.shape[2] - self.height) // 2, (drawn.shape[3] - self.breadth) // 2
        images = drawn[:, :, down : down + self.height, across : across + self.breadth]
        deviations, means = torch.std_mean(images, dim=(2, 3), keepdim=True)
        return (images - means) / (deviations + LEAST)


class Decoder(nn.Module):
    """Normalised images (N, C, H, W) to the latents (N, latent_dim) that they were drawn from: linear layers of 120,
    each with an ELU and then a batch norm, one and `layers` more, and a last one."""

    def __init__(self, input_size: tuple[int, int, int], latent_dim: int, layers: int, width: int = 120) -> None:
        super().__init__()
        sizes = [math.prod(input_size), *[width] * (layers + 1)]
        blocks = [
            nn.Sequential(nn.Linear(before, after), nn.ELU(), nn.BatchNorm1d(after))
            for before, after in pairwise(sizes)
        ]
        self.body = nn.Sequential(nn.Flatten(), *blocks, nn.Linear(width, latent_dim))

    def forward(self, images: Tensor) -> Tensor:
        """Return the latents that it reads, float32."""
        return full(self.body(images))
