"""What an ONNX file says: nodes, constants, what goes in and comes out. Nothing of it is run.

The format is described at https://onnx.ai/onnx/repo-docs/IR.html.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lenient.core import files
from lenient.core.errors import TeacherError
from lenient.core.packages import needs
from lenient.core.text import shown
from lenient.models.names import one_line

MAX_BYTES = 2**31 - 1
"""Of the file itself, which protobuf allows no more."""
MAX_NODES = 20_000
OLDEST = 7
"""Version of the operators from which on shapes broadcast as they do today."""
_KINDS = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64,
          9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One operation: `operator(*inputs) -> outputs`; an input that is left out is "" (None for the operator)."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    """Numbers, texts, lists of them, tensors."""


@dataclass(frozen=True)
class Value:
    """An input or output of the graph; sizes that are free or not said are None."""

    name: str
    dtype: torch.dtype | None
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Graph:
    """A network as a file describes it."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    images: Value
    outputs: tuple[Value, ...]
    version: int
    """Of ONNX's operators (opset)."""
    said: Mapping[str, str]
    """The file's properties."""


class ForeignError(TeacherError):
    """The file is sound as far as can be told, and holds what is not rebuilt here."""


def read_graph(path: Path) -> Graph:
    """Read a file, and files of weights that lie beside it.

    Raises:
        TeacherError: it is damaged or too large, names files elsewhere, takes more than images, or the package onnx is
            missing.
        ForeignError: it holds operators of others than ONNX, functions of its own, or weights of a kind of their own.
    """
    if find_spec("onnx") is None:
        raise TeacherError(f"{path}: reading it {needs('onnx')}")
    import onnx

    model = onnx.ModelProto()
    try:
        model.ParseFromString(files.read_bytes(path, MAX_BYTES))
        return _graph(model, path)
    except TeacherError:
        raise
    except OSError as error:
        raise TeacherError(f"{path}: cannot be read ({error.strerror or one_line(error, 100)})") from error
    except Exception as error:  # of protobuf, NumPy and torch, which each have their own
        raise TeacherError(f"{path}: damaged or not an ONNX file ({one_line(error, 100)})") from error


@dataclass(frozen=True)
class Sketch:
    """What a sound file says at first sight, also one of a network that is not rebuilt here."""

    nodes: tuple[Node, ...]
    """With those attributes that are whole numbers or lists of them."""
    outputs: tuple[Value, ...]
    values: int
    """How many numbers it holds as constants."""
    beside: tuple[Path, ...]
    """Files that constants lie in."""


def sketch(path: Path) -> Sketch:
    """Look at a sound file, without reading its constants."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    nodes = [
        Node(
            proto.op_type,
            tuple(proto.input),
            tuple(proto.output),
            {a.name: _attribute(a, path) for a in proto.attribute if a.type in (2, 7)},
        )
        for proto in graph.node
    ]
    constants = [value.t for proto in graph.node if proto.op_type == "Constant" for value in proto.attribute]
    constants += graph.initializer
    places = {entry.value for proto in constants for entry in proto.external_data if entry.key == "location"}
    return Sketch(
        tuple(nodes),
        tuple(_value(entry) for entry in graph.output),
        sum(math.prod(proto.dims) for proto in constants),
        tuple(path.parent / name for name in sorted(places)),
    )


def _graph(model: Any, path: Path) -> Graph:
    graph = model.graph
    versions = [int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions or not graph.node:
        raise TeacherError(f"{path}: damaged or not an ONNX file (it describes no network); make or fetch it again")
    if len(graph.node) > MAX_NODES:
        raise TeacherError(f"{path}: has more than {MAX_NODES:,} operations, which no classifier needs")
    if versions[0] < OLDEST:
        raise ForeignError(f"{path}: is of opset {versions[0]}; write it anew with {OLDEST} or later")
    _refuse_foreign(model, path)
    constants = {tensor.name: _tensor(tensor, path) for tensor in graph.initializer}
    nodes = []
    for proto in graph.node:
        node = Node(
            proto.op_type,
            tuple(proto.input),
            tuple(proto.output),
            {a.name: _attribute(a, path) for a in proto.attribute},
        )
        if node.operator == "Constant":
            constants[node.outputs[0]] = _constant(node.attributes)
        else:
            nodes.append(node)
    inputs = [_value(entry) for entry in graph.input if entry.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(shown(value.name) for value in inputs[:4])
        raise TeacherError(f"{path}: takes {len(inputs)} inputs ({names}), and a classifier takes images alone")
    said = {entry.key: entry.value for entry in model.metadata_props}
    return Graph(tuple(nodes), constants, inputs[0], tuple(_value(entry) for entry in graph.output), versions[0], said)


def _refuse_foreign(model: Any, path: Path) -> None:
    if model.functions:
        raise ForeignError(
            f"{path}: is written with functions of its own; put onnx.inliner.inline_local_functions to it"
        )
    foreign = next((node for node in model.graph.node if node.domain not in ("", "ai.onnx")), None)
    if foreign is not None:
        name = shown(f"{foreign.domain}.{foreign.op_type}")
        raise ForeignError(f"{path}: has the operator {name}, as files that were optimised for one runtime have; "
                           "give the file as it was before")  # fmt: skip
    if model.graph.sparse_initializer:
        raise ForeignError(f"{path}: holds sparse weights; write it anew with dense ones")


def _tensor(proto: Any, path: Path) -> Tensor:
    """Return a tensor of the file, floating point as float32, which is what runs compute in."""
    found = _stored(proto, path)
    return found.float() if found.is_floating_point() else found


def _stored(proto: Any, path: Path) -> Tensor:
    """Return a tensor of the file; what its shape asks for is compared with the bytes that are there."""
    import numpy as np
    from onnx import numpy_helper

    shape, kind = tuple(proto.dims), _KINDS.get(proto.data_type)
    if kind is None or any(size < 0 for size in shape):
        raise ForeignError(f"{path}: holds numbers of a type that is not rebuilt here ({shown(proto.name)})")
    external = proto.data_location == 1
    if not external and not proto.raw_data:
        array = numpy_helper.to_array(proto)
        if kind == torch.bfloat16:
            array = array.astype(np.float32)
        return torch.from_numpy(np.array(array)).to(kind).reshape(shape)
    count = math.prod(shape)
    content = _beside(proto, path, count * kind.itemsize) if external else bytearray(proto.raw_data)
    if len(content) != count * kind.itemsize:
        raise ValueError("the size of a tensor")
    return torch.frombuffer(content, dtype=kind).reshape(shape) if count else torch.empty(shape, dtype=kind)


def _beside(proto: Any, path: Path, count: int) -> bytearray:
    """Return the bytes of a tensor that lie in a file beside; links there are not followed."""
    says = {entry.key: entry.value for entry in proto.external_data}
    name = says.get("location", "")
    place = path.with_name(name) if name and not re.search(r"[/\\:\0]", name) and name not in (".", "..") else None
    if place is None or files.kind_of(place) not in ("a file", None):
        raise TeacherError(f"{path}: names the file {shown(name)} for its weights, which is no file beside it; "
                           "put it there, or write the file anew with its weights inside")  # fmt: skip
    if files.kind_of(place) is None:
        raise TeacherError(f"{path}: its weights lie in {shown(name)}, which is not there; put it beside the file")
    start, length = int(says.get("offset", 0)), int(says.get("length", count))
    with files.reading(place) as file:
        end = file.seek(0, 2)
        if start < 0 or length != count or start + length > end:
            raise ValueError("the place of a tensor in the file of weights")
        file.seek(start)
        return bytearray(file.read(length))


def _attribute(proto: Any, path: Path) -> Any:
    fields = {1: "f", 2: "i", 3: "s", 6: "floats", 7: "ints", 8: "strings"}
    if proto.type == 4:
        return _tensor(proto.t, path)
    value = getattr(proto, fields[proto.type]) if proto.type in fields else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _constant(attributes: Mapping[str, Any]) -> Tensor:
    value = next(iter(attributes.values()))
    if isinstance(value, Tensor):
        return value
    first = value[0] if isinstance(value, list) and value else value
    return torch.tensor(value, dtype=torch.float32 if isinstance(first, float) else torch.int64)


def _value(proto: Any) -> Value:
    kind = proto.type.tensor_type
    shape = None
    if kind.HasField("shape"):
        shape = tuple(
            int(size.dim_value) if size.HasField("dim_value") and 0 < size.dim_value < 2**31 else None
            for size in kind.shape.dim
        )
    return Value(proto.name, _KINDS.get(kind.elem_type), shape)
