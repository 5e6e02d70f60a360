"""Moving averages of weights, without a question to the device."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential moving average of a module's parameters; buffers are the module's latest.

    With `warm_up`, update number t keeps at most (1 + t) / (10 + t) of the average, so that an untrained start is soon
    forgotten. torch's `AveragedModel` would have the device wait for a count in every update.

    Args:
        module: copied deeply.
        decay: share of the average that an update keeps.
        first: number of the first update.
    """

    def __init__(self, module: nn.Module, decay: float, *, first: int = 0, warm_up: bool = True) -> None:
        self.decay, self.updates, self.warm_up = decay, first, warm_up
        self.module = copy.deepcopy(module).requires_grad_(False)
        """With the averages."""

    @torch.no_grad()
    def update(self, module: nn.Module, bad: Tensor) -> None:
        """Move towards the module; not where `bad`, a 0/1 scalar on the device, is 1 because its update was skipped."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warm_up else self.decay
        self.updates += 1
        share = (1 - decay) * (1 - bad)
        for average, value in zip(self.module.parameters(), module.parameters(), strict=True):
            average.copy_(torch.where(bad > 0, average, torch.lerp(average, value, share)))
        for kept, latest in zip(self.module.buffers(), module.buffers(), strict=True):
            kept.copy_(torch.where(bad > 0, kept, latest))
