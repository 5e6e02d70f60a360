"""Views: what a network is shown of an image in pixel units. All keep the gradient to the images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lenient.core import ranks
from lenient.core.crops import cropped
from lenient.core.seeding import Streams
from lenient.synthesis.distortions import distorted
from lenient.teacher.batch import Batch, Clock, Response
from lenient.teacher.frozen import FrozenTeacher
from lenient.teacher.probes import Blocks

Augmentation = Literal["none", "crop-flip", "crop-flip-batch", "distorted", "shaken"]
"""`crop-flip`: zero padding, random crop and horizontal flip per image; `-batch`: one draw for the whole batch.
`distorted`: one of 106 strong changes per image, see `lenient.synthesis.distortions`. `shaken`: moved a little, in a
little more or less light (`SHAKEN`)."""

View = Callable[[Tensor, Streams, str, int], Tensor]
"""This rank's images (N, C, H, W) in pixel units to what is shown of them, by the key of a random stream."""


def augment(images: Tensor, kind: Augmentation, streams: Streams, name: str, update: int, padding: int = 4) -> Tensor:
    """Return the training view of `images` (N, C, H, W); `none` returns them unchanged, the same object.

    Padding is black (0 in pixel units), as in the usual CIFAR augmentation; it shrinks with images under 32 pixels.
    """
    if kind == "none":
        return images
    if kind == "distorted":
        return distorted(images, streams, name, update)
    if kind == "shaken":
        return SHAKEN(images, streams, name, update)
    count, height, width = images.shape[0], images.shape[2], images.shape[3]
    padding = max(1, min(padding, min(height, width) // 8))

    def draw(what: str, high: int) -> Tensor:
        if kind == "crop-flip-batch":
            return streams.integers(f"{name}/{what}", update, (1, 1), high)
        return ranks.mine(streams.integers(f"{name}/{what}", update, (count * ranks.count(), 1), high))

    rows, columns, flip = draw("rows", 2 * padding + 1), draw("columns", 2 * padding + 1), draw("flip", 2)
    return cropped(images, (padding, padding), rows, columns, flip > 0)


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


SHAKEN = Shaken(shift=1 / 16, gain=0.15)
"""What a sensible answer should not be changed by: two pixels of 32, and the light of another hour."""


def rolled(images: Tensor, limit: int, streams: Streams, name: str, update: int) -> Tensor:
    """Return a batch (N, C, H, W) shifted in a circle by one draw of up to `limit` pixels in both directions."""
    if limit == 0:
        return images
    offsets = torch.randint(-limit, limit + 1, (2,), generator=streams.host(name, update))
    return torch.roll(images, shifts=(int(offsets.numpy()[0]), int(offsets.numpy()[1])), dims=(2, 3))


def mirrored(images: Tensor, streams: Streams, name: str, update: int, *, one: bool = False) -> Tensor:
    """Return images (N, C, H, W), each mirrored half of the time, or with `one` all of them or none."""
    coins = streams.uniform(name, update, (1 if one else len(images) * ranks.count(), 1, 1, 1))
    return torch.where((coins if one else ranks.mine(coins)) < 0.5, images.flip(3), images)


def resized_crop(
    images: Tensor,
    least: float,
    flip: bool,
    streams: Streams,
    name: str,
    update: int,
    *,
    fits: bool = False,
    one: bool = False,
) -> Tensor:
    """Return for each image (N, C, H, W) a part of it, enlarged to its size and with `flip` mirrored half of the time.

    The part covers a share of the area that is uniform from `least` to 1, its sides are as 3 to 4 at most (drawn on a
    logarithmic scale; a side longer than the image's is cut, or with `fits` none is drawn), and it lies anywhere in the
    image. With `one`, one draw is for all images.
    """
    drawn = streams.uniform(f"{name}/crop", update, (1 if one else len(images) * ranks.count(), 5)).to(images.dtype)
    drawn = drawn.expand(len(images), -1) if one else ranks.mine(drawn)
    area, slope = least + (1 - least) * drawn[:, 0], 2 * drawn[:, 1] - 1
    ratio = (slope * (-area.log()).clamp_max(math.log(4 / 3)) if fits else slope * math.log(4 / 3)).exp()
    width, height = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
    left, top = (2 * drawn[:, 2] - 1) * (1 - width), (2 * drawn[:, 3] - 1) * (1 - height)
    turned = torch.where(drawn[:, 4] < 0.5, -1.0, 1.0).to(images.dtype) if flip else torch.ones_like(width)
    zero = torch.zeros_like(width)
    rows = [torch.stack([width * turned, zero, left], dim=1), torch.stack([zero, height, top], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class CutMix:
    """A view: one box in all images of a batch shows another image of it, the last in the first and so on (Yun et al.,
    ICCV 2019; Asano and Saeed, ICLR 2023).

    The box's sides are the root of a share of the image's, which is beta distributed with `alpha` twice, and its middle
    lies anywhere in the image, whose border cuts it off.
    """

    alpha: float

    def __call__(self, images: Tensor, streams: Streams, name: str, update: int) -> Tensor:
        """Return this rank's images (N, C, H, W) so, by the key of a random stream for the whole batch."""
        rng = streams.numpy(f"{name}/cutmix", update)
        height, width = images.shape[2:]
        rows, columns = cut_box(rng.beta(self.alpha, self.alpha), (rng.random(), rng.random()), height, width)
        others = ranks.mine(ranks.gather(images).flip(0))
        mixed = images.clone()
        mixed[:, :, rows, columns] = others[:, :, rows, columns]
        return mixed


def boxes_of_others(images: Tensor, streams: Streams, name: str, update: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return this rank's images (N, C, H, W), each with a box of another one of the whole batch at the same place;
    which image that is, (N,) int64; and the box's share of the area, (N,).

    Each box is drawn by itself: its area before the border cuts it off is a uniform share of the image's (Beta(1, 1)),
    its middle anywhere. The gradient reaches both images, whichever rank drew them.
    """
    count, (height, width) = len(images) * ranks.count(), images.shape[2:]
    order = streams.permutation(f"{name}/others", update, count)
    others, drawn = ranks.mine(order), ranks.mine(streams.uniform(f"{name}/boxes", update, (count, 3)))
    side = drawn[:, :1].sqrt() / 2

    def inside(length: int, middle: Tensor) -> Tensor:
        places = (torch.arange(length, device=images.device) + 0.5) / length
        return (places[None] - middle).abs() < side

    mask = inside(height, drawn[:, 1:2])[:, :, None] & inside(width, drawn[:, 2:])[:, None]
    whole = ranks.stacked(images).flatten(0, 1)
    mixed = torch.where(mask[:, None], whole[others], images)
    return mixed, others, mask.flatten(1).float().mean(dim=1)


def cut_box(own: float, middle: Sequence[float], height: int, width: int) -> tuple[slice, slice]:
    """Return rows and columns of a box beside which a share `own` of an image is left, where none of it is cut off;
    `middle` says where, in shares of the image's sides."""

    def side(length: int, at: float) -> slice:
        half = int(length * math.sqrt(1 - own)) // 2
        centre = int(at * length)
        return slice(max(centre - half, 0), min(centre + half, length))

    return side(height, middle[0]), side(width, middle[1])


@dataclass(frozen=True)
class Viewer:
    """Shows images to the teacher as the student will see them."""

    streams: Streams
    augmentation: Augmentation = "none"
    blocks: tuple[nn.Module, ...] = ()
    """Layers of the teacher whose outputs the student imitates, too."""
    then: View | None = None
    """What is done to the augmented images before they are shown."""

    def view(
        self, teacher: FrozenTeacher, images: Tensor, name: str, clock: Clock, clean: Response | None = None
    ) -> Batch:
        """Return the batch of images to learn from.

        Args:
            teacher: who answers.
            images: (N, C, H, W) in pixel units.
            name: of the random stream of the augmentation.
            clock: when.
            clean: the teacher's answer to the images as drawn, if it is known.
        """
        shown = augment(images, self.augmentation, self.streams, name, clock.update)
        shown = shown if self.then is None else self.then(shown, self.streams, name, clock.update)
        batch = Batch(images, torch.ones(len(images), device=images.device), clock=clock)
        batch.inputs["train"] = teacher.normalize(shown)
        again = clean is None or shown is not images or self.blocks
        probes = (Blocks(self.blocks),) if self.blocks else ()
        seen = teacher.respond(batch.inputs["train"], probes) if again or clean is None else clean
        batch.answers = {"clean": {"teacher": clean or seen}, "train": {"teacher": seen}}
        return batch
