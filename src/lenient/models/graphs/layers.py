"""ONNX's operators with weights, as torch's layers: a run reads batch norms and the layer that classifies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lenient.models.graphs.functions import UnknownError, sides, torch_pads
from lenient.models.graphs.reading import Node

_CONVOLUTIONS: dict[int, Any] = {3: nn.Conv1d, 4: nn.Conv2d}
_PADS: dict[int, Any] = {3: nn.ConstantPad1d, 4: nn.ConstantPad2d}
_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}


def layer(node: Node, constants: Mapping[str, Tensor], shape: Sequence[int]) -> nn.Module | None:
    """Return the layer that a node is, which takes the node's first input alone, of that shape; None where its weights
    are no constants, or where it has none.

    Raises:
        UnknownError: it is of a form that is not rebuilt here.
        RuntimeError, ValueError, KeyError, TypeError: what the file says makes no sense.
    """
    make = _LAYERS.get(node.operator)
    weights = [constants.get(name) if name else None for name in node.inputs[1:]]
    if make is None or any(weight is None for name, weight in zip(node.inputs[1:], weights, strict=True) if name):
        return None
    return make(node, weights, shape)


def _convolution(node: Node, weights: Sequence[Tensor | None], shape: Sequence[int]) -> nn.Module | None:
    weight, bias = weights[0], weights[1] if len(weights) > 1 else None
    if weight is None or weight.dim() not in _CONVOLUTIONS:
        raise UnknownError("Conv over other than one or two dimensions")
    groups = node.attributes.get("group", 1)
    strides, dilations, pads = sides(node, shape, weight.shape[2:])
    half = len(pads) // 2
    even = pads[:half] == pads[half:]
    made: nn.Module = _CONVOLUTIONS[weight.dim()](
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        tuple(strides),
        tuple(pads[:half]) if even else 0,
        tuple(dilations),
        groups,
        bias=bias is not None,
        device="meta",
    )
    _fill(made, {"weight": weight, "bias": bias})
    return made if even else nn.Sequential(_PADS[weight.dim()](tuple(torch_pads(pads)), 0.0), made)


def _batch_norm(node: Node, weights: Sequence[Tensor | None], shape: Sequence[int]) -> nn.Module | None:
    """A batch norm that was exported in training mode normalises by what it stored, as in eval mode."""
    scale, bias, mean, variance = weights
    if scale is None or len(shape) not in _NORMS or not node.attributes.get("spatial", 1):
        raise UnknownError("BatchNormalization over other than channels")
    made = _NORMS[len(shape)](len(scale), node.attributes.get("epsilon", 1e-5), device="meta")
    _fill(made, {"weight": scale, "bias": bias, "running_mean": mean, "running_var": variance})
    made.num_batches_tracked = torch.tensor(1)
    return made


def _linear(node: Node, weights: Sequence[Tensor | None], shape: Sequence[int]) -> nn.Module | None:
    """`Gemm` in the form that a linear layer has, and a product with a matrix that is constant."""
    weight, bias = weights[0], weights[1] if len(weights) > 1 else None
    given = node.attributes
    if weight is None or weight.dim() != 2 or given.get("transA", 0) or not weight.is_floating_point():
        return None
    if given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1:
        return None
    rows = weight if given.get("transB", 0) else weight.t()
    if bias is not None and tuple(bias.shape) not in ((len(rows),), (1, len(rows))):
        if bias.numel() != 1 or bias.dim() > 2:
            return None
        bias = bias.reshape(1).expand(len(rows))
    made = nn.Linear(rows.shape[1], rows.shape[0], bias=bias is not None, device="meta")
    _fill(made, {"weight": rows, "bias": None if bias is None else bias.reshape(-1)})
    return made


def _layer_norm(node: Node, weights: Sequence[Tensor | None], shape: Sequence[int]) -> nn.Module | None:
    scale, bias = weights[0], weights[1] if len(weights) > 1 else None
    axis = node.attributes.get("axis", -1) % len(shape)
    if scale is None or tuple(scale.shape) != tuple(shape[axis:]) or any(node.outputs[1:]):
        return None
    made = nn.LayerNorm(tuple(scale.shape), node.attributes.get("epsilon", 1e-5), bias=bias is not None, device="meta")
    _fill(made, {"weight": scale, "bias": bias})
    return made


def _fill(made: nn.Module, values: Mapping[str, Tensor | None]) -> None:
    """Put tensors in the places of those that a layer of the meta device lacks."""
    for name, value in values.items():
        if value is None:
            continue
        if value.shape != getattr(made, name).shape:
            raise ValueError(f"the shape of {name}")
        held = value.contiguous()
        if name in made._parameters:
            made.register_parameter(name, nn.Parameter(held, requires_grad=False))
        else:
            made.register_buffer(name, held)


_LAYERS: Mapping[str, Callable[[Node, Sequence[Tensor | None], Sequence[int]], nn.Module | None]] = {
    "Conv": _convolution,
    "BatchNormalization": _batch_norm,
    "Gemm": _linear,
    "MatMul": _linear,
    "LayerNormalization": _layer_norm,
}
