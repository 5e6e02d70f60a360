"""Terms on what two networks say of an image together: how much a student can learn from it now (AdaDFQ)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from lenient.core import ranks
from lenient.core.reductions import batch_mean
from lenient.losses.objective import Needs
from lenient.teacher.batch import Batch

LEAST = 1e-6
"""Least span of entropies that others are divided by: 0 where both networks agree on a whole batch up to constants."""


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the softmax of logits (N, K), in nats, (N,).

    Example:
        >>> entropy(torch.zeros(1, 4))  # ln 4, the most there is
        tensor([1.3863])
    """
    logs = F.log_softmax(logits, dim=1)
    return -(logs.exp() * logs).sum(dim=1)


class EntropyBand:
    """Mean over the batch of how far an image's entropy lies below `lower` or above `upper`, in [0, 1] (AdaDFQ).

    The entropy is that of softmax(teacher - student), stretched so that ln C, where the networks differ by a constant,
    is 1, and the least of the batch 0; or, with `fixed`, ln C is 1 and 0 is 0, and no image depends on the others. The
    least one carries gradient, too, so that image has none of its own.
    """

    label = "entropy band"

    def __init__(self, lower: float, upper: float, *, fixed: bool = False, view: str = "train") -> None:
        self.lower, self.upper, self.fixed, self.view = lower, upper, fixed, view
        self.needs = Needs(view, student=True)

    def stretched(self, batch: Batch) -> Tensor:
        """Return the stretched entropies of this rank's images, (N,)."""
        teacher, student = (batch.logits(self.view, network) for network in ("teacher", "student"))
        found, most = entropy(teacher - student), math.log(teacher.shape[1])
        if self.fixed:
            return found / most
        least = ranks.stacked(found.amin()).amin()
        return (found - least) / (most - least).clamp_min(LEAST)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        found = self.stretched(batch)
        return batch_mean((self.lower - found).clamp_min(0) + (found - self.upper).clamp_min(0))


class JointLabelPrior:
    """Mean cross-entropy of the teacher's logits plus `sign` times the student's against the class that was asked for.

    With -1 the teacher is to be surer of the class than the student is: there is something to learn. With 1 both
    together are to name it (AdaDFQ).
    """

    def __init__(self, sign: float, label: str, view: str = "train") -> None:
        self.sign, self.label, self.view = sign, label, view
        self.needs = Needs(view, student=True)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        if batch.labels is None:
            raise ValueError("a label prior needs a conditional generator")
        joint = batch.logits(self.view, "teacher") + self.sign * batch.logits(self.view, "student")
        return batch_mean(F.cross_entropy(joint, batch.labels, reduction="none"))
