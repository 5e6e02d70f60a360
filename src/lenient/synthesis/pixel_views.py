"""What teacher and student are shown of images whose pixels are optimised, and what is taken of them in the end:
settings, and the view they make."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lenient.core import ranks
from lenient.core.config import BY_NAME, Nothing, Part, Settings
from lenient.core.rates import half_cosine
from lenient.core.seeding import Streams
from lenient.synthesis.views import mirrored, resized_crop, rolled


class ResizedCrop(Part):
    """A part of each image, enlarged to its size (SRe2L); along a curriculum, from whole images on (CDA)."""

    name: Literal["resized"] = "resized"
    least_area: float = Field(0.08, gt=0, le=1)
    """Least share of the image that a part covers (SRe2L's and CDA's code: 0.08)."""
    curriculum: Literal["none", "cosine", "linear", "step"] = "none"
    """How the least share comes down from 1 in the course of a batch; `none`: it is there from the first step on."""
    milestone: float = Field(1.0, gt=0, le=1)
    """Share of a batch's steps after which it is there (CDA: 1)."""

    def least(self, done: float) -> float:
        """Return the least share once `done`, from 0 to 1, of a batch's steps are made."""
        way = min(done / self.milestone, 1.0)
        left = {"none": 0.0, "cosine": half_cosine(way), "linear": 1 - way, "step": float(way < 1)}
        return self.least_area + (1 - self.least_area) * left[self.curriculum]


class Border(Part):
    """More pixels than the images have: each step sees a window of the images' size, and what is kept is the middle."""

    name: Literal["extra"] = "extra"
    pixels: int = Field(4, ge=1, le=1000)
    """Further rows and columns (Sony's toolkit: 32 of 224)."""
    smoothing: float = Field(1.25, ge=0, le=100)
    """Deviation, in pixels, of the Gaussian over 3x3 pixels through which images are seen and kept (Sony's toolkit:
    1.25); 0 for none."""


class ViewSettings(Settings):
    """How pixels are shown to the networks at each step."""

    crop: Annotated[Nothing | ResizedCrop, BY_NAME] = Nothing()
    """Parts of images in place of whole ones."""
    flip: bool = False
    """Whether images are mirrored half of the time (CIFAR code: no; ImageNet code: yes)."""
    draws: Literal["image", "batch"] = "image"
    """Whether crop and flip are drawn for each image, or once for all (released codes: `batch`)."""
    border: Annotated[Nothing | Border, BY_NAME] = Nothing()
    """More pixels around the images."""
    range: Literal["free", "clip", "straight-through"] = "free"
    """What keeps pixels between black and white: nothing (CIFAR code); they are cut off after each step (ImageNet code,
    SRe2L); or they are shown cut off, with the gradient of whole ones (Sony's toolkit)."""


@dataclass(frozen=True)
class PixelView:
    """Shows pixels (N, C, H, W) in the teacher's normalised space."""

    settings: ViewSettings
    jitter: int
    """Largest shift in a circle, where there is no border."""
    black: Tensor
    """(1, C, 1, 1)."""
    white: Tensor
    streams: Streams

    @property
    def extra(self) -> int:
        """Rows and columns that pixels have more than the images."""
        return self.settings.border.pixels if isinstance(self.settings.border, Border) else 0

    def __call__(self, pixels: Tensor, done: float, update: int) -> Tensor:
        """Return what is shown of a whole batch of pixels, this rank's rows (n, C, H, W), once `done`, from 0 to 1, of
        its steps are made."""
        s, streams = self.settings, self.streams
        one, images = s.draws == "batch", ranks.mine(pixels)
        if isinstance(s.crop, ResizedCrop):
            images = resized_crop(images, s.crop.least(done), False, streams, "crop", update, fits=True, one=one)
        if s.flip:
            images = mirrored(images, streams, "flip", update, one=one)
        if isinstance(s.border, Border):
            places = torch.randint(self.extra + 1, (2,), generator=streams.host("window", update))
            images = self._window(smoothed(images, s.border.smoothing), *places.tolist())
        else:
            images = rolled(images, self.jitter, streams, "jitter", update)
        return images if s.range != "straight-through" else images + (self._cut(images) - images).detach()

    def finished(self, pixels: Tensor) -> Tensor:
        """Return the images (N, C, H, W), normalised, that pixels come to."""
        s = self.settings
        if isinstance(s.border, Border):
            pixels = self._window(smoothed(pixels, s.border.smoothing), self.extra // 2, self.extra // 2)
        return pixels if s.range == "free" else self._cut(pixels)

    @torch.no_grad()
    def clip_(self, pixels: Tensor) -> None:
        """Cut pixels off after a step, where they are to be."""
        if self.settings.range == "clip":
            pixels.copy_(self._cut(pixels))

    def _cut(self, images: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(images, self.black), self.white)

    def _window(self, pixels: Tensor, down: int, across: int) -> Tensor:
        height, width = (length - self.extra for length in pixels.shape[2:])
        return pixels[:, :, down : down + height, across : across + width]


def smoothed(images: Tensor, deviation: float) -> Tensor:
    """Return images (N, C, H, W) through a Gaussian over 3x3 pixels, of a deviation in pixels; the rim's pixels stand
    for those beyond."""
    if deviation == 0:
        return images
    side = math.exp(-1 / (2 * deviation**2))
    line = images.new_tensor([side, 1.0, side]) / (1 + 2 * side)
    single = F.pad(images.flatten(0, 1)[:, None], (1, 1, 1, 1), "replicate")
    return F.conv2d(single, torch.outer(line, line)[None, None]).view_as(images)
