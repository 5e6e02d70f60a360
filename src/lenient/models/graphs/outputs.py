"""Which of an ONNX graph's outputs the logits are, by its names, its shapes and what is computed from what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lenient.core.errors import TeacherError
from lenient.core.text import shown
from lenient.models.graphs.reading import Node, Value


def chosen_output(
    nodes: Sequence[Node], outputs: Sequence[Value], num_classes: int | None, path: Path
) -> tuple[Value, list[str]]:
    """Return of a graph's outputs the logits, or what is made of them alone, and notes on the choice.

    Raises TeacherError where nothing tells which of them are the logits.
    """
    flat = [value for value in outputs if _may_be_logits(value)] or list(outputs)[:1]
    makers = makers_of(nodes)
    sources = {value.name: before_softmax(value.name, makers)[0] for value in flat}
    named = [value.name for value in flat if "logit" in value.name.lower()]
    if not named:
        wide = [value.name for value in flat if num_classes and value.shape and value.shape[1] == num_classes]
        named = _computed_last({name: sources[name] for name in wide or sources}, makers)
    if not named:
        listed = ", ".join(
            f"{shown(value.name)} of {value.shape[1] if value.shape else '?'} values" for value in flat[:4]
        )
        number = "" if num_classes else "give --num-classes N, or "
        raise TeacherError(
            f"{path}: puts out {listed}, and nothing tells which are the logits: {number}export it with these alone"
        )
    notes = []
    if len(outputs) > 1:
        rest = ", ".join(shown(value.name) for value in outputs if value.name != named[0])
        notes.append(f"of its outputs {shown(named[0])} is taken for the logits, not {rest}")
    return next(value for value in flat if value.name == named[0]), notes


def _may_be_logits(value: Value) -> bool:
    flat = value.shape is None or len(value.shape) == 2
    return flat and (value.dtype is None or value.dtype.is_floating_point)


def makers_of(nodes: Sequence[Node]) -> Mapping[str, Node]:
    """Return the node that makes each value."""
    return {made: node for node in nodes for made in node.outputs if made}


def before_softmax(name: str, makers: Mapping[str, Node]) -> tuple[str, bool]:
    """Return what an output is before what ends the graph, and whether that is a softmax."""
    seen: set[str] = set()
    cut = False
    while name in makers and name not in seen:
        seen.add(name)
        node = makers[name]
        ends = node.operator == "Softmax" and node.attributes.get("axis", -1) in (1, -1)
        if not ends and node.operator != "Identity":
            break
        cut |= ends
        name = node.inputs[0]
    return name, cut


def _computed_last(sources: Mapping[str, str], makers: Mapping[str, Node]) -> list[str]:
    """Return of outputs, given with what they are before a softmax, those that are computed from all the others, as
    logits are from features; else the one that a linear layer makes; [] where that is none, or several."""
    last = [name for name, source in sources.items() if {*sources.values()} <= _leading_to(source, makers)]
    linear = [
        name
        for name, source in sources.items()
        if any(made in makers and makers[made].operator in ("Gemm", "MatMul") for made in _with_sum(source, makers))
    ]
    return last or (linear if len({sources[name] for name in linear}) == 1 else [])


def _with_sum(name: str, makers: Mapping[str, Node]) -> tuple[str, ...]:
    """Return a value's name, and where it is a sum, those of what is added."""
    node = makers.get(name)
    return (name, *node.inputs) if node is not None and node.operator == "Add" else (name,)


def _leading_to(name: str, makers: Mapping[str, Node]) -> set[str]:
    """Return the names of all that a value is computed from, and its own."""
    found, left = {name}, [name]
    while left:
        node = makers.get(left.pop())
        new = set(node.inputs if node is not None else ()) - found
        found |= new
        left += new
    return found
