"""Random changes to a batch of training images, one draw per image, without a loop over images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lenient.core.crops import cropped
from lenient.core.runtime import sent

Augment = Callable[[Tensor, torch.Generator | None], Tensor]


def unchanged(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return the images as they are and draw nothing."""
    return images


def shift(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Move each image by up to an eighth of its sides (at least 1 pixel), filling with zeros.

    `images` is (N, C, H, W) of any dtype on any device; the offsets are drawn on the CPU, uniform and independent per
    image and axis, so a seed means the same shifts on every device. At 32x32 this is the usual "crop with padding 4".
    """
    reach, down, across = _places(images, generator)
    return cropped(images, reach, down, across)


def crop_flip(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Shift each image as `shift` does, then mirror it left to right with probability one half."""
    reach, down, across = _places(images, generator)
    mirrored = sent(torch.rand(len(images), 1, generator=generator) < 0.5, images.device)
    return cropped(images, reach, down, across, mirrored)


def _places(images: Tensor, generator: torch.Generator | None) -> tuple[tuple[int, int], Tensor, Tensor]:
    number, _, height, width = images.shape
    reach = max(1, height // 8), max(1, width // 8)
    down, across = (torch.randint(0, 2 * most + 1, (number, 1), generator=generator) for most in reach)
    return reach, sent(down, images.device), sent(across, images.device)


AUGMENTS: dict[str, Augment] = {"none": unchanged, "shift": shift, "crop-flip": crop_flip}
