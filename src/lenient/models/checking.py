"""Judging a network before anything depends on it: is it the classifier that its card describes, can a run use it?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lenient.core.errors import MachineError, TeacherError
from lenient.core.memory import out_of_memory
from lenient.core.runtime import Runtime
from lenient.core.seeding import untouched_global_rng
from lenient.core.text import shown
from lenient.models.behaviour import BUILT_IN, IMAGES, ask, example_images
from lenient.models.card import LEAST, Behaviour, Card, Network, flat_outputs, precision_of, to_logits
from lenient.models.lending import as_it_was, in_eval_mode, own_grad_mode, uncompiled
from lenient.models.logits import BeforeSoftmax, OneOutput, layer_before_softmax, logits_among
from lenient.models.low_bit import around, inner_of
from lenient.models.names import one_line
from lenient.models.probing import batch_norm_layers

_MOST_AT_LEAST = 0.1
"""Share of probabilities that may be too small for their logarithm before it is said."""


def check_classifier(network: Network, *, plain: bool = False) -> Network:
    """Run a few fixed images through the network in eval mode, and return it with card and behaviour as found.

    Of several outputs the logits are handed on. Rows that are at least 0 and sum to 1 are probabilities: where a layer
    makes the logits, these are read there, else the card's `outputs` become "probabilities". Each habit of the forward
    that a run has to know of gives a note, too. What `torch.compile` has wrapped is unwrapped. The module is
    afterwards as before (see `as_it_was`), and so are the global random streams. With `plain`, which students have to
    be, the network must return the logits themselves, as a tensor, and be fit to learn.

    Raises TeacherError, naming the flag to change, where the images do not fit the network, its outputs are not
    finite logits (N, num_classes), or it is of a kind that no run can use; MachineError where memory does not suffice.
    """
    network = replace(network, module=uncompiled(network.module))
    card = network.card
    if card.num_classes < 2:
        raise TeacherError(f"--num-classes: {card.num_classes} is too few; a classifier has 2 or more")
    _refuse_kinds(network.module, plain)
    output = _answer(network)
    if not plain and len(several := flat_outputs(output)) > 1:
        network = _of_one_output(network, several)
        output, card = _answer(network), network.card
    if plain and not isinstance(output, Tensor):
        raise TeacherError(f"it returns a {type(output).__name__} with logits in it; wrap it so that it returns them")
    values = _two_dimensional(to_logits(output), card.num_classes)
    if not bool(torch.isfinite(values).all()):
        raise TeacherError("the network gives NaN or infinite values for ordinary images: its weights are damaged, or "
                           "--mean/--std are not those it was trained with")  # fmt: skip
    network = replace(network, card=_with_outputs(card, values, plain))
    if network.card.outputs == "probabilities" and not plain:
        network = _without_softmax(network, values)
    network = _asked(network)
    if plain:
        for fault in (unusable(network.behaviour), without_gradient(network.behaviour)):
            if fault:
                raise TeacherError(fault)
    return network


def _of_one_output(network: Network, several: Mapping[Any, Tensor]) -> Network:
    """Return the network that hands on the logits alone of several tensors (N, C)."""
    module, card = network.module, network.card
    with untouched_global_rng(), as_it_was(module):
        in_eval_mode(module)
        key = logits_among(inner_of(module), _inputs(network), card.num_classes if network.given else None)
    if key is None:
        widths = [str(value.shape[1]) for value in several.values()]
        number = "" if network.given or len({*widths}) == 1 else "give --num-classes N, or "
        raise TeacherError(
            f"the network returns {len(several)} tensors, of {' and '.join(widths)} values per image, and nothing "
            f"tells which are the logits: {number}wrap it with a py: factory returning logits"
        )
    note = f"of its outputs {shown(key)} is taken for the logits"
    made = around(module, lambda inner: OneOutput(inner, key))
    return replace(network, module=made, card=replace(card, notes=(*card.notes, note)))


def _with_outputs(card: Card, values: Tensor, plain: bool) -> Card:
    """Return the card with what the range of outputs (N, num_classes) says of them."""
    if card.outputs != "logits":
        return card
    if _look_like_probabilities(values):
        if plain:
            raise TeacherError("it returns probabilities, and is to learn logits; leave its softmax out")
        return replace(card, outputs="probabilities")
    note = ""
    if len(values) > 1 and bool((values == values[0]).all()):
        note = (
            "WARNING: it gives different images the very same answer, as weights of zero do: nothing can be learned "
            "of it; check that the file holds the weights after training"
        )
    elif bool(((values >= 0) & (values <= 1)).all()):
        note = (
            "WARNING: outputs lie between 0 and 1 and do not sum to 1, as those of a sigmoid for independent labels: "
            "methods here are for one class of several; return the logits before it"
        )
    return replace(card, notes=(*card.notes, note)) if note and not plain and note not in card.notes else card


def _without_softmax(network: Network, values: Tensor) -> Network:
    """Return a network of probabilities (N, C) with a note: read where a layer makes the logits, if one does."""
    module, card = network.module, network.card
    with untouched_global_rng(), as_it_was(module):
        in_eval_mode(module)
        layer = layer_before_softmax(inner_of(module), _inputs(network), values)
    if layer is not None:
        note = f"the softmax that ends it is left out, for logits: they are read at its layer {shown(layer)}"
        card = replace(card, outputs="logits", notes=(*card.notes, note))
        return replace(network, module=around(module, lambda inner: BeforeSoftmax(inner, layer)), card=card)
    notes = ["outputs are probabilities (rows sum to 1 and none is below 0): their logarithm is taken as logits"]
    least = float((values < LEAST).float().mean())
    if least > _MOST_AT_LEAST:
        notes.append(
            f"WARNING: {least:.0%} of its probabilities are below {LEAST:g}, where their logarithm is cut off: images "
            "get next to no gradient; return the logits before the softmax"
        )
    new = [note for note in notes if note not in card.notes]
    return replace(network, card=replace(card, notes=(*card.notes, *new)))


def check_distillable(teacher: Network, *, gradient: bool = True) -> None:
    """Refuse a checked teacher whose answers nobody can learn from; with `gradient` also one that gives images none.

    Raises:
        TeacherError: in one line, what is wrong with its forward.
    """
    for fault in (unusable(teacher.behaviour), without_gradient(teacher.behaviour) if gradient else ""):
        if fault:
            raise TeacherError(f"the teacher cannot be distilled: {fault}")


def unusable(behaviour: Behaviour) -> str:
    """Return why nobody can learn from a network with this behaviour; nothing where one can."""
    if behaviour.random:
        return ("it answers the same images differently each time: a dropout or noise that stays on in eval mode? "
                "Give F.dropout training=self.training, and export a program from module.eval()")  # fmt: skip
    if behaviour.depends and not behaviour.batch_norms:
        return ("an image's answer depends on the other images of the batch: a program of a network in training mode? "
                "Export module.eval(). Dynamic quantisation? Quantise statically. A softmax or mean over dimension 0, "
                "which is the batch? Take dimension 1")  # fmt: skip
    return ""


def without_gradient(behaviour: Behaviour) -> str:
    """Return why a network with this behaviour gives its images no gradient; nothing where it does."""
    if not behaviour.blocked:
        return ""
    return (
        f"no gradient reaches the images: {behaviour.blocked}; take no_grad, inference_mode, detach, argmax, rounding "
        "and quantised layers out of its forward"
    )


def advice(behaviour: Behaviour) -> list[str]:
    """Say, in a line, why a network with this behaviour cannot be distilled, or not by most methods; nothing where it
    can by all."""
    if fault := unusable(behaviour):
        return [f"cannot be distilled: {fault}"]
    fault = without_gradient(behaviour)
    return [f"cannot be distilled by methods that need a gradient: {fault}"] if fault else []


def readable_batch_norms(network: Network) -> list[tuple[str, nn.Module]]:
    """Return the batch-norm layers whose inputs a checked network lets a run probe; see `batch_norm_layers`."""
    return [] if network.behaviour.silent else batch_norm_layers(network.module)


def _answer(network: Network) -> object:
    """Return what the module says about a few images, in its own precision, where it is."""
    module, inputs = network.module, _inputs(network)
    with untouched_global_rng(), as_it_was(module), own_grad_mode(), torch.no_grad():
        in_eval_mode(module)
        try:
            return module(inputs.clone())
        except TeacherError:
            raise
        except Exception as error:
            raise TeacherError(_reason(module, inputs, error)) from error


def _inputs(network: Network) -> Tensor:
    """Return a few images as the module takes them, in its own precision, where it is."""
    card, (device, dtype) = network.card, _home(network.module)
    images = example_images(card.input_size).to(device, dtype)
    mean, std = (torch.tensor(values, device=device, dtype=dtype).view(1, -1, 1, 1) for values in (card.mean, card.std))
    return (images - mean) / std


def _reason(module: nn.Module, inputs: Tensor, error: Exception) -> str:
    """Say why a forward failed, with what to do about it where that is known."""
    shape = "x".join(str(value) for value in inputs.shape[1:])
    said = one_line(error, 160)
    text = str(error).lower()
    if isinstance(error, TypeError) and "argument" in text:
        return f"its forward does not take a batch of images alone ({said}): wrap it with a py: factory"
    if any(word in text for word in ("cuda", "nvidia", "same device", "device type", "mps")):
        return f"its forward makes tensors on a device of its own ({said}): let it take that of the images"
    for count in (1, 2):
        try:
            module(inputs[:count].clone())
        except Exception:
            continue
        return f"it takes batches of {count} only ({said}): {BUILT_IN}"
    start = f"the network cannot take images of {shape} (channels x height x width): {said}"
    sizes = ("size", "shape", "channel", "dimension", "kernel", "index", "input", "resolution", "height", "width")
    return f"{start}; correct --input-size C,H,W" if any(word in text for word in sizes) else start


def _asked(network: Network) -> Network:
    """Return the network with its behaviour, and notes on what of it a run has to know."""
    device, _ = _home(network.module)
    try:
        behaviour = ask(network, Runtime(device))
    except TeacherError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise MachineError(f"memory does not suffice for {IMAGES} images of the network's size") from error
        raise TeacherError(
            f"the network cannot run in float32 ({one_line(error, 160)}): let its forward take the type of the images"
        ) from error
    behaviour = replace(behaviour, blocked=_quantised(network.module) or behaviour.blocked)
    new = [note for note in _notes(behaviour) if note not in network.card.notes]
    card = replace(network.card, notes=(*network.card.notes, *new)) if new else network.card
    return replace(network, card=card, behaviour=behaviour)


def _notes(behaviour: Behaviour) -> list[str]:
    b = behaviour
    found = {
        "its forward needs contiguous tensors (view instead of reshape?), and gets them": b.contiguous,
        "its forward writes into the images: it is handed a copy": b.writes,
        f"its forward changes {_some(b.changes)} in eval mode: put back after each forward": b.changes,
        "it takes no image alone, only batches": not b.single,
        "an image's answer depends on the other images of the batch: "
        f"{_some(b.batch_norms)} normalises by the batch in eval mode": b.depends and b.batch_norms,
        "its batch-norm layers are never called, so that their statistics cannot be matched": b.silent,
        "a forward takes long here: its behaviour was looked at in part only": b.unasked,
    }
    return [note for note, holds in found.items() if holds]


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _refuse_kinds(module: nn.Module, plain: bool) -> None:
    """Refuse, before it is run, what no run can use."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if nn.parameter.is_lazy(tensor):
            raise TeacherError(f"its {name} has no values yet: send one batch through the network first")
        if tensor.is_meta:
            raise TeacherError(f"its {name} is on the meta device and has no values: load the weights first")
    if plain and (layer := _quantised(module)):
        raise TeacherError(f"{layer}: give the network as it was before")
    if plain and isinstance(module, torch.jit.ScriptModule):
        raise TeacherError("it is a TorchScript program; give the module that was scripted")
    if plain and not _trains(module):
        raise TeacherError("it is an exported program, which cannot be trained; give the module that was exported")


def _quantised(module: nn.Module) -> str:
    """Say which layer keeps gradients from the images, though some may pass beside it; nothing where none does."""
    for name, part in module.named_modules():
        if "torch.ao.nn" in type(part).__module__ and ".quantized" in type(part).__module__:
            return f"its layer {name} is quantised ({type(part).__name__}), which has no gradient"
    return ""


def _trains(module: nn.Module) -> bool:
    with as_it_was(module):
        try:
            module.train()
        except NotImplementedError:
            return False
    return True


def _two_dimensional(values: Tensor, num_classes: int) -> Tensor:
    if values.dim() >= 1 and values.shape[0] != IMAGES and values.shape[1:].numel() == num_classes:
        raise TeacherError(f"the network returns {values.shape[0]} rows of logits for {IMAGES} images: the size of a "
                           "batch is built in; let it take any number")  # fmt: skip
    if values.dim() != 2 or values.shape[0] != IMAGES:
        shape = ", ".join(["N", *(str(size) for size in values.shape[1:])])
        raise TeacherError(f"the network returns ({shape}) instead of logits (N, {num_classes}): it has no classifier "
                           "head; give it one with --num-classes or through a py: factory")  # fmt: skip
    if values.shape[1] == 1:
        raise TeacherError("the network returns one value per image, as for a sigmoid: wrap it with a py: factory "
                           "whose network returns two logits, 0 and that value")  # fmt: skip
    if values.shape[1] != num_classes:
        raise TeacherError(
            f"the network returns {values.shape[1]} values per image, not {num_classes}: features instead of logits, "
            f"or give --num-classes {values.shape[1]}"
        )
    return values


def _look_like_probabilities(values: Tensor) -> bool:
    sums = values.float().sum(dim=1)
    rounding = max(1e-3, torch.finfo(values.dtype).eps)
    return bool((values >= 0).all()) and bool(torch.allclose(sums, torch.ones_like(sums), atol=rounding))


def _home(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    tensor = next(module.parameters(), None)
    return (torch.device("cpu") if tensor is None else tensor.device), precision_of(module)
