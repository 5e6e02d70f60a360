"""Where the student's batches come from: the contract of all sources, and the plainest of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from lenient.core import ranks
from lenient.synthesis.selection import Selected
from lenient.synthesis.views import Viewer
from lenient.teacher.batch import Batch, Clock
from lenient.teacher.frozen import FrozenTeacher


class Drawn(NamedTuple):
    """A batch to learn from, and what making it took."""

    batch: Batch
    """This rank's rows, with the teacher's answer to the training view."""
    images: int
    """Images made for it, by all ranks."""
    selected: Selected | None = None
    """What the teacher vouched for in the round made last, where there was a choice."""
    shortfall: Tensor | None = None
    """Scalar: the share filled with images that it did not vouch for."""


class Source(Protocol):
    """Hands out what the student learns from, and shows images without a trace."""

    def batch(self, clock: Clock) -> Drawn:
        """Return the batch of a student update, without gradient."""
        ...

    def sample(self, count: int, name: str, update: int) -> Tensor:
        """Return images (count, C, H, W) in pixel units, without gradient and without a trace; all of them on every
        rank. `name` and `update` are the key of their random stream."""
        ...

    def moved(self) -> None:
        """Forget what was made ahead: what draws the images is about to change."""
        ...

    def close(self) -> None:
        """Drop what has been begun; it can be made again."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that outlives an update: see `lenient.methods.contract.Stateful`."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Go on from it."""
        ...


@runtime_checkable
class Stock(Source, Protocol):
    """A source that holds finished images, which can be handed out once each."""

    def __len__(self) -> int: ...

    def at(self, places: Tensor) -> Tensor:
        """Return the images (n, C, H, W) in pixel units that lie at places (n,) int64."""
        ...

    def distinct(self, count: int, name: str, update: int) -> Tensor:
        """Return the places (n,) of up to `count` different images, all of them where there are fewer, by the key of a
        random stream."""
        ...


class Fresh:
    """Images that nobody has learned to make, each used once: noise, or somebody's own.

    `draw(count, name, update)` returns them, (count, C, H, W) in pixel units, by the key of a random stream.
    """

    def __init__(
        self,
        draw: Callable[[int, str, int], Tensor],
        teacher: FrozenTeacher,
        viewer: Viewer,
        batch_size: int,
        name: str,
    ) -> None:
        self.draw, self.teacher, self.viewer, self.batch_size, self.name = draw, teacher, viewer, batch_size, name

    @torch.no_grad()
    def batch(self, clock: Clock) -> Drawn:
        """Return fresh images with the teacher's answer."""
        images = ranks.mine(self.draw(self.batch_size, self.name, clock.update))
        return Drawn(self.viewer.view(self.teacher, images, "student-view", clock), self.batch_size)

    def sample(self, count: int, name: str, update: int) -> Tensor:
        """Return images as they are drawn."""
        return self.draw(count, name, update)

    def moved(self) -> None:
        """Keep going: nothing is made ahead."""

    def close(self) -> None:
        """Do nothing: nothing is begun."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Do nothing."""
        return None
