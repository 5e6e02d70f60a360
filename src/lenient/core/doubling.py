"""Convolutions of maps doubled to their nearest neighbours, without doubling them: on a CPU in full precision faster.

Four neighbours that are alike need one product where their weights are added up first. So a 3x3 convolution of the
doubled maps is a transposed convolution of the maps themselves with 4x4 weights, of four ninths of the products.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST = 5 * 5
"""Positions of the maps from which on it is: by one thread twice as fast forward, and 1.2 to 1.7 times with the
backward pass (AMX and AVX-512; 16 to 128 channels)."""

Pair = tuple[int, int]


def convolved_at(size: Pair, maps: Tensor, layer: nn.Conv2d) -> Tensor:
    """Return the layer's output for maps (N, C, H, W) brought to a size by their nearest neighbours."""
    if size == (2 * maps.shape[2], 2 * maps.shape[3]) and _faster(maps, layer):
        return _doubled(maps, layer.weight, layer.bias)
    output: Tensor = layer(F.interpolate(maps, size=size, mode="nearest"))
    return output


def _doubled(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # one number meets up to four weights: their sum; turned, since the transposed convolution turns them back
    sums = F.avg_pool2d(weight, 2, stride=1, padding=1, divisor_override=1).flip(2, 3)
    return F.conv_transpose2d(maps, sums.transpose(0, 1), bias, stride=2, padding=1)


def _faster(maps: Tensor, layer: nn.Conv2d) -> bool:
    """Whether it is, and may be: in bfloat16 it is not, and a layer that somebody listens to is called."""
    return (
        maps.device.type == "cpu"
        and maps.shape[2] * maps.shape[3] >= FEWEST
        and maps.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
        and (layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), 1, "zeros")
        and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks)
    )
