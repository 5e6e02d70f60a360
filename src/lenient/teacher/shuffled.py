"""The teacher with late channels in disorder: what it knows is lost, a shortcut through few channels may survive."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from lenient.core import ranks
from lenient.core.reductions import full
from lenient.core.seeding import Streams
from lenient.models.lending import replace_weight
from lenient.teacher.frozen import FrozenTeacher


class ShuffledTeacher:
    """Copies of a teacher, in each of which the input channels of some convolutions are in a random order.

    A weight (out, in, k, k) becomes `weight[:, order]`; the layers before it stay, so that the function is another one.
    All else is the teacher's: eval mode, and the batch-norm statistics of the net that is not shuffled. Grouped
    convolutions are shuffled within their groups; a layer with one channel (depthwise) stays as it is.

    Args:
        teacher: entered; it is not changed.
        layers: so many convolutions at the end of the forward; below 0, at its beginning.
        copies: whose logits are averaged.
        streams: of the orders, keyed by copy, layer and shuffle.
    """

    def __init__(self, teacher: FrozenTeacher, layers: int, copies: int, streams: Streams) -> None:
        self.teacher, self.copies, self.streams = teacher, copies, streams
        found = teacher.convolutions()
        self.layers = tuple(found[-layers:] if layers > 0 else found[:-layers])
        """Names of the layers that are shuffled."""
        self._networks: list[FrozenTeacher] = []

    @property
    def unmoved(self) -> tuple[str, ...]:
        """Those of the layers that have one input channel, in which there is nothing to shuffle."""
        return tuple(name for name in self.layers if _weight(self.teacher.module, name).shape[1] == 1)

    def shuffle(self, number: int) -> None:
        """Make the copies of shuffle `number` from the teacher; earlier ones are dropped."""
        changes = [partial(self._disorder, number, copy) for copy in range(self.copies)]
        self._networks = [self.teacher.altered(change) for change in changes]

    def _disorder(self, number: int, copy: int, module: nn.Module) -> None:
        for name in self.layers:
            weight = _weight(module, name)
            stream = self.streams.host(f"shuffle/{copy}/{name}", number)
            order = torch.randperm(weight.shape[1], generator=stream).to(weight.device)
            replace_weight(module.get_submodule(name), weight[:, order])

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the mean of the copies' logits on normalised `inputs` (N, C, H, W), (N, classes)."""
        self.teacher.forwards += len(self._networks) * inputs.shape[0] * ranks.count()
        answers = [full(network.respond(inputs).logits) for network in self._networks]
        return torch.stack(answers).mean(dim=0)


def _weight(module: nn.Module, name: str) -> Tensor:
    weight = module.get_submodule(name).weight
    assert isinstance(weight, Tensor), "a convolution has one"
    return weight.detach()
