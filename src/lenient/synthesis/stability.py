"""Whether a teacher's answer to an image lasts: under small shifts, and with a little more or less light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lenient.core import ranks
from lenient.core.reductions import full
from lenient.core.seeding import Streams
from lenient.teacher.frozen import FrozenTeacher


@dataclass(frozen=True)
class Shaken:
    """A view: each image moved by up to a share `shift` of its sides, its edges repeated, and its pixels times a factor
    within `gain` of 1."""

    shift: float
    gain: float

    def __call__(self, images: Tensor, streams: Streams, name: str, update: int) -> Tensor:
        """Return this rank's images (N, C, H, W) so, by the key of a random stream for the whole batch."""
        count, height, width = images.shape[0], images.shape[2], images.shape[3]
        whole = count * ranks.count()

        def places(axis: str, length: int) -> Tensor:
            limit = int(self.shift * length + 0.5)
            moves = ranks.mine(streams.integers(f"{name}/{axis}", update, (whole, 1), 2 * limit + 1)) - limit
            return (torch.arange(length, device=images.device) + moves).clamp(0, length - 1)

        rows, columns = places("rows", height), places("columns", width)
        gains = ranks.mine(streams.uniform(f"{name}/gain", update, (whole, 1, 1, 1))).to(images.dtype)
        sample = torch.arange(count, device=images.device).view(-1, 1, 1)
        moved = images.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return moved * (1 + self.gain * (2 * gains - 1))


class Lasting(NamedTuple):
    """What a teacher answers to images, and how far that lasts."""

    logits: Tensor
    """(N, K) of the images as they are."""
    classes: Tensor
    """(N,) int64: the class that it names."""
    margins: Tensor
    """(N,) the least gap, over all views, between the logit of that class and the largest other: above 0 where the
    answer lasts."""


@torch.no_grad()
def lasting(
    teacher: FrozenTeacher, images: Tensor, views: int, shaken: Shaken, streams: Streams, name: str, update: int
) -> Lasting:
    """Ask a teacher about this rank's images (N, C, H, W) in pixel units, and about so many views of each."""
    logits = _ask(teacher, images)
    classes = logits.argmax(dim=1)
    margins = margin(logits, classes)
    for number in range(views):
        view = shaken(images, streams, f"{name}/{number}", update)
        margins = torch.minimum(margins, margin(_ask(teacher, view), classes))
    return Lasting(logits, classes, margins)


def _ask(teacher: FrozenTeacher, images: Tensor) -> Tensor:
    return full(teacher.respond(teacher.normalize(images)).logits)


def margin(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the gap (N,) between the logit of each image's class and the largest other of logits (N, K)."""
    own = logits.gather(1, classes[:, None])
    others = logits.scatter(1, classes[:, None], -torch.inf).amax(dim=1)
    return own[:, 0] - others
