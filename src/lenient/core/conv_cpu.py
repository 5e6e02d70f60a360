"""Convolutions with small maps as matrix products: in bfloat16 a CPU's own take up to eleven times as long.

A weight gradient over few positions, and every pass of a layer with many weights, spends its time on laying weights out
anew. The product of all patches with the weights does the same sums, in another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, library, nn

from lenient.core.runtime import Runtime

LEAST_WEIGHTS = 2**16
"""Smaller layers are left alone: nothing to gain."""
MANY_WEIGHTS = 2**20
"""From here on outputs and input gradients are products too, where maps have `FEW` positions at most."""
FEW, SMALL = 4 * 4, 5 * 5
"""Positions of an output map; up to `SMALL` the weight gradient is a product. Chosen with batches of 32 and 128."""

Pair = tuple[int, int]


class SmallMaps:
    """A module's convolutions that may be taken as products: none but on a CPU in bfloat16."""

    def __init__(self, module: nn.Module, runtime: Runtime) -> None:
        wanted = runtime.device.type == "cpu" and runtime.precision == "bf16"
        layers = (layer for layer in module.modules() if type(layer) is nn.Conv2d)
        self.layers = [layer for layer in layers if wanted and _plain(layer)]
        sizes = ((layer.stride, cast(Pair, layer.padding)) for layer in self.layers)
        self._ways = [partial(convolve, stride=stride, padding=padding) for stride, padding in sizes]

    @contextmanager
    def products(self) -> Iterator[None]:
        """Take them so in forwards under autocast while open; the module is left as it was."""
        for layer, way in zip(self.layers, self._ways, strict=True):
            vars(layer)["_conv_forward"] = way
        try:
            yield
        finally:
            for layer in self.layers:
                del vars(layer)["_conv_forward"]


def _plain(layer: nn.Conv2d) -> bool:
    return (
        layer.weight.numel() >= LEAST_WEIGHTS
        and layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and "_conv_forward" not in vars(layer)
    )


def convolve(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """Convolve (N, C, H, W) as `F.conv2d` does under autocast, as a product where that is faster."""
    height, width = _positions(inputs, weight, stride, padding)
    lowered = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if height * width > SMALL or inputs.dim() != 4 or not lowered:
        return F.conv2d(inputs, weight, bias, stride, padding)
    output: Tensor = _convolution(inputs.to(torch.bfloat16), weight.to(torch.bfloat16), list(stride), list(padding))
    return output if bias is None else output + bias.to(torch.bfloat16).view(-1, 1, 1)


@library.custom_op("lenient::convolution", mutates_args=())
def _convolution(inputs: Tensor, weight: Tensor, stride: list[int], padding: list[int]) -> Tensor:
    """A convolution whose gradients are products; to the compiler a black box, for its own products are slow."""
    if not _all_products(inputs, weight, stride, padding):
        return _channels_last(F.conv2d(inputs, weight, None, stride, padding))
    rows = _patches(inputs, weight, stride, padding) @ _rows(weight).T
    return rows.view(len(inputs), *_positions(inputs, weight, stride, padding), -1).permute(0, 3, 1, 2)


@library.custom_op("lenient::convolution_backward", mutates_args=())
def _gradients(
    gradient: Tensor, inputs: Tensor, weight: Tensor, stride: list[int], padding: list[int], wanted: list[bool]
) -> list[Tensor]:
    """Gradients of inputs and weights, those that are wanted."""
    rows = gradient.permute(0, 2, 3, 1).reshape(-1, gradient.shape[1])
    found: list[Tensor] = []
    if wanted[0]:
        if _all_products(inputs, weight, stride, padding):
            found.append(_folded(rows @ _rows(weight), inputs, weight, stride, padding))
        else:
            how = (None, stride, padding, [1, 1], False, [0, 0], 1, [True, False, False])
            found.append(_channels_last(torch.ops.aten.convolution_backward(gradient, inputs, weight, *how)[0]))
    if wanted[1]:
        product = rows.T @ _patches(inputs, weight, stride, padding)
        found.append(product.view(len(weight), *weight.shape[2:], -1).permute(0, 3, 1, 2))
    return found


@_convolution.register_fake
def _(inputs: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    shape = (len(inputs), len(weight), *_positions(inputs, weight, stride, padding))
    return inputs.new_empty(shape).to(memory_format=torch.channels_last)


@_gradients.register_fake
def _(
    gradient: Tensor,
    inputs: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    wanted: Sequence[bool],
) -> list[Tensor]:
    pair = zip((inputs, weight), wanted, strict=True)
    return [torch.empty_like(tensor, memory_format=torch.channels_last) for tensor, asked in pair if asked]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.how = inputs[2:]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[:2])
    found = iter(_gradients(gradient, *ctx.saved_tensors, *ctx.how, wanted))
    return *(next(found) if asked else None for asked in wanted), None, None


_convolution.register_autograd(_backward, setup_context=_remember)


def _positions(inputs: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Pair:
    height, width = (
        (size + 2 * pad - kernel) // step + 1
        for size, pad, kernel, step in zip(inputs.shape[-2:], padding, weight.shape[2:], stride, strict=True)
    )
    return height, width


def _channels_last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def _all_products(inputs: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> bool:
    height, width = _positions(inputs, weight, stride, padding)
    return height * width <= FEW and weight.numel() >= MANY_WEIGHTS


def _rows(weight: Tensor) -> Tensor:
    """Return weights (O, C, h, w) as (O, h w C): a view where they lie channels last."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _patches(inputs: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """Return what each position sees, (N positions, h w C)."""
    down, across = padding
    padded = F.pad(inputs.permute(0, 2, 3, 1), (0, 0, across, across, down, down))
    windows = padded.unfold(1, weight.shape[2], stride[0]).unfold(2, weight.shape[3], stride[1])
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, weight[0].numel())


def _folded(patches: Tensor, inputs: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """Add patches up where they came from: the transpose of `_patches`."""
    count, channels, height, width = inputs.shape
    (down, across), (high, wide) = padding, weight.shape[2:]
    rows, columns = _positions(inputs, weight, stride, padding)
    windows = patches.view(count, rows, columns, high, wide, channels)
    padded = patches.new_zeros(count, height + 2 * down, width + 2 * across, channels)
    for i in range(high):
        for j in range(wide):
            end, side = i + stride[0] * rows, j + stride[1] * columns
            padded[:, i : end : stride[0], j : side : stride[1]] += windows[:, :, :, i, j]
    return _channels_last(padded[:, down : down + height, across : across + width].permute(0, 3, 1, 2))
