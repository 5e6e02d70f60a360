"""What methods with one generator share: settings, and how the turns are put together. A method says which terms, which
rhythm, and what the student learns by; everything else is a setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from lenient.core import ranks
from lenient.core.errors import TeacherError, UsageError
from lenient.core.seeding import untouched_global_rng
from lenient.generators.conditional import ConditionalGenerator, Conditioning
from lenient.generators.upsampling import UpsamplingGenerator
from lenient.losses.objective import Objective, Weight
from lenient.losses.prior import confidence_score
from lenient.methods.contract import (
    Drops,
    Game,
    MethodSettings,
    Player,
    Rhythm,
    Schedule,
    Stage,
    Stateful,
    Turn,
    adam,
    learning_rate,
    sgd,
)
from lenient.methods.turns import GeneratorTurn, Latents, MemoryTurn, Preparation, Showing, StudentTurn, mode
from lenient.models.probing import last_block_by_size
from lenient.replay import NoReplay, Replay
from lenient.replay.bank import BankSettings, MemoryBank
from lenient.replay.generative import MemoryGenerator, MemorySettings
from lenient.replay.momentum import MomentumGenerator, MomentumSettings
from lenient.student.update import LiveStudent, PlainUpdate, RetainSettings, RetainUpdate, StudentUpdate
from lenient.synthesis.accepted import Round, Supply
from lenient.synthesis.generated import StreamSource
from lenient.synthesis.selection import KeepAll, MixtureSelection, MixtureSettings, Selection
from lenient.synthesis.views import Augmentation


class StreamSettings(MethodSettings):
    """Settings of all methods with one generator. Defaults are each method's paper's; the neutral ones stand here."""

    student_steps: int = Field(10, ge=1, le=10_000)
    """Student steps in one cycle."""
    generator_steps: int = Field(1, ge=1, le=10_000)
    """Generator steps in one cycle."""
    student_optimizer: Literal["sgd", "adam"] = "sgd"
    student_lr: float = Field(0.1, ge=0, le=1e3)
    """Learning rate of the student."""
    student_momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of the student's SGD."""
    student_weight_decay: float = Field(5e-4, ge=0, le=1e6)
    student_schedule: Schedule = "cosine"
    generator_lr: float = Field(1e-3, ge=0, le=1e3)
    """Learning rate of the generator's Adam."""
    generator_schedule: Schedule = "constant"
    drops: Drops = ()
    """Shares of the run from which on a schedule `drops` gives a tenth of the rate."""
    student_clip_norm: float | None = Field(None, gt=0, le=1e6)
    """Largest norm of the student's gradient; longer ones are scaled down to it."""
    generator_clip_norm: float | None = Field(None, gt=0, le=1e6)
    """Largest norm of the generator's gradient."""
    augmentation: Augmentation = "none"
    """What the student is trained on: the images as drawn, or randomly cropped and flipped."""
    selection: Literal["none", "mixture"] = "none"
    """Whether the teacher selects samples (TA-DFKD)."""
    tau: float = Field(0.5, gt=0, lt=1)
    """Posterior above which a sample is accepted (TA-DFKD: 0.5)."""
    mixture: MixtureSettings = MixtureSettings()
    carry_leftovers: bool = True
    """Deal accepted samples left over to the next student step, until the generator moves."""
    min_rounds: int = Field(1, ge=1, le=1000)
    """Rounds of synthesis for one student batch at least (TA-DFKD's released code: 2)."""
    max_rounds: int = Field(4, ge=1, le=1000)
    """Rounds of synthesis for one student batch at most."""
    replay: Literal["none", "bank", "generative", "momentum"] = "none"
    """Old samples against forgetting: kept images (MB-DFKD), a memory (PRE-DFKD), averaged generators (MAD)."""
    replay_share: float = Field(0.125, ge=0, le=1e6)
    """Old images in one student step, as a share of the batch, two at least (PRE-, MB-, META-DFKD: 1/8; MAD: 1)."""
    replay_weight: float | None = Field(None, ge=0, le=1e6)
    """Weight of the old images' loss beside 1 for the new; by default both count by their numbers."""
    bank: BankSettings = BankSettings()
    memory: MemorySettings = MemorySettings()
    momentum: MomentumSettings = MomentumSettings()
    update: Literal["plain", "retain"] = "plain"
    """How new and old join: one batch, or acquire and retain through a virtual step (META-DFKD)."""
    retain: RetainSettings = RetainSettings()


def stream_game(
    stage: Stage,
    settings: StreamSettings,
    objective: Callable[[nn.Module], Objective] | Objective,
    imitation: Objective,
    *,
    order: Sequence[Literal["student", "generator"]] = ("student", "generator"),
    same_batch: bool = False,
    student_mode: Literal["train", "eval"] = "train",
    draw_mode: Literal["train", "eval"] = "train",
    conditioning: Conditioning = "none",
    generator_betas: tuple[float, float] = (0.9, 0.999),
) -> Game:
    """Put a method together.

    `objective`: the generator's, or a function of the generator where terms need it; `imitation`: the student's.
    `order`: who starts a cycle. `same_batch`: one draw of latents for a whole cycle. `student_mode`: in the generator's
    turn. `draw_mode`: of the generator while it draws for the student.
    """
    s = settings
    source = build_source(stage, conditioning)
    replay = build_replay(stage, s, source)
    memory = replay if isinstance(replay, MemoryGenerator) else None
    rhythm = Rhythm(cycle(s, order, memory))
    latents = Latents(rhythm, same_batch)
    selection: Selection = MixtureSelection(s.tau, s.mixture) if s.selection == "mixture" else KeepAll()
    if not isinstance(objective, Objective):
        objective = objective(source.generator)
    if any(need.features for need in objective.needs()):
        _ = stage.teacher.classifier  # refuses a teacher without one now, not in the first turn
    blocks = common_blocks(stage) if any(need.blocks for need in imitation.needs()) else ((), ())
    student = LiveStudent(stage.student, stage.runtime, blocks[1])
    optimizer = (
        sgd(stage.student, s.student_lr, s.student_momentum, s.student_weight_decay)
        if s.student_optimizer == "sgd"
        else adam(stage.student, s.student_lr, weight_decay=s.student_weight_decay)
    )
    update: StudentUpdate = PlainUpdate(imitation, student, None if s.replay_weight is None else (1.0, s.replay_weight))
    if s.update == "retain":
        update = RetainUpdate(
            imitation, student, s.retain, lambda: float(optimizer.param_groups[0]["lr"]), s.replay_weight or 1.0
        )

    threads = stage.runtime.threads_ahead
    drawing, hearing = (source.twin(), stage.teacher.twin()) if threads else (source, stage.teacher)

    def make_round(turn: int, number: int) -> Round:
        """One round of synthesis without gradient: images, the teacher's word on them, the selection's verdict."""
        with mode(drawing.generator, draw_mode):
            images = drawing.sample(stage.batch_size, *latents.key(f"student-latents/{number}", turn)).images
        logits = hearing.respond(hearing.normalize(images)).logits
        images, logits = stage.runtime.images(ranks.gather(images)), ranks.gather(logits)
        scores = confidence_score(logits)
        return Round(images, logits, scores, selection(scores))

    supply = Supply(
        make_round,
        stage.batch_size,
        carry=s.carry_leftovers,
        min_rounds=1 if same_batch else s.min_rounds,
        max_rounds=1 if same_batch else s.max_rounds,
        kept=0.5 if s.selection == "mixture" else 1.0,
        look=stage.runtime.device.type == "cpu",
    )
    showing = Showing(stage, rhythm, s.augmentation, blocks[0])
    preparation = Preparation(supply, showing, drawing, hearing, source.generator, threads)
    generator_turn = GeneratorTurn(
        stage,
        source,
        student,
        preparation,
        objective,
        selection,
        latents,
        augmentation=s.augmentation,
        student_mode=student_mode,
    )
    students, generators = (learning_rate(name, s.drops) for name in (s.student_schedule, s.generator_schedule))
    generator_adam = adam(source.generator, s.generator_lr, generator_betas)
    players = {
        "student": Player(stage.student, optimizer, students, s.student_clip_norm),
        "generator": Player(source.generator, generator_adam, generators, s.generator_clip_norm),
    }
    turns: dict[str, Callable[[int], Turn]] = {
        "student": StudentTurn(preparation, replay, update),
        "generator": generator_turn,
    }
    if memory is not None and memory.learner is not None:
        players["memory"] = Player(memory.learner, adam(memory.learner, s.memory.lr))
        turns["memory"] = MemoryTurn(memory)
    parts: dict[str, Stateful] = {"supply": preparation, "replay": replay}
    anatomy = describe(s, objective, imitation, replay, update, rhythm)
    return Game(players, turns, rhythm, source.show, parts, replay, anatomy, preparation.close)


def cycle(
    settings: StreamSettings, order: Sequence[str], memory: MemoryGenerator | None
) -> tuple[tuple[str, int], ...]:
    """Return the cycle of turns; a memory learns after each of the first student steps."""
    found: list[tuple[str, int]] = []
    for name in order:
        count = settings.student_steps if name == "student" else settings.generator_steps
        if name == "student" and memory is not None:
            learning = min(memory.settings.updates, count)
            found += [("student", 1), ("memory", 1)] * learning
            count -= learning
        if count:
            found.append((name, count))
    return tuple(found)


def build_source(stage: Stage, conditioning: Conditioning = "none") -> StreamSource:
    """Make the generator, its weights drawn from the stage's streams."""
    card = stage.teacher.card
    with untouched_global_rng():
        stage.streams.seed_global("generator-init", 0)
        generator: nn.Module = (
            UpsamplingGenerator(card.input_size, stage.generator)
            if conditioning == "none"
            else ConditionalGenerator(card.input_size, stage.generator, card.num_classes, conditioning)
        )
    generator = stage.runtime.place(generator)
    classes = None if conditioning == "none" else card.num_classes
    return StreamSource(generator, stage.generator.latent_dim, stage.streams, stage.runtime, stage.teacher, classes)


def build_replay(stage: Stage, settings: StreamSettings, source: StreamSource) -> Replay:
    """Make what keeps old samples; nothing where none would be asked for."""
    if settings.replay == "none" or settings.replay_share == 0 or settings.replay_weight == 0:
        return NoReplay()
    size = max(round(settings.replay_share * stage.batch_size), 2)
    if size % ranks.count():
        raise UsageError(
            f"-s method.replay_share: {settings.replay_share:g} of a batch is {size} old images, which do not divide "
            f"among {ranks.count()} devices; give another share or --batch-size"
        )
    if settings.replay == "bank":
        if size > stage.batch_size:
            raise UsageError("-s method.replay_share: a bank holds at most one batch for each read; give at most 1")
        return MemoryBank(size, stage.teacher.card.input_size, settings.bank, stage.streams, stage.runtime.dtype)
    if settings.replay == "momentum":
        return MomentumGenerator(source, size, settings.momentum)
    with untouched_global_rng():
        stage.streams.seed_global("memory-init", 0)
        memory = MemoryGenerator(size, stage.teacher, stage.generator, settings.memory, stage.streams, stage.runtime)
    if memory.learner is not None:
        stage.runtime.place(memory.learner)
    return memory


def common_blocks(stage: Stage) -> tuple[tuple[nn.Module, ...], tuple[nn.Module, ...]]:
    """Return the last blocks of teacher and student for each map size that both have.

    Raises:
        TeacherError: they share none.
    """
    teacher = stage.teacher.blocks()
    example = stage.runtime.images(torch.zeros(2, *stage.teacher.card.input_size))
    with mode(stage.student, "eval"):
        student = last_block_by_size(stage.student, example)
    sizes = sorted(set(teacher) & set(student), reverse=True)
    if not sizes:
        raise TeacherError(
            "teacher and student have no maps of equal size to compare attention on; "
            "switch the term off with -s method.attention_weight=0, or take a --student of the teacher's family"
        )
    return tuple(teacher[size] for size in sizes), tuple(student[size] for size in sizes)


def describe(
    settings: StreamSettings,
    objective: Objective,
    imitation: Objective,
    replay: Replay,
    update: StudentUpdate,
    rhythm: Rhythm,
) -> Mapping[str, str]:
    """Say in a word or two what each piece is, for the anatomy table."""

    def terms(objective: Objective) -> dict[str, str]:
        return {name: _weighed(weight, term.label) for name, (weight, term) in objective.terms.items()}

    found = terms(objective)
    image = " + ".join(found.pop(name) for name in ("tv", "l2") if name in found)
    return {
        **found,
        **({"image": image} if image else {}),
        "selection": settings.selection,
        "replay": replay.label,
        "student": " + ".join(terms(imitation).values()),
        "update": update.label,
        "rhythm": " : ".join(
            str(rhythm.count(name)) for name in ("generator", "student", "memory") if rhythm.count(name)
        ),
    }


def _weighed(weight: Weight, label: str) -> str:
    if callable(weight):
        return f"{label}, climbing"
    return label if weight == 1 else f"{weight:.4g} {label}"
