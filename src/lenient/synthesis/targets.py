"""What images are to show: distributions over the classes, drawn as the teacher's last layer tells which classes are
alike (ZSKD, Nayak et al., ICML 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lenient.core.seeding import Streams
from lenient.synthesis.pixels import balanced

LEAST, FLOOR = 1e-12, 1e-4
"""Least probability of a class, and what is added to each concentration (released code: 1e-4)."""
Array = npt.NDArray[np.float64]


def similarity(weights: Tensor) -> Array:
    """Return how alike the classes are, (K, K) in [0, 1]: cosines of their rows of weights (K, d), each class's own
    stretched so that the least is 0 and the largest, its own, 1."""
    rows = weights.detach().cpu().double().numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(LEAST)
    cosines = rows @ rows.T
    low, high = cosines.min(axis=1, keepdims=True), cosines.max(axis=1, keepdims=True)
    return np.asarray((cosines - low) / (high - low).clip(LEAST))


def dirichlet(concentrations: Array, rng: np.random.Generator) -> Array:
    """Return a draw from each row (N, K) of concentrations above 0, all of it at least `LEAST`.

    Shares of gamma draws, whose logarithms are taken: the draws themselves underflow at small concentrations, where
    float32 gives rows of zeros. g(a) is g(a + 1) u^(1/a).
    """
    uniform = rng.random(concentrations.shape)
    logs = np.log(rng.standard_gamma(concentrations + 1)) + np.log1p(-uniform) / concentrations
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    shares = (shares / shares.sum(axis=1, keepdims=True)).clip(LEAST)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


class SimilarClasses:
    """Targets around each class in turn: a Dirichlet distribution whose concentrations are a factor times the class's
    similarity to each. All classes come with one factor, then with the next.

    Args:
        weights: of the layer that puts the logits out, (K, d).
        factors: of the similarities; the smaller, the surer the targets.
        streams: of the draws, which are made on the host.
    """

    def __init__(self, weights: Tensor, factors: Sequence[float], streams: Streams) -> None:
        self.similar, self.factors, self.streams = similarity(weights), np.asarray(factors, np.float64), streams

    def __call__(self, count: int, number: int) -> Tensor:
        """Return the targets (count, K) float32 of batch `number`, which goes on where the one before ended."""
        classes = len(self.similar)
        center = balanced(count, classes, number).numpy()
        place = (np.arange(count) + number * count) // classes % len(self.factors)
        concentrations = self.factors[place][:, None] * self.similar[center] + FLOOR
        return torch.from_numpy(dirichlet(concentrations, self.streams.numpy("targets", number))).float()
