"""A batch of images whose latent codes are parameters, together with the generator that draws them (FastDFKD)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lenient.synthesis.iterate import Iterate


class Latents(Iterate):
    """Codes (B, d), and the generator that is adapted together with them.

    Args:
        generator: draws images of codes.
        shape: of the batch that it draws, (B, C, H, W); until a first loss is known, the best iterate is grey.
        codes: number of a batch to the codes that it starts from.
        weights: number of a batch to the generator's tensors that start anew, by name: all of them (a meta-generator's,
            or drawn again), some, or none.
    """

    def __init__(
        self,
        generator: nn.Module,
        shape: tuple[int, ...],
        codes: Callable[[int], Tensor],
        weights: Callable[[int], Mapping[str, Tensor]],
    ) -> None:
        def fresh(number: int) -> dict[str, Tensor]:
            return {"codes": codes(number)} | {f"generator.{name}": own for name, own in weights(number).items()}

        first = codes(0)
        super().__init__(torch.full(shape, 0.5, dtype=first.dtype, device=first.device), fresh)
        self.generator = generator
        self.codes = nn.Parameter(first)
