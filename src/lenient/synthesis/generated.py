"""The source of methods with one generator: fresh images that the teacher vouches for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from lenient.core import ranks
from lenient.core.modes import mode
from lenient.losses.prior import confidence_score
from lenient.synthesis.accepted import AcceptedImages, Round
from lenient.synthesis.sampler import Sampler
from lenient.synthesis.selection import Selection
from lenient.synthesis.source import Drawn
from lenient.synthesis.views import Viewer
from lenient.teacher.batch import Clock, Response
from lenient.teacher.frozen import FrozenTeacher

Key = Callable[[str, Clock], tuple[str, int]]
"""Names the random stream of latents: for a use and a clock, its name and number."""


class Generated:
    """Draws rounds of images, lets the teacher answer, and deals out those that the selection accepts.

    Where all are kept nothing is dealt out: the teacher is asked once, about the images as the student sees them.
    """

    def __init__(
        self,
        sampler: Sampler,
        teacher: FrozenTeacher,
        viewer: Viewer,
        selection: Selection,
        accepted: Callable[[Callable[[Clock, int], Round]], AcceptedImages] | None,
        key: Key,
        batch_size: int,
        draw_mode: Literal["train", "eval"] = "train",
    ) -> None:
        self.sampler, self.teacher, self.viewer, self.selection = sampler, teacher, viewer, selection
        self.accepted = None if accepted is None else accepted(self._round)
        self.key, self.batch_size, self.draw_mode = key, batch_size, draw_mode
        self._make_accepted = accepted

    @property
    def buffers(self) -> list[Tensor]:
        """What drawing a batch changes in the generator."""
        return list(self.sampler.generator.buffers())

    def twin(self) -> Generated:
        """Return a source with the same weights, which it shares, and with buffers, modes and counts of its own."""
        return Generated(
            self.sampler.twin(),
            self.teacher.twin(),
            self.viewer,
            self.selection,
            self._make_accepted,
            self.key,
            self.batch_size,
            self.draw_mode,
        )

    def _round(self, clock: Clock, number: int) -> Round:
        """One round of synthesis: images, the teacher's answer to them, and which of them it vouches for."""
        images = self._drawn(clock, number)
        logits = self.teacher.respond(self.teacher.normalize(images)).logits
        images, logits = self.sampler.runtime.images(ranks.gather(images)), ranks.gather(logits)
        return Round(images, logits, self.selection(confidence_score(logits)))

    def _drawn(self, clock: Clock, number: int) -> Tensor:
        with mode(self.sampler.generator, self.draw_mode):
            return self.sampler.sample(self.batch_size, *self.key(f"student-latents/{number}", clock)).images

    @torch.no_grad()
    def batch(self, clock: Clock) -> Drawn:
        """Return accepted images with the teacher's answer."""
        if self.accepted is None:
            images = self.sampler.runtime.images(self._drawn(clock, 0))
            batch = self.viewer.view(self.teacher, images, "student-view", clock)
            scores = confidence_score(ranks.gather(batch.answers["train"]["teacher"].logits))
            return Drawn(batch, self.batch_size, self.selection(scores), scores.new_zeros(()))
        deal = self.accepted.deal(clock)
        answer = Response(ranks.mine(deal.logits))
        batch = self.viewer.view(self.teacher, ranks.mine(deal.images), "student-view", clock, answer)
        return Drawn(batch, deal.drawn, deal.last.selected, deal.shortfall)

    def sample(self, count: int, name: str, update: int) -> Tensor:
        """Return images of the generator in eval mode, its buffers untouched."""
        return self.sampler.show(count, name, update)

    def moved(self) -> None:
        """Forget leftovers: the generator is about to move."""
        if self.accepted is not None:
            self.accepted.moved()

    def close(self) -> None:
        """Do nothing: nothing is begun."""

    def state_dict(self) -> dict[str, Any]:
        """Return leftovers and counts."""
        return {} if self.accepted is None else self.accepted.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from them."""
        if self.accepted is not None:
            self.accepted.load_state_dict(state)
