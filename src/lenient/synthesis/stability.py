"""Whether a teacher's answer to an image lasts: under small shifts, and with a little more or less light."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lenient.core.reductions import full
from lenient.core.seeding import Streams
from lenient.synthesis.views import Shaken
from lenient.teacher.frozen import FrozenTeacher


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
