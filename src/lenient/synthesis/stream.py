"""A generator that draws fresh images from noise for every use."""

from __future__ import annotations

from torch import Tensor, nn

from lenient.runtime import Runtime
from lenient.seeding import Streams


class StreamSource:
    """Latents z ~ N(0, I), keyed by name and turn, through a generator that ends in pixel units."""

    def __init__(self, generator: nn.Module, latent_dim: int, streams: Streams, runtime: Runtime) -> None:
        self.generator, self.latent_dim = generator, latent_dim
        self.streams, self.runtime = streams, runtime

    def sample(self, count: int, name: str, turn: int) -> Tensor:
        """Return `count` images (count, C, H, W); with gradient to the generator unless under `torch.no_grad()`."""
        latents = self.streams.normal(name, turn, (count, self.latent_dim))
        with self.runtime.autocast():
            images: Tensor = self.generator(latents)
        return self.runtime.images(images)
