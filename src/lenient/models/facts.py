"""What is known about a network, from whom, and how a card is made of it: the first source that knows wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypedDict

from torch import Tensor, nn

from lenient.core.errors import TeacherError
from lenient.models.card import Card, Outputs, Size
from lenient.models.classes import FLAG as CLASSES
from lenient.models.classes import Names

FLAGS = "the flags"
LARGEST_CONSTANT = 1e6
"""Of a normalisation; no deviation is below its inverse."""
_FLAG_OF = {"channels": "--input-size", "size": "--input-size", "num_classes": "--num-classes", "mean": "--mean/--std"}


class TeacherFacts(TypedDict, total=False):
    """What a teacher's file may not say of it; what is not given is found or assumed."""

    arch: str | None
    """SPEC of the architecture that weights alone belong to."""
    input_size: Sequence[int] | None
    """(C, H, W)."""
    num_classes: int | None
    mean: Sequence[float] | None
    """Of the normalisation, one per channel, in pixel units."""
    std: Sequence[float] | None
    checkpoint_key: str | None
    """Which network of a checkpoint, by dots."""
    classes: Names | None
    """Names in the order of the outputs; or a text file with one on each line, or a folder with one for each class."""


@dataclass(frozen=True)
class Facts:
    """What one source says about a network; None where it is silent."""

    origin: str
    """The source in words, as it follows "from" in a note."""
    assumed: bool = False
    """Whether the source speaks of other weights than those loaded, so that its word is a guess."""
    channels: int | None = None
    size: tuple[int, int] | None = None
    """Height and width in pixels."""
    num_classes: int | None = None
    mean: tuple[float, ...] | None = None
    """In pixel units, one per channel or one for all; `mean` and `std` go together."""
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] | None = None
    outputs: Outputs | None = None


@dataclass(frozen=True)
class Wanted:
    """The shape a network shall be built with; None leaves it to the architecture."""

    channels: int | None = None
    size: tuple[int, int] | None = None
    num_classes: int | None = None


def wanted_of(layers: Sequence[Facts]) -> Wanted:
    """Return the shape that the first knowing source of `layers` states."""
    return Wanted(*(_pick(layers, name)[0] for name in ("channels", "size", "num_classes")))


def facts_of_card(card: Card, origin: str) -> Facts:
    """Return all that a card says."""
    channels, height, width = card.input_size
    return Facts(
        origin, False, channels, (height, width), card.num_classes, card.mean, card.std, card.classes, card.outputs
    )


def facts_of_config(values: Mapping[str, Any], origin: str, assumed: bool = False) -> Facts:
    """Return what a `pretrained_cfg` mapping says (input_size, num_classes, mean, std, label_names or classes)."""
    return _facts(values.get, origin, assumed)


def facts_of_attributes(thing: object, origin: str) -> Facts:
    """Return what plain attributes say: input_size, num_classes, mean, std, classes; what has another type is ignored.

    Tensors named `mean` and `std` on a module are taken to be applied inside it, so that nothing is left to normalise.
    """
    if isinstance(thing, nn.Module) and all(isinstance(getattr(thing, name, None), Tensor) for name in ("mean", "std")):
        own = _facts(lambda name: None if name in ("mean", "std") else getattr(thing, name, None), origin, False)
        inside = f"{origin}, whose tensors 'mean' and 'std' are taken to normalise inside it"
        return Facts(inside, False, own.channels, own.size, own.num_classes, (0.0,), (1.0,), own.classes)
    return _facts(lambda name: getattr(thing, name, None), origin, False)


def facts_of_structure(module: nn.Module) -> Facts:
    """Return the channels that the first convolution takes and the outputs of the layer that classifies."""
    conv, head = first_conv(module), classifying(module)
    return Facts(
        "the shapes of its layers",
        channels=None if conv is None else conv[1].in_channels,
        num_classes=None if head is None else outputs_of(head[1]),
    )


def first_conv(module: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Return the first 2-D convolution with its name."""
    return next(((name, part) for name, part in module.named_modules() if isinstance(part, nn.Conv2d)), None)


def classifying(module: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d] | None:
    """Return the last linear layer with its name; of a network without any, the last convolution."""
    linear = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    convolutions = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Conv2d)]
    return next(reversed(linear or convolutions), None)


def outputs_of(layer: nn.Linear | nn.Conv2d) -> int:
    """Return how many values a layer gives for an image or a position."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def make_card(layers: Sequence[Facts], arch: str | None, label: str, notes: Sequence[str] = ()) -> Card:
    """Join what the sources say, earlier ones first, to a card whose notes name the source of each value.

    Normalisation that nobody states becomes mean 0 and std 1 with a note in capitals.
    Raises TeacherError naming the flag for a size or number of classes that nobody states.
    """
    channels, channels_note = _pick(layers, "channels")
    size, size_note = _pick(layers, "size")
    num_classes, classes_note = _pick(layers, "num_classes")
    if channels is None or size is None:
        known = "C" if channels is None else str(channels)
        pixels = "H,W" if size is None else f"{size[0]},{size[1]}"
        raise TeacherError(f"{label}: the size of its images is not known: give --input-size {known},{pixels}")
    if num_classes is None:
        raise TeacherError(f"{label}: the number of classes is not known: give --num-classes N")
    input_size: Size = (channels, *size)
    mean, std, normal_note = _normalisation(layers, channels)
    given = next((facts.classes for facts in layers if facts.classes and facts.origin == FLAGS), None)
    if given is not None and len(given) != num_classes:
        raise TeacherError(
            f"{CLASSES}: {len(given)} names, and {label} has {num_classes} outputs; give one for each, in their order"
        )
    names = next((facts.classes for facts in layers if facts.classes and len(facts.classes) == num_classes), None)
    found = (
        f"channels {channels}: {channels_note}",
        f"height x width {size[0]}x{size[1]}: {size_note}",
        f"classes {num_classes}: {classes_note}",
        normal_note,
        *(() if given is None else (f"names of the classes: from {CLASSES}",)),
    )
    return Card(
        arch,
        input_size,
        num_classes,
        mean,
        std,
        names,
        next((facts.outputs for facts in layers if facts.outputs), "logits"),
        tuple(dict.fromkeys((*notes, *found))),
    )


def _pick(layers: Sequence[Facts], name: str) -> tuple[Any, str]:
    """Return the first value of a field with words on where it is from and who of the others disagrees."""
    said = [(facts, getattr(facts, name)) for facts in layers if getattr(facts, name) is not None]
    if not said:
        return None, ""
    source, value = said[0]
    others = [f"{facts.origin} says {other}" for facts, other in said[1:] if other != value and not facts.assumed]
    where = _FLAG_OF[name] if source.origin == FLAGS else source.origin
    words = f"ASSUMED from {where}" if source.assumed else f"from {where}"
    return value, words + "".join(f" ({other})" for other in others[:1])


def _normalisation(layers: Sequence[Facts], channels: int) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    said: list[tuple[Facts, tuple[float, ...], tuple[float, ...]]] = []
    for facts in layers:
        if facts.mean is None or facts.std is None:
            continue
        mean, std = (values * channels if len(values) == 1 else values for values in (facts.mean, facts.std))
        if facts.origin == FLAGS or len(mean) == len(std) == channels:
            said.append((facts, mean, std))
    if said:
        facts, mean, std = said[0]
        where = _FLAG_OF["mean"] if facts.origin == FLAGS else facts.origin
        advice = "; give --mean and --std if these weights were trained otherwise" if facts.assumed else ""
        others = [
            f" ({other.origin} says {_constants(*values)})"
            for other, *values in said[1:]
            if values != [mean, std] and not other.assumed
        ]
        source = f"{'ASSUMED ' if facts.assumed else ''}from {where}{''.join(others[:1])}{advice}"
        return mean, std, f"{_constants(mean, std)}: {source}"
    note = "mean 0 and std 1: ASSUMED, nothing says how images were normalised in training; if they were, give"
    return (0.0,) * channels, (1.0,) * channels, f"{note} --mean and --std, for a wrong mean gives no error"


def _constants(mean: Sequence[float], std: Sequence[float]) -> str:
    return f"mean {_numbers(mean)} and std {_numbers(std)}"


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:.4g}" for value in values)


def _facts(get: Callable[[str], Any], origin: str, assumed: bool) -> Facts:
    """Read the fields that have the expected type, and pass over the rest."""
    size = get("input_size")
    shape = tuple(size) if _integers(size) and len(size) == 3 else None
    mean, std = _floats(get("mean")), _floats(get("std"))
    both = mean is not None and std is not None
    names = next((value for key in ("label_names", "classes") if _strings(value := get(key))), None)
    count = get("num_classes")
    return Facts(
        origin,
        assumed,
        channels=shape[0] if shape else None,
        size=(shape[1], shape[2]) if shape else None,
        num_classes=count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else None,
        mean=mean if both else None,
        std=std if both else None,
        classes=tuple(names) if names else None,
    )


def _sequence(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0


def _integers(value: object) -> bool:
    return _sequence(value) and all(isinstance(item, int) and item > 0 for item in value)  # type: ignore[attr-defined]


def _strings(value: object) -> bool:
    return _sequence(value) and all(isinstance(item, str) for item in value)  # type: ignore[attr-defined]


def _floats(value: object) -> tuple[float, ...] | None:
    values = value if _sequence(value) else (value,)
    if not all(isinstance(item, Real) and not isinstance(item, bool) for item in values):  # type: ignore[attr-defined]
        return None
    try:
        return tuple(float(item) for item in values)  # type: ignore[attr-defined]
    except OverflowError:
        return None
