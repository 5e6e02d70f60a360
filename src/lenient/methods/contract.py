"""What a method is to the loop: players, parts, a rhythm, and one function for each kind of turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from lenient.core.config import Settings
from lenient.core.runtime import Runtime
from lenient.core.seeding import Streams
from lenient.generators.upsampling import GeneratorSettings
from lenient.replay import Replay
from lenient.synthesis.selection import Verdict
from lenient.teacher.batch import Moment, Record
from lenient.teacher.frozen import FrozenTeacher

Schedule = Literal["constant", "cosine", "cosine-early", "drops"]
"""`cosine`: per epoch, the first at the full rate; `cosine-early`: stepped before the first epoch, the last at 0;
`drops`: a tenth of the rate from each of given shares of the run on."""
Drops = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(max_length=100)]
"""Those shares."""


class MethodSettings(Settings):
    """Base of a method's settings; `name` tells which method they belong to."""

    general: ClassVar[Mapping[str, Any]] = {}
    """Defaults that the method asks for outside of its own settings: the shape of its generator."""

    name: str


@dataclass(frozen=True)
class Stage:
    """All that a method is given to build its players and parts."""

    teacher: FrozenTeacher
    student: nn.Module
    runtime: Runtime
    streams: Streams
    generator: GeneratorSettings
    batch_size: int
    steps: int = 1
    steps_per_epoch: int = 1

    def moment(self, step: int) -> Moment:
        """Return the moment after `step` student steps."""
        epochs = max(1, -(-self.steps // self.steps_per_epoch))
        return Moment(step, self.steps, step // self.steps_per_epoch, epochs)


@dataclass(frozen=True)
class Player:
    """A network, its optimizer, its learning rate as a function of (epoch, epochs) (factor of the base rate), and the
    norm that its gradient is scaled down to, if any."""

    module: nn.Module
    optimizer: Optimizer
    schedule: Callable[[int, int], float] = lambda epoch, epochs: 1.0
    clip_norm: float | None = None


@dataclass(frozen=True)
class Turn:
    """What a turn leaves behind besides gradients: detached parts for the log, and what health looks at."""

    parts: dict[str, Tensor]
    record: Record
    scores: Tensor
    verdict: Verdict
    drawn: int
    """Images synthesised in this turn."""
    facts: dict[str, Tensor] = field(default_factory=dict)


class Stateful(Protocol):
    """Whatever outlives a turn."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Go on from them."""
        ...


@dataclass(frozen=True)
class Game:
    """What a method has built: who plays, when, and how; the loop plays it."""

    players: dict[str, Player]
    turns: Mapping[str, Callable[[int], Turn]]
    """One function for each player: takes the turn's number, fills that player's gradients."""
    rhythm: Rhythm
    sample: Callable[[int, str, int], Tensor]
    """(count, name, turn) to synthetic images (count, C, H, W) without gradient, in pixel units; leaves no trace."""
    parts: dict[str, Stateful] = field(default_factory=dict)
    """What else outlives a turn."""
    replay: Replay | None = None
    """Told of each turn and epoch when it is over; one of the parts."""
    anatomy: Mapping[str, str] = field(default_factory=dict)
    """What the pieces are, in a word or two each, read off them."""
    close: Callable[[], object] = lambda: None
    """Drops what was begun ahead of its turn; called when a run ends."""


class Method(Protocol):
    """One published method: its settings, and how its game is built from parts.

    A method that never differentiates through the teacher may say so with `needs_gradient = False`.
    """

    settings_type: ClassVar[type[MethodSettings]]
    settings: Any
    """Its own settings, an instance of `settings_type`."""

    def __init__(self, settings: Any) -> None: ...

    @property
    def needs_batch_norm(self) -> bool:
        """Whether the teacher must have batch-norm layers with statistics."""
        ...

    def build(self, stage: Stage) -> Game:
        """Make players and parts; all randomness comes from the stage's streams."""
        ...


@dataclass(frozen=True)
class Rhythm:
    """Whose turn it is: a fixed cycle of (player, turns)."""

    cycle: tuple[tuple[str, int], ...]

    def player(self, turn: int) -> str:
        """Return the player of turn number `turn`, counted from 0."""
        place = turn % self.length
        for name, count in self.cycle:
            if place < count:
                return name
            place -= count
        raise AssertionError("unreachable: place < length")

    def steps_before(self, turn: int) -> int:
        """Return how many student steps come before turn number `turn`."""
        cycles, place = divmod(turn, self.length)
        return cycles * self.count("student") + sum(self.player(at) == "student" for at in range(place))

    def count(self, player: str) -> int:
        """Return the turns of a player in one cycle."""
        return sum(count for name, count in self.cycle if name == player)

    @property
    def length(self) -> int:
        """Turns in one cycle."""
        return sum(count for _, count in self.cycle)

    def first(self, player: str) -> int:
        """Return the number of a player's first turn."""
        return next(turn for turn in range(self.length) if self.player(turn) == player)

    def example(self, at_most: int = 10) -> list[tuple[int, int, int]]:
        """Return (first turn, turns to take, turns in all) for each stretch of a cycle: what a trial takes of it."""
        found, start = [], 0
        for _, count in self.cycle:
            found.append((start, min(count, at_most), count))
            start += count
        return found

    def turns_for(self, steps: int) -> int:
        """Return how many turns it takes until the student has made `steps` steps."""
        per_cycle = self.count("student")
        cycles = (steps - 1) // per_cycle
        turns, left = cycles * self.length, steps - cycles * per_cycle
        while left:
            left -= self.player(turns) == "student"
            turns += 1
        return turns


def learning_rate(schedule: Schedule, drops: Sequence[float] = ()) -> Callable[[int, int], float]:
    """Return the schedule's factor of the base rate as a function of (epoch from 0, number of epochs)."""

    def factor(epoch: int, epochs: int) -> float:
        if schedule == "constant":
            return 1.0
        if schedule == "drops":
            return float(0.1 ** sum(epoch >= share * epochs for share in drops))
        if epochs == 1:
            return 1.0  # its last positive value
        done = min(epoch + (schedule == "cosine-early"), epochs) / epochs
        return 0.5 * (1 + math.cos(math.pi * done))

    return factor


def sgd(module: nn.Module, lr: float, momentum: float, weight_decay: float) -> Optimizer:
    """Return fused SGD whose momentum buffers start as zeros, so that a skipped first step leaves nothing undefined."""
    optimizer = torch.optim.SGD(module.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)
    if momentum:
        for parameter in module.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def adam(
    module: nn.Module, lr: float, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.0
) -> Optimizer:
    """Return fused Adam."""
    return torch.optim.Adam(module.parameters(), lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
