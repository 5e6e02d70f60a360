"""The weighted sum of terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lenient.core.errors import UsageError
from lenient.teacher.batch import Batch, Clock
from lenient.teacher.probes import Probe


@dataclass(frozen=True)
class Needs:
    """What a term reads of a batch besides the images and the teacher's logits; no name of a term means anything."""

    view: str = "clean"
    """Which view of the images its answers are to."""
    student: bool = False
    """The student's logits."""
    probes: tuple[Probe[Any], ...] = ()
    """What else is to be probed of the teacher: of all images as drawn (`clean`), of the selected ones (`train`)."""
    also: tuple[Needs, ...] = ()
    """What it reads of further views."""

    decoder: bool = False
    """What a decoder reads of the images, as `Batch.decoded`."""

    def asks(self, kind: type[Probe[Any]]) -> bool:
        """Whether a kind of probe is among them."""
        return any(isinstance(probe, kind) for need in self.all for probe in need.probes)

    @property
    def all(self) -> tuple[Needs, ...]:
        """All of them, view by view."""
        return (self, *self.also)


class Term(Protocol):
    """A loss on a batch: returns a float32 scalar. `label` says in a word or two what it is, for the anatomy table."""

    label: str
    needs: Needs

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        ...


@runtime_checkable
class Remembering(Term, Protocol):
    """A term with a memory of its own, on the device: what makes the images calls it when it is to write, and
    checkpoints hold it."""

    def remember(self, batch: Batch, bad: Tensor) -> None:
        """Write what a finished batch leaves behind; nothing where `bad` is 1, since its last update was skipped."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the memory."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Go on from it."""
        ...


@runtime_checkable
class Keeping(Remembering, Protocol):
    """One whose memory is of a batch's best iterate: it sees each, and writes what it kept when it is asked to."""

    def keep(self, batch: Batch, better: Tensor) -> None:
        """Keep what is to be written of an iterate, where the scalar `better` is 1: it is the best so far."""
        ...


@runtime_checkable
class Following(Remembering, Protocol):
    """One whose memory is of each step on a batch, and not of finished ones alone."""

    def follow(self, batch: Batch, bad: Tensor) -> None:
        """Write what a step leaves behind; nothing where `bad` is 1, since its update was skipped."""
        ...


@runtime_checkable
class Owning(Term, Protocol):
    """A term with weights of its own, a `module`, which learn in the updates that minimise it and as parts of whose
    module they are stepped, averaged over ranks, and kept in checkpoints: see `with_terms` in
    `lenient.methods.contract`."""

    module: nn.Module


@dataclass(frozen=True)
class Later:
    """A weight that is 0 in the rounds before number `round`, counted from 0 over all phases."""

    weight: float
    round: int

    def __call__(self, clock: Clock) -> float:
        """Return the weight in the round of `clock`."""
        return self.weight if clock.round >= self.round else 0.0


@dataclass(frozen=True)
class Ramp:
    """A weight that climbs from `start` to `end`, in equal steps after each epoch strictly between two shares of a run.

    CuDFKD: begin 0.25, finish 0.75 of 250 epochs are 124 increments. Runs of few epochs climb by steps.
    """

    start: float
    end: float
    begin: float
    finish: float

    def __call__(self, clock: Clock) -> float:
        """Return the weight in the epoch of `clock`."""
        first, last = math.floor(self.begin * clock.epochs), math.floor(self.finish * clock.epochs)
        increments = last - first - 1
        if increments < 2:  # too few epochs to climb by: by steps
            share = (clock.step / clock.steps - self.begin) / max(self.finish - self.begin, 1e-9)
            return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)
        done = min(max(clock.epoch - first - 1, 0), increments)
        return self.start + (self.end - self.start) * done / increments


Weight = float | Callable[[Clock], float]


def _now(weight: Weight, clock: Clock) -> float:
    return weight(clock) if callable(weight) else weight


class Objective:
    """An ordered mapping name -> (weight, term). A term of weight 0 is not computed and costs nothing.

    Raises:
        UsageError: a term does not say what it needs.
    """

    def __init__(self, terms: Mapping[str, tuple[Weight, Term]]) -> None:
        for name, (_, term) in terms.items():
            if not hasattr(term, "needs"):
                raise UsageError(f"term {name}: has no `needs`: a `Needs` that says what it reads of a batch")
        self.terms = {name: (weight, term) for name, (weight, term) in terms.items() if weight != 0}

    def plus(self, name: str, weight: Weight, term: Term) -> Objective:
        """Return the objective with one term more, in a place of its own: another of that name keeps its."""
        while name in self.terms:
            name += "'"
        return Objective({**self.terms, name: (weight, term)})

    def needs(self, clock: Clock | None = None) -> tuple[Needs, ...]:
        """Return what its terms need, or those of them that have a weight at `clock`, view by view."""
        chosen = [term for weight, term in self.terms.values() if clock is None or _now(weight, clock) != 0]
        return tuple(need for term in chosen for need in term.needs.all)

    def names(self, asked: Callable[[Needs], bool]) -> tuple[str, ...]:
        """Return the names of the terms with such needs."""
        return tuple(name for name, (_, term) in self.terms.items() if asked(term.needs))

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """What its terms own that learns, in their order."""
        return tuple(term.module for _, term in self.terms.values() if isinstance(term, Owning))

    @property
    def remembering(self) -> dict[str, Remembering]:
        """The terms with a memory of their own, by name."""
        return {name: term for name, (_, term) in self.terms.items() if isinstance(term, Remembering)}

    def keep(self, batch: Batch, better: Tensor) -> None:
        """Let those of them that keep something of the best iterate, and have a weight now, see one."""
        for name, term in self.remembering.items():
            if isinstance(term, Keeping) and _now(self.terms[name][0], batch.clock) != 0:
                term.keep(batch, better)

    def follow(self, batch: Batch, bad: Tensor) -> None:
        """Let those of them that follow each step, and have a weight now, write what one leaves behind."""
        for name, term in self.remembering.items():
            if isinstance(term, Following) and _now(self.terms[name][0], batch.clock) != 0:
                term.follow(batch, bad)

    def remember(self, batch: Batch, bad: Tensor) -> None:
        """Let those of them that have a weight now write what a finished batch leaves behind."""
        for name, term in self.remembering.items():
            if _now(self.terms[name][0], batch.clock) != 0:
                term.remember(batch, bad)

    def state_dict(self) -> dict[str, Any]:
        """Return their memories."""
        return {name: term.state_dict() for name, term in self.remembering.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from them."""
        for name, term in self.remembering.items():
            term.load_state_dict(state[name])

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total, and every loss unweighted and detached, for the log."""
        total = torch.zeros((), device=batch.images.device)
        losses: dict[str, Tensor] = {}
        for name, (weight, term) in self.terms.items():
            now = _now(weight, batch.clock)
            if now == 0:
                continue
            value = term(batch)
            if value.dim():
                raise UsageError(f"term {name}: gave a tensor of shape {tuple(value.shape)}, and has to give a scalar")
            losses[name] = value.detach()
            total = total + now * value
        return total, losses
