"""Networks that normalise inside, or take pixels of 0 to 255: the constants are measured, and taken outside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from lenient.core.seeding import derive, untouched_global_rng
from lenient.models.card import Card, Network, precision_of
from lenient.models.lending import as_it_was, in_eval_mode
from lenient.models.low_bit import InputGrid, around, inner_of

Constants = tuple[tuple[float, ...], tuple[float, ...]]
_PLAUSIBLE = (0.02, 1.5)
"""Deviations of images in [0, 1]; what scales to 0..255 inside states none."""
_BYTES = 255
_BORDER = 8
"""Rows or columns that may be added around the images before the first layer."""
_LAYERS = (_ConvNd, _NormBase, nn.Linear, nn.Embedding, nn.LayerNorm, nn.GroupNorm, InputGrid)
"""Layers with weights, and what rounds the images that come to one before it is asked itself."""


class TakenOutside(nn.Module):
    """A network whose own normalisation is undone before it, for whoever calls it has normalised already."""

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.module = module
        for name, values in (("mean", mean), ("std", std)):
            tensor = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, images: Tensor) -> Any:
        """Return what the network gives for normalised images (N, C, H, W)."""
        return self.module((images * self.std + self.mean).to(images.dtype))


def undone(module: nn.Module) -> Constants | None:
    """Return the constants of its own that are undone before a network, wherever in it; None where none are."""
    found = next((part for part in module.modules() if isinstance(part, TakenOutside)), None)
    if found is None:
        return None
    mean, std = (tuple(values.flatten().tolist()) for values in (found.mean, found.std))
    return mean, std


def undone_again(network: Network, constants: Constants | None) -> Network:
    """Return a network of a file, before which its own normalisation was undone, as it was; the card is the file's.

    Without `constants`, which old files do not say, they are measured. One that does not normalise stays as it is.
    """
    inner = inner_of(network.module)
    if constants is None:
        made = taken_outside(replace(network, module=inner), stated=False).module
    elif constants_of(inner, network.card.input_size) is None:
        return network
    else:
        made = TakenOutside(inner, *constants)
    return replace(network, module=around(network.module, lambda _: made))


def taken_outside(network: Network, *, stated: bool) -> Network:
    """Return a network whose card has the constants that its module applies to the images itself.

    They are measured: what comes to the first layer with weights is compared with the images. A module whose constants
    are those of pixels of 0 to 255 is given such. `stated` says that the card's constants come from flags; then they
    stay, with a note where the module has others. A module that does nothing to the images, or something else, comes
    back as it is.
    """
    card = network.card
    found = constants_of(network.module, card.input_size)
    if found is None:
        return network
    largest = _largest_pixel(*found)
    if largest > 1:  # of images in [0, 1] it makes values so small that they are measured less well
        found = constants_of(network.module, card.input_size, largest) or found
    mean, std = (tuple(round(value / largest, 5) for value in values) for values in found)
    applied, values = (f"mean {_numbers(mean)} and std {_numbers(std)}" for mean, std in (found, (mean, std)))
    statistics = _statistics(mean, std)
    if not statistics and largest > 1:  # a mean alone is subtracted: that stays inside, and the pixels are made larger
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    if stated and not _equal(card, mean, std) and not (largest > 1 and _makes(card, largest)):
        note = (
            f"WARNING: the network itself applies {applied}, after --mean and --std; leave these out for plain pixels"
        )
        return replace(network, card=replace(card, notes=(*card.notes, note)))
    if not statistics and largest == 1:
        note = f"the network itself applies {applied}, which are no statistics of images; they stay inside"
        return replace(network, card=replace(card, notes=(*card.notes, note)))
    rest = tuple(note for note in card.notes if not note.startswith("mean "))
    note = f"{values}: measured inside the network, applied once and outside"
    if largest > 1:
        note = f"{note if statistics else f'{applied}: stay inside'}; it takes pixels of 0 to {largest}, and gets them"
    outside = (tuple(value * largest for value in values) for values in (mean, std))
    card = replace(card, mean=mean, std=std, notes=(*rest, note))
    return replace(network, module=TakenOutside(network.module, *outside), card=card)


def _statistics(mean: tuple[float, ...], std: tuple[float, ...]) -> bool:
    """Whether these may be mean and deviation of images in [0, 1]."""
    return all(_PLAUSIBLE[0] < value < _PLAUSIBLE[1] for value in std) and all(0 <= value <= 1 for value in mean)


def _largest_pixel(mean: tuple[float, ...], std: tuple[float, ...]) -> int:
    """Return 255 where constants are those of pixels of 0 to 255, else 1."""
    scaled = tuple(value / _BYTES for value in mean)
    only_centred = max(mean) > 1 and all(abs(value - 1) < 1e-3 for value in std)
    of_bytes = _statistics(scaled, (1.0,) if only_centred else tuple(value / _BYTES for value in std))
    return _BYTES if of_bytes and not _statistics(mean, std) else 1


def _makes(card: Card, largest: int) -> bool:
    """Whether a card's constants do nothing but to make of pixels in [0, 1] such up to `largest`."""
    return not any(card.mean) and all(abs(value * largest - 1) < 1e-2 for value in card.std)


def constants_of(module: nn.Module, input_size: tuple[int, int, int], largest: int = 1) -> Constants | None:
    """Return mean and std that a module applies to images (C, H, W) before its first layer with weights.

    They are in the units of the pixels that it is shown, from 0 to `largest`. None where it applies none, where another
    thing happens there, or where it cannot be told. The module is left as it was.
    """
    images = torch.rand((2, *input_size), generator=torch.Generator().manual_seed(derive(0, "constants_of"))) * largest
    seen = _first_input(module, images)
    if seen is None or seen.is_quantized:
        return None
    seen = _without_border(seen.detach().double().cpu(), images.shape)
    if seen.numel() != images.numel():
        return None
    seen = seen.reshape(images.shape).transpose(0, 1).flatten(1)
    given = images.to(precision_of(module)).double().transpose(0, 1).flatten(1)
    centred = given - given.mean(1, keepdim=True)
    slope = (centred * seen).sum(1) / centred.square().sum(1)
    offset = seen.mean(1) - slope * given.mean(1)
    left = (slope[:, None] * given + offset[:, None] - seen).abs().max()
    precise = 1e-4 if precision_of(module) in (torch.float32, torch.float64) else 2e-2
    changed = (slope - 1).abs().max() > precise or offset.abs().max() > precise
    if not bool(torch.isfinite(seen).all()) or not changed or bool((slope <= 0).any()):
        return None
    if left > precise * float(slope.max().clamp_min(1)):
        return None
    std = 1 / slope
    return _rounded(-offset * std), _rounded(std)


def _without_border(seen: Tensor, shape: torch.Size) -> Tensor:
    """Return maps without what was added around them, as for convolutions that shall keep the size of their maps."""
    if seen.dim() != 4 or seen.shape[:2] != shape[:2]:
        return seen
    added = [own - given for own, given in zip(seen.shape[2:], shape[2:], strict=True)]
    if not all(0 <= size <= _BORDER for size in added):
        return seen
    top, left = (size // 2 for size in added)  # of an odd number the frameworks put more below and to the right
    return seen[:, :, top : top + shape[2], left : left + shape[3]]


class _SeenError(Exception):
    """The forward need not go on."""


def _computes(part: nn.Module) -> bool:
    """Whether a part is a layer with weights: not one that holds a class token, or what images are normalised by."""
    if isinstance(part, _LAYERS) or getattr(part, "running_mean", None) is not None:
        return True
    weights = [] if [*part.children()] else [weight for weight in part.parameters() if not is_lazy(weight)]
    return any(sum(side > 1 for side in weight.shape) > 1 for weight in weights)


def _first_input(module: nn.Module, images: Tensor) -> Tensor | None:
    """Return what comes to the first layer with weights or batch statistics; the network as a whole is none."""
    found: list[Tensor] = []

    def note(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            found.append(inputs[0].clone())
        raise _SeenError

    if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule) or hasattr(module, "_orig_mod"):
        return None
    layers = [part for part in module.modules() if part is not module and _computes(part)]
    place = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with untouched_global_rng(), as_it_was(module), torch.no_grad():
            in_eval_mode(module)
            module(images.clone().to(place, precision_of(module)))
    except Exception:  # whatever it is: whoever runs the network for real says so
        return found[0] if found else None
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _equal(card: Card, mean: tuple[float, ...], std: tuple[float, ...]) -> bool:
    pairs = zip((*card.mean, *card.std), (*mean, *std), strict=True)
    return all(abs(one - other) < 5e-3 for one, other in pairs)


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:.4g}" for value in values)
