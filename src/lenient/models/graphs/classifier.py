"""From an ONNX file to a classifier: which output, which size, and what has to be known of it."""

from __future__ import annotations

from pathlib import Path

import torch

from lenient.core.errors import TeacherError
from lenient.core.seeding import derive
from lenient.core.text import shown
from lenient.models.card import Card, Network
from lenient.models.facts import Facts, make_card
from lenient.models.graphs.functions import UnknownError
from lenient.models.graphs.images import channels_last
from lenient.models.graphs.network import BUDGET, GraphNetwork, TooLargeError, build
from lenient.models.graphs.outputs import before_softmax, chosen_output, makers_of
from lenient.models.graphs.reading import ForeignError, Graph, read_graph
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
    chosen, notes = chosen_output(graph.nodes, graph.outputs, flags.num_classes, path)
    output, cut = before_softmax(chosen.name, makers_of(graph.nodes))
    if cut:
        notes.append("the softmax that ends it is left out, for logits")
    last, size = _size(graph, flags, path)
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


def _size(graph: Graph, flags: Facts, path: Path) -> tuple[bool, tuple[int, int, int]]:
    """Return whether channels come last, and the images' channels, height and width."""
    images, shape = graph.images, graph.images.shape
    if shape is None or len(shape) != 4:
        raise TeacherError(f"{path}: takes {'?' if shape is None else list(shape)}, not images (N, C, H, W)")
    if images.dtype is None or not images.dtype.is_floating_point:
        kind = str(images.dtype).removeprefix("torch.")
        raise ForeignError(f"{path}: takes images as {kind}, which have no gradient: export it for float images")
    last = channels_last(shape, graph.nodes, images.name)
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
