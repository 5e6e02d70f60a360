"""What is ordered of a data set of synthetic images, and its images as a run draws them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lenient.core import ranks
from lenient.core.errors import UsageError
from lenient.core.text import VALUE, visible
from lenient.models.card import Card
from lenient.runs import formats
from lenient.runs.crops import Cropping, labelled
from lenient.runs.formats import Shape
from lenient.runs.job import warn
from lenient.runs.parts import About, Part
from lenient.runs.request import parse_budget
from lenient.synthesis.drawing import Draws
from lenient.synthesis.source import Stock
from lenient.training.result import Result
from lenient.training.trainer import Distillation
from lenient.training.verdict import Health, of_images

MOST = 10_000_000
"""Images of a data set: more are no use in one folder."""
LOOKED_AT = 64
"""Images of those made that the verdict looks at."""


@dataclass(frozen=True)
class Budget:
    """The time that may be taken, from now on."""

    text: str | None = None
    """As `30m`; None for as long as it takes."""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Taken so far."""
        return time.monotonic() - self.started

    def spent(self) -> bool:
        """Whether nothing is left of it, on any rank."""
        late = self.text is not None and self.seconds >= parse_budget(self.text)
        return ranks.any_rank(late, False)[0]


@dataclass(frozen=True)
class Origin:
    """The run that images come from."""

    method: str
    steps: int
    health: Health
    """All of its checks."""
    foreign: Sequence[str]

    @classmethod
    def of(cls, run: Distillation) -> Origin:
        """Return that of a run as it is now."""
        return cls(run.settings.method.name, run.step, run.health.verdict(), run.algorithm.foreign)

    @classmethod
    def of_result(cls, result: Result) -> Origin:
        """Return that of a run that has ended."""
        own = result.summary
        return cls(own.method, own.steps, own.health, own.foreign or ())


@dataclass(frozen=True)
class Order:
    """What is asked for: images, and where they go.

    Raises:
        UsageError: more than can be, another format than there are, or a folder that is not there to be filled.
        DamagedError: what describes the data set in the folder is.
    """

    count: int
    cropping: Cropping | None = None
    budget: str | None = None
    """The time that may be taken, as `30m`."""
    folder: Path | None = None
    """None for memory alone."""
    format: str = "safetensors"
    overwrite: bool = False
    """Whether another data set in the folder may be replaced."""

    def __post_init__(self) -> None:
        if self.folder is not None:
            formats.check_place(self.folder, self.overwrite)
            formats.check(self.format)
        if not 1 <= self.count <= MOST:
            raise UsageError(f"-n {visible(self.count, VALUE)}: give a number from 1 to {MOST}")
        if self.budget is not None:
            parse_budget(self.budget)

    def shape(self, card: Card) -> Shape:
        """Return what all images of a teacher have in common.

        Raises:
            UsageError: the format cannot hold such images.
        """
        classes = card.classes or tuple(str(number) for number in range(card.num_classes))
        shape = Shape(card.input_size, classes, self.cropping.count if self.cropping else 0)
        if self.folder is not None:
            formats.check(self.format, shape)
        return shape


class Gathered:
    """Images of a run as they are drawn and labelled, and afterwards what there is to say of them.

    Iterating, which can be done once, draws up to as many as were ordered in parts, as 8 bit, with the teacher's
    answers to these; at least one part, however late it is. The teacher is to be entered before.

    Raises:
        UsageError: the format that was ordered cannot hold them.

    Raises, while it is iterated:
        UsageError: there is no image.
    """

    def __init__(
        self, draws: Draws, order: Order, seed: int, time_left: Budget | None = None, interrupted: str = ""
    ) -> None:
        self.draws, self.order, self.seed, self.interrupted = draws, order, seed, interrupted
        self.time_left = time_left or Budget(order.budget)
        self.shape = order.shape(draws.teacher.card)
        self.first: list[Tensor] = []
        """Up to `LOOKED_AT` of the images as they were before they were clipped."""
        self.made, self._outside, self._seconds = 0, 0.0, 0.0

    def __iter__(self) -> Iterator[Part]:
        for drawn in self.draws.parts(self.order.count, f"synthesize/{self.seed}"):
            yield self._part(drawn)
            if self.time_left.spent():
                break
        if not self.made:
            raise UsageError(f"-n {self.order.count}: no image is there: {self._reason()}")
        self._seconds = ranks.agree(self.time_left.seconds)

    def _part(self, drawn: Tensor) -> Part:
        self.first += drawn[: LOOKED_AT - len(self.first)].unbind()
        self._outside += float(((drawn < 0) | (drawn > 1)).float().mean()) * len(drawn)
        stored, answer = (drawn.float().clamp(0, 1) * 255).round().byte(), self.draws.answer
        cropping = self.order.cropping
        crops = None if cropping is None else labelled(stored, self.made, self.seed, cropping, answer)
        self.made += len(drawn)
        return Part(stored.cpu().contiguous(), answer(stored.float() / 255).float().cpu(), crops)

    def _reason(self) -> str:
        """Why there are no more."""
        if self.interrupted:
            return self.interrupted
        if self.time_left.spent():
            return f"the budget of {self.time_left.text} is spent"
        return "it holds no more" if isinstance(self.draws.source, Stock) else "the teacher vouches for no more"

    def about(self, origin: Origin) -> About:
        """Return what there is to say of them."""
        return About(
            classes=self.shape.classes,
            steps=origin.steps,
            seconds=self._seconds,
            health=of_images(origin.health),
            clipped=self._outside / max(self.made, 1),
            method=origin.method,
            teacher=self.draws.teacher.card.arch,
            seed=self.seed,
            cropping=self.order.cropping,
            foreign=tuple(origin.foreign),
        )

    def warn(self, about: About) -> None:
        """Say where they are fewer than was asked for, or not what they should be; to be called by all ranks."""
        late = self.made < self.order.count and self._reason()
        if not ranks.is_main():
            return
        if late or self.interrupted:
            warn(f"{self.made} of {self.order.count} images: {late or self.interrupted}")
        if about.health.verdict != "ok":
            warn(f"the verdict about these images is {about.health.verdict}: {'; '.join(about.health.reasons)}")
