"""What statistics are taken over, and how far they may be from those of training: settings, and the term they make."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lenient.core.config import BY_NAME, Part, Settings
from lenient.losses.gaps import NORMS, Form, Gap, Spread
from lenient.losses.representation import AveragedStatistics, BatchNormStatistics
from lenient.teacher.batch import Batch
from lenient.teacher.probes import LayerStatistics


class OverBatch(Part):
    """Statistics of what a step sees."""

    name: Literal["batch"] = "batch"


class OverAverages(Part):
    """Statistics averaged with those of batches before."""

    name: Literal["momentum"] = "momentum"
    momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the batches before in the averages (FastDFKD's scripts: 0.9)."""


class OverAll(Part):
    """Statistics of all images of a batch, which is too large for one step: each step sees a piece of it."""

    name: Literal["all"] = "all"
    pieces: int = Field(4, ge=1, le=10**4)
    """Equal pieces that a batch has; each makes `iterations` steps, in turn with the others."""


class StatisticsSettings(Settings):
    """How statistics of what goes into batch norms are held against those of training."""

    over: Annotated[OverBatch | OverAverages | OverAll, BY_NAME] = OverBatch()
    """What they are taken over."""
    form: Form = "norms"
    """Distance over channels: L2 norms (paper), or means of squares; weights of one are not those of the other."""
    spread: Spread = "variance"
    """What is compared besides the mean: the variance (paper), or its root."""
    layers: Literal["sum", "mean"] = "sum"
    """Sum (paper) or mean over layers."""
    first_layer: float = Field(1.0, ge=0, le=1e6)
    """Factor of the first batch norm that runs (CIFAR code: 1; ImageNet code: 10)."""

    @property
    def pieces(self) -> int:
        """Pieces that a batch is seen in."""
        return self.over.pieces if isinstance(self.over, OverAll) else 1

    def term(self) -> BatchNormStatistics:
        """Return the term."""
        gap = Gap(self.form, self.spread, self.layers, self.first_layer)
        if isinstance(self.over, OverAverages):
            return AveragedStatistics(self.over.momentum, gap=gap)
        return JointStatistics(self.pieces, gap) if isinstance(self.over, OverAll) else BatchNormStatistics(gap=gap)


class JointStatistics(BatchNormStatistics):
    """The plain term of a batch whose steps see one piece of it each (as in Sony's Model Compression Toolkit).

    The moments of n equal pieces come to one batch's: mean = 1/n sum of means, variance = 1/n sum of variances and of
    squared distances of means from that. Of other pieces those of their last step count, without gradient, so that of
    the piece's own moments is an n-th as long. A piece that has not been seen yet does not count.
    """

    label = "joint statistics"

    def __init__(self, pieces: int, gap: Gap = NORMS) -> None:
        super().__init__(gap=gap)
        self.pieces = pieces
        self.moments: list[Tensor] = []
        """(pieces, 2, channels) for each layer: mean and variance."""
        self.seen: Tensor | None = None
        """(pieces,): 1 for those whose moments are known."""

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term from the statistics in the teacher's response and those of the other pieces."""
        layers = self.layers(batch)
        if self.seen is None:
            return self.gap(layers)
        others = self.seen.clone()
        others[batch.piece] = 0
        joined = zip(layers, self.moments, strict=True)
        return self.gap([_joined(layer, moments, others) for layer, moments in joined])

    @torch.no_grad()
    def follow(self, batch: Batch, bad: Tensor) -> None:
        """Take up the moments of the piece that a step saw."""
        layers = self.layers(batch)
        if self.seen is None:
            self.moments = [layer.mean.new_zeros(self.pieces, 2, len(layer.mean)) for layer in layers]
            self.seen = layers[0].mean.new_zeros(self.pieces)
        for moments, layer in zip(self.moments, layers, strict=True):
            now = torch.stack([layer.mean, layer.variance])
            moments[batch.piece] = torch.where(bad > 0, moments[batch.piece], now)
        self.seen[batch.piece] = torch.maximum(self.seen[batch.piece], 1 - bad)

    @torch.no_grad()
    def remember(self, batch: Batch, bad: Tensor) -> None:
        """Forget a finished batch; one whose last update was skipped goes on."""
        if self.seen is not None:
            self.seen *= bad

    def state_dict(self) -> dict[str, Any]:
        """Return the moments."""
        seen = None if self.seen is None else self.seen.clone()  # they are written in place
        return {"moments": [moments.clone() for moments in self.moments], "seen": seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from them."""
        self.moments = [moments.clone() for moments in state["moments"]]
        self.seen = None if state["seen"] is None else state["seen"].clone()


def _joined(own: LayerStatistics, others: Tensor, weight: Tensor) -> LayerStatistics:
    """Return the moments of a piece and of others, (pieces, 2, channels), which count by `weight` (pieces,)."""
    means, variances = others.unbind(dim=1)
    total = 1 + weight.sum(dim=-1)
    mean = (own.mean + weight @ means) / total
    apart = (own.mean - mean).square() + weight @ (variances + (means - mean).square())
    return LayerStatistics(mean, (own.variance + apart) / total, own.running_mean, own.running_variance)
