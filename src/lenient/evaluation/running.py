"""Running a classifier for measuring, and leaving it as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lenient.core.batch_norm import by_batch
from lenient.core.errors import LenientError, UsageError
from lenient.core.memory import out_of_memory
from lenient.core.runtime import Runtime
from lenient.models.card import Card, Network, PixelClassifier
from lenient.models.lending import as_it_was, own_grad_mode
from lenient.models.lending import in_eval_mode as to_eval
from lenient.models.names import one_line

if TYPE_CHECKING:  # costs can be measured where real data must not be reachable
    from lenient.data import ImageSet


def classifier_of(network: Network | nn.Module) -> nn.Module:
    """Return a module from pixels in [0, 1] to logits: a `Network` gets its normalisation, a module is taken as one."""
    return PixelClassifier(network.module, network.card) if isinstance(network, Network) else network


@contextmanager
def in_eval_mode(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Put a module into eval mode on a device; afterwards it is as it was."""
    with as_it_was(module):
        to_eval(module)
        for tensor in chain(module.parameters(), module.buffers()):
            tensor.data = tensor.data.to(device)
        yield module


@contextmanager
def named_by(flag: str) -> Iterator[None]:
    """Say of data that another flag names what is said of `--data`."""
    try:
        yield
    except UsageError as error:
        raise UsageError(re.sub("--data(?!-root)", flag, str(error))) from None


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
    classifiers: list[nn.Module],
    data: ImageSet,
    batch_size: int,
    runtime: Runtime,
    by_batch_norms: Sequence[nn.Module] = (),
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield (float32 logits (B, K) of each classifier, labels (B,)) over the data in order, without gradients.

    No batch is of one image, which not every network takes, unless there is but one. Images come to each classifier
    in the order of dimensions that it takes. The first one's `by_batch_norms` normalise by each batch.

    Raises:
        UsageError: a classifier does not take the images.
    """
    while batch_size > 2 and len(data) % batch_size == 1:
        batch_size -= 1
    layers = [by_batch_norms, *[()] * (len(classifiers) - 1)]
    asked = [Asked(classifier, runtime, own) for classifier, own in zip(classifiers, layers, strict=True)]
    for images, labels in data.batches(batch_size, device=runtime.device):
        with torch.no_grad(), own_grad_mode():
            logits = [one.logits(images) for one in asked]
        yield logits, labels


class Asked:
    """A classifier, asked in channels-last order as long as it takes that.

    Its `by_batch_norms` normalise by each batch.

    `whole`: a batch is never asked in parts, which have other statistics; so it is, too, where layers normalise by it.
    """

    def __init__(
        self,
        classifier: nn.Module,
        runtime: Runtime,
        by_batch_norms: Sequence[nn.Module] = (),
        *,
        whole: bool = False,
    ) -> None:
        self.classifier, self.runtime, self.layers = classifier, runtime, by_batch_norms
        self.whole = whole or bool(by_batch_norms)

    def logits(self, images: Tensor) -> Tensor:
        """Return the answer in float32; a batch that does not fit into memory goes in halves."""
        try:
            return self._forward(images)
        except torch.OutOfMemoryError:
            if len(images) == 1 or self.whole:
                raise
        except Exception as error:
            if isinstance(error, LenientError) or out_of_memory(error):
                raise
            return self._contiguous(images, error)
        return torch.cat([self.logits(half) for half in images.chunk(2)])

    def _contiguous(self, images: Tensor, error: Exception) -> Tensor:
        if self.runtime.layout == torch.contiguous_format:
            raise UsageError(f"the network cannot answer {len(images)} images: {one_line(error, 160)}") from error
        self.runtime = replace(self.runtime, layout=torch.contiguous_format)
        return self.logits(images)

    def _forward(self, images: Tensor) -> Tensor:
        with self.runtime.autocast(), by_batch(self.layers, alone=True) if self.layers else nullcontext():
            answer: Tensor = self.classifier(self.runtime.images(images))
        return answer.float()
