"""Images of a run that has ended: from its pool, or drawn until the teacher vouches for as many as are wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lenient.core import ranks
from lenient.losses.prior import confidence_score
from lenient.synthesis.selection import Selection
from lenient.synthesis.source import Source, Stock
from lenient.teacher.frozen import FrozenTeacher

PATIENCE = 100
"""Rounds in a row of which the teacher vouches for nothing, after which no more are drawn."""


@dataclass(frozen=True)
class Draws:
    """What it takes to draw a run's images: the teacher, who is to be entered before, and the run's own parts."""

    teacher: FrozenTeacher
    source: Source
    selection: Selection | None
    batch_size: int

    def parts(self, count: int, name: str) -> Iterator[Tensor]:
        """Yield up to `count` images in parts (b, C, H, W), b <= `batch_size`, in pixel units, by the name of a random
        stream.

        Of a pool they are different ones, all that it holds at most. Other sources draw rounds of `batch_size`, of
        which the images are taken that the selection accepts, all where there is none; it ends after `PATIENCE` rounds
        without one. All ranks draw them, and the same.
        """
        if isinstance(self.source, Stock):
            for places in self.source.distinct(count, name, 0).split(self.batch_size):
                yield self.source.at(places)
            return
        number = idle = 0
        while count and idle < PATIENCE:
            images = self._vouched_for(self.source.sample(self.batch_size, name, number))[:count]
            number, idle = number + 1, 0 if len(images) else idle + 1
            count -= len(images)
            if len(images):
                yield images

    def _vouched_for(self, images: Tensor) -> Tensor:
        """Return the images that the selection accepts, on all ranks those of rank 0: where one rounds a score
        otherwise, it must not draw longer than the others."""
        if self.selection is None:
            return images
        accepted = self.selection(confidence_score(self.answer(images))).weight > 0
        return images[ranks.agree(accepted.cpu()).to(images.device)]

    @torch.no_grad()
    def answer(self, images: Tensor) -> Tensor:
        """Return the teacher's logits (N, K), float32 at least, on images in pixel units."""
        logits = self.teacher.respond(self.teacher.normalize(self.teacher.runtime.images(images))).logits
        return logits if logits.dtype == torch.float64 else logits.float()
