"""A pool of finished images, which grows while a run goes on: the source of methods that invert the teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lenient.core import ranks
from lenient.core.runtime import Runtime
from lenient.core.seeding import Streams
from lenient.synthesis.source import Drawn
from lenient.synthesis.views import Viewer
from lenient.teacher.batch import Clock
from lenient.teacher.frozen import FrozenTeacher


class Pool:
    """Images of 8 bit over each one's own range, since inverted ones leave [0, 1]; beyond `capacity` the oldest go.

    A batch is drawn from all of them, with replacement. Until there are any, `start(count, name, update)` draws: what
    trials and the first lines of a history see.
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
    ) -> None:
        self.teacher, self.viewer, self.runtime, self.streams = teacher, viewer, runtime, streams
        self.batch_size, self.capacity, self.start = batch_size, capacity, start
        self._pixels: list[Tensor] = []
        self._ranges: list[Tensor] = []

    def __len__(self) -> int:
        return sum(map(len, self._pixels))

    @torch.no_grad()
    def push(self, images: Tensor) -> None:
        """Append images (n, C, H, W) in pixel units; the same on every rank."""
        flat = images.detach().float().flatten(1)
        low, high = flat.amin(dim=1), flat.amax(dim=1)
        step = (high - low).clamp_min(1e-8) / 255
        shape = (-1, 1, 1, 1)
        self._pixels.append(((images.float() - low.view(shape)) / step.view(shape)).round().byte())
        self._ranges.append(torch.stack([low, step], dim=1))
        while len(self) > self.capacity and len(self._pixels) > 1:
            del self._pixels[0], self._ranges[0]

    def draw(self, count: int, name: str, update: int) -> Tensor:
        """Return images (count, C, H, W) in pixel units, by the key of a random stream."""
        if not self._pixels:
            return self.start(count, name, update)
        chosen = self.streams.integers(name, update, (count,), len(self))
        pixels, ranges = torch.cat(self._pixels)[chosen], torch.cat(self._ranges)[chosen]
        low, step = ranges.view(-1, 2, 1, 1, 1).unbind(dim=1)
        return self.runtime.images(pixels.float() * step + low)

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
        """Return the images held."""
        return {"pixels": list(self._pixels), "ranges": list(self._ranges)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from them; raises ValueError where images and ranges do not belong together."""
        pixels, found = list(state["pixels"]), list(state["ranges"])
        if [(len(part), 2) for part in pixels] != [tuple(part.shape) for part in found]:
            raise ValueError("the pool has images without their range")
        self._pixels, self._ranges = pixels, found
