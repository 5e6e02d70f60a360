"""Batches of two sources: of the images of one, a share gives way to those of the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lenient.core import ranks
from lenient.core.errors import UsageError
from lenient.core.runtime import sent
from lenient.synthesis.source import Drawn, Source
from lenient.teacher.batch import Clock


class Mixed:
    """A source whose batches are another's but for `count` images, spread evenly, which `others` deals.

    The first one draws whole batches, as without: what it draws and selects does not depend on the share. Of its images
    those that give way are the same on any number of ranks.

    Args:
        own: deals `batch_size` images, on each rank its rows.
        others: deals `count`, with the same views.
        batch_size: images of a batch, on all ranks.
        count: how many of them are the others'.

    Raises:
        UsageError: they do not divide among the ranks.
    """

    def __init__(self, own: Source, others: Source, batch_size: int, count: int) -> None:
        if count % ranks.count():
            raise UsageError(
                f"-s source.proxy_share: {count} of {batch_size} images do not divide among {ranks.count()} devices; "
                "give another share or --batch-size"
            )
        self.own, self.others, self.share = own, others, count / batch_size
        self._order = order(batch_size // ranks.count(), count // ranks.count())

    @torch.no_grad()
    def batch(self, clock: Clock) -> Drawn:
        """Return the first one's batch with the others' images in it."""
        drawn, shown = self.own.batch(clock), self.others.batch(clock)
        self._order = sent(self._order, drawn.batch.images.device)
        return drawn._replace(
            batch=drawn.batch.with_others(shown.batch, self._order), images=drawn.images + shown.images
        )

    def sample(self, count: int, name: str, update: int) -> Tensor:
        """Return images of both, in the same shares and spread in the same way."""
        own = self.own.sample(count, name, update)
        others = round(self.share * count)
        if not others:
            return own
        whole = torch.cat([own, self.others.sample(others, f"{name}/others", update).to(own.dtype)])
        return whole[order(count, others).to(own.device)]

    def moved(self) -> None:
        """Let the first one forget what was made ahead."""
        self.own.moved()
        self.others.moved()

    def close(self) -> None:
        """Drop what has been begun."""
        self.own.close()
        self.others.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both."""
        return {"own": self.own.state_dict(), "others": self.others.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from it."""
        self.own.load_state_dict(state["own"])
        self.others.load_state_dict(state["others"])


def order(size: int, count: int) -> Tensor:
    """Return (size,) int64: for each place the number of the image there, its own or, from `size` on, another's, of
    which there are `count`, spread evenly."""
    places = torch.arange(size + 1) * count // max(size, 1)  # others before each place
    return torch.where(places.diff() > 0, size + places[:-1], torch.arange(size))
