"""Student batches of exactly B images that the teacher vouches for, without asking the host."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lenient.core.runtime import Readback
from lenient.synthesis.selection import Selected
from lenient.teacher.batch import Clock


class Round(NamedTuple):
    """One round of synthesis: B images, the teacher's logits on them, and which of them it vouches for."""

    images: Tensor
    logits: Tensor
    selected: Selected


class Deal(NamedTuple):
    """B images to learn from, with what making them took."""

    images: Tensor
    logits: Tensor
    last: Round
    """The round made last, for the log."""
    shortfall: Tensor
    """Share filled with rejects, a scalar."""
    drawn: int
    """Images made for this batch, leftovers of earlier ones not counted."""


class AcceptedImages:
    """Makes rounds of B images and deals the accepted ones out in order, B at a time.

    Accepted samples beyond B are carried to the next batch, until `moved` (the generator has). Rounds are made
    until there are enough. To know that, the host waits for the device (`allow_sync`), as a CPU may; on an accelerator
    the number of rounds is planned from the kept fraction of the iteration before, `kept` for the first one. Should
    `max_rounds` or the plan fall short, the most confident rejects fill the batch, and are counted.
    """

    def __init__(
        self,
        make_round: Callable[[Clock, int], Round],
        batch_size: int,
        *,
        carry: bool = True,
        min_rounds: int = 1,
        max_rounds: int = 4,
        kept: float = 0.5,
        allow_sync: bool = False,
    ) -> None:
        self.make_round = make_round
        self.batch_size = batch_size
        self.carry, self.min_rounds, self.max_rounds, self.allow_sync = carry, min_rounds, max_rounds, allow_sync
        self._kept = Readback(kept)
        self._dealt = self._rounds = 0
        self._kept_total: Tensor | None = None
        self._left: dict[str, Tensor] | None = None

    def deal(self, clock: Clock) -> Deal:
        """Return B images and the teacher's logits on them."""
        least, most = (self.min_rounds, self.max_rounds) if self.allow_sync else [self._plan()] * 2
        rounds = [self.make_round(clock, number) for number in range(least)]
        while len(rounds) < most and not self._enough(rounds):
            rounds.append(self.make_round(clock, len(rounds)))
        self._rounds += len(rounds)
        self._dealt += 1
        for made in rounds:
            kept = made.selected.weight.mean()
            self._kept_total = kept if self._kept_total is None else self._kept_total + kept
        pool = _pool(rounds, self._left)
        chosen = _deal_order(pool["accepted"], pool["scores"])
        batch = chosen[: self.batch_size]
        if self.carry:
            rest = chosen[self.batch_size : 2 * self.batch_size]
            self._left = {key: value[rest] for key, value in pool.items()} if len(rest) else None
        shortfall = 1 - pool["accepted"][batch].mean()
        return Deal(pool["images"][batch], pool["logits"][batch], rounds[-1], shortfall, len(rounds) * self.batch_size)

    def _enough(self, rounds: list[Round]) -> bool:
        left = [self._left["accepted"]] if self._left is not None else []
        accepted = torch.cat([*left, *(made.selected.weight for made in rounds)]).sum()
        return float(accepted.numpy()) >= self.batch_size

    def moved(self) -> None:
        """Forget leftovers: the generator has moved. Also hands the kept fraction to the next iteration's plan."""
        if self._kept_total is not None:
            self._kept.put(self._kept_total / self._rounds)
        self._kept_total, self._left = None, None
        self._dealt = self._rounds = 0

    def _plan(self) -> int:
        """Rounds before this batch, so that all batches of the iteration so far are expected to be full."""
        kept = self._kept.get()
        margin = 0.02 if kept < 1 else 0.0  # for batches below the mean; a selection that keeps all has none
        fraction = max(kept - margin, 1 / self.max_rounds)
        due = math.ceil((self._dealt + 1) / fraction) - self._rounds if self.carry else math.ceil(1 / fraction)
        return max(self.min_rounds, min(due, self.max_rounds))

    def state_dict(self) -> dict[str, Any]:
        """Return all that outlives an update."""
        return {
            "kept": self._kept.get(),
            "dealt": self._dealt,
            "rounds": self._rounds,
            "kept_total": self._kept_total,
            "left": self._left,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._kept = Readback(state["kept"])
        self._dealt, self._rounds = state["dealt"], state["rounds"]
        self._kept_total, self._left = state["kept_total"], state["left"]


def _pool(rounds: list[Round], left: dict[str, Tensor] | None) -> dict[str, Tensor]:
    parts = [left] if left is not None else []
    for made in rounds:
        fresh = {
            "images": made.images,
            "logits": made.logits,
            "scores": made.selected.scores,
            "accepted": made.selected.weight,
        }
        parts.append(fresh)
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _deal_order(accepted: Tensor, scores: Tensor) -> Tensor:
    """Indices: the accepted in the order they were made, then the rejected by falling confidence."""
    count = accepted.shape[0]
    position = torch.arange(count, device=accepted.device)
    rank = torch.empty_like(position).scatter(0, torch.argsort(scores, stable=True), position)
    return torch.argsort(torch.where(accepted > 0, position, count + rank))
