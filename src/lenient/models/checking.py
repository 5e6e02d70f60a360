"""Asking a network once, before anything depends on it, whether it is the classifier that its card describes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from lenient.errors import TeacherError
from lenient.models.card import Network, precision_of, to_logits
from lenient.models.names import one_line
from lenient.seeding import derive, untouched_global_rng

_IMAGES = 4


def check_classifier(network: Network, *, plain: bool = False) -> Network:
    """Run four fixed images through the network in eval mode, and return it with its card confirmed or amended.

    Rows that are at least 0 and sum to 1 make the card's `outputs` "probabilities", with a note. The module's buffers
    and the mode of each submodule are afterwards as before, and so are the global random streams. With `plain`, which
    students have to be, the network must return the logits themselves, as a tensor.

    Raises TeacherError, naming the flag to change, where the images do not fit the network, or its outputs are not
    finite logits (N, num_classes).
    """
    card = network.card
    if card.num_classes < 2:
        raise TeacherError(f"--num-classes: {card.num_classes} is too few; a classifier has 2 or more")
    device, dtype = _home(network.module)
    images = _images(card.input_size).to(device, dtype)
    mean, std = (torch.tensor(values, device=device, dtype=dtype).view(1, -1, 1, 1) for values in (card.mean, card.std))
    with untouched_global_rng(), _as_it_was(network.module), torch.no_grad():
        network.module.eval()
        try:
            output = network.module((images - mean) / std)
        except Exception as error:
            shape = "x".join(str(value) for value in card.input_size)
            raise TeacherError(
                f"the network cannot take images of {shape} (channels x height x width): {one_line(error)}; "
                "correct --input-size C,H,W"
            ) from error
    if plain and not isinstance(output, Tensor):
        raise TeacherError(f"it returns a {type(output).__name__} with logits in it; wrap it so that it returns them")
    values = _two_dimensional(to_logits(output), card.num_classes).float()
    if not bool(torch.isfinite(values).all()):
        raise TeacherError("the network gives NaN or infinite values for ordinary images: its weights are damaged, or "
                           "--mean/--std are not those it was trained with")  # fmt: skip
    if card.outputs == "logits" and _look_like_probabilities(values):
        if plain:
            raise TeacherError("it returns probabilities, and is to learn logits; leave its softmax out")
        note = "outputs are probabilities (rows sum to 1 and none is below 0): their logarithm is taken as logits"
        card = replace(card, outputs="probabilities", notes=(*card.notes, note))
    return Network(network.module, card)


def batch_norm_layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the layers that hold running statistics of the batch, with their names, in the order of registration.

    That is any module with tensors `running_mean` and `running_var`: torch's BatchNorm and SyncBatchNorm, timm's fused
    ones, torchvision's frozen one; not InstanceNorm, which normalises each image by itself.
    """
    instance = nn.modules.instancenorm._InstanceNorm
    return [
        (name, part)
        for name, part in module.named_modules()
        if isinstance(getattr(part, "running_mean", None), Tensor)
        and isinstance(getattr(part, "running_var", None), Tensor)
        and not isinstance(part, instance)
    ]


def _images(input_size: tuple[int, int, int]) -> Tensor:
    """Return the same few images of noise in [0, 1] each time: coarse, fine, dark and bright."""
    generator = torch.Generator().manual_seed(derive(0, "check_classifier"))
    images = torch.rand((_IMAGES, *input_size), generator=generator)
    images[2] *= 0.1
    images[3] = 1 - 0.1 * images[3]
    coarse = torch.rand((1, input_size[0], 4, 4), generator=generator)
    images[:1] = nn.functional.interpolate(coarse, size=input_size[1:])
    return images


def _two_dimensional(values: Tensor, num_classes: int) -> Tensor:
    if values.dim() != 2 or values.shape[0] != _IMAGES:
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
    sums = values.sum(dim=1)
    return bool((values >= 0).all()) and bool(torch.allclose(sums, torch.ones_like(sums), atol=1e-3))


def _home(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    tensor = next(module.parameters(), None)
    return (torch.device("cpu") if tensor is None else tensor.device), precision_of(module)


@contextmanager
def _as_it_was(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
