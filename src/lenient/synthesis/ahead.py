"""Work for the next turn, done on a second thread of the CPU while the first is busy with this turn's.

Two streams of operators can use two cores better than one stream whose every operator is split in two.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Ahead(Generic[T]):
    """Makes things by number on a thread of its own, which has `threads` of torch's threads.

    All are made there, those that were not begun in time as well: so what comes of a number never depends on when it
    was asked for. The caller has the other threads while something is being made, and all of them at other times.
    """

    def __init__(self, make: Callable[[int], T], threads: int) -> None:
        self._make = make
        self._all = torch.get_num_threads()
        self._others = max(self._all - threads, 1)
        self._pool = ThreadPoolExecutor(1, "lenient-ahead", torch.set_num_threads, (threads,))
        self._begun: tuple[int, Future[T]] | None = None

    @property
    def begun(self) -> int | None:
        """The number that is being made, or waits to be taken."""
        return None if self._begun is None else self._begun[0]

    def begin(self, number: int) -> None:
        """Start to make `number`; nothing else may wait to be taken."""
        torch.set_num_threads(self._others)
        self._begun = number, self._pool.submit(self._make, number)

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
