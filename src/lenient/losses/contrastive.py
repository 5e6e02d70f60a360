"""A term that asks each image to differ, to the teacher, from the others and from all that were made before (CMI)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lenient.core import ranks
from lenient.core.reductions import batch_mean
from lenient.core.runtime import Runtime, sent
from lenient.core.seeding import Streams
from lenient.core.segments import Rows
from lenient.losses.objective import Needs
from lenient.teacher.batch import Batch
from lenient.teacher.probes import Pooled


def info_nce(anchors: Tensor, others: Tensor, own: Tensor, temperature: float) -> Tensor:
    """Return -log softmax_j(a_i . b_j / temperature) at j = own_i for each anchor, (n,), in nats.

    Args:
        anchors: (n, d), rows of length 1.
        others: (m, d), rows of length 1.
        own: (n,) int64, the row of `others` that belongs to each anchor.
        temperature: of the softmax over the rows.

    Example:
        >>> rows = torch.eye(2)
        >>> info_nce(rows, rows, own=torch.arange(2), temperature=1.0)  # ln(1 + 1 / e)
        tensor([0.3133, 0.3133])
    """
    return F.cross_entropy(anchors @ others.T / temperature, own, reduction="none")


class Projection(nn.Module):
    """Features (n, d) through a linear layer, a ReLU and another one, to rows of length 1."""

    def __init__(self, length: int, projected: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(length, length), nn.ReLU(), nn.Linear(length, projected))

    def forward(self, features: Tensor) -> Tensor:
        """Return the rows, (n, projected)."""
        return F.normalize(self.layers(features), dim=1)


class ContrastiveBank:
    """InfoNCE of a part of each image, the view `local`, against all images as a whole (CMI's L_cr), in nats.

    An image's negatives are the other new ones and `drawn` of those whose features the bank holds, drawn anew for each
    step; beside the mean over the new images stands the mean over these old ones, which trains the projection alone.
    Only the view `local` has a gradient. Grows with the logarithm of the number of images it compares.

    The bank holds the features of the best iterate of each batch, of which the oldest go, and 0 where every step on the
    first batch was skipped. It is on the device: 8 bytes for each number of the features and each image.

    Args:
        probe: what reads the teacher's features.
        length: of these features.
        streams: of the projection's start and of what is drawn.
        runtime: where it lies.
        temperature: of the softmax.
        capacity: images in the bank.
        drawn: of them, at each step.
        projected: length of the projected features.
    """

    label = "contrast"

    def __init__(
        self,
        probe: Pooled,
        length: int,
        streams: Streams,
        runtime: Runtime,
        *,
        temperature: float,
        capacity: int,
        drawn: int,
        projected: int = 256,
    ) -> None:
        self.needs = Needs("train", probes=(probe,), also=(Needs("local", probes=(probe,)),))
        self.module = Projection(length, projected)
        runtime.place(self.module)
        self.streams, self.temperature, self.drawn = streams, temperature, drawn
        none = torch.empty(0, length, dtype=runtime.dtype, device=streams.device)
        self._rows = Rows({"local": none, "whole": none}, capacity)
        self._best: Tensor | None = None  # (2, B, d): local and whole

    def __len__(self) -> int:
        """Return the images in the bank: all of its places once it is full."""
        return len(self._rows)

    def _features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        local, whole = (batch.answers[view]["teacher"].of(Pooled) for view in ("local", "train"))
        kind = self._rows["local"].dtype
        return local.to(kind), whole.to(kind)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        local, whole = self._features(batch)
        order = torch.randperm(len(self), generator=self.streams.host("bank", batch.clock.update))[: self.drawn]
        places = sent(order, local.device)
        anchors = self.module(torch.cat([local, self._rows["local"][places]]))
        with torch.no_grad():
            others = torch.cat([ranks.gather(self.module(whole)), self.module(self._rows["whole"][places])])
        new, old = torch.arange(len(local)) + ranks.rank() * len(local), torch.arange(len(order)) - len(order)
        own = sent(torch.cat([new, old + len(others)]), local.device)
        losses = info_nce(anchors, others, own, self.temperature)
        mean = batch_mean(losses[: len(local)])
        return mean + batch_mean(losses[len(local) :]) if len(order) else mean

    @torch.no_grad()
    def keep(self, batch: Batch, better: Tensor) -> None:
        """Keep the features of an iterate that is the best of its batch so far."""
        now = torch.stack([ranks.gather(features) for features in self._features(batch)])
        before = torch.zeros_like(now) if self._best is None else self._best
        self._best = torch.where(better > 0, now, before)

    @torch.no_grad()
    def remember(self, batch: Batch, bad: Tensor) -> None:
        """Write the best iterate's features, as the pool takes its images, whether or not the last step was skipped."""
        if self._best is not None:
            self._rows.append({"local": self._best[0], "whole": self._best[1]})

    def state_dict(self) -> dict[str, Any]:
        """Return the bank, whose rows never change, and what is kept of the batch that is under way."""
        return {"bank": self._rows.state(), "best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from them; raises ValueError where the bank holds other rows."""
        self._rows.load(state["bank"])
        self._best = None if state["best"] is None else state["best"].clone()
