"""Synthetic images that the student never trains on, and what can be told by looking at images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lenient.teacher.probes import LayerStatistics


class ProbeSet:
    """Synthetic images pooled evenly over the run that the student never trains on, with the teacher's labels.

    Groups are added at log lines; once `groups` of them are there every other one is dropped and the pace halves.
    """

    def __init__(self, groups: int = 64) -> None:
        self.groups, self.stride, self.offered = groups, 1, 0
        self.images: list[Tensor] = []
        self.ranges: list[Tensor] = []
        self.labels: list[Tensor] = []

    def offer(self, images: Tensor, labels: Tensor) -> None:
        """Take a group of images (n, C, H, W) in pixel units and labels (n,), if it is one of those that are kept.

        Stored as 8 bit over the group's own range: generators that draw in normalised space leave [0, 1].
        """
        if self.offered % self.stride == 0:
            low, high = images.amin(), images.amax()
            step = (high - low).clamp_min(1e-8) / 255
            self.images.append(((images - low) / step).round().byte())
            self.ranges.append(torch.stack([low, step]).float())
            self.labels.append(labels)
        self.offered += 1
        if len(self.images) > self.groups:
            self.images, self.ranges, self.labels = self.images[::2], self.ranges[::2], self.labels[::2]
            self.stride *= 2

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Return all images in pixel units and their labels."""
        groups = [image.float() * step + low for image, (low, step) in zip(self.images, self.ranges, strict=True)]
        return torch.cat(groups), torch.cat(self.labels)

    def state_dict(self) -> dict[str, Any]:
        """Return all that outlives an update."""
        kept = {"images": self.images, "ranges": self.ranges, "labels": self.labels}
        return {"stride": self.stride, "offered": self.offered, **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.stride, self.offered = state["stride"], state["offered"]
        self.images, self.ranges, self.labels = (list(state[name]) for name in ("images", "ranges", "labels"))
        groups = [(len(image), len(label)) for image, label in zip(self.images, self.labels, strict=True)]
        if len(self.ranges) != len(groups) or any(images != labels for images, labels in groups) or self.stride < 1:
            raise ValueError("the probe set has images without labels, or no pace")


def bn_shift(layers: Sequence[LayerStatistics]) -> Tensor:
    """How far a batch is from what a network's batch norms have seen in training: per layer the root mean square over
    channels of the difference of means, in standard deviations of the training data; mean over layers.

    It needs no generator to start from, so it compares methods: real images of the same data come to about 0.05 to 0.1.
    """
    shifts = [
        ((layer.mean - layer.running_mean).square() / layer.running_variance.clamp_min(1e-8)).mean().sqrt()
        for layer in layers
    ]
    return torch.stack(shifts).mean()


def pixel_span(images: Tensor) -> Tensor:
    """Return the 5th and the 95th percentile of each channel of images (N, C, H, W), (2, C), of 100,000 pixels each at
    most."""
    pixels = images.float().transpose(0, 1).flatten(1)
    quantiles = torch.tensor([0.05, 0.95], device=images.device)
    span: Tensor = pixels[:, :: -(-pixels.shape[1] // 100_000)].quantile(quantiles, dim=1)
    return span


def duplicate_rate(images: Tensor, tolerance: float = 0.02) -> Tensor:
    """Share of images (N, C, H, W) whose nearest neighbour in the batch is within `tolerance` (RMS per pixel)."""
    if images.shape[0] < 2:
        return torch.zeros((), device=images.device)
    small = F.adaptive_avg_pool2d(images.float(), (min(images.shape[2], 16), min(images.shape[3], 16))).flatten(1)
    distance = torch.cdist(small, small) / small.shape[1] ** 0.5
    distance = distance + torch.eye(len(small), device=small.device) * 1e9
    share: Tensor = (distance.amin(dim=1) < tolerance).float().mean()
    return share
