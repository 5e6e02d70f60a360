"""The next batch, made on a second thread of the CPU while the student learns from this one.

Two streams of operators can use two cores better than one stream whose every operator is split in two.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from lenient.synthesis.source import Drawn, Source
from lenient.teacher.batch import Clock
from lenient.teacher.frozen import FrozenTeacher

T = TypeVar("T")


class Ahead(Generic[T]):
    """Makes things by clock on a thread of its own, which has `threads` of torch's threads.

    All are made there, those that were not begun in time as well: so what comes of a clock never depends on when it
    was asked for. The caller has the other threads while something is being made, and all of them at other times.
    """

    def __init__(self, make: Callable[[Clock], T], threads: int) -> None:
        self._make = make
        self._all = torch.get_num_threads()
        self._others = max(self._all - threads, 1)
        self._pool = ThreadPoolExecutor(1, "lenient-ahead", torch.set_num_threads, (threads,))
        self._begun: tuple[Clock, Future[T]] | None = None

    @property
    def begun(self) -> Clock | None:
        """Whose thing is being made, or waits to be taken."""
        return None if self._begun is None else self._begun[0]

    def begin(self, clock: Clock) -> None:
        """Start to make the thing of `clock`; nothing else may wait to be taken."""
        torch.set_num_threads(self._others)
        self._begun = clock, self._pool.submit(self._make, clock)

    def take(self) -> T:
        """Return what was begun once it is there, or raise what it raised."""
        assert self._begun is not None
        try:
            return self._begun[1].result()
        finally:
            self._end()

    def drop(self) -> None:
        """Wait for what was begun, if anything, and forget it, be it an error."""
        if self._begun is not None:
            wait([self._begun[1]])
            self._end()

    def _end(self) -> None:
        self._begun = None
        torch.set_num_threads(self._all)


class Twinned(Source, Protocol):
    """A source of which there can be two that share their weights."""

    teacher: FrozenTeacher

    @property
    def buffers(self) -> list[Tensor]:
        """What making a batch changes besides the source's own state."""
        ...

    def twin(self) -> Twinned:
        """Return a source with the same weights, which it shares, and with buffers, modes and counts of its own."""
        ...


class _Made(NamedTuple):
    drawn: Drawn
    asked: int
    """Images that the teacher was asked about."""
    buffers: list[Tensor]
    """Of the twin, as making the batch left them."""


class Prefetch:
    """A source whose next batch is made while the student learns from this one, unless the source moves in between.

    No batch depends on the student, so what comes of a run is the same to the bit. A twin makes them; its buffers and
    its count of forwards are handed over to the source in the order of updates, and a checkpoint holds the state before
    the batch that has only been begun.

    Args:
        source: what to wrap.
        following: the clock of the update after one, if the student makes it. Beside another network's update nothing
            is made: that one would have fewer threads than after a resume, and come to other bits.
        threads: of torch's, for the twin.
    """

    def __init__(self, source: Twinned, following: Callable[[Clock], Clock | None], threads: int) -> None:
        self.source, self.twin, self.following = source, source.twin(), following
        self._ahead = Ahead(self._make, threads)
        self._before: dict[str, Any] = {}

    def _make(self, clock: Clock) -> _Made:
        asked = self.twin.teacher.forwards
        drawn = self.twin.batch(clock)
        return _Made(drawn, self.twin.teacher.forwards - asked, [buffer.clone() for buffer in self.twin.buffers])

    def batch(self, clock: Clock) -> Drawn:
        """Return what was made for this update, and begin the next one's."""
        if self._ahead.begun != clock:
            self.close()
            self._begin(clock)
        made = self._ahead.take()
        torch._foreach_copy_(self.source.buffers, made.buffers)
        self.source.teacher.forwards += made.asked
        following = self.following(clock)
        if following is not None:
            self._begin(following)
        return made.drawn

    def _begin(self, clock: Clock) -> None:
        self._before = self.twin.state_dict()
        torch._foreach_copy_(self.twin.buffers, self.source.buffers)
        self._ahead.begin(clock)

    def sample(self, count: int, name: str, update: int) -> Tensor:
        """Return images of the source."""
        return self.source.sample(count, name, update)

    def moved(self) -> None:
        """Forget what was begun, and leftovers."""
        self.close()
        self.twin.moved()

    def close(self) -> None:
        """Drop what was begun: it can be made again."""
        if self._ahead.begun is not None:
            self._ahead.drop()
            self.twin.load_state_dict(self._before)

    def state_dict(self) -> dict[str, Any]:
        """Return the source's state as the batches that were taken left it."""
        return self._before if self._ahead.begun is not None else self.twin.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from it."""
        self.close()
        self.twin.load_state_dict(state)
