"""Running a classifier for measuring, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lenient.errors import UsageError
from lenient.models.card import Card, Network, PixelClassifier
from lenient.runtime import Runtime

if TYPE_CHECKING:  # costs can be measured where real data must not be reachable
    from lenient.data import ImageSet


def classifier_of(network: Network | nn.Module) -> nn.Module:
    """Return a module from pixels in [0, 1] to logits: a `Network` gets its normalisation, a module is taken as one."""
    return PixelClassifier(network.module, network.card) if isinstance(network, Network) else network


@contextmanager
def in_eval_mode(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Put a module into eval mode on a device; afterwards each submodule has its mode, each tensor its device again."""
    modes = [(part, part.training) for part in module.modules()]
    stored = [(tensor, tensor.data) for tensor in chain(module.parameters(), module.buffers())]
    try:
        module.eval()
        for tensor, data in stored:
            tensor.data = data.to(device)
        yield module
    finally:
        for tensor, data in stored:
            tensor.data = data
        for part, training in modes:
            part.training = training


def check_fits(network: Network | nn.Module, data: ImageSet) -> None:
    """Raise a UsageError if the images or classes of `data` are not those that the network's card states."""
    card = getattr(network, "card", None)
    if not isinstance(card, Card):
        return
    if card.input_size != data.input_size:
        given, wanted = ("x".join(str(side) for side in size) for size in (data.input_size, card.input_size))
        raise UsageError(f"{data.name} holds {given} images, the network takes {wanted}: load them in that size")
    if card.num_classes != len(data.classes):
        raise UsageError(
            f"{data.name} has {len(data.classes)} classes, the network {card.num_classes}: use other --data"
        )
    if card.classes is not None and card.classes != data.classes and set(card.classes) == set(data.classes):
        pairs = zip(data.classes, card.classes, strict=True)
        number, theirs, own = next((number, *pair) for number, pair in enumerate(pairs) if pair[0] != pair[1])
        raise UsageError(
            f"{data.name} has the network's classes in another order: number {number} is {theirs!r}, the network's "
            f"{own!r}; rename the folders so that they sort like the network's"
        )


def answers(
    classifiers: list[nn.Module], data: ImageSet, batch_size: int, runtime: Runtime
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield (float32 logits (B, K) of each classifier, labels (B,)) over the data in order, without gradients."""
    with torch.inference_mode():
        for images, labels in data.batches(batch_size, device=runtime.device):
            yield _forward(classifiers, runtime.images(images), runtime), labels


def _forward(classifiers: list[nn.Module], images: Tensor, runtime: Runtime) -> list[Tensor]:
    """Return the logits of each classifier; a batch that does not fit into memory goes in halves."""
    try:
        with runtime.autocast():
            return [classifier(images).float() for classifier in classifiers]
    except torch.OutOfMemoryError:
        if len(images) == 1:
            raise
    halves = [_forward(classifiers, half, runtime) for half in images.chunk(2)]
    return [torch.cat(parts) for parts in zip(*halves, strict=True)]
