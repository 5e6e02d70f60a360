"""A batch of images whose pixels are the parameters (DeepInversion, ZSKD)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lenient.synthesis.iterate import Iterate


class Pixels(Iterate):
    """Images (B, C, H, W), in pixel units or in the teacher's normalised space. `draw` turns the number of a batch into
    those that it starts from."""

    def __init__(self, draw: Callable[[int], Tensor]) -> None:
        def fresh(number: int) -> dict[str, Tensor]:
            start = draw(number)
            return {"images": start, "best": start}

        first = draw(0)
        super().__init__(first, fresh)
        self.images = nn.Parameter(first)


def balanced(count: int, num_classes: int, number: int) -> Tensor:
    """Return labels (count,) int64 with each class as often as can be; batch `number` goes on where the last ended."""
    return (torch.arange(count) + number * count) % num_classes
