"""What a method is to the loop: an algorithm, put together for one teacher and one student, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from lenient.core.batch_norm import Statistics
from lenient.core.config import Settings
from lenient.core.errors import UsageError
from lenient.core.rates import Curve, one_cycle, rate_factor
from lenient.core.runtime import Runtime
from lenient.core.seeding import Streams
from lenient.core.text import shown
from lenient.generators.own import GeneratorFactory
from lenient.generators.upsampling import GeneratorSettings
from lenient.losses.objective import Objective
from lenient.pictures.holding import Pictures
from lenient.student.update import StudentUpdate
from lenient.synthesis.selection import Selected, Selection
from lenient.synthesis.source import Source
from lenient.synthesis.views import Viewer
from lenient.teacher.batch import Batch, Clock
from lenient.teacher.frozen import FrozenTeacher

RateSchedule = Literal["constant", "cosine", "cosine-early", "drops", "one-cycle"]
"""`cosine`: per epoch, the first at the full rate; `cosine-early`: stepped before the first epoch, the last at 0;
`drops`: a tenth of the rate from each of given shares of the run on; `one-cycle`: per step, up from a 25th of the rate
over three tenths of the run, then down to nearly 0, each along half a cosine."""
Drops = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(max_length=100)]
"""Those shares."""
STUDENT = "student"
"""The update that counts the steps of a run."""


GENERAL = ("generator", "overlap", "health.kept", "defense.shuffle")
"""Settings outside of a method's own, by dots, that not every method makes use of: the generator and its images made
ahead, the share that a selection keeps, what drives the images away from a backdoor."""
AMONG = tuple(f"source.proxy_{name}" for name in ("share", "augmentation", "cutmix", "selection"))
"""Those about pictures of the user's among a method's own images."""


class MethodSettings(Settings):
    """Base of a method's settings; `name` tells which method they belong to."""

    general: ClassVar[Mapping[str, Any]] = {}
    """Defaults that the method asks for outside of its own settings: the shape of its generator."""
    uses: ClassVar[Sequence[str]] = GENERAL
    """Which of `GENERAL` the method makes use of, whole or by single keys ("generator.latent_dim"); the others are
    neither shown nor taken. One that says nothing may use them all."""

    name: str

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for key in cls.uses:
            if not of_some(key):
                raise UsageError(
                    f"{cls.__name__}: uses: {shown(key)}: write some of {', '.join(GENERAL)}, or keys in them"
                )

    @property
    def shows_pictures(self) -> bool:
        """Whether the method itself shows the pictures of the user's, so that none are put among its images."""
        return False

    def takes(self, key: str) -> bool:
        """Whether a general setting, by dots, does anything where the method has these settings; of a section, whether
        any setting in it does."""
        used = self.uses if self.shows_pictures else (*self.uses, *AMONG)
        return not of_some(key) or any(_within(key, (own,)) or _within(own, (key,)) for own in used)

    def taken(self, values: Mapping[str, Any], section: str = "") -> dict[str, Any]:
        """Return general settings, or those of a section (`"generator."`), without what the method does not take."""
        return {
            key: self.taken(value, f"{section}{key}.") if isinstance(value, Mapping) else value
            for key, value in values.items()
            if self.takes(section + key)
        }


def of_some(key: str) -> bool:
    """Whether a general setting, by dots, is one that not every method makes use of."""
    return _within(key, (*GENERAL, *AMONG))


def _within(key: str, places: Sequence[str]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


@dataclass(frozen=True)
class Phase:
    """A round of updates, as (network, how many in a row), and how many rounds there are; None: to the run's end."""

    updates: tuple[tuple[str, int], ...]
    rounds: int | None = None

    @cached_property
    def length(self) -> int:
        """Updates in one round."""
        return sum(count for _, count in self.updates)

    def count(self, name: str) -> int:
        """Return the updates of a network in one round."""
        return sum(count for own, count in self.updates if own == name)

    def name(self, place: int) -> str:
        """Return whose update is number `place` of a round."""
        for name, count in self.updates:
            if place < count:
                return name
            place -= count
        raise IndexError("beyond the round")

    def before(self, name: str, place: int) -> int:
        """Return the updates of a network before number `place` of a round."""
        found = 0
        for own, count in self.updates:
            found += min(count, place) if own == name else 0
            place = max(place - count, 0)
        return found


class Schedule:
    """Which update comes when: phases in order, each a number of equal rounds; the last one goes on to the end.

    Example:
        >>> from lenient.methods.contract import Phase
        >>> inversion = Phase((("images", 50),), rounds=2)
        >>> schedule = lenient.Schedule(inversion, Phase((("images", 1), ("student", 10))))
        >>> [schedule.name(update) for update in (0, 99, 100, 101)]
        ['images', 'images', 'images', 'student']
        >>> schedule.updates_for(steps=10)
        111
    """

    def __init__(self, *phases: Phase) -> None:
        *first, last = phases
        if last.rounds is not None or not last.count(STUDENT) or any(not phase.rounds for phase in first):
            raise ValueError("all phases but the last have a number of rounds; in the last the student learns")
        self.phases = phases

    def at(self, update: int) -> tuple[Phase, int, int, int]:
        """Return of an update, counted from 0: its phase, the rounds and the student updates before its round, over all
        phases, and its place in the round."""
        rounds = steps = 0
        for phase in self.phases[:-1]:
            assert phase.rounds is not None, "checked above"
            if update < phase.length * phase.rounds:
                break
            update -= phase.length * phase.rounds
            rounds, steps = rounds + phase.rounds, steps + phase.rounds * phase.count(STUDENT)
        else:
            phase = self.phases[-1]
        more, place = divmod(update, phase.length)
        return phase, rounds + more, steps + more * phase.count(STUDENT), place

    def name(self, update: int) -> str:
        """Return whose update number `update` is, counted from 0."""
        phase, _, _, place = self.at(update)
        return phase.name(place)

    def before(self, name: str, update: int) -> int:
        """Return how many updates of a network come before update number `update`."""
        start, found = 0, 0
        for phase in self.phases[:-1]:
            assert phase.rounds is not None, "checked above"
            if update < start + phase.length * phase.rounds:
                break
            start, found = start + phase.length * phase.rounds, found + phase.count(name) * phase.rounds
        else:
            phase = self.phases[-1]
        rounds, place = divmod(update - start, phase.length)
        return found + rounds * phase.count(name) + phase.before(name, place)

    def steps_before(self, update: int) -> int:
        """Return how many student updates come before update number `update`."""
        return self.before(STUDENT, update)

    def steps_in(self, rounds: int) -> int:
        """Return how many student updates there are in the first so many rounds, over all phases."""
        found = 0
        for phase in self.phases:
            taken = rounds if phase.rounds is None else min(rounds, phase.rounds)
            found, rounds = found + taken * phase.count(STUDENT), rounds - taken
        return found

    def round_start(self, update: int) -> int:
        """Return the first update of the round that an update belongs to."""
        return update - self.at(update)[3]

    def updates_for(self, steps: int) -> int:
        """Return how many updates it takes until the student has made `steps` of them."""
        done = 0
        for phase in self.phases:
            per_round, rounds = phase.count(STUDENT), phase.rounds
            if rounds is not None and (steps > per_round * rounds or not per_round):
                done, steps = done + phase.length * rounds, steps - per_round * rounds
                continue
            whole = (steps - 1) // per_round
            left = steps - whole * per_round
            place = next(place for place in range(phase.length) if phase.before(STUDENT, place + 1) == left)
            return done + whole * phase.length + place + 1
        raise AssertionError("unreachable: the last phase goes on")

    def starts(self) -> list[int]:
        """Return the first update of each phase."""
        found = [0]
        for phase in self.phases[:-1]:
            found.append(found[-1] + phase.length * (phase.rounds or 0))
        return found


@dataclass(frozen=True)
class Context:
    """All that a method is given to build its algorithm."""

    teacher: FrozenTeacher
    student: nn.Module
    runtime: Runtime
    streams: Streams
    generator: GeneratorSettings
    batch_size: int
    steps: int = 1
    steps_per_epoch: int = 1
    own_generator: GeneratorFactory | None = None
    """Makes the generator, where it is the user's own."""
    pictures: Pictures | None = None
    """The user's own, where the settings name a folder."""

    def clock(self, schedule: Schedule, update: int) -> Clock:
        """Return the clock of an update, counted from 0."""
        phase, rounds, steps, place = schedule.at(update)
        step = steps + phase.before(STUDENT, place)
        return Clock(
            update,
            rounds,
            step,
            self.steps,
            step // self.steps_per_epoch,
            max(1, -(-self.steps // self.steps_per_epoch)),
            phase.name(place) == STUDENT and (step + 1) % self.steps_per_epoch == 0,
        )


class StepOutput(NamedTuple):
    """What a step leaves behind besides gradients: for the log, and for what comes after it."""

    losses: dict[str, Tensor]
    """Detached, by the names of their terms."""
    batch: Batch
    images: int = 0
    """Images made for it, by all ranks."""
    selected: Selected | None = None
    """What the teacher vouched for, where there was a choice."""
    facts: Mapping[str, Tensor] = {}
    """More scalars for the log."""
    kept: Mapping[str, Tensor] = {}
    """What `after` needs of the step besides."""


Step = Callable[[Clock], StepOutput]
"""Fills the gradients of one update."""
After = Callable[[Clock, StepOutput, Tensor], None]
"""What follows an update: clock, output, and a 0/1 scalar on the device, 1 where it was skipped."""


def nothing(clock: Clock, output: StepOutput, bad: Tensor) -> None:
    """What most updates do after their step."""


def both(first: After, second: After) -> After:
    """Return what does one after the other."""

    def after(clock: Clock, output: StepOutput, bad: Tensor) -> None:
        first(clock, output, bad)
        second(clock, output, bad)

    return after


@dataclass(frozen=True)
class Update:
    """One optimizer step of one network, as often as the schedule says."""

    module: nn.Module
    optimizer: Optimizer
    step: Step
    """Fills the gradients."""
    after: After = nothing
    """Called once it is made; `bad` is a 0/1 scalar on the device: 1 where it was skipped for non-finite numbers."""
    rate: Callable[[Clock], float] = lambda clock: 1.0
    """Factor of the optimizer's learning rates."""
    clip_norm: float | None = None
    """Norm that the gradient is scaled down to."""


@runtime_checkable
class Minimising(Protocol):
    """A step of what makes the images, which takes another objective."""

    @property
    def objective(self) -> Objective:
        """What it minimises."""
        ...

    def minimising(self, objective: Objective) -> Step:
        """Return the step with another one."""
        ...


@runtime_checkable
class Learning(Protocol):
    """A step of the student, which takes another update."""

    @property
    def update(self) -> StudentUpdate:
        """How the student learns from a batch."""
        ...

    def learning(self, update: StudentUpdate) -> Step:
        """Return the step with another one."""
        ...


@runtime_checkable
class Fed(Protocol):
    """A step of the student, which takes its batches from another source."""

    @property
    def source(self) -> Source:
        """Where its batches come from."""
        ...

    @property
    def viewer(self) -> Viewer:
        """How images are shown to the teacher for it."""
        ...

    def fed(self, source: Source) -> Step:
        """Return the step with another source, whose views are probed in the same way."""
        ...


class Stateful(Protocol):
    """Whatever outlives an update."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors; of what is large and never changes, `Segments`, which are stored apart."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Go on from them."""
        ...


@dataclass(frozen=True)
class Algorithm:
    """A method put together: whose updates come when, and on what; the loop runs it, `describe` says what it is, and a
    defence, which maps one algorithm to another, may change any part of it."""

    updates: Mapping[str, Update]
    schedule: Schedule
    source: Source
    imitation: Objective
    """What the student minimises."""
    objective: Objective | None = None
    """What makes the images minimises."""
    selection: Selection | None = None
    """Which images the teacher vouches for, where there is a choice."""
    state: Mapping[str, Stateful] = field(default_factory=dict)
    """What else than networks, optimizers and source outlives an update."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """What selection, replay and student update are, in a word or two."""
    notes: Sequence[str] = ()
    """Lines for whoever starts the run."""
    ending: float = 0.0
    """Share of the student's steps, its last, that cost more than those before: trials look at both."""
    foreign: Sequence[str] = ()
    """What the images come from besides the teacher: such a student is not data-free in the strict sense."""
    statistics: Statistics = "running"
    """What the teacher's batch norms normalise by as the student learns. By the batch the student learns what only a
    batch can say, and its own are estimated anew before it is measured or delivered."""
    images: Source | None = None
    """Where the method's own images come from, where the student's batches hold others, too."""

    @property
    def drawn(self) -> Source:
        """The source of what is handed out as the run's images."""
        return self.source if self.images is None else self.images

    def __post_init__(self) -> None:
        """Raise a UsageError where the source lacks a part of the contract."""
        parts = (name for name in vars(Source) if not name.startswith("_"))
        if lacks := next((name for name in parts if not callable(getattr(self.source, name, None))), None):
            raise UsageError(f"the source {type(self.source).__name__}: has no {lacks}(): see `lenient.Source`")

    @property
    def lasting(self) -> Mapping[str, Stateful]:
        """All that outlives an update besides networks, optimizers and source: `state`, and objectives whose terms
        remember."""
        objectives = {"imitation": self.imitation} | ({} if self.objective is None else {"objective": self.objective})
        return {**self.state, **{name: own for name, own in objectives.items() if own.remembering}}

    def minimising(self, objective: Objective, after: After) -> Algorithm:
        """Return the algorithm with another objective for what makes the images; `after` is called after these, too.

        Raises:
            UsageError: no step is a `Minimising` one of the objective that there is, or a new term has weights.
        """
        changed: dict[str, Update] = {}
        for name, update in self.updates.items():
            step = update.step
            if isinstance(step, Minimising) and step.objective is self.objective:
                if not {*objective.modules} <= {*update.module.modules()}:
                    raise UsageError("a term with weights of its own cannot be added to a method: nothing trains them")
                changed[name] = replace(update, step=step.minimising(objective), after=both(update.after, after))
        if not changed:
            raise UsageError("the method's steps take no other objective: see `Minimising` in lenient.methods.contract")
        return replace(self, objective=objective, updates={**self.updates, **changed})

    def learning(self, change: Callable[[StudentUpdate], StudentUpdate]) -> Algorithm:
        """Return the algorithm with what `change` makes of its student update.

        Raises:
            UsageError: the student's step is no `Learning` one.
        """
        own = self.updates[STUDENT]
        if not isinstance(own.step, Learning):
            raise UsageError("the method's student takes no other update: see `Learning` in lenient.methods.contract")
        changed = change(own.step.update)
        updates = {**self.updates, STUDENT: replace(own, step=own.step.learning(changed))}
        return replace(self, updates=updates, parts={**self.parts, "update": changed.label})

    def fed(self, change: Callable[[Source, Viewer], Source]) -> Algorithm:
        """Return the algorithm whose student draws from what `change` makes of its source and its viewer.

        Raises:
            UsageError: the student's step is no `Fed` one.
        """
        own = self.updates[STUDENT]
        if not isinstance(own.step, Fed):
            raise UsageError("the method's student takes no other source: see `Fed` in lenient.methods.contract")
        source = change(own.step.source, own.step.viewer)
        updates = {**self.updates, STUDENT: replace(own, step=own.step.fed(source))}
        return replace(self, updates=updates, source=source)


class Method(Protocol):
    """One published method: its settings, and how its algorithm is built from parts.

    A method that never differentiates through the teacher may say so with `needs_gradient = False`; one that reads the
    weights of its last layer with `needs_linear_head = True`, and that embeddings of class names may take their place
    with `takes_class_names = True`; one of the user's pictures with `needs_pictures = True`; one that is only there to
    be beaten with `baseline = True`; one without a recipe `paper` says with `not_known` what of its paper is not known.
    """

    settings_type: ClassVar[type[MethodSettings]]
    settings: Any
    """Its own settings, an instance of `settings_type`."""

    def __init__(self, settings: Any) -> None: ...

    @property
    def needs_batch_norm(self) -> bool:
        """Whether the teacher must have batch-norm layers with statistics."""
        ...

    def build(self, context: Context) -> Algorithm:
        """Put the parts together; all randomness comes from the context's streams."""
        ...


def learning_rate(kind: RateSchedule, drops: Sequence[float] = (), end: float = 0.0) -> Callable[[Clock], float]:
    """Return a factor of the base rate by epoch; `end` is the one that the cosines fall towards."""

    early = kind == "cosine-early"  # a step ahead, so that it ends at its least value

    def factor(clock: Clock) -> float:
        if kind == "one-cycle":
            return one_cycle(clock.step, clock.steps)
        curve: Curve = "cosine" if kind == "cosine-early" else kind
        if curve == "cosine" and clock.epochs == 1:
            return 1.0  # its last positive value
        done = min(clock.epoch + early, clock.epochs) / clock.epochs
        return rate_factor(curve, done, drops=drops, end=end)

    return factor


def sgd(module: nn.Module, lr: float, momentum: float, weight_decay: float) -> Optimizer:
    """Return fused SGD whose momentum buffers start as zeros, so that a skipped first step leaves nothing undefined."""
    optimizer = torch.optim.SGD(module.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)
    if momentum:
        for parameter in module.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def student_optimizer(
    module: nn.Module, kind: Literal["sgd", "adam"], lr: float, momentum: float, weight_decay: float
) -> Optimizer:
    """Return the optimizer of a kind; the momentum is SGD's alone."""
    if kind == "sgd":
        return sgd(module, lr, momentum, weight_decay)
    return adam(module, lr, weight_decay=weight_decay)


@torch.no_grad()
def restart(optimizer: Optimizer) -> None:
    """Forget what an optimizer has gathered: all zeros, as new SGD, Adam, AdamW and RMSprop have it."""
    for kept in optimizer.state.values():
        for value in kept.values():
            if isinstance(value, Tensor):
                value.zero_()


def adam(
    module: nn.Module,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    rates: Mapping[str, float] | None = None,
) -> Optimizer:
    """Return fused Adam; parameters whose name is in `rates` have a learning rate of their own."""
    own = dict(module.named_parameters())
    groups: list[dict[str, Any]] = [{"params": [own.pop(name)], "lr": rate} for name, rate in (rates or {}).items()]
    groups.insert(0, {"params": list(own.values())})
    return torch.optim.Adam(groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def with_terms(module: nn.Module, objective: Objective) -> nn.Module:
    """Return what moves in an update that minimises an objective: a module and what the terms own, or the module itself
    where they own nothing."""
    return nn.ModuleList([module, *objective.modules]) if objective.modules else module


def adamw(module: nn.Module, lr: float, weight_decay: float) -> Optimizer:
    """Return fused AdamW, whose weight decay does not go through the gradient."""
    return torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
