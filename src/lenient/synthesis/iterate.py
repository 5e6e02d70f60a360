"""One batch that is optimised step by step: where it starts, and its best iterate."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


class Iterate(nn.Module):
    """Parameters from which a batch of images comes, and the images (B, C, H, W) of the least loss so far.

    Every rank holds the whole batch and works on its rows, so that averaged gradients are those of the whole batch.

    Args:
        best: images that stand in until a first loss is known.
        fresh: number of a batch to what its tensors start from, by their names here; others go on as they are.
    """

    best: Tensor
    least: Tensor

    def __init__(self, best: Tensor, fresh: Callable[[int], Mapping[str, Tensor]]) -> None:
        super().__init__()
        self.fresh = fresh
        self.register_buffer("best", best.detach().clone())
        self.register_buffer("least", torch.full((), torch.inf, device=best.device))

    @torch.no_grad()
    def keep(self, judged: Tensor, loss: Tensor, bad: Tensor) -> Tensor:
        """Keep a copy of the iterate that a loss was computed of, if it is the least so far, and return whether it is,
        a scalar; `bad` keeps nothing."""
        better = (loss < self.least) & (bad == 0)
        self.best.copy_(torch.where(better, judged, self.best))
        self.least.copy_(torch.where(better, loss, self.least))
        return better

    @torch.no_grad()
    def restart(self, number: int, optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
        """Begin another batch with a fresh optimizer, unless the last update was skipped: then the old one goes on."""
        own = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        for name, value in self.fresh(number).items():
            own[name].copy_(torch.where(bad > 0, own[name], value))
        self.least.copy_(torch.where(bad > 0, self.least, torch.full_like(self.least, torch.inf)))
        for parameter in self.parameters():
            for value in optimizer.state[parameter].values():
                value.mul_(bad)  # moments and the count of steps: zeros are what a new Adam has
