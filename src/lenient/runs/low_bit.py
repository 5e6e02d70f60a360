"""Networks in few bits as programs: weights in bytes, in ONNX with QuantizeLinear and DequantizeLinear around layers.

A runtime that knows that pattern (onnxruntime does) computes such a layer in integers of 8 bits. Fewer bits are the
same type with fewer values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lenient.models.lending import copied_module
from lenient.models.low_bit import InputGrid, LowBit, low_bit_layers

BYTE = 255
_COMPUTING = ("Conv", "Gemm")


def in_codes(module: nn.Module) -> nn.Module:
    """Return a network as torch can trace it: of one in few bits a copy in eval mode, others as they are.

    Its answers are the same to the bit; torch's own rounding cannot be traced for a free number of images.
    """
    if not isinstance(module, LowBit):
        return module
    copied = copied_module(module).cpu().float().eval()
    with torch.no_grad():
        for layer, weights, grid in list(low_bit_layers(copied)):
            parametrizations: Any = layer.parametrizations
            codes, scale = weights.codes(layer.weight)  # type: ignore[arg-type]
            # of fewer bits in the upper ones of a byte: onnxruntime rounds biases to multiples of both scales' product
            spread = BYTE // 2 // weights.most
            parametrizations.weight[-1] = _Codes(codes * spread, scale / spread)
            layer.input_grid = _Levels(grid) if int(grid.seen) else nn.Identity()
    return copied


class _Codes(nn.Module):
    """Weights as int8 (out, ...) and a scale for each output channel (out,)."""

    codes: Tensor
    scale: Tensor

    def __init__(self, codes: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes.contiguous())
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(len(scale), dtype=torch.int8))

    def forward(self, _: Tensor) -> Tensor:
        """Return the weights."""
        if not torch.onnx.is_in_onnx_export():
            return self.codes.float() * self.scale.view(-1, *[1] * (self.codes.dim() - 1))
        given = (self.codes, self.scale, self.zero)
        return _onnx("DequantizeLinear", given, torch.float32, self.codes, axis=0)


class _Levels(nn.Module):
    """What a layer takes as uint8, of which fewer bits use the lower values."""

    scale: Tensor
    zero: Tensor

    def __init__(self, grid: InputGrid) -> None:
        super().__init__()
        scale, zero = grid.scale_and_zero()
        self.most = grid.most
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero.to(torch.uint8))
        self.register_buffer("least", torch.zeros((), dtype=torch.uint8))
        self.register_buffer("largest", torch.tensor(grid.most, dtype=torch.uint8))

    def forward(self, values: Tensor) -> Tensor:
        """Return the rounded values."""
        if not torch.onnx.is_in_onnx_export():
            zero = self.zero.float()
            return (((values * (1 / self.scale)).round() + zero).clamp(0, self.most) - zero) * self.scale
        levels = _onnx("QuantizeLinear", (values, self.scale, self.zero), torch.uint8, values)
        if self.most < BYTE:
            levels = _onnx("Clip", (levels, self.least, self.largest), torch.uint8, values)
        return _onnx("DequantizeLinear", (levels, self.scale, self.zero), torch.float32, values)


def _onnx(name: str, given: tuple[Any, ...], dtype: torch.dtype, like: Tensor, **attributes: int) -> Tensor:
    """Stand for an operator of ONNX, whose result has the shape of `like`, while torch traces."""
    return torch.onnx.ops.symbolic(name, given, dict(attributes), dtype=dtype, shape=like.shape)


def fold_batch_norms(model: Any) -> None:
    """Put batch norms that follow an integer layer into its scales and its bias, where nobody else reads its output.

    Runtimes look for a layer between a DequantizeLinear and a QuantizeLinear with at most an activation in between. No
    code changes but in sign, for a factor per output channel is one of the scale. `model`: of onnx_ir.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    graph = model.graph
    outputs = set(graph.outputs)
    for norm in [node for node in graph if node.op_type == "BatchNormalization"]:
        layer = norm.inputs[0].producer()
        if layer is None or layer.op_type not in _COMPUTING or norm.inputs[0] in outputs:
            continue
        if len(norm.inputs[0].uses()) > 1 or not _foldable(layer):
            continue
        _fold(graph, layer, norm)
    RemoveUnusedNodesPass()(model)


def _foldable(layer: Any) -> bool:
    weights = layer.inputs[1].producer()
    alone = weights is not None and weights.op_type == "DequantizeLinear" and len(layer.inputs[1].uses()) == 1
    return alone and weights.inputs[1].const_value is not None and len(weights.inputs[0].uses()) == 1


def _fold(graph: Any, layer: Any, norm: Any) -> None:
    import numpy as np

    weights = layer.inputs[1].producer()
    gain, offset, mean, variance = (value.const_value.numpy() for value in norm.inputs[1:5])
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
    factor = gain / np.sqrt(variance.astype(np.float64) + epsilon)
    codes, scale = (value.const_value.numpy() for value in weights.inputs[:2])
    own = layer.inputs[2].const_value.numpy() if len(layer.inputs) > 2 and layer.inputs[2] is not None else 0.0
    bias = (own - mean) * factor + offset
    signs = np.where(factor < 0, -1, 1).astype(codes.dtype).reshape(-1, *[1] * (codes.ndim - 1))
    # a scale of 0 is none: codes of 0 have any
    tiny = np.finfo(np.float32).tiny
    new = {
        "codes": (codes * signs).astype(codes.dtype),
        "scale": np.maximum(scale * np.abs(factor), tiny).astype(np.float32),
        "bias": bias.astype(np.float32),
    }
    name = layer.outputs[0].name
    held = {key: _initializer(graph, f"{name}.{key}", value) for key, value in new.items()}
    weights.replace_input_with(0, held["codes"])
    weights.replace_input_with(1, held["scale"])
    layer.resize_inputs(3)
    layer.replace_input_with(2, held["bias"])
    norm.outputs[0].replace_all_uses_with(layer.outputs[0])
    graph.remove(norm, safe=True)


def _initializer(graph: Any, name: str, value: Any) -> Any:
    import onnx_ir

    found = onnx_ir.val(name, const_value=onnx_ir.tensor(value, name=name))
    graph.register_initializer(found)
    return found
