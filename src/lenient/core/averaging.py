"""Moving averages of weights, by torch's `AveragedModel`."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class WeightAverage:
    """An exponential moving average of a module's parameters; buffers are the module's latest.

    With `warm_up`, update number t keeps at most (1 + t) / (10 + t) of the average, so that an untrained start is soon
    forgotten. The device is never asked: torch counts on the host.

    Args:
        module: copied deeply.
        decay: share of the average that an update keeps.
        first: number of the first update.
    """

    def __init__(self, module: nn.Module, decay: float, *, first: int = 0, warm_up: bool = True) -> None:
        self.decay, self.updates, self.warm_up = decay, first, warm_up
        self._model = AveragedModel(module).requires_grad_(False)
        self._model.n_averaged.fill_(1)  # what it starts from counts; the first update would take its place

    @property
    def module(self) -> nn.Module:
        """The module with the averages."""
        averaged: nn.Module = self._model.module
        return averaged

    @torch.no_grad()
    def update(self, module: nn.Module, bad: Tensor) -> None:
        """Move towards the module; not where `bad`, a 0/1 scalar on the device, is 1 because its update was skipped."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warm_up else self.decay
        self.updates += 1
        self._model.multi_avg_fn = partial(_move, (1 - decay) * (1 - bad), bad)
        before = [(buffer, buffer.clone()) for buffer in self.module.buffers()]
        self._model.update_parameters(module)
        for buffer, value in before:
            buffer.copy_(torch.where(bad > 0, value, buffer))


def _move(share: Tensor, bad: Tensor, averages: list[Tensor], latest: list[Tensor], _: object) -> None:
    for average, value in zip(averages, latest, strict=True):
        average.copy_(torch.where(bad > 0, average, torch.lerp(average, value, share)))
