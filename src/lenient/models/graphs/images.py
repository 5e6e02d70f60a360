"""In which order an ONNX graph takes the axes of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lenient.models.graphs.reading import Node

_USUAL = (1, 3)
"""Numbers of channels, and of hardly anything else."""
_BY_VALUE = ("Add", "Cast", "Div", "Identity", "Mul", "Sub")
_FORWARD = [0, 3, 1, 2]


def channels_last(shape: Sequence[object], nodes: Sequence[Node], name: str) -> bool:
    """Whether images of four sizes, which a graph takes under a name, have their channels last, as those of TensorFlow.

    The sizes say so where just one of both ends is 1 or 3, else what is first done with the images.
    """
    first, last = shape[1] in _USUAL, shape[3] in _USUAL
    return last if first != last else _brought_forward(nodes, name)


def _brought_forward(nodes: Sequence[Node], name: str) -> bool:
    """Whether a value goes nowhere but into transposes that bring its last axis forward, by way of single values."""
    uses = Counter(given for node in nodes for given in {*node.inputs})
    for node in nodes:  # in the order in which they run
        if name in node.inputs and node.operator in _BY_VALUE and uses[name] == 1:
            name = node.outputs[0]
    users = [node for node in nodes if name in node.inputs]
    return bool(users) and all(
        node.operator == "Transpose" and node.attributes.get("perm") == _FORWARD for node in users
    )
