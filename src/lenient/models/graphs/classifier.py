"""From an ONNX file to a classifier: which output, which size, and what has to be known of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from lenient.core.errors import TeacherError
from lenient.core.seeding import derive
from lenient.core.text import shown
from lenient.models.card import Card, Network
from lenient.models.facts import Facts, channels_last, make_card
from lenient.models.graphs.functions import UnknownError
from lenient.models.graphs.network import BUDGET, GraphNetwork, TooLargeError, build
from lenient.models.graphs.reading import ForeignError, Graph, Node, Value, read_graph
from lenient.models.inside import taken_outside
from lenient.models.names import one_line
from lenient.models.probing import batch_norm_layers
from lenient.models.stated import facts_of_stated

ORIGIN = "the graph of the file"
_MOST_FIXED = 1024
"""Images of a batch that is built in, up to which the graph is followed."""
_TOLERANCE = 1e-3


def classifier_of(path: Path, flags: Facts) -> Network:
    """Rebuild the classifier that an ONNX file describes; no code of it runs.

    Raises:
        TeacherError: it is damaged, asks for too much memory, or is no classifier of images.
        ForeignError: it has what is not rebuilt here; a runtime for such files may take it.
    """
    graph = read_graph(path)
    output, notes = _output(graph, flags.num_classes, path)
    last, size = _size(graph.images, flags, path)
    if last:
        notes.append("it takes images with channels last (N,H,W,C): they are turned on the way in")
    try:
        made = build(graph, output, size, channels_last=last).eval()
        wrong = _built_in(made, graph, size)
    except UnknownError as error:
        raise ForeignError(
            f"{path}: has the operator {shown(str(error))}, which is not rebuilt here; give the weights "
            "(module.state_dict()) and --teacher-arch"
        ) from error
    except TooLargeError as error:
        raise TeacherError(f"{path}: describes {error}; correct --input-size, or make or fetch "
                           "the file again") from error  # fmt: skip
    except TeacherError:
        raise
    except Exception as error:  # what a file says may be wrong in every way
        raise TeacherError(
            f"{path}: its graph makes no sense ({one_line(error, 120)}); make or fetch it again"
        ) from error
    if wrong:
        raise TeacherError(f"{path}: {wrong}")
    if len(made.answer) != 2:
        raise TeacherError(
            f"{path}: returns {list(made.answer)[1:]} for an image instead of logits: it is no classifier"
        )
    facts = Facts(ORIGIN, channels=size[0], size=size[1:], num_classes=made.answer[1])
    layers = [flags, facts, facts_of_stated(graph.said)]
    card = make_card(layers, None, str(path), (*notes, *_notes(made, graph)))
    return taken_outside(Network(made, card), stated=flags.mean is not None)


def folded(graph: Graph) -> int:
    """Return how many convolutions carry a batch norm folded in, as torch's two exporters name their weights."""
    return sum(
        name.startswith("onnx::Conv") or f"{name}_bias" in node.inputs[2:]
        for node in graph.nodes
        if node.operator == "Conv"
        for name in node.inputs[1:2]
    )


def _notes(made: GraphNetwork, graph: Graph) -> list[str]:
    norms, hidden = len(batch_norm_layers(made)), folded(graph)
    convolutions = sum(node.operator == "Conv" for node in graph.nodes)
    notes = [f"rebuilt from the file's graph (opset {graph.version}): {convolutions} convolutions, {norms} batch norms"]
    if hidden or (convolutions and not norms and _all_biased(graph)):
        sure = (
            f"{hidden} convolutions have"
            if hidden
            else "convolutions with biases and without a batch norm: if it had any, they have"
        )
        left = "no statistics; use --method dafl-adv" if not norms else "their statistics are lost"
        notes.append(f"{sure} their batch norms folded in: {left}, or export it with "
                     "training=TrainingMode.PRESERVE, dynamo=False, which keeps them")  # fmt: skip
    if graph.images.shape and graph.images.shape[0]:
        notes.append(f"written for batches of {graph.images.shape[0]}: made free, and tried")
    return notes


def _all_biased(graph: Graph) -> bool:
    return all(len(node.inputs) > 2 and node.inputs[2] for node in graph.nodes if node.operator == "Conv")


def _output(graph: Graph, num_classes: int | None, path: Path) -> tuple[str, list[str]]:
    """Return the name of the logits: before a softmax that ends the graph, and of several outputs the likeliest.

    Raises TeacherError where nothing tells which of them are the logits.
    """
    flat = [value for value in graph.outputs if value.shape is None or len(value.shape) == 2] or list(graph.outputs)[:1]
    makers: Mapping[str, Node] = {made: node for node in graph.nodes for made in node.outputs if made}
    sources = {value.name: _before_softmax(value.name, makers) for value in flat}
    named = [value.name for value in flat if "logit" in value.name.lower()]
    if not named:
        wide = [value.name for value in flat if num_classes and value.shape and value.shape[1] == num_classes]
        named = _computed_last({name: sources[name][0] for name in wide or sources}, makers)
    if not named:
        listed = ", ".join(
            f"{shown(value.name)} of {value.shape[1] if value.shape else '?'} values" for value in flat[:4]
        )
        number = "" if num_classes else "give --num-classes N, or "
        raise TeacherError(
            f"{path}: puts out {listed}, and nothing tells which are the logits: {number}export it with these alone"
        )
    notes = []
    if len(graph.outputs) > 1:
        rest = ", ".join(shown(value.name) for value in graph.outputs if value.name != named[0])
        notes.append(f"of its outputs {shown(named[0])} is taken for the logits, not {rest}")
    name, cut = sources[named[0]]
    return name, [*notes, "the softmax that ends it is left out, for logits"] if cut else notes


def _before_softmax(name: str, makers: Mapping[str, Node]) -> tuple[str, bool]:
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


def _size(images: Value, flags: Facts, path: Path) -> tuple[bool, tuple[int, int, int]]:
    """Return whether channels come last, and the images' channels, height and width."""
    shape = images.shape
    if shape is None or len(shape) != 4:
        raise TeacherError(f"{path}: takes {'?' if shape is None else list(shape)}, not images (N, C, H, W)")
    if images.dtype is None or not images.dtype.is_floating_point:
        kind = str(images.dtype).removeprefix("torch.")
        raise ForeignError(f"{path}: takes images as {kind}, which have no gradient: export it for float images")
    last = channels_last(shape)
    own = (shape[3], shape[1], shape[2]) if last else shape[1:]
    asked = (flags.channels, *(flags.size or (None, None)))
    channels, height, width = (mine or given for mine, given in zip(own, asked, strict=True))
    if channels is None or height is None or width is None:
        known = ",".join(str(value or letter) for value, letter in zip(own, "CHW", strict=True))
        raise TeacherError(f"{path}: the size of its images is not known: give --input-size {known}")
    if any(given is not None and given != taken for given, taken in zip(asked, (channels, height, width), strict=True)):
        raise TeacherError(f"--input-size: {path} takes {channels},{height},{width} and nothing else; leave it out")
    if images.shape and (images.shape[0] or 0) > _MOST_FIXED:
        raise TeacherError(f"{path}: is written for batches of {images.shape[0]}; export it for any number of images")
    Card(None, (channels, height, width), 2, (0.0,) * channels, (1.0,) * channels)
    return last, (channels, height, width)


def _built_in(made: GraphNetwork, graph: Graph, size: tuple[int, int, int]) -> str:
    """Say what keeps a graph that was written for so many images from taking others; nothing where it takes them.

    Where its maps are so large that all images together exceed `BUDGET`, shapes alone are tried.
    """
    fixed = graph.images.shape[0] if graph.images.shape else None
    if not fixed:
        return ""
    if 2 * fixed * made.largest * 4 > BUDGET:
        return "" if _shape_of(made, (2 * fixed, *size)) == (2 * fixed, *made.answer[1:]) else _refused(fixed)
    images = torch.rand((2 * fixed, *size), generator=torch.Generator().manual_seed(derive(0, "classifier_of")))
    with torch.no_grad():
        apart = torch.cat([made(images[:fixed]), made(images[fixed:])])
        try:
            together = made(images)
        except (RuntimeError, ValueError, IndexError):
            together = apart[:0]
    same = together.shape == apart.shape and float((together - apart).abs().max()) <= _TOLERANCE * float(
        apart.abs().max()
    )
    return "" if same else _refused(fixed)


def _shape_of(made: GraphNetwork, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape of answers to so many images, without memory for maps; None where it takes no such number."""
    unreal = {name: value.to("meta") for name, value in made.state_dict().items()}
    try:
        return tuple(torch.func.functional_call(made, unreal, (torch.empty(shape, device="meta"),)).shape)
    except (RuntimeError, ValueError, IndexError):
        return None


def _refused(fixed: int) -> str:
    return (
        f"is written for batches of {fixed}, which its graph has built in; export it for any number of images "
        "(dynamic_shapes of torch.onnx.export)"
    )  # fmt: skip
