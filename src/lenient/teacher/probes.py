"""Probes: what else is read from a network in a forward, besides its logits. A new kind of evidence is a new probe."""

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
    """Reads something of the teacher in one forward. Probes that are equal read the same, and are armed once."""

    def armed(self, teacher: FrozenTeacher, weight: Tensor | None) -> AbstractContextManager[Callable[[], T_co]]:
        """Be armed while the context is open, for one forward; what it yields returns what was found.

        `weight` (N,) says how far each image counts, where it is given.
        """
        ...

    @staticmethod
    def rows(probed: Any, chosen: slice | Tensor) -> T_co | None:
        """Return what was found of the chosen images; None where it is of the batch as a whole."""
        ...

    @staticmethod
    def joined(first: Any, second: Any) -> T_co | None:
        """Return what was found of two batches as of one; None where it is of a batch as a whole."""
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
    def armed(
        self, teacher: FrozenTeacher, weight: Tensor | None
    ) -> Iterator[Callable[[], tuple[LayerStatistics, ...]]]:
        """Gather them; raises TeacherError where no layer gave any."""
        found: list[LayerStatistics] = []

        def note(layer: nn.Module, args: tuple[Any, ...]) -> None:
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

        handles = [layer.register_forward_pre_hook(note) for layer in teacher.batch_norms]
        try:
            yield gathered
        finally:
            for handle in handles:
                handle.remove()

    @staticmethod
    def rows(probed: tuple[LayerStatistics, ...], chosen: slice | Tensor) -> None:
        """Return nothing: they are of the batch as a whole."""

    @staticmethod
    def joined(first: tuple[LayerStatistics, ...], second: tuple[LayerStatistics, ...]) -> None:
        """Return nothing: they are of the batch as a whole."""


@dataclass(frozen=True)
class Features:
    """The input of the classifying layer, (N, d)."""

    @contextmanager
    def armed(self, teacher: FrozenTeacher, weight: Tensor | None) -> Iterator[Callable[[], Tensor]]:
        """Read them; raises TeacherError where no linear layer puts the logits out."""
        probed: list[Tensor] = []
        with hooked([teacher.classifier], lambda layer, args, _: probed.append(args[0])):
            yield lambda: pooled(probed[-1])

    @staticmethod
    def rows(probed: Tensor, chosen: slice | Tensor) -> Tensor:
        """Return those of the chosen images."""
        return probed[chosen]

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
    def armed(self, teacher: FrozenTeacher, weight: Tensor | None) -> Iterator[Callable[[], Tensor]]:
        """Read them."""
        probed: dict[nn.Module, Tensor] = {}

        def note(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            maps = full(args[0] if self.inputs else output)
            probed[layer] = maps.flatten(2).mean(dim=2) if maps.dim() > 2 else maps

        with hooked(self.layers, note):
            yield lambda: torch.cat([probed[layer] for layer in self.layers], dim=1)

    @staticmethod
    def rows(probed: Tensor, chosen: slice | Tensor) -> Tensor:
        """Return those of the chosen images."""
        return probed[chosen]

    @staticmethod
    def joined(first: Tensor, second: Tensor) -> Tensor:
        """Return those of both batches."""
        return torch.cat([first, second])


@dataclass(frozen=True)
class BatchNormInputs:
    """What goes into batch norms over maps, (N, channels, height, width) each."""

    layers: tuple[nn.Module, ...]

    @contextmanager
    def armed(self, teacher: FrozenTeacher, weight: Tensor | None) -> Iterator[Callable[[], tuple[Tensor, ...]]]:
        """Read them."""
        probed: dict[nn.Module, Tensor] = {}
        with hooked(self.layers, lambda layer, args, _: probed.update({layer: args[0]})):
            yield lambda: tuple(probed[layer] for layer in self.layers)

    @staticmethod
    def rows(probed: tuple[Tensor, ...], chosen: slice | Tensor) -> tuple[Tensor, ...]:
        """Return those of the chosen images."""
        return tuple(maps[chosen] for maps in probed)

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
    def armed(
        self, teacher: FrozenTeacher | None = None, weight: Tensor | None = None
    ) -> Iterator[Callable[[], tuple[Tensor, ...]]]:
        """Read them, of whatever network the layers belong to."""
        probed: dict[nn.Module, Tensor] = {}
        with hooked(self.layers, lambda layer, _, output: probed.update({layer: output})):
            yield lambda: tuple(probed[layer] for layer in self.layers)

    @staticmethod
    def rows(probed: tuple[Tensor, ...], chosen: slice | Tensor) -> tuple[Tensor, ...]:
        """Return those of the chosen images."""
        return tuple(block[chosen] for block in probed)

    @staticmethod
    def joined(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return those of both batches."""
        return tuple(torch.cat(pair) for pair in zip(first, second, strict=True))
