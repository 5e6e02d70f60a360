"""A batch of images together with the generator that draws them, which is adapted to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lenient.synthesis.iterate import Iterate


class Adapted(Iterate):
    """The generator that is adapted to a batch of what it is asked for (NAYER, CPNet).

    Args:
        generator: draws the images.
        shape: of the batch that it draws, (B, C, H, W); until a first loss is known, the best iterate is grey.
        weights: number of a batch to the generator's tensors that start anew, by name: all of them (a meta-generator's,
            or drawn again), some, or none.
    """

    def __init__(
        self, generator: nn.Module, shape: tuple[int, ...], weights: Callable[[int], Mapping[str, Tensor]]
    ) -> None:
        def fresh(number: int) -> dict[str, Tensor]:
            return self.own(number) | {f"generator.{name}": start for name, start in weights(number).items()}

        like = next(generator.parameters())
        super().__init__(torch.full(shape, 0.5, dtype=like.dtype, device=like.device), fresh)
        self.generator = generator

    def own(self, number: int) -> dict[str, Tensor]:
        """Return what else a batch starts from, by its name here."""
        return {}


class Latents(Adapted):
    """Codes (B, d), and the generator that is adapted together with them (FastDFKD, CMI).

    `codes` turns the number of a batch into those that it starts from; the rest is as in `Adapted`.
    """

    def __init__(
        self,
        generator: nn.Module,
        shape: tuple[int, ...],
        codes: Callable[[int], Tensor],
        weights: Callable[[int], Mapping[str, Tensor]],
    ) -> None:
        super().__init__(generator, shape, weights)
        self.start = codes
        self.codes = nn.Parameter(codes(0))

    def own(self, number: int) -> dict[str, Tensor]:
        """Return the codes that a batch starts from."""
        return {"codes": self.start(number)}
