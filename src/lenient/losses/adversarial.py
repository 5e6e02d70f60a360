"""Terms that drive the generator to where teacher and student disagree; smaller is more disagreement."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lenient.record import Record
from lenient.runtime import batch_mean


def js_divergence(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """Jensen-Shannon divergence of softened predictions per sample, (N,), in nats, within [0, ln 2].

    0.5 KL(P || M) + 0.5 KL(Q || M), M the mean of both. Logits are (N, C). Zero where both agree; independent of batch
    size; symmetric.
    """
    log_p = F.log_softmax(student / temperature, dim=1)
    log_q = F.log_softmax(teacher / temperature, dim=1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(dim=1)


def coded_js(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """The quantity that DeepInversion's code and its heirs call JS, per sample, (N,), summed over classes.

    P, Q and their mean M are clamped to [0.01, 0.99] after M was formed, and the arguments are swapped:
    0.5 M (log M - log P) + 0.5 M (log M - log Q). Not bounded by ln 2, and slightly negative for near equal rows.
    """
    p = F.softmax(student / temperature, dim=1)
    q = F.softmax(teacher / temperature, dim=1)
    m = (0.5 * (p + q)).clamp(0.01, 0.99)
    p, q = p.clamp(0.01, 0.99), q.clamp(0.01, 0.99)
    return 0.5 * (m * (2 * m.log() - p.log() - q.log())).sum(dim=1)


class JensenShannon:
    """E[1 - JSD] over the accepted samples (TA-DFKD, equation of l_adv), in [1 - ln 2, 1]: minimising maximises JSD.

    Mean over the batch weighted by the record's weights; independent of batch size and number of classes.
    """

    def __init__(self, temperature: float = 3.0, view: str = "train") -> None:
        self.temperature, self.view = temperature, view

    def __call__(self, record: Record) -> Tensor:
        """Return the term; gradients flow through teacher and student."""
        divergence = js_divergence(*_both(record, self.view), self.temperature)
        return batch_mean(1 - divergence, record.weight)


class CodedJensenShannon:
    """1 - clamp(v, 0, 1) with v as TA-DFKD's released code computes it: coded JS divided by the number of classes too.

    Where v leaves [0, 1] the clamp makes the gradient exactly zero. The term fades as 1/C with more classes.
    """

    def __init__(self, temperature: float = 3.0, view: str = "train") -> None:
        self.temperature, self.view = temperature, view

    def __call__(self, record: Record) -> Tensor:
        """Return the term; gradients flow through teacher and student."""
        teacher, student = _both(record, self.view)
        value = batch_mean(coded_js(teacher, student, self.temperature), record.weight) / teacher.shape[1]
        return 1 - value.clamp(0, 1)


def _both(record: Record, view: str) -> tuple[Tensor, Tensor]:
    return record.logits(view, "teacher"), record.logits(view, "student")
