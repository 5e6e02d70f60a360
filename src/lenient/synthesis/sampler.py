"""From noise through a generator to images in pixel units."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lenient.core import ranks
from lenient.core.modes import mode
from lenient.core.runtime import Runtime
from lenient.core.seeding import Streams


class Host(Protocol):
    """Who knows the space between pixel units and normalised inputs: the frozen teacher."""

    def normalize(self, images: Tensor) -> Tensor:
        """Pixel units to normalised inputs."""
        ...

    def denormalize(self, inputs: Tensor) -> Tensor:
        """Normalised inputs to pixel units."""
        ...


class Drawing(NamedTuple):
    """Images (N, C, H, W) in pixel units, the classes (N,) a conditional generator was asked for, and the latents (N,
    latent_dim)."""

    images: Tensor
    labels: Tensor | None
    latents: Tensor


class Sampler:
    """Latents z ~ N(0, I), keyed by name and update, through a generator; images come out in pixel units.

    A generator that draws in the teacher's normalised space (`space`) is converted here, nowhere else. With
    `num_classes`, classes are drawn uniformly and given to the generator beside z.
    """

    def __init__(
        self,
        generator: nn.Module,
        latent_dim: int,
        streams: Streams,
        runtime: Runtime,
        host: Host | None = None,
        num_classes: int | None = None,
    ) -> None:
        self.generator, self.latent_dim = generator, latent_dim
        self._plain = runtime.compiled(generator)
        self.streams, self.runtime = streams, runtime
        self.host, self.num_classes = host, num_classes

    def twin(self) -> Sampler:
        """Return a sampler with the same weights, not a copy of them, and with buffers and modes of its own."""
        shared = {id(parameter): parameter for parameter in self.generator.parameters()}
        generator = copy.deepcopy(self.generator, shared)
        return Sampler(generator, self.latent_dim, self.streams, self.runtime, self.host, self.num_classes)

    def sample(
        self, count: int, name: str, update: int, generator: Callable[..., Tensor] | None = None, *, whole: bool = False
    ) -> Drawing:
        """Return this rank's rows of `count` images, or all of them; with gradient to the generator unless under
        `torch.no_grad()`."""
        given: list[Tensor] = [self.streams.normal(name, update, (count, self.latent_dim)).to(self.runtime.dtype)]
        if self.num_classes is not None:
            given.append(self.streams.integers(f"{name}/labels", update, (count,), self.num_classes))
        if not whole:
            given = [ranks.mine(draw) for draw in given]
        return Drawing(self.draw(*given, generator=generator), given[1] if len(given) > 1 else None, given[0])

    def draw(self, *given: Any, generator: Callable[..., Tensor] | None = None) -> Tensor:
        """Return the images (N, C, H, W) of what the generator takes: latents and, where it is conditional, classes."""
        with self.runtime.autocast():
            drawn: Tensor = (generator or self._plain)(*given)
        if self.host is not None and getattr(self.generator, "space", "pixels") == "normalized":
            drawn = self.host.denormalize(drawn)
        return self.runtime.images(drawn)

    def show(self, count: int, name: str, update: int) -> Tensor:
        """Return images without gradient that leave no trace: the generator in eval mode, its buffers as they were.

        Every rank draws them all.
        """
        with mode(self.generator, "eval"), torch.no_grad():
            return self.sample(count, name, update, self.generator, whole=True).images
