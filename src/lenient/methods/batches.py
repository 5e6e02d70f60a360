"""What a method that inverts the teacher says of its batches: what they are made of, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import Optimizer

from lenient.losses.objective import Objective
from lenient.methods.contract import Stateful
from lenient.synthesis.iterate import Iterate
from lenient.teacher.batch import Clock, Partners


class Place(NamedTuple):
    """Where a step is."""

    number: int
    """Of the batch, from 0."""
    done: float
    """Share of the batch's steps that are made."""
    piece: int
    """Which piece of the batch it is on."""
    begins: bool
    ends: bool
    """Whether it is the batch's first step, or its last."""


class Shown(NamedTuple):
    """A batch, or a piece of it, as one step on it sees it."""

    images: Tensor
    """This rank's rows in pixel units."""
    inputs: Tensor
    """What both networks are shown of them, normalised."""
    whole: Tensor
    """All rows as the best iterate is kept, without gradient."""
    others: Mapping[str, Callable[[], Tensor]] = {}
    """Further views of this rank's rows by name, made where a term reads them."""
    drawn: Sequence[Tensor] = ()
    """The generator's maps that they came from, where terms read them."""
    partners: Partners | None = None
    """Whose parts the inputs show."""


def nothing(ends: bool, bad: Tensor) -> None:
    """What follows most steps on a batch."""


@dataclass(frozen=True)
class Batches:
    """What a method that inverts the teacher says of its batches."""

    name: str
    """Of the update of their parameters."""
    pieces: Sequence[Iterate]
    """These parameters; where there are several, steps are on each in turn, and each makes its own images."""
    optimizer: Optimizer
    """Of these parameters, and of those that terms own."""
    objective: Objective
    show: Callable[[Clock, Place], Shown]
    """Shows the batch, or its piece, with gradient."""
    labels: Callable[[int], Tensor]
    """Number of a batch to the classes (B,) that it is to show, or to distributions over them (B, K)."""
    start: Callable[[int, str, int], Tensor]
    """What batches start from, in pixel units, as a source's `sample`: shown until the pool has any."""
    finished: Callable[[Any], Tensor] = lambda iterate: iterate.best
    """The images, in pixel units, that an iterate comes to."""
    rate: Callable[[float], float] = lambda done: 1.0
    """Share of a batch's steps that are made to a factor of the learning rates."""
    follow: Callable[[bool, Tensor], None] = nothing
    """Called after each step, before another batch begins: whether it was the batch's last, and the guard's `bad`."""
    state: Mapping[str, Stateful] = field(default_factory=dict)
    """What else outlives an update."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """What the images are made of, and what they are asked for, in a word or two."""
