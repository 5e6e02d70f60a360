"""ONNX's operators without weights, as functions of tensors.

Each is what https://onnx.ai/onnx/operators/ says of it. What an operator reads as plain numbers (a shape, axes, bounds)
comes as Python numbers or lists of them, so that a shape is known without a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lenient.models.graphs.reading import Node

Function = Callable[..., Any]
"""Takes the inputs of a node in order, None for one that is left out; returns a tensor, or a list of several."""
_FLOATS = (1, 10, 11, 16)
_KINDS = {2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool}
_MAX_RANGE = 2**20
_CUBIC = -0.75
"""The one coefficient of cubic interpolation that torch has."""


class UnknownError(Exception):
    """Words for an operator, or a form of it, that is not rebuilt here."""


@dataclass(frozen=True)
class Operator:
    """How a node becomes a function."""

    make: Callable[[Node, int], Function]
    """Takes the node and the version of the operators."""
    numbers: tuple[int, ...] = ()
    """Inputs that are read as plain numbers."""


def _plain(function: Any) -> Operator:
    return Operator(lambda node, version: function)


def _with(function: Function, *numbers: int, **defaults: Any) -> Operator:
    """Return an operator whose attributes are keyword arguments of a function."""

    def make(node: Node, version: int) -> Function:
        unknown = set(node.attributes) - set(defaults)
        if unknown:
            raise UnknownError(f"{node.operator} with {sorted(unknown)[0]}")
        return partial(function, **{**defaults, **node.attributes})

    return Operator(make, numbers)


# elementwise


def _cast(node: Node, version: int) -> Function:
    to = node.attributes["to"]
    if to in _FLOATS:  # of which precision is for the run to say
        return lambda x: x if x.is_floating_point() else x.float()
    if to not in _KINDS:
        raise UnknownError("Cast to a type of no number")
    return lambda x: x.to(_KINDS[to])


def _div(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _clip(node: Node, version: int) -> Function:
    low, high = node.attributes.get("min"), node.attributes.get("max")

    def clip(x: Tensor, least: Any = low, most: Any = high) -> Tensor:
        least, most = (bound[0] if isinstance(bound, list) else bound for bound in (least, most))
        return x if least is None and most is None else x.clamp(least, most)

    return clip


def _reduced(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    def over_all(*values: Tensor) -> Tensor:
        found = values[0]
        for value in values[1:]:
            found = function(found, value)
        return found

    return over_all


def _softmax(function: Callable[..., Tensor]) -> Operator:
    def make(node: Node, version: int) -> Function:
        axis = node.attributes.get("axis", 1 if version < 13 else -1)
        if version >= 13:
            return lambda x: function(x, dim=axis)
        return lambda x: function(x.flatten(axis % x.dim()), dim=-1).reshape(x.shape)  # all axes from there on are one

    return Operator(make)


def _hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def _gelu(x: Tensor, approximate: str) -> Tensor:
    return F.gelu(x, approximate=approximate)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


def _swish(x: Tensor, alpha: float) -> Tensor:
    return x * (alpha * x).sigmoid()


# reductions and products


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def make(node: Node, version: int) -> Function:
        keep, of_all = bool(node.attributes.get("keepdims", 1)), not node.attributes.get("noop_with_empty_axes", 0)
        own = node.attributes.get("axes")

        def reduce(x: Tensor, axes: list[int] | None = own) -> Tensor:
            return function(x, axes or list(range(x.dim())), keep) if axes or of_all else x

        return reduce

    return Operator(make, numbers=(1,))


def _norm(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.square().sum(axes, keep).sqrt()


def _gemm(
    x: Tensor, y: Tensor, z: Tensor | None = None, *, alpha: float, beta: float, transA: int, transB: int
) -> Tensor:
    found = alpha * ((x.t() if transA else x) @ (y.t() if transB else y))
    return found if z is None else found + beta * z


def _einsum(*tensors: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *tensors)


def _instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int, epsilon: float, **_: Any) -> Tensor:
    return F.layer_norm(x, x.shape[axis % x.dim() :], scale, bias, epsilon)


def _group_norm(node: Node, version: int) -> Function:
    if version < 21:
        raise UnknownError("GroupNormalization before opset 21")
    groups, epsilon = node.attributes["num_groups"], node.attributes.get("epsilon", 1e-5)
    return lambda x, scale, bias: F.group_norm(x, groups, scale, bias, epsilon)


def _local_response(x: Tensor, *, size: int, alpha: float, beta: float, bias: float) -> Tensor:
    if size % 2 == 0:  # torch has the longer half before a channel, the format after it
        raise UnknownError("LRN over an even number of channels")
    width = min(size, 2 * x.shape[1] - 1)  # what is wider sees the same channels
    return F.local_response_norm(x, width, alpha * width / size, beta, bias)


# pools and maps


def sides(node: Node, shape: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Return strides, dilations and pads (before each axis, then after each) of a window over maps of `shape`."""
    given, count = node.attributes, len(kernel)
    strides, dilations = given.get("strides", [1] * count), given.get("dilations", [1] * count)
    kind = given.get("auto_pad", "NOTSET")
    if kind == "NOTSET":
        return strides, dilations, given.get("pads", [0] * 2 * count)
    if kind == "VALID":
        return strides, dilations, [0] * 2 * count
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    missing = [
        max((math.ceil(size / stride) - 1) * stride + extent - size, 0)
        for size, stride, extent in zip(shape[2:], strides, extents, strict=True)
    ]
    less, more = [pad // 2 for pad in missing], [pad - pad // 2 for pad in missing]
    return strides, dilations, [*less, *more] if kind == "SAME_UPPER" else [*more, *less]


def torch_pads(pads: Sequence[int]) -> list[int]:
    """Return ONNX's pads in torch's order: the last axis first, before and after it."""
    count = len(pads) // 2
    return [pads[axis + count * end] for axis in reversed(range(count)) for end in (0, 1)]


_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _max_pool(node: Node, version: int) -> Function:
    kernel, ceil = node.attributes["kernel_shape"], bool(node.attributes.get("ceil_mode", 0))
    if len(node.outputs) > 1 and node.outputs[1]:
        raise UnknownError("MaxPool that returns places")

    def pool(x: Tensor) -> Tensor:
        strides, dilations, pads = sides(node, x.shape, kernel)
        padded, half = _padded(x, kernel, pads, -math.inf)
        found = _MAX_POOLS[len(kernel)](padded, kernel, strides, half, dilations, ceil_mode=ceil)
        return _begun(found, x.shape, strides, pads) if ceil else found

    return pool


def _padded(x: Tensor, kernel: list[int], pads: list[int], value: float) -> tuple[Tensor, list[int]]:
    """Return maps to be pooled, and what is left of their pads for torch: none where it does not take such."""
    half = pads[: len(kernel)]
    if half == pads[len(kernel) :] and all(2 * pad <= size for pad, size in zip(half, kernel, strict=True)):
        return x, half
    return F.pad(x, torch_pads(pads), value=value), [0] * len(kernel)


def _begun(found: Tensor, shape: Sequence[int], strides: Sequence[int], pads: Sequence[int]) -> Tensor:
    """Return what maps of `shape` were pooled to, without windows that begin in the pads after them.

    In ceil_mode the format has none such; torch keeps them where the maps were padded before.
    """
    for axis, (size, stride, before) in enumerate(zip(shape[2:], strides, pads, strict=False), 2):
        found = found.narrow(axis, 0, min(found.shape[axis], math.ceil((size + before) / stride)))
    return found


def _average_pool(node: Node, version: int) -> Function:
    kernel, ceil = node.attributes["kernel_shape"], bool(node.attributes.get("ceil_mode", 0))
    counts = bool(node.attributes.get("count_include_pad", 0))
    if any(size != 1 for size in node.attributes.get("dilations", ())):
        raise UnknownError("AveragePool with dilations")

    def pool(x: Tensor) -> Tensor:
        strides, _, pads = sides(node, x.shape, kernel)
        padded, half = _padded(x, kernel, pads, 0.0)
        average = partial(_AVERAGE_POOLS[len(kernel)], kernel_size=kernel, stride=strides, ceil_mode=ceil)
        found = average(padded, padding=half, count_include_pad=counts)
        if padded is not x and not counts:
            found = found / average(_padded(torch.ones_like(x[:1, :1]), kernel, pads, 0.0)[0])
        return _begun(found, x.shape, strides, pads) if ceil else found

    return pool


def _global_pool(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    return _plain(lambda x: function(x, list(range(2, x.dim())), True))


def _pad(node: Node, version: int) -> Function:
    kinds = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
    kind, own = node.attributes.get("mode", "constant"), node.attributes.get("pads")
    if kind not in kinds:
        raise UnknownError(f"Pad by {kind}")
    fill = node.attributes.get("value", 0.0)

    def pad(x: Tensor, pads: list[int] | None = own, value: Any = None, axes: list[int] | None = None) -> Tensor:
        assert pads is not None, "the format asks for it"
        value = fill if value is None else value
        chosen = range(x.dim()) if axes is None else [axis % x.dim() for axis in axes]
        whole = [0] * 2 * x.dim()
        for place, axis in enumerate(chosen):
            whole[axis], whole[axis + x.dim()] = pads[place], pads[place + len(pads) // 2]
        ends = torch_pads(whole)
        if kinds[kind] == "constant":
            return F.pad(x, ends, value=value[0] if isinstance(value, list) else value)
        while ends and ends[-2:] == [0, 0]:  # torch pads the last axes alone in these ways
            del ends[-2:]
        return F.pad(x, ends, mode=kinds[kind])

    return pad


def _resize(node: Node, version: int) -> Function:
    given = node.attributes
    how, places = given.get("mode", "nearest"), given.get("coordinate_transformation_mode", "half_pixel")
    rounding = given.get("nearest_mode", "round_prefer_floor")
    if version < 11:  # which has no such attributes
        places, rounding = "asymmetric", "floor"
    modes = {1: {"linear": "linear"}, 2: {"linear": "bilinear", "cubic": "bicubic"}}
    smooth = how in ("linear", "cubic") and places in ("half_pixel", "pytorch_half_pixel", "align_corners")
    stepped = how == "nearest" and places == "asymmetric" and rounding == "floor"
    if version < 10 or not (smooth or stepped):
        raise UnknownError(f"Resize by {how} with {places}")
    if how == "cubic" and given.get("cubic_coeff_a", _CUBIC) != _CUBIC:
        raise UnknownError("Resize with cubic_coeff_a")
    usual = {"axes": None, "antialias": 0, "exclude_outside": 0, "keep_aspect_ratio_policy": "stretch"}
    for name, value in usual.items():
        if (given.get(name) or value) != value:
            raise UnknownError(f"Resize with {name}")

    def resize(x: Tensor, roi: Any = None, scales: Any = None, sizes: Any = None) -> Tensor:
        if version < 11:
            scales = roi
        if (sizes and sizes[1] != x.shape[1]) or (not sizes and [*scales[:2]] != [1, 1]):
            raise UnknownError("Resize of other axes than height and width")
        if version < 11 and min(scales) < 1:  # runtimes round otherwise there, and the format does not say
            raise UnknownError("Resize to less before opset 11")
        mode = "nearest" if stepped else modes[x.dim() - 2][how]
        corners = None if stepped else places == "align_corners"
        target = [int(size) for size in sizes[2:]] if sizes else None
        factors = None if target else [float(scale) for scale in scales[2:]]
        return F.interpolate(x, size=target, scale_factor=factors, mode=mode, align_corners=corners)

    return resize


# shapes


def _shape(node: Node, version: int) -> Function:
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    return lambda x: torch.tensor(tuple(x.shape)[start:end], dtype=torch.int64)


def _reshape(x: Tensor, shape: list[int], *, allowzero: int) -> Tensor:
    return x.reshape([x.shape[place] if size == 0 and not allowzero else size for place, size in enumerate(shape)])


def _flatten(x: Tensor, *, axis: int) -> Tensor:
    return x.reshape(math.prod(x.shape[: axis % x.dim() if axis < 0 else axis]), -1)


def _squeeze(node: Node, version: int) -> Function:
    own = node.attributes.get("axes")

    def squeeze(x: Tensor, axes: list[int] | None = own) -> Tensor:
        return x.squeeze() if axes is None else x.squeeze(tuple(axes))

    return squeeze


def _unsqueeze(node: Node, version: int) -> Function:
    own = node.attributes.get("axes")

    def unsqueeze(x: Tensor, axes: list[int] | int | None = own) -> Tensor:
        places = [axes] if isinstance(axes, int) else axes or []
        for axis in sorted(place % (x.dim() + len(places)) for place in places):
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


def _transpose(x: Tensor, *, perm: list[int] | None) -> Tensor:
    return x.permute(perm or list(reversed(range(x.dim()))))


def _concat(*tensors: Tensor, axis: int) -> Tensor:
    rows = max(x.shape[0] for x in tensors if x.dim()) if tensors[0].dim() else 0
    if axis % max(tensors[0].dim(), 1) != 0:  # a token of one's own, in a graph that was written for one image
        tensors = tuple(x.expand(rows, *x.shape[1:]) if x.shape[0] == 1 else x for x in tensors)
    return torch.cat(tensors, axis)


def _split(node: Node, version: int) -> Function:
    axis, own, count = node.attributes.get("axis", 0), node.attributes.get("split"), len(node.outputs)

    def split(x: Tensor, sizes: list[int] | None = own) -> list[Tensor]:
        return list(x.split(sizes or math.ceil(x.shape[axis] / count), axis))

    return split


def _slice(node: Node, version: int) -> Function:
    own = [node.attributes.get(name) for name in ("starts", "ends", "axes")]

    def cut(x: Tensor, *given: list[int] | None) -> Tensor:
        starts, ends, axes, steps = (*(given or own), None, None)[:4]
        assert starts is not None, "the format asks for it"
        assert ends is not None, "the format asks for it"
        for axis, start, end, step in zip(
            axes or range(len(starts)), starts, ends, steps or [1] * len(starts), strict=True
        ):
            size = x.shape[axis]
            last = None if step < 0 and end < -size else end
            places = range(size)[start:last:step]
            if step == 1:
                x = x.narrow(axis, places.start, len(places)) if len(places) else x.narrow(axis, 0, 0)
            else:
                x = x.index_select(axis, torch.tensor(places, dtype=torch.int64, device=x.device))
        return x

    return cut


def _gather(x: Tensor, places: Tensor, *, axis: int) -> Tensor:
    axis, size = axis % x.dim(), x.shape[axis]
    chosen = torch.where(places < 0, places + size, places).to(torch.int64)
    found = x.index_select(axis, chosen.flatten())
    return found.reshape((*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))


def _gather_nd(x: Tensor, places: Tensor, *, batch_dims: int) -> Tensor:
    if batch_dims:
        raise UnknownError("GatherND with batch_dims")
    return x[tuple(places.movedim(-1, 0).to(torch.int64))]


def _expand(x: Tensor, shape: list[int]) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, shape))


def _tile(x: Tensor, repeats: list[int]) -> Tensor:
    return x.repeat(repeats)


def _filled(node: Node, version: int) -> Function:
    value = node.attributes.get("value")
    fill = torch.zeros(()) if value is None else value.reshape(())
    return lambda shape: fill.expand(shape)


def _range(start: float, end: float, step: float) -> Tensor:
    if (end - start) / step > _MAX_RANGE:
        raise UnknownError("Range over millions")
    return torch.arange(start, end, step)


def _trilu(x: Tensor, diagonal: int = 0, *, upper: int) -> Tensor:
    return x.triu(diagonal or 0) if upper else x.tril(diagonal or 0)


OPERATORS: Mapping[str, Operator] = {
    **{
        name: _plain(function)
        for name, function in {
            "Abs": torch.abs, "Neg": torch.neg, "Exp": torch.exp, "Log": torch.log, "Sqrt": torch.sqrt,
            "Erf": torch.erf, "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Sin": torch.sin,
            "Cos": torch.cos, "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round, "Sign": torch.sign,
            "Reciprocal": torch.reciprocal, "Softplus": F.softplus, "Softsign": F.softsign, "Mish": F.mish,
            "HardSwish": F.hardswish, "Not": torch.logical_not, "Identity": lambda x: x, "PRelu": _prelu,
            "Dropout": lambda x, *_: x, "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": _div,
            "Pow": lambda x, y: torch.pow(x, y).to(x.dtype), "Equal": torch.eq, "Less": torch.lt, "Greater": torch.gt,
            "LessOrEqual": torch.le, "GreaterOrEqual": torch.ge, "And": torch.logical_and, "Or": torch.logical_or,
            "Where": torch.where, "Max": _reduced(torch.maximum), "Min": _reduced(torch.minimum),
            "Sum": _reduced(torch.add), "MatMul": torch.matmul,
            "CastLike": lambda x, like: x if x.is_floating_point() and like.is_floating_point() else x.to(like.dtype),
            "Size": lambda x: torch.tensor(x.numel()),
        }.items()
    },
    "Cast": Operator(_cast),
    "Clip": Operator(_clip, numbers=(1, 2)),
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    "HardSigmoid": _with(_hard_sigmoid, alpha=0.2, beta=0.5),
    "LeakyRelu": _with(lambda x, alpha: F.leaky_relu(x, alpha), alpha=0.01),
    "Elu": _with(lambda x, alpha: F.elu(x, alpha), alpha=1.0),
    "Celu": _with(lambda x, alpha: F.celu(x, alpha), alpha=1.0),
    "Selu": _with(lambda x, alpha, gamma: gamma * F.elu(x, alpha), alpha=1.6732632, gamma=1.0507010),
    "Gelu": _with(_gelu, approximate="none"),
    "Swish": _with(_swish, alpha=1.0),
    "Mod": _with(lambda x, y, fmod: torch.fmod(x, y) if fmod else torch.remainder(x, y), fmod=0),
    "ReduceMean": _reduction(torch.mean),
    "ReduceSum": _reduction(torch.sum),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMin": _reduction(torch.amin),
    "ReduceL2": _reduction(_norm),
    "Gemm": _with(_gemm, alpha=1.0, beta=1.0, transA=0, transB=0),
    "Einsum": _with(_einsum, equation=""),
    "InstanceNormalization": _with(_instance_norm, epsilon=1e-5),
    "LayerNormalization": _with(_layer_norm, axis=-1, epsilon=1e-5, stash_type=1),
    "GroupNormalization": Operator(_group_norm),
    "LRN": _with(_local_response, size=1, alpha=1e-4, beta=0.75, bias=1.0),
    "MaxPool": Operator(_max_pool),
    "AveragePool": Operator(_average_pool),
    "GlobalAveragePool": _global_pool(torch.mean),
    "GlobalMaxPool": _global_pool(torch.amax),
    "Pad": Operator(_pad, numbers=(1, 2, 3)),
    "Resize": Operator(_resize, numbers=(1, 2, 3)),
    "Shape": Operator(_shape),
    "Reshape": _with(_reshape, 1, allowzero=0),
    "Flatten": _with(_flatten, axis=1),
    "Squeeze": Operator(_squeeze, numbers=(1,)),
    "Unsqueeze": Operator(_unsqueeze, numbers=(1,)),
    "Transpose": _with(_transpose, perm=None),
    "Concat": _with(_concat, axis=0),
    "Split": Operator(_split, numbers=(1,)),
    "Slice": Operator(_slice, numbers=(1, 2, 3, 4)),
    "Gather": _with(_gather, axis=0),
    "GatherND": _with(_gather_nd, batch_dims=0),
    "Expand": _with(_expand, 1),
    "Tile": _with(_tile, 1),
    "ConstantOfShape": Operator(_filled, numbers=(0,)),
    "Range": Operator(lambda node, version: _range, numbers=(0, 1, 2)),
    "Trilu": _with(_trilu, 1, upper=1),
}  # fmt: skip
