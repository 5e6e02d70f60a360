"""Terms that ask synthetic images to look, to the teacher and to the eye, like what it was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lenient.core.reductions import batch_mean, batch_sum
from lenient.losses.gaps import NORMS, SQUARES, Gap, root
from lenient.losses.objective import Needs
from lenient.teacher.batch import Batch
from lenient.teacher.probes import BatchNorms, LayerStatistics

REFERENCE_BATCH = 1024
"""Batch size of TA-DFKD: its image weights belong to norms over this many images."""


class BatchNormStatistics:
    """Sum over batch-norm layers of ||mean - running mean||_2 + ||variance - running variance||_2 (TA-DFKD, l_bns), or
    another `gap` between them.

    Norms not squared, not divided by channels or layers: grows with both; independent of batch size in expectation.
    """

    label = "statistics"

    def __init__(self, view: str = "clean", gap: Gap = NORMS) -> None:
        self.view, self.gap = view, gap
        self.needs = Needs(view, probes=(BatchNorms(),))

    def layers(self, batch: Batch) -> tuple[LayerStatistics, ...]:
        """Return the statistics in the teacher's response, layer by layer."""
        return batch.answers[self.view]["teacher"].of(BatchNorms)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        return self.gap(self.layers(batch))


class SquaredStatistics(BatchNormStatistics):
    """Mean over batch-norm layers and their channels of (mean - running mean)^2 + (variance - running variance)^2
    (AdaDFQ). Grows with neither layers nor channels; its weights are not those of the norms."""

    label = "squared statistics"

    def __init__(self, view: str = "clean") -> None:
        super().__init__(view, SQUARES)


class AveragedMoments:
    """Means and variances, (2, channels) for each layer, averaged over batches; they carry no gradient.

    The first batch has no average yet and stands for itself.
    """

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        """Share of the batches before, in [0, 1)."""
        self.moments: list[Tensor] = []
        self.filled: Tensor | None = None
        """Scalar: 1 once a batch has come into them."""

    def joined(self, now: list[Tensor]) -> list[Tensor]:
        """Return a batch's own moments averaged with those before."""
        if self.filled is None:
            return now
        share = self.momentum * self.filled
        return [(1 - share) * own + share * old for own, old in zip(now, self.moments, strict=True)]

    @torch.no_grad()
    def move(self, now: list[Tensor], bad: Tensor) -> None:
        """Move on by a finished batch's own moments, unless its update was skipped (`bad` is 1)."""
        joined = self.joined(now)
        before = self.moments or [torch.zeros_like(moments) for moments in joined]
        self.moments = [torch.where(bad > 0, old, moments) for moments, old in zip(joined, before, strict=True)]
        self.filled = 1 - bad if self.filled is None else torch.maximum(self.filled, 1 - bad)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages."""
        return {"averages": self.moments, "filled": self.filled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from them."""
        self.moments, self.filled = list(state["averages"]), state["filled"]


class AveragedStatistics(BatchNormStatistics):
    """The same sum, of (1 - m) times the batch's moments plus m times their averages over batches before (FastDFKD).

    Few small batches then fit the training data together, not each alone; the first batch has no average yet and stands
    for itself. The averages carry no gradient, so that of the batch's moments is 1 - m times as long: weights are not
    those of the plain form.
    """

    label = "averaged statistics"

    def __init__(self, momentum: float, view: str = "clean", gap: Gap = NORMS) -> None:
        super().__init__(view, gap)
        self.averages = AveragedMoments(momentum)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term from the statistics in the teacher's response."""
        layers = self.layers(batch)
        averaged = zip(layers, self.averages.joined(_moments(layers)), strict=True)
        return self.gap([replace(layer, mean=mean, variance=variance) for layer, (mean, variance) in averaged])

    @torch.no_grad()
    def remember(self, batch: Batch, bad: Tensor) -> None:
        """Move the averages on by a finished batch, from the teacher's answers at its last step."""
        self.averages.move(_moments(self.layers(batch)), bad)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages."""
        return self.averages.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from them."""
        self.averages.load_state_dict(state)


def _moments(layers: Sequence[LayerStatistics]) -> list[Tensor]:
    """Return mean and variance of each layer's input, (2, channels)."""
    return [torch.stack([layer.mean, layer.variance]) for layer in layers]


class ImageNorm:
    """A norm of the teacher's normalised inputs over each image (or, as released, over the whole batch).

    Per image: mean over the batch, times sqrt(1024), so that it does not depend on the batch size and equals the
    released whole-batch norm at the paper's batch of 1024 images of equal norm. Grows with pixels and channels.
    """

    def __init__(
        self, norms: Callable[[Tensor], list[Tensor]], label: str, *, view: str, whole_batch: bool = False
    ) -> None:
        self.norms, self.label, self.view, self.whole_batch = norms, label, view, whole_batch
        self.needs = Needs(view)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        squares = [difference.square().flatten(1).sum(dim=1) for difference in self.norms(batch.inputs[self.view])]
        if self.whole_batch:
            return torch.stack([root(batch_sum(square)) for square in squares]).sum()
        norms = torch.stack([batch_mean(root(square)) for square in squares])
        return math.sqrt(REFERENCE_BATCH) * norms.sum()


def differences(images: Tensor) -> list[Tensor]:
    """Differences of (N, C, H, W) to the neighbours right, below and on both diagonals (total variation).

    Example:
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
        >>> [part.flatten().tolist() for part in differences(image)]
        [[-1.0, -2.0], [-2.0, -3.0], [-4.0], [1.0]]
    """
    return [
        images[:, :, :, :-1] - images[:, :, :, 1:],
        images[:, :, :-1, :] - images[:, :, 1:, :],
        images[:, :, :-1, :-1] - images[:, :, 1:, 1:],
        images[:, :, 1:, :-1] - images[:, :, :-1, 1:],
    ]


def itself(images: Tensor) -> list[Tensor]:
    """The images, for their plain L2 norm.

    Example:
        >>> [part.square().sum() for part in itself(torch.ones(1, 3, 2, 2))]
        [tensor(12.)]
    """
    return [images]
