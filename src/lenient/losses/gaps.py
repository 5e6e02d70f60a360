"""How far statistics of batch-norm layers' inputs are from those that the layers stored in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lenient.teacher.probes import LayerStatistics

Form = Literal["norms", "squares"]
"""The L2 norm over channels (DeepInversion), or the mean of squares over them (AdaDFQ)."""
Spread = Literal["variance", "deviation"]
"""What is compared besides the mean."""
LEAST_VARIANCE = 1e-6
"""Added before a root, whose slope is infinite at 0: a channel may be constant."""


@dataclass(frozen=True)
class Gap:
    """Over layers, in the order in which they run: d(mean, stored) + d(spread, stored), as a sum or a mean of layers.

    Norms grow with channels, the sum with layers; weights are not those of another form.
    """

    form: Form = "norms"
    spread: Spread = "variance"
    layers: Literal["sum", "mean"] = "sum"
    first: float = 1.0
    """Factor of the first layer that runs."""

    def __call__(self, statistics: Sequence[LayerStatistics]) -> Tensor:
        """Return the distance, a scalar."""
        found = [self._distance(own.mean, own.running_mean) + self._of_spread(own) for own in statistics]
        if self.first != 1:
            found[0] = self.first * found[0]
        return torch.stack(found).sum() if self.layers == "sum" else torch.stack(found).mean(dim=-1)

    def _of_spread(self, own: LayerStatistics) -> Tensor:
        if self.spread == "variance":
            return self._distance(own.variance, own.running_variance)
        return self._distance((own.variance + LEAST_VARIANCE).sqrt(), own.running_variance.clamp_min(0).sqrt())

    def _distance(self, found: Tensor, stored: Tensor) -> Tensor:
        vector = found - stored
        return root(vector.square().sum()) if self.form == "norms" else vector.square().mean(dim=-1)


NORMS = Gap()
"""Sum over layers of norms (DeepInversion, TA-DFKD)."""
SQUARES = Gap("squares", layers="mean")
"""Mean over layers of means of squares (AdaDFQ)."""


def root(square: Tensor) -> Tensor:
    """Return the square root with a gradient at 0 that is 0 instead of infinite.

    Example:
        >>> square = torch.tensor([0.0, 9.0], requires_grad=True)
        >>> root(square).sum().backward()
        >>> square.grad
        tensor([0.0000, 0.1667])
    """
    found: Tensor = torch.where(square > 0, square, torch.ones_like(square)).sqrt() * (square > 0)
    return found
