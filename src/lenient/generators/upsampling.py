"""The up-sampling convolutional generator of DAFL and its descendants, for any image size."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lenient.core.config import Settings
from lenient.core.doubling import convolved_at
from lenient.core.reductions import full
from lenient.core.seeding import Streams
from lenient.models.names import OWN, with_whole_path

Space = Literal["pixels", "normalized"]
"""What a generator's numbers mean: pixel units, or the teacher's normalised inputs."""


class GeneratorSettings(Settings):
    """Shape of the generator; TA-DFKD at 32x32 has 8.4 M parameters (recipe `published`), the defaults 0.2 M."""

    latent_dim: int = Field(100, ge=1, le=2**16)
    """Length of the latent vector z (TA-DFKD, DAFL, PRE-, MB- and META-DFKD: 1000; DFAD: 256; CuDFKD: 512)."""
    width: int = Field(32, ge=2, le=2**13)
    """Channels of the first feature maps; the last stage has half (released codes: 128)."""
    bn_eps: float = Field(1e-5, gt=0, le=1e6)
    """Epsilon of the batch norms after convolutions (many released codes: 0.8, most likely meant as the momentum)."""
    stages: int | None = Field(None, ge=1, le=6)
    """Doublings of the feature map; by default two, more where the first map would exceed 16x16."""
    output: Literal["sigmoid", "tanh-bn", "bn"] = "sigmoid"
    """Last layer: pixels by a sigmoid; or the teacher's normalised space by tanh and a batch norm without affine part
    (DAFL and heirs), or by an affine batch norm alone (ZSKT)."""
    output_moments: (
        tuple[Annotated[float, Field(ge=-1e6, le=1e6)], Annotated[float, Field(gt=0, le=1e6)]] | Literal["auto"] | None
    ) = None
    """Mean and deviation that a last batch norm without affine part gives the images in the teacher's normalised space,
    or an affine one starts from; null: 0 and 1 (released codes), `auto`: what the teacher's batch norms tell of the
    images that they saw."""
    stem_activation: bool = True
    """Whether a leaky ReLU follows the first batch norm (DAFL and heirs: none)."""
    conv_bias: bool = True
    """Whether convolutions before a batch norm, which takes any bias away again, have one (CMI, FastDFKD: no)."""
    halve_each_stage: bool = False
    """Whether every stage has half the channels of the one before, not the last alone (CuDFKD, CMI)."""
    spectral_norm: bool = False
    """Whether convolutions are divided by their largest singular value (PRE-, MB- and META-DFKD)."""
    factory: str | None = Field(None, max_length=4096)
    """Function of your own that makes the generator instead, as py:FILE.py:FUNCTION; of the settings above only
    `latent_dim` counts then."""

    @field_validator("factory")
    @classmethod
    def _where_it_lies(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(rf"{OWN}[^\n]+:[^:\n]+", name):
            raise ValueError("write py:FILE.py:FUNCTION or py:package.module:FUNCTION")
        return None if name is None else with_whole_path(name)


class UpsamplingGenerator(nn.Module):
    """Latents (N, latent_dim) to images (N, C, H, W): linear, then nearest up-sampling and 3x3 convolutions.

    Equal to the generators of the released codes where two doublings lead to the image size (multiples of 4); for other
    sizes each map is rounded up and the up-sampling goes to the exact size. `space` says what its numbers mean.
    """

    def __init__(self, input_size: tuple[int, int, int], settings: GeneratorSettings | None = None) -> None:
        super().__init__()
        settings = settings or GeneratorSettings()
        channels, height, width = input_size
        stages = settings.stages or max(2, math.ceil(math.log2(max(height, width) / 16)))
        self.sizes = [(math.ceil(height / 2**k), math.ceil(width / 2**k)) for k in range(stages, -1, -1)]
        self.latent_dim, self.width = settings.latent_dim, settings.width
        self.stem_slope = 0.2 if settings.stem_activation else 1.0
        self.output = settings.output
        self.moments = settings.output_moments if settings.output_moments != "auto" else None
        self.space: Space = "pixels" if settings.output == "sigmoid" else "normalized"
        self.project = nn.Linear(self.latent_dim, self.width * self.sizes[0][0] * self.sizes[0][1])
        self.stem = nn.BatchNorm2d(self.width)
        halvings = [stage if settings.halve_each_stage else stage // stages for stage in range(stages + 1)]
        widths = [max(self.width >> halving, 1) for halving in halvings]
        bias = settings.conv_bias
        self.convs = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 3, padding=1, bias=bias) for i in range(stages))
        self.norms = nn.ModuleList(nn.BatchNorm2d(widths[i + 1], eps=settings.bn_eps) for i in range(stages))
        self.to_pixels = nn.Conv2d(widths[-1], channels, 3, padding=1)
        if settings.spectral_norm:
            for conv in [*self.convs, self.to_pixels]:
                spectral_norm(conv)
        self.last_norm = (
            nn.Identity() if self.space == "pixels" else nn.BatchNorm2d(channels, affine=settings.output == "bn")
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Draw one image per latent vector, float32."""
        maps = self.project(latents).view(-1, self.width, *self.sizes[0])
        maps = F.leaky_relu(self.stem(maps), self.stem_slope)
        for size, conv, norm in zip(self.sizes[1:], self.convs, self.norms, strict=True):
            maps = F.leaky_relu(norm(convolved_at(size, maps, cast(nn.Conv2d, conv))), 0.2)
        drawn: Tensor = full(self.to_pixels(maps))
        if self.output == "sigmoid":
            return drawn.sigmoid()
        images: Tensor = self.last_norm(drawn.tanh() if self.output == "tanh-bn" else drawn)
        return images if self.moments is None else images * self.moments[1] + self.moments[0]


def first_layers_anew(generator: nn.Module, streams: Streams, name: str, update: int) -> dict[str, Tensor]:
    """Return new tensors for the linear layer and the first batch norm of such a generator, by their names in it:
    weights N(0, 0.02^2), the batch norm's too, and biases of zero (FastDFKD). The key is that of a random stream."""
    anew: dict[str, Tensor] = {}
    for layer in ("project", "stem"):
        weight, bias = (generator.get_parameter(f"{layer}.{part}") for part in ("weight", "bias"))
        drawn = 0.02 * streams.normal(f"{name}/{layer}", update, tuple(weight.shape))
        anew |= {f"{layer}.weight": drawn.to(weight.dtype), f"{layer}.bias": torch.zeros_like(bias)}
    return anew


def normal_layers(generator: nn.Module, streams: Streams, name: str, update: int) -> dict[str, Tensor]:
    """Return new tensors for all convolutions, linear layers and batch norms of a generator, by their names in it:
    weights N(0, 0.02^2), of batch norms N(1, 0.02^2), and biases of zero (CMI). The key is that of a random stream."""
    anew: dict[str, Tensor] = {}
    for place, layer in generator.named_modules():
        norm = isinstance(layer, nn.modules.batchnorm._BatchNorm)
        if not norm and not isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
            continue
        for part, tensor in layer.named_parameters(place, recurse=False):
            if part.endswith("bias"):
                anew[part] = torch.zeros_like(tensor)
            else:
                drawn = 0.02 * streams.normal(f"{name}/{part}", update, tuple(tensor.shape)) + float(norm)
                anew[part] = drawn.to(tensor.dtype)
    return anew
