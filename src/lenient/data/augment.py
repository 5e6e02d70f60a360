"""Random changes to a batch of training images, one draw per image, without a loop over images."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Augment = Callable[[Tensor, torch.Generator | None], Tensor]


def unchanged(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return the images as they are and draw nothing."""
    return images


def shift(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Move each image by up to an eighth of its sides (at least 1 pixel), filling with zeros.

    `images` is (N, C, H, W) of any dtype on any device; the offsets are drawn on the CPU, uniform and independent per
    image and axis, so a seed means the same shifts on every device. At 32x32 this is the usual "crop with padding 4".
    """
    number, _, height, width = images.shape
    reach_y, reach_x = max(1, height // 8), max(1, width // 8)
    top = torch.randint(0, 2 * reach_y + 1, (number, 1), generator=generator).to(images.device)
    left = torch.randint(0, 2 * reach_x + 1, (number, 1), generator=generator).to(images.device)
    padded = F.pad(images, (reach_x, reach_x, reach_y, reach_y)).permute(0, 2, 3, 1)
    rows = (top + torch.arange(height, device=images.device))[:, :, None]
    columns = (left + torch.arange(width, device=images.device))[:, None, :]
    which = torch.arange(number, device=images.device)[:, None, None]
    return padded[which, rows, columns].permute(0, 3, 1, 2)


def crop_flip(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Shift each image as `shift` does, then mirror it left to right with probability one half."""
    moved = shift(images, generator)
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator).to(images.device) < 0.5
    return torch.where(mirrored, moved.flip(-1), moved)


AUGMENTS: dict[str, Augment] = {"none": unchanged, "shift": shift, "crop-flip": crop_flip}
