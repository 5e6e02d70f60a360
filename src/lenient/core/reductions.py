"""Reductions over the batch, of all ranks, twice differentiable: terms, selection and statistics go through these."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lenient.core import ranks


def full(values: Tensor) -> Tensor:
    """Return `values` in float32, or as they are in float64: what losses and statistics are computed in."""
    return values if values.dtype == torch.float64 else values.float()


def batch_sum(values: Tensor) -> Tensor:
    """Sum over the first dimension, the batch, of all ranks. Reductions over the batch go through these functions."""
    return ranks.total(values.sum(dim=0))


def batch_size_of(values: Tensor) -> int:
    """Return the number of samples in the whole batch."""
    return values.shape[0] * ranks.count()


def batch_mean(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over the batch of `values` (N, ...), weighted by `weight` (N,) where given.

    A weighted mean over fewer than two accepted samples of several is 0 with zero gradient: it says nothing.
    """
    if weight is None:
        return batch_sum(values) / batch_size_of(values)
    shaped = weight.view(-1, *[1] * (values.dim() - 1))
    total = batch_sum(weight)
    enough = total > min(1.5, batch_size_of(values) - 0.5)
    kept = torch.where(shaped > 0, values, torch.zeros_like(values)) * shaped
    return torch.where(enough, batch_sum(kept) / total.clamp_min(1.0), torch.zeros_like(kept[0]))


def batch_moments(values: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Per-channel mean and biased variance of (N, C, ...) over the batch and all positions, in float32, (C,) each.

    With `weight` (N,), positions of a sample count with its weight.
    """
    if weight is None:
        mean, variance = own_moments(values)
        if ranks.count() == 1:
            return mean, variance
        means, variances = ranks.stacked(torch.stack([mean, variance])).unbind(dim=1)
        mean = means.mean(dim=0)
        return mean, (variances + (means - mean).square()).mean(dim=0)
    flat = full(values).flatten(2) if values.dim() > 2 else full(values).unsqueeze(2)
    total = batch_sum(weight).clamp_min(1e-12) * flat.shape[2]
    mean = batch_sum(torch.einsum("n,ncp->nc", weight, flat)) / total
    centred = flat - mean.view(1, -1, 1)
    return mean, batch_sum(torch.einsum("n,ncp->nc", weight, centred * centred)) / total


def own_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `batch_moments` does, of this rank's rows alone: for what one rank looks at by itself."""
    mean, variance = _Moments.apply(values)
    return mean, variance


class _Moments(torch.autograd.Function):
    """Mean and biased variance per channel, whose gradient is one pass over the values: a x + b with a, b per channel.

    The gradient that torch derives takes four. It is made of differentiable operations, so it can be derived again.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        count = values.numel() // values.shape[1]
        if values.dtype in (torch.bfloat16, torch.float16) and count > 1:  # batch norm's kernel, without a float32 copy
            mean, variance = (torch.zeros(values.shape[1], device=values.device) for _ in range(2))
            torch.batch_norm_update_stats(values, mean, variance, 1.0)
            variance *= (count - 1) / count
        else:
            # plain sums over rows of channels; var_mean takes nine times as long on a CPU for channels-last images
            flat = full(values).movedim(1, -1).reshape(-1, values.shape[1])
            mean = flat.mean(dim=0)
            variance = (flat - mean).square_().mean(dim=0)
        ctx.save_for_backward(values, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, of_mean: Tensor, of_variance: Tensor) -> Tensor:
        values, mean = ctx.saved_tensors
        count = values.numel() // values.shape[1]
        slope = 2 * of_variance / count
        offset = of_mean / count - slope * mean
        # values * slope + offset: batch norm's kernel is the fast one for a factor per channel, ten times in bfloat16
        zeros, ones = torch.zeros_like(mean), torch.ones_like(mean)
        return F.batch_norm(values, zeros, ones, slope, offset, training=False, eps=0.0)
