"""Crops of finished images, and the teacher's answer to each: who trains on them asks no teacher (SRe2L's labels)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.functional import resized_crop

from lenient.core.errors import UsageError
from lenient.core.seeding import Streams

MOST = 10_000
"""Crops of an image."""
TRIES = 10
"""Boxes drawn for a crop, of which the first that fits is taken; the whole image where none does."""


@dataclass(frozen=True)
class Cropping:
    """How crops are drawn: parts of random area and shape, enlarged to the image's size, some of them mirrored.

    Raises:
        UsageError: values that cannot be.
    """

    count: int
    """Of each image."""
    area: float = 0.08
    """Least share of the image that a crop covers; shares are uniform from there to 1 (SRe2L's code: 0.08)."""
    flip: float = 0.5
    """Share of crops that are mirrored, left to right."""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST:
            raise UsageError(f"--crops {self.count}: give a number from 1 to {MOST}, or 0 for none")
        if not 0 < self.area <= 1:
            raise UsageError(f"--crop-area {self.area:g}: give a share of the image above 0, up to 1")
        if not 0 <= self.flip <= 1:
            raise UsageError(f"--crop-flip {self.flip:g}: give a share from 0 to 1")

    @classmethod
    def asked(cls, crops: int, area: float, flip: float) -> Cropping | None:
        """Return how crops are drawn, None for no crops; raises UsageError where only a part of it is asked for."""
        if crops:
            return cls(crops, area, flip)
        for flag, given, usual in (("--crop-area", area, cls.area), ("--crop-flip", flip, cls.flip)):
            if given != usual:
                raise UsageError(f"{flag} {given:g}: goes with --crops N; give that, too, or leave it out")
        return None

    def draw(self, height: int, width: int, seed: int, number: int) -> tuple[Tensor, Tensor]:
        """Return boxes (count, 4) int32 and flips (count,) bool of the image that is so many from 0, by the seed.

        A box is top, left, height and width in pixels. Height to width is 3/4 to 4/3, uniform on a logarithmic scale.
        """
        generator = Streams(seed).host("crops", number)
        share, shape = torch.rand(2, self.count, TRIES, generator=generator, dtype=torch.float64)
        area, slope = height * width * (self.area + (1 - self.area) * share), (2 * shape - 1) * math.log(4 / 3)
        tall, wide = (area * slope.exp()).sqrt().round(), (area / slope.exp()).sqrt().round()
        fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
        first = fits.int().argmax(dim=1, keepdim=True)
        none = ~fits.any(dim=1)
        tall = tall.gather(1, first)[:, 0].masked_fill(none, height)
        wide = wide.gather(1, first)[:, 0].masked_fill(none, width)
        down, across, coin = torch.rand(3, self.count, generator=generator, dtype=torch.float64)
        top, left = (down * (height - tall + 1)).floor(), (across * (width - wide + 1)).floor()
        return torch.stack([top, left, tall, wide], dim=1).int(), coin < self.flip


@dataclass(frozen=True, eq=False)
class Crops:
    """R crops of each of N images, and the teacher's answers to them."""

    boxes: Tensor
    """(N, R, 4) int32: top, left, height and width in pixels."""
    flips: Tensor
    """(N, R) bool: whether left and right are swapped afterwards."""
    logits: Tensor
    """(N, R, K) float16."""

    def __getitem__(self, rows: slice) -> Crops:
        return Crops(self.boxes[rows], self.flips[rows], self.logits[rows])


def cut(image: Tensor, box: Tensor, flip: Tensor) -> Tensor:
    """Return a crop (C, H, W) float32 in [0, 1] of an image (C, H, W) uint8, enlarged to its size.

    It is torchvision's `resized_crop` of the image divided by 255, bilinear with antialiasing, then mirrored along the
    width where `flip` says so. `box` is (4,), `flip` a bool.
    """
    top, left, height, width = box.tolist()
    part: Tensor = resized_crop(image.float() / 255, top, left, height, width, list(image.shape[1:]), antialias=True)
    return part.flip(2) if flip else part


def labelled(images: Tensor, first: int, seed: int, cropping: Cropping, answer: Callable[[Tensor], Tensor]) -> Crops:
    """Draw crops of images (n, C, H, W) uint8, the `first` of which is so many from 0, and `answer` each with logits.

    One crop of each image is in memory at a time.
    """
    height, width = images.shape[2:]
    drawn = [cropping.draw(height, width, seed, first + place) for place in range(len(images))]
    boxes, flips = torch.stack([box for box, _ in drawn]), torch.stack([flip for _, flip in drawn])
    largest = torch.finfo(torch.float16).max
    logits = [
        answer(torch.stack([cut(*one) for one in zip(images, boxes[:, crop], flips[:, crop], strict=True)])).cpu()
        for crop in range(cropping.count)
    ]
    return Crops(boxes, flips, torch.stack(logits, dim=1).clamp(-largest, largest).half())
