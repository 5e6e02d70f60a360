"""Views: what a network is shown of an image in pixel units. All keep the gradient to the images."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lenient.core import ranks
from lenient.core.seeding import Streams

Augmentation = Literal["none", "crop-flip", "crop-flip-batch"]
"""`crop-flip`: zero padding, random crop and horizontal flip per image; `-batch`: one draw for the whole batch."""


def augment(images: Tensor, kind: Augmentation, streams: Streams, name: str, turn: int, padding: int = 4) -> Tensor:
    """Return the training view of `images` (N, C, H, W); `none` returns them unchanged, the same object.

    Padding is black (0 in pixel units), as in the usual CIFAR augmentation; it shrinks with images under 32 pixels.
    """
    if kind == "none":
        return images
    count, height, width = images.shape[0], images.shape[2], images.shape[3]
    padding = max(1, min(padding, min(height, width) // 8))

    def draw(what: str, high: int) -> Tensor:
        if kind == "crop-flip-batch":
            return streams.integers(f"{name}/{what}", turn, (1, 1), high)
        return ranks.mine(streams.integers(f"{name}/{what}", turn, (count * ranks.count(), 1), high))

    rows, columns, flip = draw("rows", 2 * padding + 1), draw("columns", 2 * padding + 1), draw("flip", 2)
    down = torch.arange(height, device=images.device) + rows
    across = torch.arange(width, device=images.device)
    across = torch.where(flip > 0, width - 1 - across, across) + columns
    padded = F.pad(images, (padding, padding, padding, padding))
    sample = torch.arange(count, device=images.device).view(-1, 1, 1)
    picked = padded.permute(0, 2, 3, 1)[
        sample, down.expand(count, -1)[:, :, None], across.expand(count, -1)[:, None, :]
    ]
    return picked.permute(0, 3, 1, 2)
