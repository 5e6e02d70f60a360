"""Rows that are written once: what a run holds much of lies beside its checkpoints, which need not hold it anew.

A part keeps such rows in `Rows` and hands their `state` out as an entry of its state_dict. Whoever writes checkpoints
stores it apart: what is new in files that never change, and in the checkpoint their names (`lenient.runs.segments`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

MOST = 2**26
"""Bytes that are read or written at a time, unless one row has more."""


@dataclass(frozen=True)
class Segment:
    """A file of rows that follow each other."""

    name: str
    """By what it holds."""
    first: int
    """Number of its first row."""
    end: int
    """Number of the row after its last one."""
    bytes: int


@dataclass(frozen=True)
class Segments:
    """An entry of a state_dict whose rows are stored beside the checkpoint: those numbered from `first` to before
    `end`."""

    first: int
    end: int
    parts: Callable[[int], Iterator[Mapping[str, Tensor]]]
    """Yields the rows from a number on in order, some at a time: equally many (n, ...) of each tensor, by its name."""
    files: list[Segment] = field(default_factory=list)
    """Those that hold rows, in order and without a gap; whoever writes more enters them here."""


class Rows:
    """Equally many rows of several tensors, numbered from 0 as they come; beyond `capacity` the oldest go.

    Row number i lies at place i % `capacity`. None is ever changed.

    Args:
        empty: name -> tensor (0, ...) that says what a row of it is, and on which device.
    """

    def __init__(self, empty: Mapping[str, Tensor], capacity: int) -> None:
        self._tensors, self.capacity = dict(empty), capacity
        self.end = 0
        """Number of the next row."""
        self._files: list[Segment] = []

    def __len__(self) -> int:
        return min(self.end, self.capacity)

    def __getitem__(self, name: str) -> Tensor:
        """Return the tensor of that name by places; what lies beyond `len` is no row."""
        return self._tensors[name]

    def append(self, rows: Mapping[str, Tensor]) -> None:
        """Add rows, equally many of each tensor; of more than `capacity` only the last get a number.

        Raises:
            ValueError: they are not such rows.
        """
        counts = {len(value) for value in rows.values() if value.dim()}
        fits = rows.keys() == self._tensors.keys() and len(counts) == 1
        if not fits or not all(_alike(rows[name], own) for name, own in self._tensors.items()):
            raise ValueError("its rows are of other tensors")
        count = min(*counts, self.capacity)
        self._grow(self.end + count)
        places = self._places(self.end, self.end + count)
        for name, own in self._tensors.items():
            own[places] = rows[name][len(rows[name]) - count :]
        self.end += count

    def _places(self, start: int, end: int) -> Tensor:
        own = next(iter(self._tensors.values()))
        return torch.arange(start, end, device=own.device) % self.capacity

    def _grow(self, wanted: int) -> None:
        """Make room for so many rows, twice as much as before at least: each is copied a few times at most."""
        held = len(next(iter(self._tensors.values())))
        if wanted <= held or held == self.capacity:
            return
        more = min(max(wanted, 2 * held), self.capacity) - held
        for name, own in self._tensors.items():
            self._tensors[name] = torch.cat([own, own.new_empty(more, *own.shape[1:])])

    def parts(self, start: int) -> Iterator[dict[str, Tensor]]:
        """Yield copies of the rows from number `start` on, in order, `MOST` bytes at a time."""
        row = sum(own[:1].nbytes for own in self._tensors.values())
        step = max(MOST // max(row, 1), 1)
        for number in range(start, self.end, step):
            places = self._places(number, min(number + step, self.end))
            yield {name: own[places] for name, own in self._tensors.items()}

    def state(self) -> Segments:
        """Return what a state_dict holds of them: no copy, so it is good until the next `append`."""
        return Segments(self.end - len(self), self.end, self.parts, self._files)

    def load(self, saved: Segments) -> None:
        """Go on from a state; raises ValueError where it is not that of such rows, and changes nothing then."""
        if saved.end < 0 or saved.first != max(saved.end - self.capacity, 0):
            raise ValueError("it has not as many rows as it says")
        read = Rows({name: own[:0] for name, own in self._tensors.items()}, self.capacity)
        read.end = saved.first
        for part in saved.parts(saved.first):
            read._grow(saved.end)
            read.append(part)
        if read.end != saved.end:
            raise ValueError("it has not as many rows as it says")
        self._tensors, self.end, self._files = read._tensors, read.end, list(saved.files)


def _alike(rows: Tensor, own: Tensor) -> bool:
    return rows.dim() > 0 and rows.shape[1:] == own.shape[1:] and rows.dtype == own.dtype
