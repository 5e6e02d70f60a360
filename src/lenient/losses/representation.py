"""Terms that ask synthetic images to look, to the teacher and to the eye, like what it was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lenient.core.reductions import batch_mean, batch_sum
from lenient.losses.objective import Needs
from lenient.teacher.batch import Batch

REFERENCE_BATCH = 1024
"""Batch size of TA-DFKD: its image weights belong to norms over this many images."""


class BatchNormStatistics:
    """Sum over batch-norm layers of ||mean - running mean||_2 + ||variance - running variance||_2 (TA-DFKD, l_bns).

    Norms not squared, not divided by channels or layers: grows with both; independent of batch size in expectation.
    """

    label = "statistics"

    def __init__(self, view: str = "clean") -> None:
        self.view = view
        self.needs = Needs(view, statistics=True)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term from the statistics in the teacher's response."""
        layers = batch.answers[self.view]["teacher"].statistics
        distances = [
            _norm(layer.mean - layer.running_mean) + _norm(layer.variance - layer.running_variance) for layer in layers
        ]
        return torch.stack(distances).sum()


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
            return torch.stack([_sqrt(batch_sum(square)) for square in squares]).sum()
        norms = torch.stack([batch_mean(_sqrt(square)) for square in squares])
        return math.sqrt(REFERENCE_BATCH) * norms.sum()


def differences(images: Tensor) -> list[Tensor]:
    """Differences of (N, C, H, W) to the neighbours right, below and on both diagonals (total variation)."""
    return [
        images[:, :, :, :-1] - images[:, :, :, 1:],
        images[:, :, :-1, :] - images[:, :, 1:, :],
        images[:, :, :-1, :-1] - images[:, :, 1:, 1:],
        images[:, :, 1:, :-1] - images[:, :, :-1, 1:],
    ]


def itself(images: Tensor) -> list[Tensor]:
    """The images, for their plain L2 norm."""
    return [images]


def _norm(vector: Tensor) -> Tensor:
    return _sqrt(vector.square().sum())


def _sqrt(square: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0 instead of infinite."""
    root: Tensor = torch.where(square > 0, square, torch.ones_like(square)).sqrt() * (square > 0)
    return root
