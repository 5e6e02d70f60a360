"""Terms on the teacher's answer alone: that it be sure of each image, no class be left out, features be high."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lenient.core.reductions import batch_mean, full
from lenient.losses.objective import Needs
from lenient.teacher.batch import Batch
from lenient.teacher.probes import Features


def confidence_score(logits: Tensor) -> Tensor:
    """Cross-entropy of each prediction against its own argmax, (N,), in nats: -log max softmax; 0 is fully sure.

    Example:
        >>> confidence_score(torch.tensor([[1.0, 1.0], [3.0, 1.0]]).log())  # ln 2, and ln(4 / 3) of who is surer
        tensor([0.6931, 0.2877])
    """
    return -F.log_softmax(full(logits), dim=1).amax(dim=1)


class ClassPrior:
    """Mean cross-entropy of the teacher against its own argmax (DAFL's one-hot loss; TA-DFKD's L_cls, there left out).

    Natural log, mean over all images, at least 0; smaller is surer. Independent of batch size.
    """

    label = "one-hot"

    def __init__(self, view: str = "clean") -> None:
        self.view = view
        self.needs = Needs(view)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        return batch_mean(confidence_score(batch.logits(self.view, "teacher")))


class LabelPrior:
    """Mean cross-entropy of the teacher, softened by a temperature, against the class that an image is to show, or
    against a distribution over the classes (ZSKD), in nats; not times the temperature squared.

    Of an image that shows a part of another one, both classes count, by their shares of the area (CPNet).
    """

    def __init__(self, temperature: float = 1.0, label: str = "label", view: str = "clean") -> None:
        self.temperature, self.label, self.view = temperature, label, view
        self.needs = Needs(view)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        if batch.labels is None:
            raise ValueError("a label prior needs a conditional generator")
        logits = batch.logits(self.view, "teacher") / self.temperature
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        if batch.partners is not None:
            labels, share = batch.partners
            losses = torch.lerp(losses, F.cross_entropy(logits, labels, reduction="none"), share.to(losses.dtype))
        return batch_mean(losses)


class InformationEntropy:
    """Minus the entropy of the teacher's mean prediction over the batch (DAFL's L_ie), in nats, within [-ln C, 0].

    Smallest where the classes share the batch evenly; says nothing about single images. Released codes take the base-10
    logarithm: their weights are divided by ln 10 here. CuDFKD softens by a temperature.
    """

    label = "batch mean"

    def __init__(self, temperature: float = 1.0, view: str = "clean") -> None:
        self.temperature, self.view = temperature, view
        self.needs = Needs(view)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        mean = batch_mean(F.softmax(batch.logits(self.view, "teacher") / self.temperature, dim=1))
        return (mean * mean.clamp_min(1e-12).log()).sum(dim=-1)


class Activation:
    """Minus the mean absolute penultimate feature of the teacher, over batch and features (DAFL's L_a as coded).

    Not bounded below; grows with the scale of the features, not with their number. The paper's form sums over them.
    """

    label = "features"

    def __init__(self, view: str = "clean") -> None:
        self.view = view
        self.needs = Needs(view, probes=(Features(),))

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        features = batch.answers[self.view]["teacher"].of(Features)
        return -batch_mean(full(features).abs().flatten(1).mean(dim=1))


class EmbeddingNorm:
    """Mean over the batch of max(0, ||e_y||_2 - limit)^2: keeps class embeddings from drowning z (MAD, conditional)."""

    label = "embedding norm"

    def __init__(self, embedding: Callable[[Tensor], Tensor] | nn.Embedding, limit: float) -> None:
        self.embedding, self.limit = embedding, limit
        self.needs = Needs()

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        if batch.labels is None:
            raise ValueError("an embedding norm needs a conditional generator")
        norms = full(self.embedding(batch.labels)).norm(dim=1)
        return batch_mean((norms - self.limit).clamp_min(0).square())
