"""Terms on the teacher's predictions alone: that it be sure of each image, and that no class be left out."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lenient.record import Record
from lenient.runtime import batch_mean


def confidence_score(logits: Tensor) -> Tensor:
    """Cross-entropy of each prediction against its own argmax, (N,), in nats: -log max softmax; 0 is fully sure."""
    return -F.log_softmax(logits.float(), dim=1).amax(dim=1)


class ClassPrior:
    """Mean cross-entropy of the teacher against its own argmax (DAFL's one-hot loss; TA-DFKD's L_cls, there left out).

    Natural log, mean over all images, at least 0; smaller is surer. Independent of batch size.
    """

    def __init__(self, view: str = "clean") -> None:
        self.view = view

    def __call__(self, record: Record) -> Tensor:
        """Return the term."""
        return batch_mean(confidence_score(record.logits(self.view, "teacher")))


class InformationEntropy:
    """Minus the entropy of the teacher's mean prediction over the batch (DAFL's L_ie), in nats, within [-ln C, 0].

    Smallest where the classes share the batch evenly; says nothing about single images.
    """

    def __init__(self, view: str = "clean") -> None:
        self.view = view

    def __call__(self, record: Record) -> Tensor:
        """Return the term."""
        mean = batch_mean(F.softmax(record.logits(self.view, "teacher"), dim=1))
        return (mean * mean.clamp_min(1e-12).log()).sum(dim=-1)
