"""How far the student's logits are from the teacher's, per sample: (N, C) twice to (N,)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lenient.core.reductions import batch_mean

Distance = Callable[[Tensor, Tensor], Tensor]
"""(teacher, student), float32 logits (N, C), to one non-negative number per sample, (N,)."""


def logit_l1(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean absolute difference of raw logits over the classes.

    The papers write a sum over classes; their learning rates belong to the mean. Grows with the scale of the logits.

    Example:
        >>> logit_l1(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 3.0]]))
        tensor([2.])
    """
    return (student - teacher).abs().mean(dim=1)


def kl_divergence(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(P_teacher || P_student) of softened predictions in nats, summed over classes, times temperature squared.

    The square keeps the gradient's size over temperatures (Hinton et al. 2015). Libraries' default reductions divide by
    C or B; this does neither.

    Example:
        >>> student = torch.tensor([[3.0, 1.0]]).log()  # three quarters and one
        >>> kl_divergence(torch.zeros(1, 2), student)  # half of ln(4 / 3)
        tensor([0.1438])
    """
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    log_student = F.log_softmax(student / temperature, dim=1)
    return temperature**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1)


def swapped_kl(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(P_student || P_teacher) of softened predictions in nats, as `kl_divergence` with its arguments swapped.

    Example:
        >>> teacher, student = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
        >>> swapped_kl(teacher, student), kl_divergence(teacher, student)
        (tensor([0.1308]), tensor([0.1438]))
    """
    return kl_divergence(student, teacher, temperature)


def cross_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    """-sum P_teacher log P_student in nats, summed over classes.

    Its gradient is that of the KL divergence at temperature 1; its least value is the teacher's entropy, not 0.

    Example:
        >>> cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2))  # the teacher's entropy, ln 2
        tensor([0.6931])
    """
    return -(F.softmax(teacher, dim=1) * F.log_softmax(student, dim=1)).sum(dim=1)


def unscaled_kl(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(P_teacher || P_student) of softened predictions in nats, summed over classes, not times temperature squared.

    Its gradient is smaller by that square.

    Example:
        >>> teacher, student = torch.zeros(1, 2), torch.tensor([[9.0, 1.0]]).log()
        >>> unscaled_kl(teacher, student, 2.0), kl_divergence(teacher, student, 2.0)
        (tensor([0.1438]), tensor([0.5754]))
    """
    return kl_divergence(teacher / temperature, student / temperature)


def uneven_difference(teacher: Tensor, student: Tensor, temperature: float = 20.0) -> Tensor:
    """Temperature squared times what the entropy of softmax((teacher - student) / temperature) lacks of ln C, in nats.

    At least 0, and 0 where the networks differ by a constant; comes to half the variance of the difference over the
    classes as the temperature grows, so to half the mean square of centred differences. A factor between the networks
    counts (AdaDFQ, whose code leaves the ln C out).

    Example:
        >>> teacher, student = torch.tensor([[2.0, 0.0]], dtype=torch.float64), torch.zeros(1, 2)
        >>> uneven_difference(teacher, student)  # nearly half the variance of (2, 0)
        tensor([0.4994], dtype=torch.float64)
    """
    logs = F.log_softmax((teacher - student) / temperature, dim=1)
    return temperature**2 * (math.log(teacher.shape[1]) + (logs.exp() * logs).sum(dim=1))


def js_divergence(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """Jensen-Shannon divergence of softened predictions in nats, within [0, ln 2].

    0.5 KL(P || M) + 0.5 KL(Q || M), M the mean of both. Zero where both agree; symmetric; not scaled by temperature.

    Example:
        >>> js_divergence(torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]]))  # ln 2, the most there is
        tensor([0.6931])
    """
    log_p = F.log_softmax(student / temperature, dim=1)
    log_q = F.log_softmax(teacher / temperature, dim=1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(dim=1)


def coded_js(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """The quantity that DeepInversion's code and its heirs call JS, summed over classes.

    P, Q and their mean M are clamped to [0.01, 0.99] after M was formed, and the arguments are swapped:
    0.5 M (log M - log P) + 0.5 M (log M - log Q). Not bounded by ln 2, and slightly negative for near equal rows.

    Example:
        >>> coded_js(torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]]))  # beyond ln 2
        tensor([1.6145])
    """
    p = F.softmax(student / temperature, dim=1)
    q = F.softmax(teacher / temperature, dim=1)
    m = (0.5 * (p + q)).clamp(0.01, 0.99)
    p, q = p.clamp(0.01, 0.99), q.clamp(0.01, 0.99)
    return 0.5 * (m * (2 * m.log() - p.log() - q.log())).sum(dim=1)


def deviation(logits: Tensor) -> Tensor:
    """Return the standard deviation of logits (N, C), each image's centred, over the classes and the whole batch, a
    scalar.

    Example:
        >>> deviation(torch.tensor([[3.0, 1.0], [7.0, 5.0]]))  # each is 1 away from its image's mean
        tensor(1.)
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    return batch_mean(centred.square().mean(dim=1)).sqrt().clamp_min(1e-12)


def standardised_l1(teacher: Tensor, student: Tensor) -> Tensor:
    """Smooth L1 distance of centred logits in units of the teacher's deviation over the batch, mean over the classes.

    Half the square below 1, and the absolute value less a half above. Both networks' logits times a factor leave it as
    it is.

    Example:
        >>> teacher, student = torch.tensor([[2.0, 0.0]]), torch.tensor([[6.0, 0.0]])
        >>> standardised_l1(teacher, student), standardised_l1(8 * teacher, 8 * student)
        (tensor([1.5000]), tensor([1.5000]))
    """
    scale = deviation(teacher)
    wanted, given = ((logits - logits.mean(dim=1, keepdim=True)) / scale for logits in (teacher, student))
    return F.smooth_l1_loss(given, wanted, reduction="none").mean(dim=1)


def standardised_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(P_teacher || P_student) in nats at a temperature of half the teacher's deviation over the batch, not times its
    square: both networks' logits times a factor leave it as it is.

    Example:
        >>> teacher, student = torch.tensor([[2.0, 0.0]]), torch.zeros(1, 2)
        >>> standardised_kl(teacher, student), standardised_kl(8 * teacher, student)
        (tensor([0.6031]), tensor([0.6031]))
    """
    temperature = deviation(teacher) / 2
    return kl_divergence(teacher / temperature, student / temperature)
