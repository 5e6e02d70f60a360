"""The network that a graph describes: torch's layers where it has weights, functions where it has none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lenient.models.graphs.functions import OPERATORS, Function, UnknownError
from lenient.models.graphs.layers import layer
from lenient.models.graphs.reading import Graph, Node

MAX_MAP = 2**27
"""Values of one map or one constant: half a gigabyte."""
BUDGET = 2**30
"""Bytes of all that is computed when a file is read, without its weights."""
_IMAGES = 2
"""Images that a graph is followed with where it takes any number; one would hide what is built in."""


class TooLargeError(Exception):
    """The graph asks for more memory than it may take; the message says for what, and how much."""


@dataclass
class _Step:
    """One operation of a forward."""

    call: Function | str
    """A function, or the name of a layer."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    known: dict[int, Any] = field(default_factory=dict)
    """Inputs that are the same for all images, by place: numbers, or tensors on the CPU."""
    numbers: tuple[int, ...] = ()
    """Places of inputs that are read as plain numbers."""
    drops: tuple[str, ...] = ()
    """Values that nothing needs afterwards."""


class GraphNetwork(nn.Module):
    """A network as an ONNX file describes it, put together of torch's own layers.

    It takes float images (N, C, H, W), also where the file has the channels last, and returns what the graph puts out
    under the name that was chosen. Weights are those of the file; shapes are computed on the CPU, where no device is
    waited for.
    """

    def __init__(self, images: str, output: str, channels_last: bool) -> None:
        super().__init__()
        self._images, self._output, self._channels_last = images, output, channels_last
        self._steps: list[_Step] = []
        self._held: dict[str, str] = {}  # constant -> its name among those of `constants`
        self.answer: tuple[int, ...] = ()
        """Shape of the output when the graph was followed."""
        self.largest = 0
        """Values of the largest map, for one image."""
        self.layers = nn.ModuleDict()
        self.constants = nn.Module()

    def forward(self, images: Tensor) -> Tensor:
        """Return the output for images (N, C, H, W)."""
        values: dict[str, Any] = {self._images: images.permute(0, 2, 3, 1) if self._channels_last else images}
        for step in self._steps:
            run = self.layers[step.call] if isinstance(step.call, str) else step.call
            given = run(*self._arguments(step, values))
            values.update(zip(step.outputs, given if isinstance(given, list) else [given], strict=False))
            for name in step.drops:
                del values[name]
        found = values[self._output]
        assert isinstance(found, Tensor), "the graph was followed when it was read"
        return found

    def _arguments(self, step: _Step, values: Mapping[str, Any]) -> list[Any]:
        found: list[Any] = []
        for place, name in enumerate(step.inputs):
            if place in step.known:
                found.append(step.known[place])
            elif not name:
                found.append(None)
            else:
                value = getattr(self.constants, self._held[name]) if name in self._held else values[name]
                found.append(value.tolist() if place in step.numbers else value)
        devices = {value.device for value in found if isinstance(value, Tensor)}
        if len(devices) > 1:  # what was computed of shapes meets what was computed of images
            (other,) = devices - {torch.device("cpu")}
            found = [value.to(other) if isinstance(value, Tensor) else value for value in found]
        return found


class Reshaped:
    """A reshape in a graph that was written for a fixed number of images, for any number.

    The axis along which the images lie is the one that is longer than when the graph was followed; it is made longer
    by as much where it ends up.
    """

    def __init__(self, before: Sequence[int], after: Sequence[int]) -> None:
        self._before, self._after = tuple(before), tuple(after)

    def __call__(self, x: Tensor, _: Any = None) -> Tensor:
        """Return x in its new shape."""
        target, ahead = list(self._after), 1
        for size, usual in zip(x.shape, self._before, strict=True):
            if size != usual:
                at, passed = 0, 1
                while passed < ahead:
                    passed, at = passed * target[at], at + 1
                target[at] = target[at] * size // usual
                break
            ahead *= usual
        return x.reshape(target)


def build(graph: Graph, output: str, input_size: tuple[int, int, int], *, channels_last: bool) -> GraphNetwork:
    """Rebuild what leads to `output`, for images of (C, H, W); the graph is followed without memory for its maps.

    Raises:
        UnknownError: it has an operator, or a form of one, that is not rebuilt here.
        TooLargeError: a map or a constant would take over half a gigabyte for one image, or all constants over one.
        Exception: what the file says makes no sense; torch and Python say what, in words of their own.
    """
    return _Builder(graph, output, channels_last).build(input_size)


class _Builder:
    def __init__(self, graph: Graph, output: str, channels_last: bool) -> None:
        self.graph = graph
        self.made = GraphNetwork(graph.images.name, output, channels_last)
        self.constants = dict(graph.constants)
        self._places = {value.untyped_storage().data_ptr() for value in self.constants.values()}
        self._bytes = 0
        """Of constants that were computed, which live until all is built; views of the file's own count nothing."""
        self.values: dict[str, Tensor] = {}
        """What is computed of images: without numbers where it is of the images themselves, else on the CPU."""
        shape = graph.images.shape
        self.fixed = shape[0] if shape and shape[0] else None
        self.rows = self.fixed or _IMAGES

    def build(self, input_size: tuple[int, int, int]) -> GraphNetwork:
        images = torch.empty((self.rows, *input_size), device="meta")
        self.values[self.graph.images.name] = images.permute(0, 2, 3, 1) if self.made._channels_last else images
        nodes = list(_needed(self.graph.nodes, self.made._output))
        for node in joined(nodes, self.constants, self._of_images):
            self.add(node)
        self._forget()
        self.made.answer = tuple(self.values[self.made._output].shape)
        return self.made

    def _of_images(self, name: str) -> bool:
        return name in self.values and self.values[name].device.type == "meta"

    def add(self, node: Node) -> None:
        operator = OPERATORS.get(node.operator)
        first = self.values.get(node.inputs[0]) if node.inputs else None
        made = None if first is None or first.device.type != "meta" else layer(node, self.constants, tuple(first.shape))
        if made is not None and first is not None:
            name = self._name(node)
            self.made.layers[name] = made
            unreal = {key: value.to("meta") for key, value in made.state_dict().items()}
            with _Watched(self.rows) as watched:
                self._put(node, [_checked(torch.func.functional_call(made.eval(), unreal, (first,)), self.rows)])
            self.made.largest = max(self.made.largest, watched.largest)
            self.made._steps.append(_Step(name, node.inputs[:1], node.outputs[:1]))
            return
        if operator is None:
            raise UnknownError(node.operator)
        if node.operator == "Squeeze" and first is not None and first.device.type == "meta":
            node = _squeezed(node, first.shape)
        step = _Step(operator.make(node, self.graph.version), node.inputs, node.outputs, numbers=operator.numbers)
        self._resolve(step)
        given = self._followed(step)
        if node.operator in ("Reshape", "Flatten") and self.fixed and given[0].device.type == "meta":
            step.call = Reshaped(self.values[node.inputs[0]].shape, given[0].shape)
            step.inputs, step.known = step.inputs[:1], {}
        if all(name in self.constants for name in node.inputs if name):
            self.constants.update(zip(node.outputs, given, strict=False))
            return
        self._put(node, given)
        self.made._steps.append(step)

    def _resolve(self, step: _Step) -> None:
        """Fill in what is known, and give tensors that meet the images a place among the network's own."""
        of_images = any(self._of_images(name) for name in step.inputs)
        for place, name in enumerate(step.inputs):
            if name not in self.constants:
                continue
            value = self.constants[name]
            if place in step.numbers:
                step.known[place] = value.tolist()
            elif not of_images:
                step.known[place] = value
            elif name not in self.made._held:
                self.made._held[name] = own = f"value{len(self.made._held)}"
                if value.is_floating_point() and value.numel() > 1:
                    self.made.constants.register_parameter(own, nn.Parameter(value, requires_grad=False))
                else:
                    self.made.constants.register_buffer(own, value)

    def _followed(self, step: _Step) -> list[Tensor]:
        """Return what a step gives: first for tensors without memory, then, where it has none of images, in earnest."""
        assert not isinstance(step.call, str), "layers are followed by themselves"
        arguments = self.made._arguments(step, {**self.constants, **self.values})
        tensors = [value for value in arguments if isinstance(value, Tensor)]
        rows = self.rows if any(value.device.type == "meta" for value in tensors) else 1
        unreal = [value.to("meta") if isinstance(value, Tensor) else value for value in arguments]
        with _Watched(rows) as watched:
            given = _listed(step.call(*unreal))
        for value in given:
            _checked(value, rows)
        if any(value.device.type == "meta" for value in tensors):
            self.made.largest = max(self.made.largest, watched.largest)
            return given
        found = _listed(step.call(*arguments))
        for held in (value.untyped_storage() for value in found):
            if held.data_ptr() not in self._places:
                self._places.add(held.data_ptr())
                self._bytes += held.nbytes()
        if self._bytes > BUDGET:
            raise TooLargeError(f"constants of over {BUDGET / 2**30:.3g} GiB")
        return found

    def _put(self, node: Node, given: Sequence[Tensor]) -> None:
        self.values.update(zip(node.outputs, given, strict=False))

    def _name(self, node: Node) -> str:
        """Return a new name for a layer: that of its weight in the file, where it has one."""
        own = re.sub(r"\W", "_", node.inputs[1].removesuffix(".weight"))[:60].strip("_")
        sound = own and not own[0].isdigit() and not hasattr(nn.ModuleDict(), own)
        named = own if sound else f"{node.operator}_{own}"
        numbered = (f"{named}_{number}" for number in count(len(self.made.layers)))
        return next(name for name in chain([named], numbered) if not hasattr(self.made.layers, name))

    def _forget(self) -> None:
        """Note after which step each value is needed no more."""
        last = {name: step for step in self.made._steps for name in (*step.inputs, *step.outputs)}
        for name, step in last.items():
            if name and name != self.made._output and name in self.values and name != self.graph.images.name:
                step.drops = (*step.drops, name)


def _squeezed(node: Node, shape: Sequence[int]) -> Node:
    """Return a node that names its axes: of those of size one, all but that of the images, which one image has too."""
    if "axes" in node.attributes or any(node.inputs[1:]):
        return node
    return Node(
        node.operator,
        node.inputs[:1],
        node.outputs,
        {"axes": [axis for axis in range(1, len(shape)) if shape[axis] == 1]},
    )


class _Watched(TorchDispatchMode):
    """Checks all that is made on the way to a result, as a map is that was padded first."""

    def __init__(self, rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rows = rows
        self.largest = 0
        """Values that the largest of them has for one image."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if not func.is_view:
            for value in made if isinstance(made, list | tuple) else [made]:
                if isinstance(value, Tensor):
                    self.largest = max(self.largest, _checked(value, self._rows).numel() // self._rows)
        return made


def _needed(nodes: Sequence[Node], output: str) -> Iterator[Node]:
    """Yield the nodes that lead to an output, in their order."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted & set(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    return reversed(kept)


def joined(nodes: Sequence[Node], constants: Mapping[str, Tensor], of_images: Callable[[str], bool]) -> Iterator[Node]:
    """Yield nodes with each product by a matrix and the bias that is added to it as one, as linear layers are written
    where maps have more than two dimensions, and by Keras.

    What is of images is asked when a node's turn comes, and may be known no earlier.
    """
    users: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node)
    gone: set[int] = set()
    for node in nodes:
        if id(node) in gone:
            continue
        after = users.get(node.outputs[0], [])
        matrix = constants.get(node.inputs[1]) if node.operator == "MatMul" and len(node.inputs) == 2 else None
        fit = matrix is not None and matrix.dim() == 2 and of_images(node.inputs[0])
        if matrix is not None and fit and len(after) == 1 and after[0].operator == "Add":
            (add,) = after
            bias = next((name for name in add.inputs if name != node.outputs[0]), "")
            if bias in constants and tuple(constants[bias].shape) == (matrix.shape[1],):
                gone.add(id(add))
                yield Node("MatMul", (*node.inputs, bias), add.outputs, node.attributes)
                continue
        yield node


def _listed(given: Any) -> list[Tensor]:
    return given if isinstance(given, list) else [given]


def _checked(value: Tensor, rows: int) -> Tensor:
    """Return a map of so many images, or a constant, where it is no larger than it may be."""
    if value.numel() > MAX_MAP * rows:
        raise TooLargeError(f"a map of {value.numel() * 4 / 2**30 / rows:.3g} GiB for one image")
    return value
