"""Batch norm in training mode over the batch of all ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lenient.core import ranks
from lenient.core.reductions import batch_moments


@contextmanager
def one_batch() -> Iterator[None]:
    """Let batch norm in training mode normalise over the batch of all ranks, without a change to any module."""
    with _GlobalBatchNorm() if ranks.count() > 1 else nullcontext():
        yield


class _GlobalBatchNorm(TorchFunctionMode):
    """Stands in for `F.batch_norm`; torch's SyncBatchNorm knows neither CPUs nor second derivatives."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def _batch_norm(
    values: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(values, running_mean, running_var, weight, bias, training, momentum, eps)
    mean, variance = batch_moments(values)
    if running_mean is not None and running_var is not None:
        count = values.numel() // values.shape[1] * ranks.count()
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * (count / max(count - 1, 1))).to(running_var.dtype), momentum)
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    zeros, ones = torch.zeros_like(mean), torch.ones_like(mean)
    return F.batch_norm(values, zeros, ones, scale, shift, training=False, eps=0.0)  # see _Moments
