"""Random windows of images, for views and for training on real ones: one gather, with its gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cropped(
    images: Tensor, padding: tuple[int, int], down: Tensor, across: Tensor, mirrored: Tensor | None = None
) -> Tensor:
    """Return of each image (N, C, H, W) a window of its own size after a black border of `padding` (rows, columns).

    Args:
        images: of any dtype, on any device.
        padding: of both sides.
        down: (N, 1) or (1, 1) int64: the first row of the window, from 0 to twice the padding.
        across: the first column, likewise.
        mirrored: bool, likewise: whether left and right are swapped in the window.
    """
    count, _, height, width = images.shape
    rows = torch.arange(height, device=images.device) + down
    columns = torch.arange(width, device=images.device)
    if mirrored is not None:
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = columns + across
    sample = torch.arange(count, device=images.device).view(-1, 1, 1)
    padded = F.pad(images, (padding[1], padding[1], padding[0], padding[0])).permute(0, 2, 3, 1)
    picked = padded[sample, rows.expand(count, -1)[:, :, None], columns.expand(count, -1)[:, None, :]]
    return picked.permute(0, 3, 1, 2)
