"""A pool of finished images, which comes to its end or grows while a run goes on: the source of methods whose images
are made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lenient.core import ranks
from lenient.core.runtime import Runtime, sent
from lenient.core.seeding import Streams
from lenient.core.segments import Rows
from lenient.synthesis.source import Drawn
from lenient.synthesis.views import Viewer
from lenient.teacher.batch import Clock
from lenient.teacher.frozen import FrozenTeacher


class Pool:
    """Images of 8 bit over each one's own range, since inverted ones leave [0, 1]; beyond `capacity` the oldest go.

    A batch is drawn from all of them, with replacement. Until there are any, `start(count, name, update)` draws: what
    trials and the first lines of a history see. `limit` is the setting that the capacity comes from. `rounds_for` says
    how many rounds of the schedule add so many images, by default one batch a round.
    """

    def __init__(
        self,
        teacher: FrozenTeacher,
        viewer: Viewer,
        runtime: Runtime,
        streams: Streams,
        batch_size: int,
        capacity: int,
        start: Callable[[int, str, int], Tensor],
        limit: str = "method.pool_size",
        rounds_for: Callable[[int], int] | None = None,
    ) -> None:
        self.teacher, self.viewer, self.runtime, self.streams = teacher, viewer, runtime, streams
        self.batch_size, self.start, self.limit = batch_size, start, limit
        self.rounds_for = rounds_for or (lambda count: -(-count // batch_size))
        pixels = torch.empty(0, *teacher.card.input_size, dtype=torch.uint8, device=streams.device)
        self._rows = Rows({"pixels": pixels, "ranges": torch.empty(0, 2, device=streams.device)}, capacity)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def capacity(self) -> int:
        """Most images that it holds."""
        return self._rows.capacity

    @torch.no_grad()
    def push(self, images: Tensor) -> None:
        """Store images (n, C, H, W) in pixel units; the same on every rank."""
        images = images.detach().float()[-self.capacity :]
        flat = images.flatten(1)
        low, high = flat.amin(dim=1), flat.amax(dim=1)
        step = (high - low).clamp_min(1e-8) / 255
        shape = (-1, 1, 1, 1)
        pixels = ((images - low.view(shape)) / step.view(shape)).round().byte()
        self._rows.append({"pixels": pixels, "ranges": torch.stack([low, step], dim=1)})

    def draw(self, count: int, name: str, update: int) -> Tensor:
        """Return images (count, C, H, W) in pixel units, by the key of a random stream."""
        if not len(self):
            return self.start(count, name, update)
        return self.at(self.streams.integers(name, update, (count,), len(self)))

    def at(self, places: Tensor) -> Tensor:
        """Return the images (n, C, H, W) in pixel units that lie at places (n,) int64, below the length of the pool."""
        low, step = self._rows["ranges"][places].view(-1, 2, 1, 1, 1).unbind(dim=1)
        return self.runtime.images(self._rows["pixels"][places].float() * step + low)

    def distinct(self, count: int, name: str, update: int) -> Tensor:
        """Return the places (n,) of up to `count` different images, all of them where there are fewer, by the key of a
        random stream."""
        order = torch.randperm(len(self), generator=self.streams.host(name, update))
        return sent(order[:count], self.streams.device)

    @torch.no_grad()
    def batch(self, clock: Clock) -> Drawn:
        """Return images of the pool with the teacher's answer; none are made for it."""
        images = ranks.mine(self.draw(self.batch_size, "pool", clock.update))
        return Drawn(self.viewer.view(self.teacher, images, "student-view", clock), 0)

    def sample(self, count: int, name: str, update: int) -> Tensor:
        """Return images of the pool."""
        return self.draw(count, name, update)

    def moved(self) -> None:
        """Keep all: what the pool holds stays."""

    def close(self) -> None:
        """Do nothing: nothing is begun."""

    def state_dict(self) -> dict[str, Any]:
        """Return the images held, which never change: they are stored beside the checkpoint."""
        return {"images": self._rows.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from them; raises ValueError where images, ranges and their number do not belong together."""
        self._rows.load(state["images"])
