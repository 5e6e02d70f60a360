"""A batch of images whose pixels are the parameters (DeepInversion)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Pixels(nn.Module):
    """Images (B, C, H, W) in the teacher's normalised space, and the best iterate so far.

    Every rank holds all of them and works on its rows, so that averaged gradients are those of the whole batch.
    """

    def __init__(self, draw: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.draw = draw
        """Number of a batch to the images that it starts from."""
        self.images = nn.Parameter(draw(0))
        self.best: Tensor
        self.least: Tensor
        self.register_buffer("best", self.images.detach().clone())
        self.register_buffer("least", torch.full((), torch.inf, device=self.images.device))

    @torch.no_grad()
    def keep(self, judged: Tensor, loss: Tensor, bad: Tensor) -> None:
        """Keep a copy of the iterate that a loss was computed of, if it is the least so far; `bad` keeps nothing."""
        better = (loss < self.least) & (bad == 0)
        self.best.copy_(torch.where(better, judged, self.best))
        self.least.copy_(torch.where(better, loss, self.least))

    @torch.no_grad()
    def restart(self, number: int, optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
        """Begin another batch with a fresh optimizer, unless the last update was skipped: then the old one goes on."""
        fresh = self.draw(number)
        self.images.copy_(torch.where(bad > 0, self.images, fresh))
        self.best.copy_(torch.where(bad > 0, self.best, fresh))
        self.least.copy_(torch.where(bad > 0, self.least, torch.full_like(self.least, torch.inf)))
        for value in optimizer.state[self.images].values():
            value.mul_(bad)  # moments and the count of steps: zeros are what a new Adam has


def balanced(count: int, num_classes: int, number: int) -> Tensor:
    """Return labels (count,) int64 with each class as often as can be; batch `number` goes on where the last ended."""
    return (torch.arange(count) + number * count) % num_classes
