"""What the numbers of the log are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

STATISTICS = "health/statistics"
"""What an update says of its distance from the teacher's batch-norm statistics, whatever its term is called."""


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Count labels (N,) per class, (num_classes,) float32, without asking the host as `one_hot` and `bincount` do."""
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)).float().sum(dim=0)


def spread(histogram: Sequence[float]) -> tuple[float, float]:
    """Return (share of classes that have at least a tenth of their even share, entropy over its maximum)."""
    total = sum(histogram)
    if not total:
        return 0.0, 0.0
    shares = [count / total for count in histogram]
    covered = sum(share >= 0.1 / len(shares) for share in shares) / len(shares)
    entropy = sum(-share * math.log(share) for share in shares if share > 0)
    return covered, entropy / math.log(len(shares))
