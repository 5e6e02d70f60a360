"""A generator that is asked for a class: an embedding joins the latent vector (MAD, AdaDFQ)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lenient.generators.upsampling import GeneratorSettings, Space, UpsamplingGenerator

Conditioning = Literal["none", "sum", "cat", "product"]
"""How a class reaches the generator: not at all, its embedding added to z, put beside z, or times z."""


class ConditionalGenerator(nn.Module):
    """Latents (N, latent_dim) and classes (N,) to images, through a learned embedding of each class."""

    def __init__(
        self,
        input_size: tuple[int, int, int],
        settings: GeneratorSettings,
        num_classes: int,
        conditioning: Literal["sum", "cat", "product"],
    ) -> None:
        super().__init__()
        self.conditioning = conditioning
        self.embedding = nn.Embedding(num_classes, settings.latent_dim)
        length = settings.latent_dim * (2 if conditioning == "cat" else 1)
        self.body = UpsamplingGenerator(input_size, settings.model_copy(update={"latent_dim": length}))
        self.space: Space = self.body.space

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Draw one image of class `labels[i]` per latent vector."""
        wanted = self.embedding(labels)
        if self.conditioning == "cat":
            code = torch.cat([latents, wanted], dim=1)
        else:
            code = latents + wanted if self.conditioning == "sum" else latents * wanted
        images: Tensor = self.body(code)
        return images
