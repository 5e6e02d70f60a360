"""What a network takes and returns, and a wrapper that takes pixels and returns logits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lenient.core.errors import TeacherError
from lenient.core.runtime import Runtime

Outputs = Literal["logits", "probabilities"]
Size = tuple[int, int, int]
MAX_CLASSES = 2**20
MAX_INPUT = 2**23
"""Values of one image, such as 3 x 1600 x 1600: a forward keeps some dozens of maps of that size."""
LEAST = 1e-12
"""Probabilities below it are taken for it, for their logarithms."""


_MAX_NOTES, _MAX_TEXT = 100, 1000


@dataclass(frozen=True)
class Card:
    """What a classifier takes and returns.

    Raises TeacherError where the values cannot be those of a classifier of images in [0, 1].
    """

    arch: str | None
    """SPEC that rebuilds the module, such as "lenient:resnet8"; None where only the module itself knows."""
    input_size: Size
    """Channels, height and width in pixels."""
    num_classes: int
    mean: tuple[float, ...]
    """Subtracted from the pixels, one value per channel, in pixel units (0 to 1)."""
    std: tuple[float, ...]
    """Divides the pixels after that, one value above 0 per channel."""
    classes: tuple[str, ...] | None = None
    """Names of the classes in the order of the outputs, where known."""
    outputs: Outputs = "logits"
    notes: tuple[str, ...] = ()
    """One line per fact: what was found where, and what was assumed."""

    def __post_init__(self) -> None:
        channels = self.input_size[0] if self.input_size else 0
        if len(self.input_size) != 3 or min(self.input_size) < 1:
            raise TeacherError(f"--input-size: {list(self.input_size)} is not C,H,W with values from 1; e.g. 3,32,32")
        if math.prod(self.input_size) > MAX_INPUT:
            sizes = ",".join(f"{value:.6g}" if value > 10**9 else str(value) for value in self.input_size)
            raise TeacherError(f"--input-size: {sizes[:60]} is too large; C x H x W is at most {MAX_INPUT}")
        if not 1 <= self.num_classes <= MAX_CLASSES:
            raise TeacherError(
                f"--num-classes: {str(self.num_classes)[:20]} is not a number of classes; give 2 to {MAX_CLASSES}"
            )
        for flag, values in (("--mean", self.mean), ("--std", self.std)):
            if len(values) != channels:
                raise TeacherError(f"{flag}: {len(values)} values for {channels} channels; give one per channel")
        if not all(math.isfinite(value) and -1 <= value <= 1 for value in self.mean):
            raise TeacherError(f"--mean: {list(self.mean)} is not in pixel units [0, 1]; divide 0..255 values by 255")
        if not all(math.isfinite(value) and 0 < value <= 10 for value in self.std):
            raise TeacherError(f"--std: {list(self.std)} is not in pixel units (0, 1]; divide 0..255 values by 255")
        if self.classes is not None and len(self.classes) != self.num_classes:
            raise TeacherError(f"--num-classes: {self.num_classes}, but there are {len(self.classes)} class names")
        if self.outputs not in ("logits", "probabilities"):
            raise TeacherError(f"outputs must be 'logits' or 'probabilities', not {self.outputs!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the card as lists, numbers and strings, ready for JSON."""
        return {
            "arch": self.arch,
            "input_size": list(self.input_size),
            "num_classes": self.num_classes,
            "mean": list(self.mean),
            "std": list(self.std),
            "classes": None if self.classes is None else list(self.classes),
            "outputs": self.outputs,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Card:
        """Build a card from what `to_dict` gave; unknown keys are ignored.

        Raises TeacherError where a value is missing or of the wrong kind.
        """
        try:
            arch, classes, notes = values.get("arch"), values.get("classes"), values.get("notes", ())
            channels, height, width = (_whole(value) for value in values["input_size"])
            return cls(
                arch=None if arch is None else _text(arch),
                input_size=(channels, height, width),
                num_classes=_whole(values["num_classes"]),
                mean=tuple(float(value) for value in values["mean"]),
                std=tuple(float(value) for value in values["std"]),
                classes=None if classes is None else tuple(_text(name) for name in _list(classes)),
                outputs=values.get("outputs", "logits"),
                notes=tuple(_text(note) for note in _list(notes)[:_MAX_NOTES]),
            )
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise TeacherError(
                f"the description of the network is damaged ({type(error).__name__}: {str(error)[:100]}); save it again"
            ) from error


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
        raise ValueError(f"{str(value)[:20] if isinstance(value, float) else type(value).__name__} is no whole number")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of a text")
    return value[:_MAX_TEXT]


def _list(value: object) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{type(value).__name__} instead of a list")
    return value


@dataclass(frozen=True)
class Behaviour:
    """What a network does with images beside answering; the defaults are those of a well-behaved one."""

    contiguous: bool = False
    """Whether it fails, or answers otherwise, on images and weights in channels-last order."""
    writes: bool = False
    """Whether a forward writes into the images."""
    changes: tuple[str, ...] = ()
    """Parameters and buffers that a forward in eval mode changes."""
    single: bool = True
    """Whether it takes one image alone."""
    random: bool = False
    """Whether it answers the same images differently each time."""
    depends: bool = False
    """Whether an image's answer depends on the other images of the batch."""
    batch_norms: tuple[str, ...] = ()
    """Batch-norm layers that normalise by the batch in eval mode."""
    silent: bool = False
    """Whether it has batch-norm layers with statistics, but calls none of them."""
    blocked: str = ""
    """Why no gradient goes from the answers to the images, in words; empty where it does."""
    unasked: bool = False
    """Whether it was asked in part only, because a forward takes long here."""

    def applied(self, runtime: Runtime) -> Runtime:
        """Return a run's runtime as this network needs it."""
        layout = torch.contiguous_format if self.contiguous else runtime.layout
        return replace(runtime, layout=layout, copies=self.writes)


@dataclass
class Network:
    """A module with the card that says how to use it, and its behaviour, which `check_classifier` finds out."""

    module: nn.Module
    card: Card
    behaviour: Behaviour = Behaviour()
    given: bool = True
    """Whether the user said the card's number of classes; else it was read off shapes."""


class PixelClassifier(nn.Module):
    """A network that takes images in pixel units (N, C, H, W) and returns logits (N, num_classes)."""

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, card: Card) -> None:
        super().__init__()
        self.module = module
        self.card = card
        self.register_buffer("mean", _per_channel(card.mean))
        self.register_buffer("std", _per_channel(card.std))

    def normalize(self, images: Tensor) -> Tensor:
        """Turn pixel units into what the network was trained on: (images - mean) / std."""
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for images in pixel units (N, C, H, W)."""
        inputs = self.normalize(images).to(precision_of(self.module))
        return to_logits(self.module(inputs), self.card.outputs)


def parameters(module: nn.Module) -> int:
    """Return the number of parameter values, shared ones counted once; buffers are not counted."""
    return sum(tensor.numel() for tensor in chain(module.parameters(), packed(module)))


def packed(module: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors of a module's state that are neither parameters nor buffers, as those of quantised layers."""
    named = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    registered = {name for name, _ in chain(*named)}
    return (tensor for name, tensor in tensors_of(module.state_dict()) if name not in registered)


def tensors_of(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield what a state holds as tensors: quantised layers have theirs in tuples; some keep others, too."""
    for name, value in state.items():
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, tuple):
            yield from tensors_of({f"{name}.{number}": part for number, part in enumerate(value)})


def precision_of(module: nn.Module) -> torch.dtype:
    """Return the type of a module's numbers: that of its first floating-point parameter, else float32."""
    return next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), torch.float32)


def to_logits(output: object, outputs: Outputs = "logits") -> Tensor:
    """Return what a classifier gave as logits (N, num_classes).

    `output` is a tensor, an object with `.logits`, a mapping with "logits", or a tuple, list or mapping with one tensor
    of two dimensions in it. With `outputs` "probabilities" the logits are natural logs, floored at log(1e-12) (at the
    smallest number in half precision) to stay finite.

    Raises TeacherError for anything else, such as a tuple of logits and features.
    """
    found = output.get("logits", output) if isinstance(output, Mapping) else getattr(output, "logits", output)
    flat = list(flat_outputs(found).values())
    found = flat[0] if len(flat) == 1 else found
    if not isinstance(found, Tensor):
        kind = type(output).__name__
        raise TeacherError(f"the network returns a {kind}, not logits: wrap it with a py: factory returning logits")
    if not found.is_floating_point():
        found = found.float()
    if outputs == "probabilities":
        return found.clamp_min(max(LEAST, torch.finfo(found.dtype).tiny)).log()
    return found


def flat_outputs(output: object) -> dict[Any, Tensor]:
    """Return the tensors of two dimensions in a tuple, list or mapping, by place or key; {} where one is called logits.

    It is {} for anything else, too.
    """
    named = hasattr(output, "logits") or (isinstance(output, Mapping) and "logits" in output)
    if named or not isinstance(output, Mapping | tuple | list):
        return {}
    parts = output.items() if isinstance(output, Mapping) else enumerate(output)
    return {key: part for key, part in parts if isinstance(part, Tensor) and part.dim() == 2}


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32).view(1, -1, 1, 1)
