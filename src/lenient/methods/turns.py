"""The turns of methods with one generator: how generator, student and memory learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lenient.core import ranks
from lenient.losses.objective import Needs, Objective
from lenient.losses.prior import confidence_score
from lenient.methods.contract import Rhythm, Stage, Turn
from lenient.replay import Replay
from lenient.replay.bank import MemoryBank
from lenient.replay.generative import MemoryGenerator
from lenient.student.update import LiveStudent, StudentUpdate
from lenient.synthesis.accepted import Batch, Supply
from lenient.synthesis.ahead import Ahead
from lenient.synthesis.generated import StreamSource
from lenient.synthesis.selection import KeepAll, Selection
from lenient.synthesis.views import Augmentation, augment
from lenient.teacher.batch import Record, Response
from lenient.teacher.frozen import FrozenTeacher


@dataclass(frozen=True)
class Latents:
    """Under which key the noise of a turn is drawn: fresh for each, or one draw for a whole cycle."""

    rhythm: Rhythm
    same: bool = False

    def key(self, name: str, turn: int) -> tuple[str, int]:
        """Return the stream's name and number."""
        return ("cycle-latents", turn // self.rhythm.length) if self.same else (name, turn)


@dataclass(frozen=True)
class GeneratorTurn:
    """Draw images with gradient, hear both networks, minimise one objective."""

    stage: Stage
    source: StreamSource
    student: LiveStudent
    preparation: Preparation
    objective: Objective
    selection: Selection
    latents: Latents
    augmentation: Augmentation = "none"
    student_mode: Literal["train", "eval"] = "train"

    def __call__(self, turn: int) -> Turn:
        """Fill the generator's gradients."""
        stage, teacher = self.stage, self.stage.teacher
        self.preparation.renew()
        # (1) synthesise; one armed forward of the teacher on the clean view
        drawing = self.source.sample(stage.batch_size, *self.latents.key("generator-latents", turn))
        images = drawing.images
        clean = teacher.normalize(images)
        moment = stage.moment(self.latents.rhythm.steps_before(turn))
        needs = self.objective.needs(moment)
        answer = teacher.respond(clean, **_probes(needs, "clean"))
        # (2) select
        scores = ranks.gather(confidence_score(answer.logits.detach()))
        verdict = self.selection(scores)
        weight = ranks.mine(verdict.weight)
        answers = {"clean": {"teacher": answer}}
        record = Record(images, weight, {"clean": clean}, answers, drawing.labels, moment)
        # (3) the training view, and both networks' answers to it
        shown = augment(images, self.augmentation, stage.streams, "generator-view", turn)
        same, armed = shown is images, _probes(needs, "train")
        record.inputs["train"] = clean if same else teacher.normalize(shown)
        seen = answer
        if armed or not same:
            seen = teacher.respond(record.inputs["train"], weight=weight, **armed)
        record.answers["train"] = {"teacher": seen}
        if any(need.student for need in needs):
            with mode(stage.student, self.student_mode):
                record.answers["train"]["student"] = self.student.respond(record.inputs["train"])
        # (4) one objective
        total, parts = self.objective(record)
        if parts:  # a term may have no weight before its time
            total.backward()
        matched = [parts[name] for name in self.objective.names(lambda need: need.statistics) if name in parts]
        facts = {"statistics": torch.stack(matched).sum()} if matched else {}
        return Turn(parts, record, scores, verdict, stage.batch_size, facts)


def _probes(needs: Sequence[Needs], view: str) -> dict[str, Any]:
    """Return what the teacher's answer to a view has to hold besides the logits."""
    here = [need for need in needs if need.view == view]
    wanted = {"statistics": any(n.statistics for n in here), "features": any(n.features for n in here)}
    return {name: True for name, asked in wanted.items() if asked}


@dataclass(frozen=True)
class Showing:
    """Shows images to the teacher as the student will see them."""

    stage: Stage
    rhythm: Rhythm
    augmentation: Augmentation = "none"
    blocks: tuple[nn.Module, ...] = ()
    """Layers of the teacher whose outputs the student imitates, too."""

    def record(
        self, teacher: FrozenTeacher, images: Tensor, view: str, turn: int, clean: Response | None = None
    ) -> Record:
        """Return the record of images to learn from; `clean` is what the teacher said of them as drawn, if known."""
        shown = augment(images, self.augmentation, self.stage.streams, view, turn)
        record = Record(images, torch.ones(len(images), device=images.device))
        record.moment = self.stage.moment(self.rhythm.steps_before(turn))
        record.inputs["train"] = teacher.normalize(shown)
        again = clean is None or shown is not images or self.blocks
        seen = teacher.respond(record.inputs["train"], blocks=self.blocks) if again or clean is None else clean
        record.answers = {"clean": {"teacher": clean or seen}, "train": {"teacher": seen}}
        return record


class Prepared(NamedTuple):
    """A batch for the student, its record, what it cost, and the generator's buffers as drawing left them."""

    batch: Batch
    new: Record
    asked: int
    """Images that the teacher was asked about."""
    buffers: list[Tensor]


class Preparation:
    """What a student turn needs of generator and teacher: images that the teacher vouches for, and its word on them.

    None of it depends on the student. With `threads` of the CPU to spare, the next turn's is made on them while the
    student learns from this turn's, unless the generator moves in between. `source` and `teacher` then are twins with
    buffers and a count of their own, handed over to the `live` generator and the stage's teacher in the order of turns.
    """

    def __init__(
        self,
        supply: Supply,
        showing: Showing,
        source: StreamSource,
        teacher: FrozenTeacher,
        live: nn.Module,
        threads: int,
    ) -> None:
        self.supply, self.showing = supply, showing
        self.teacher, self.own, self.live = teacher, list(source.generator.buffers()), list(live.buffers())
        self._ahead = Ahead(self._make, threads) if threads else None
        self._before: dict[str, Any] = {}
        """The supply's state without the batch that is being made."""

    @torch.no_grad()
    def _make(self, turn: int) -> Prepared:
        asked = self.teacher.forwards
        # (1) synthesise and select
        batch = self.supply.deal(turn)
        # (2) the view to learn from, and the teacher's answer to it
        answer = Response(ranks.mine(batch.logits))
        new = self.showing.record(self.teacher, ranks.mine(batch.images), "student-view", turn, answer)
        buffers = [buffer.clone() for buffer in self.own] if self._ahead else []
        return Prepared(batch, new, self.teacher.forwards - asked, buffers)

    def take(self, turn: int) -> Prepared:
        """Return what was made for `turn`, and begin the next student turn's."""
        if self._ahead is None:
            return self._make(turn)
        if self._ahead.begun != turn:
            self.close()
            self._begin(self._ahead, turn)
        prepared = self._ahead.take()
        torch._foreach_copy_(self.live, prepared.buffers)
        self.showing.stage.teacher.forwards += prepared.asked
        following = self._following(turn)
        if following is not None:
            self._begin(self._ahead, following)
        return prepared

    def _begin(self, ahead: Ahead[Prepared], turn: int) -> None:
        self._before = self.supply.state_dict()
        torch._foreach_copy_(self.own, self.live)
        ahead.begin(turn)

    def _following(self, turn: int) -> int | None:
        """Return the next turn, if it is the student's. A memory's turn in between would go to fewer threads only where
        the student's after it had been begun, and come to other bits there."""
        rhythm, turn = self.showing.rhythm, turn + 1
        more = rhythm.player(turn) == "student" and rhythm.steps_before(turn) < self.showing.stage.steps
        return turn if more else None

    def renew(self) -> None:
        """Forget leftovers: the generator moves."""
        self.close()
        self.supply.renew()

    def close(self) -> None:
        """Drop what was begun: it can be made again."""
        if self._ahead is not None and self._ahead.begun is not None:
            self._ahead.drop()
            self.supply.load_state_dict(self._before)

    def state_dict(self) -> dict[str, Any]:
        """Return the supply's state as the turns that were taken left it."""
        return self._before if self._ahead is not None and self._ahead.begun is not None else self.supply.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.close()
        self.supply.load_state_dict(state)


@dataclass(frozen=True)
class StudentTurn:
    """Take images that the teacher vouches for, recall old ones, let the student learn from both."""

    preparation: Preparation
    replay: Replay
    update: StudentUpdate

    def __call__(self, turn: int) -> Turn:
        """Fill the student's gradients."""
        showing = self.preparation.showing
        stage = showing.stage
        # (1, 2) images to learn from with the teacher's answers; the same for old images
        batch, new, *_ = self.preparation.take(turn)
        with torch.no_grad():
            recalled = self.replay.draw(turn)
            recalled = None if recalled is None else stage.runtime.images(recalled)
            old = None if recalled is None else showing.record(stage.teacher, recalled, "replay-view", turn)
        # (3) update the student
        parts = self.update(new, old)
        last = batch.last
        redrawn = 0 if recalled is None or isinstance(self.replay, MemoryBank) else len(recalled) * ranks.count()
        return Turn(parts, new, last.scores, last.verdict, batch.drawn + redrawn, {"shortfall": batch.shortfall})


@dataclass(frozen=True)
class MemoryTurn:
    """Let the memory generator learn from the newest batch and from what it recalls."""

    memory: MemoryGenerator

    def __call__(self, turn: int) -> Turn:
        """Fill the memory's gradients."""
        parts, record = self.memory.learn(turn)
        scores = confidence_score(record.answers["clean"]["teacher"].logits)
        scores = ranks.gather(scores)
        recalled = len(scores) - len(self.memory.recent if self.memory.recent is not None else ())
        return Turn(parts, record, scores, KeepAll()(scores), recalled)


@contextmanager
def mode(module: nn.Module, wanted: Literal["train", "eval"]) -> Iterator[None]:
    """Put a module in training mode into another mode for a while."""
    module.train(wanted == "train")
    try:
        yield
    finally:
        module.train()
