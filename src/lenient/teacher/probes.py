"""Probes: what else is heard of a network in a forward, besides its logits. A new kind of evidence is a new probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from lenient.core.errors import TeacherError
from lenient.core.reductions import batch_moments, full
from lenient.models.probing import hooked, pooled

if TYPE_CHECKING:
    from lenient.teacher.frozen import FrozenTeacher

T_co = TypeVar("T_co", covariant=True)


class Probe(Protocol[T_co]):
    """Hears something of the teacher in one forward. Probes that are equal hear the same, and are armed once."""

    def listen(self, teacher: FrozenTeacher, weight: Tensor | None) -> AbstractContextManager[Callable[[], T_co]]:
        """Be armed while the context is open, for one forward; what it yields returns what was heard.

        `weight` (N,) says how far each image counts, where it is given.
        """
        ...

    @staticmethod
    def rows(heard: Any, chosen: slice | Tensor) -> T_co | None:
        """Return what was heard of the chosen images; None where it is of the batch as a whole."""
        ...

    @staticmethod
    def joined(first: Any, second: Any) -> T_co | None:
        """Return what was heard of two batches as of one; None where it is of a batch as a whole."""
        ...


@dataclass(frozen=True)
class LayerStatistics:
    """Statistics of the input of one batch-norm layer over (batch, height, width), beside those it stored in training.

    All float32 of shape (channels,); `variance` is biased (divided by the count).
    """

    mean: Tensor
    variance: Tensor
    running_mean: Tensor
    running_variance: Tensor


@dataclass(frozen=True)
class BatchNorms:
    """The statistics of every batch-norm layer's input, one `LayerStatistics` for each that ran."""

    @contextmanager
    def listen(
        self, teacher: FrozenTeacher, weight: Tensor | None
    ) -> Iterator[Callable[[], tuple[LayerStatistics, ...]]]:
        """Gather them; raises TeacherError where no layer gave any."""
        found: list[LayerStatistics] = []

        def hear(layer: nn.Module, args: tuple[Any, ...]) -> None:
            mean, variance = batch_moments(args[0], weight)
            stored = (full(cast(Tensor, buffer)) for buffer in (layer.running_mean, layer.running_var))
            found.append(LayerStatistics(mean, variance, *stored))

        def gathered() -> tuple[LayerStatistics, ...]:
            if not found:
                raise TeacherError(
                    "the teacher has no batch-norm layer that kept statistics, which this method matches; "
                    "switch the term off knowingly with -s method.bn_weight=0"
                )
            return tuple(found)

        handles = [layer.register_forward_pre_hook(hear) for layer in teacher.batch_norms]
        try:
            yield gathered
        finally:
            for handle in handles:
                handle.remove()

    @staticmethod
    def rows(heard: tuple[LayerStatistics, ...], chosen: slice | Tensor) -> None:
        """Return nothing: they are of the batch as a whole."""

    @staticmethod
    def joined(first: tuple[LayerStatistics, ...], second: tuple[LayerStatistics, ...]) -> None:
        """Return nothing: they are of the batch as a whole."""


@dataclass(frozen=True)
class Features:
    """The input of the classifying layer, (N, d)."""

    @contextmanager
    def listen(self, teacher: FrozenTeacher, weight: Tensor | None) -> Iterator[Callable[[], Tensor]]:
        """Hear them; raises TeacherError where no linear layer puts the logits out."""
        heard: list[Tensor] = []
        with hooked([teacher.classifier], lambda layer, args, _: heard.append(args[0])):
            yield lambda: pooled(heard[-1])

    @staticmethod
    def rows(heard: Tensor, chosen: slice | Tensor) -> Tensor:
        """Return those of the chosen images."""
        return heard[chosen]

    @staticmethod
    def joined(first: Tensor, second: Tensor) -> Tensor:
        """Return those of both batches."""
        return torch.cat([first, second])


@dataclass(frozen=True)
class Pooled:
    """What layers put out, or with `inputs` what goes into them, each channel's mean over its positions: (N, channels
    of all layers)."""

    layers: tuple[nn.Module, ...]
    inputs: bool = False

    @contextmanager
    def listen(self, teacher: FrozenTeacher, weight: Tensor | None) -> Iterator[Callable[[], Tensor]]:
        """Hear them."""
        heard: dict[nn.Module, Tensor] = {}

        def hear(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            maps = full(args[0] if self.inputs else output)
            heard[layer] = maps.flatten(2).mean(dim=2) if maps.dim() > 2 else maps

        with hooked(self.layers, hear):
            yield lambda: torch.cat([heard[layer] for layer in self.layers], dim=1)

    @staticmethod
    def rows(heard: Tensor, chosen: slice | Tensor) -> Tensor:
        """Return those of the chosen images."""
        return heard[chosen]

    @staticmethod
    def joined(first: Tensor, second: Tensor) -> Tensor:
        """Return those of both batches."""
        return torch.cat([first, second])


@dataclass(frozen=True)
class BatchNormInputs:
    """What goes into batch norms over maps, (N, channels, height, width) each."""

    layers: tuple[nn.Module, ...]

    @contextmanager
    def listen(self, teacher: FrozenTeacher, weight: Tensor | None) -> Iterator[Callable[[], tuple[Tensor, ...]]]:
        """Hear them."""
        heard: dict[nn.Module, Tensor] = {}
        with hooked(self.layers, lambda layer, args, _: heard.update({layer: args[0]})):
            yield lambda: tuple(heard[layer] for layer in self.layers)

    @staticmethod
    def rows(heard: tuple[Tensor, ...], chosen: slice | Tensor) -> tuple[Tensor, ...]:
        """Return those of the chosen images."""
        return tuple(maps[chosen] for maps in heard)

    @staticmethod
    def joined(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return those of both batches."""
        return tuple(torch.cat(pair) for pair in zip(first, second, strict=True))


@dataclass(frozen=True)
class Blocks:
    """The outputs of layers, (N, channels, height, width) each. A term that needs them leaves the layers out: they are
    those whose maps teacher and student have in common."""

    layers: tuple[nn.Module, ...] = ()

    @contextmanager
    def listen(
        self, teacher: FrozenTeacher | None = None, weight: Tensor | None = None
    ) -> Iterator[Callable[[], tuple[Tensor, ...]]]:
        """Hear them, of whatever network the layers belong to."""
        heard: dict[nn.Module, Tensor] = {}
        with hooked(self.layers, lambda layer, _, output: heard.update({layer: output})):
            yield lambda: tuple(heard[layer] for layer in self.layers)

    @staticmethod
    def rows(heard: tuple[Tensor, ...], chosen: slice | Tensor) -> tuple[Tensor, ...]:
        """Return those of the chosen images."""
        return tuple(block[chosen] for block in heard)

    @staticmethod
    def joined(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return those of both batches."""
        return tuple(torch.cat(pair) for pair in zip(first, second, strict=True))
