"""What methods with one generator share: settings, and how an algorithm is put together. A method says which terms, who
starts, and what the student learns by; everything else is a setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn
from torch.optim import Optimizer

from lenient.core import ranks
from lenient.core.config import BY_NAME, Nothing
from lenient.core.errors import TeacherError, UsageError
from lenient.core.modes import mode
from lenient.core.seeding import untouched_global_rng
from lenient.generators.conditional import ConditionalGenerator, Conditioning
from lenient.generators.own import GeneratorFactory, check_drawing, own_generator
from lenient.generators.upsampling import GeneratorSettings, UpsamplingGenerator
from lenient.losses.objective import Objective
from lenient.methods.contract import (
    STUDENT,
    Algorithm,
    Context,
    Drops,
    Method,
    MethodSettings,
    Phase,
    RateSchedule,
    Schedule,
    Update,
    adam,
    learning_rate,
    student_optimizer,
    with_terms,
)
from lenient.methods.steps import GeneratorStep, MemoryStep, StudentStep
from lenient.models.card import Card
from lenient.models.probing import last_block_by_size
from lenient.replay import NoReplay, Replay
from lenient.replay.bank import BankSettings, MemoryBank
from lenient.replay.generative import MemoryGenerator, MemorySettings
from lenient.replay.momentum import MomentumGenerator, MomentumSettings
from lenient.student.update import (
    LiveStudent,
    PlainSettings,
    PlainUpdate,
    RetainUpdate,
    StudentUpdate,
    UpdateSettings,
)
from lenient.synthesis.accepted import AcceptedImages
from lenient.synthesis.generated import Generated, Key
from lenient.synthesis.prefetch import Prefetch
from lenient.synthesis.sampler import Sampler
from lenient.synthesis.selection import (
    MOST_ROUNDS,
    KeepAll,
    MixtureSelection,
    MixtureSettings,
    Selection,
    SelectionSettings,
    check_selection,
)
from lenient.synthesis.source import Source
from lenient.synthesis.views import Augmentation, Viewer
from lenient.teacher.batch import Clock
from lenient.teacher.probes import Blocks, Features

ReplaySettings = Annotated[Nothing | BankSettings | MemorySettings | MomentumSettings, BY_NAME]
"""Old samples against forgetting: kept images (MB-DFKD), a memory (PRE-DFKD), averaged generators (MAD)."""


class GeneratorMethodSettings(MethodSettings):
    """Settings of all methods with one generator. Neutral defaults stand here; a method's own says what they are."""

    student_steps: int = Field(10, ge=1, le=10_000)
    """Student updates in one round."""
    generator_steps: int = Field(1, ge=1, le=10_000)
    """Generator updates in one round."""
    student_optimizer: Literal["sgd", "adam"] = "sgd"
    """The student's optimizer."""
    student_lr: float = Field(0.1, ge=0, le=1e3)
    """Learning rate of the student."""
    student_momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of the student's SGD."""
    student_weight_decay: float = Field(5e-4, ge=0, le=1e6)
    """Weight decay of the student's optimizer."""
    student_schedule: RateSchedule = "cosine"
    """How the student's rate falls: constant, cosine, cosine-early, drops, one-cycle."""
    generator_lr: float = Field(1e-3, ge=0, le=1e3)
    """Learning rate of the generator's Adam."""
    generator_schedule: RateSchedule = "constant"
    """How the generator's rate falls."""
    drops: Drops = ()
    """Shares of the run from which on a schedule `drops` gives a tenth of the rate."""
    student_clip_norm: float | None = Field(None, gt=0, le=1e6)
    """Largest norm of the student's gradient; longer ones are scaled down to it."""
    generator_clip_norm: float | None = Field(None, gt=0, le=1e6)
    """Largest norm of the generator's gradient."""
    augmentation: Augmentation = "none"
    """What the student is trained on: the images as drawn, or randomly cropped and flipped."""
    selection: SelectionSettings = Nothing()
    """Whether the teacher selects samples (TA-DFKD)."""
    replay: ReplaySettings = Nothing()
    """Old samples against forgetting: kept images (MB-DFKD), a memory (PRE-DFKD), averaged generators (MAD)."""
    update: UpdateSettings = PlainSettings()
    """How new and old join: one batch, or acquire and retain through a virtual step (META-DFKD)."""


def generator_algorithm(
    context: Context,
    settings: GeneratorMethodSettings,
    objective: Callable[[nn.Module], Objective] | Objective,
    imitation: Objective,
    *,
    order: Sequence[Literal["student", "generator"]] = ("student", "generator"),
    same_batch: bool = False,
    student_mode: Literal["train", "eval"] = "train",
    draw_mode: Literal["train", "eval"] = "train",
    conditioning: Conditioning = "none",
    generator_betas: tuple[float, float] = (0.9, 0.999),
    selection: Selection | None = None,
    warm_up: int = 0,
) -> Algorithm:
    """Put a method with one generator together.

    Args:
        context: teacher, student, device and streams.
        settings: which selection, replay and student update, and how often who moves.
        objective: the generator's, or a function of the generator where terms need it.
        imitation: the student's.
        order: who starts a round.
        same_batch: one draw of latents for a whole round.
        student_mode: of the student in the generator's update.
        draw_mode: of the generator while it draws for the student.
        conditioning: how the generator is given a class.
        generator_betas: of its Adam.
        selection: the method's own instead of one that settings name; it may have a `label` for the table of methods.
        warm_up: generator updates before the first round.

    Raises:
        UsageError: settings ask for a selection beside the method's own, or for what cannot be put together.
    """
    s, teacher = settings, context.teacher
    sampler = build_sampler(context, conditioning)
    replay = build_replay(context, s, sampler)
    memory = replay if isinstance(replay, MemoryGenerator) else None
    first = [Phase((("generator", 1),), warm_up)] if warm_up else []
    schedule = Schedule(*first, Phase(round_of(s, order, memory)))
    if selection is not None and not isinstance(s.selection, Nothing):
        raise UsageError(f"-s method.selection={s.selection.name}: {s.name} has a selection of its own; leave it out")
    label = s.selection.name if selection is None else getattr(selection, "label", type(selection).__name__)
    if selection is not None:
        check_selection(selection, label, context.runtime.device)
    selection = select(s.selection) if selection is None else selection
    if not isinstance(objective, Objective):
        objective = objective(sampler.generator)
    if any(need.asks(Features) for need in objective.needs()):
        _ = teacher.classifier  # refuses a teacher without one now, not in the first update
    blocks = common_blocks(context) if any(need.asks(Blocks) for need in imitation.needs()) else ((), ())
    student = LiveStudent(context.student, context.runtime, blocks[1])
    viewer = Viewer(context.streams, s.augmentation, blocks[0])

    def key(name: str, clock: Clock) -> tuple[str, int]:
        return ("cycle-latents", clock.round) if same_batch else (name, clock.update)

    source = build_source(context, s, schedule, sampler, viewer, selection, key, same_batch, draw_mode)
    optimizer = student_optimizer(
        context.student, s.student_optimizer, s.student_lr, s.student_momentum, s.student_weight_decay
    )
    update, moving = build_update(s, imitation, student, optimizer), with_terms(sampler.generator, objective)
    step = GeneratorStep(context, sampler, student, source, objective, selection, viewer, key, student_mode)
    updates = {
        STUDENT: Update(
            context.student,
            optimizer,
            StudentStep(source, replay, update, teacher, viewer, context.runtime),
            lambda clock, output, bad: replay.after_student(clock, output.batch, bad),
            learning_rate(s.student_schedule, s.drops),
            s.student_clip_norm,
        ),
        "generator": Update(
            moving,
            adam(moving, s.generator_lr, generator_betas),
            step,
            lambda clock, output, bad: replay.after_generator(clock, output.batch, bad),
            learning_rate(s.generator_schedule, s.drops),
            s.generator_clip_norm,
        ),
    }
    if memory is not None and memory.learner is not None:
        updates["memory"] = Update(memory.learner, adam(memory.learner, memory.settings.lr), MemoryStep(memory))
    parts = {"sampler": "generator", "selection": label, "replay": replay.label, "update": update.label}
    parts |= {} if sampler.num_classes is None else {"labels": "uniform"}
    return Algorithm(updates, schedule, source, imitation, objective, selection, {"replay": replay}, parts)


def round_of(
    settings: GeneratorMethodSettings, order: Sequence[str], memory: MemoryGenerator | None
) -> tuple[tuple[str, int], ...]:
    """Return the updates of a round; a memory learns after each of the first student updates."""
    found: list[tuple[str, int]] = []
    for name in order:
        count = settings.student_steps if name == STUDENT else settings.generator_steps
        if name == STUDENT and memory is not None:
            learning = min(memory.settings.updates, count)
            found += [(STUDENT, 1), ("memory", 1)] * learning
            count -= learning
        if count:
            found.append((name, count))
    return tuple(found)


def select(settings: Nothing | MixtureSettings) -> Selection:
    """Make what says which images the teacher vouches for."""
    return KeepAll() if isinstance(settings, Nothing) else MixtureSelection(settings)


def build_sampler(
    context: Context,
    conditioning: Conditioning = "none",
    *,
    kind: Callable[[Card, GeneratorSettings], nn.Module] | None = None,
    number: int = 0,
) -> Sampler:
    """Make a generator, the user's own where there is one, its weights drawn from the context's streams.

    Args:
        context: the teacher's card, the settings of generators, device and streams.
        conditioning: how the generator is given a class.
        kind: makes another generator than the up-sampling one, which is given classes.
        number: of this generator, where a method has several.

    Raises:
        UsageError: the user's own is no generator of the teacher's images.
    """
    card, shape, length = context.teacher.card, context.generator, context.generator.latent_dim
    labelled = conditioning != "none" or kind is not None
    with untouched_global_rng():
        context.streams.seed_global("generator-init", number)
        generator: nn.Module
        if context.own_generator is not None:
            generator, length = own_generator(context.own_generator, card, length)
        elif kind is not None:
            generator = kind(card, shape)
        elif conditioning == "none":
            generator = UpsamplingGenerator(card.input_size, shape)
        else:
            generator = ConditionalGenerator(card.input_size, shape, card.num_classes, conditioning)
        generator = context.runtime.place(generator)
        if context.own_generator is not None:
            check_drawing(generator, length, card, context.runtime, labelled)
    classes = card.num_classes if labelled else None
    return Sampler(generator, length, context.streams, context.runtime, context.teacher, classes)


class WithGenerator:
    """A method that draws with the user's own generator instead of its own."""

    settings_type: ClassVar[type[MethodSettings]] = MethodSettings

    def __init__(self, method: Method, make: GeneratorFactory) -> None:
        self.method, self.make = method, make
        self.settings = method.settings

    @property
    def needs_batch_norm(self) -> bool:
        """Whether the method does."""
        return self.method.needs_batch_norm

    def build(self, context: Context) -> Algorithm:
        """Build the method with it; raises UsageError where the method asks for no generator."""
        asked: list[Card] = []

        def make(card: Card) -> nn.Module:
            asked.append(card)
            return self.make(card)

        algorithm = self.method.build(replace(context, own_generator=make))
        if not asked:
            raise UsageError(
                f"generator: {self.settings.name} draws its images without one; leave it out, or take another --method"
            )
        return algorithm


def build_source(
    context: Context,
    settings: GeneratorMethodSettings,
    schedule: Schedule,
    sampler: Sampler,
    viewer: Viewer,
    selection: Selection,
    key: Key,
    same_batch: bool,
    draw_mode: Literal["train", "eval"],
) -> Source:
    """Make what deals accepted images; on a CPU with threads to spare, a batch ahead."""
    on_cpu = context.runtime.device.type == "cpu"
    accepted = None
    if not isinstance(selection, KeepAll):
        s = settings.selection if isinstance(settings.selection, MixtureSettings) else MixtureSettings()
        least, most = (1, 1) if same_batch else (s.min_rounds, s.max_rounds or MOST_ROUNDS)
        accepted = partial(
            AcceptedImages,
            batch_size=context.batch_size,
            carry=s.carry_leftovers,
            min_rounds=least,
            max_rounds=most,
            allow_sync=on_cpu,
        )
    source = Generated(sampler, context.teacher, viewer, selection, accepted, key, context.batch_size, draw_mode)
    # one of the user's own may draw from torch's stream, which both threads would share
    threads = context.runtime.threads_ahead if context.own_generator is None else 0
    return Prefetch(source, partial(next_student_update, context, schedule), threads) if threads else source


def next_student_update(context: Context, schedule: Schedule, clock: Clock) -> Clock | None:
    """Return the clock of the next update if it is the student's, and not beyond the run."""
    following = clock.update + 1
    if schedule.name(following) != STUDENT or schedule.steps_before(following) >= context.steps:
        return None
    return context.clock(schedule, following)


def build_update(
    settings: GeneratorMethodSettings, imitation: Objective, student: LiveStudent, optimizer: Optimizer
) -> StudentUpdate:
    """Make what joins new and old images."""
    weight = None if isinstance(settings.replay, Nothing) else settings.replay.weight
    if isinstance(settings.update, PlainSettings):
        return PlainUpdate(imitation, student, None if weight is None else (1.0, weight))
    return RetainUpdate(imitation, student, settings.update, partial(_rate, optimizer), weight or 1.0)


def _rate(optimizer: Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def build_replay(context: Context, settings: GeneratorMethodSettings, sampler: Sampler) -> Replay:
    """Make what keeps old samples; nothing where none would be asked for."""
    s = settings.replay
    if isinstance(s, Nothing) or s.share == 0 or s.weight == 0:
        return NoReplay()
    size = max(round(s.share * context.batch_size), 2)
    if size % ranks.count():
        raise UsageError(
            f"-s method.replay.share: {s.share:g} of a batch is {size} old images, which do not divide "
            f"among {ranks.count()} devices; give another share or --batch-size"
        )
    if isinstance(s, BankSettings):
        if size > context.batch_size:
            raise UsageError("-s method.replay.share: a bank holds at most one batch for each read; give at most 1")
        return MemoryBank(size, context.teacher.card.input_size, s, context.streams, context.runtime.dtype)
    if isinstance(s, MomentumSettings):
        return MomentumGenerator(sampler, size, s)
    with untouched_global_rng():
        context.streams.seed_global("memory-init", 0)
        memory = MemoryGenerator(size, context.teacher, context.generator, s, context.streams, context.runtime)
    if memory.learner is not None:
        context.runtime.place(memory.learner)
    return memory


def common_blocks(context: Context) -> tuple[tuple[nn.Module, ...], tuple[nn.Module, ...]]:
    """Return the last blocks of teacher and student for each map size that both have.

    Raises:
        TeacherError: they share none.
    """
    teacher = context.teacher.blocks()
    example = context.runtime.images(torch.zeros(2, *context.teacher.card.input_size))
    with mode(context.student, "eval"):
        student = last_block_by_size(context.student, example)
    sizes = sorted(set(teacher) & set(student), reverse=True)
    if not sizes:
        raise TeacherError(
            "teacher and student have no maps of equal size to compare attention on; "
            "switch the term off with -s method.attention_weight=0, or take a --student of the teacher's family"
        )
    return tuple(teacher[size] for size in sizes), tuple(student[size] for size in sizes)
