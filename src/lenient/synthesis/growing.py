"""A pool that grows while a run goes on, of images whose answer lasts, towards the classes that are short of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lenient.core import ranks
from lenient.core.runtime import Readback, Runtime
from lenient.core.seeding import Streams
from lenient.losses.prior import confidence_score
from lenient.synthesis.mutation import mutated
from lenient.synthesis.quota import Quota
from lenient.synthesis.selection import Selected
from lenient.synthesis.source import Drawn
from lenient.synthesis.stability import Lasting
from lenient.synthesis.views import Viewer
from lenient.teacher.batch import Clock
from lenient.teacher.frozen import FrozenTeacher


class Growing:
    """Looks at `grow` images with each batch until every class has its quota of fresh ones, and deals batches of even
    classes.

    `fresh(numbers, name)` makes images (n, C, H, W) in [0, 1] by their numbers; a share `mutating` of those looked at
    is made of images held, as long as any class is short of its quota. These only fill a class up: any fresh image that
    lasts takes the place of one of them. `judge(images, update)` says how far the teacher's answers last.
    """

    def __init__(
        self,
        teacher: FrozenTeacher,
        viewer: Viewer,
        runtime: Runtime,
        streams: Streams,
        batch_size: int,
        quota: Quota,
        fresh: Callable[[range, str], Tensor],
        judge: Callable[[Tensor, int], Lasting],
        grow: int,
        mutating: float,
    ) -> None:
        self.teacher, self.viewer, self.runtime, self.streams = teacher, viewer, runtime, streams
        self.batch_size, self.quota, self.fresh, self.judge, self.grow = batch_size, quota, fresh, judge, grow
        self._mutating = round(mutating * grow)
        self._full = Readback(0.0)

    @torch.no_grad()
    def batch(self, clock: Clock) -> Drawn:
        """Return images of the pool as evenly of all classes as there are, with the teacher's answer."""
        looked = self._look(clock) if self._full.get() < 1 else None
        draws = self.streams.uniform("pool", clock.update, (self.batch_size, 2))
        pixels = self.quota.pixels[self.quota.draw(draws, torch.ones_like(self.quota.counts))]
        empty = (self.quota.counts.sum() == 0).float()
        if looked is not None:
            places = torch.arange(self.batch_size, device=pixels.device) % self.grow
            pixels = torch.where(empty > 0, looked[0][places], pixels)
        batch = self.viewer.view(self.teacher, self._shown(ranks.mine(pixels)), "student-view", clock)
        return Drawn(batch, 0 if looked is None else self.grow, None if looked is None else looked[1], empty)

    def _look(self, clock: Clock) -> tuple[Tensor, Selected]:
        """Look at the images of a step; return them, (grow, C, H, W) uint8, and which of them the pool was offered."""
        first, own = clock.step * self.grow, self.grow // ranks.count()
        place = ranks.rank() * own
        images = self.fresh(range(first + place, first + place + own), "fresh")
        mutants = torch.arange(self.grow, device=images.device) < self._mutating
        mutants &= (self.quota.counts.sum() > 0) & (self.quota.short > 0).any()
        if self._mutating and self.quota.offered:
            changed = ranks.mine(mutants).view(-1, 1, 1, 1)
            images = torch.where(changed, self._mutants(images, clock.update), images)
        pixels = (images * 255).round().byte()
        found = self.judge(self._shown(pixels), clock.update)
        whole, classes, margins = (ranks.gather(rows) for rows in (pixels, found.classes, found.margins))
        self.quota.offer(whole, classes, _score(margins, mutants))
        self._full.put((self.quota.counts_above(1.0) >= self.quota.most).all())
        return whole, Selected(ranks.gather(confidence_score(found.logits)), (margins > 0).float())

    def _mutants(self, grounds: Tensor, update: int) -> Tensor:
        """Return this rank's images made of those held of classes that are short, each of two of one class."""
        draws = self.streams.uniform("parents", update, (self.grow, 2))
        wanted = self.quota.short + 1e-3  # evenly, where only classes are short of which there is none
        again = torch.stack([draws[:, 0], self.streams.uniform("partners", update, (self.grow,))], dim=1)
        parents, partners = (self.quota.pixels[self.quota.draw(own, wanted)] for own in (draws, again))
        parents, partners = (ranks.mine(pixels).float() / 255 for pixels in (parents, partners))
        return mutated(parents, partners, grounds, self.streams, "mutation", update)

    def _shown(self, pixels: Tensor) -> Tensor:
        return self.runtime.images(pixels.float() / 255)

    def __len__(self) -> int:
        return int(self.quota.counts.sum())

    def at(self, places: Tensor) -> Tensor:
        """Return the images (n, C, H, W) in pixel units that lie in rows (n,) of the quota."""
        return self._shown(self.quota.pixels[places])

    def distinct(self, count: int, name: str, update: int) -> Tensor:
        """Return rows (n,) of up to `count` different images, all where there are fewer, by the key of a random
        stream."""
        rows = (self.quota.scores > -torch.inf).nonzero().flatten()
        order = torch.randperm(len(rows), generator=self.streams.host(name, update))
        return rows[order[:count].to(rows.device)]

    def sample(self, count: int, name: str, update: int) -> Tensor:
        """Return images of the pool, of even classes; fresh ones until it holds any."""
        if not len(self):
            return self.runtime.images(self.fresh(range(count), f"{name}/{update}"))
        draws = self.streams.uniform(name, update, (count, 2))
        return self.at(self.quota.draw(draws, torch.ones_like(self.quota.counts)))

    def moved(self) -> None:
        """Keep all: what the pool holds stays."""

    def close(self) -> None:
        """Do nothing: nothing is begun."""

    def state_dict(self) -> dict[str, Any]:
        """Return the images held, and whether any are looked for."""
        return {"quota": self.quota.state_dict(), "full": self._full.get()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from them; raises ValueError where they do not belong together."""
        self.quota.load_state_dict(state["quota"])
        self._full = Readback(state["full"])


def _score(margins: Tensor, mutants: Tensor) -> Tensor:
    """Return scores (n,) that go by margins (n,), those of mutants (n,) bool within 0 and 1, of the others above."""
    return torch.where(margins > 0, torch.where(mutants, margins / (1 + margins), 1 + margins), -1.0)
