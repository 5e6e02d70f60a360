"""Batches whose parameters are the pixels: how they are optimised, how they are shown, and what joins the pool."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lenient.core.errors import UsageError
from lenient.core.rates import rate_factor
from lenient.losses.objective import Objective
from lenient.methods.batches import Batches, Place, Shown
from lenient.methods.contract import Context, adam
from lenient.methods.inversion import InversionSettings, all_of
from lenient.synthesis.pixel_views import PixelView, ViewSettings
from lenient.synthesis.pixels import Pixels, balanced
from lenient.teacher.batch import Clock

Beta = Annotated[float, Field(ge=0, lt=1)]


class PixelSettings(InversionSettings):
    """Settings of the pixels."""

    uses: ClassVar[tuple[str, ...]] = ("defense.shuffle",)

    pixels_lr: float = Field(0.05, ge=0, le=1e3)
    """Learning rate of the pixels' Adam, which starts anew with each batch (CIFAR code: 0.05)."""
    pixels_betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Betas of this Adam (CIFAR code: 0.9 and 0.999; ImageNet code and SRe2L: 0.5 and 0.9)."""
    pixels_schedule: Literal["constant", "cosine"] = "constant"
    """How its rate falls in the course of a batch (CIFAR code: constant; ImageNet code and SRe2L: to 0 on a cosine)."""
    jitter: int = Field(2, ge=0, le=1000)
    """Largest shift of the batch, in pixels and in a circle, before each step (CIFAR code: 2); with a border its window
    moves instead."""
    view: ViewSettings = ViewSettings()
    """How pixels are shown besides."""
    keep: Literal["best", "last"] = "best"
    """Which iterate of a batch joins the pool: that of the least loss (paper), or the last one (SRe2L), for losses say
    little where each step sees other parts of the images."""


def pixel_batches(context: Context, settings: PixelSettings, objective: Objective, pieces: int = 1) -> Batches:
    """Return batches of pixels in the teacher's normalised space, of classes in equal shares, in so many equal pieces.

    Raises:
        UsageError: a batch does not divide into its pieces.
    """
    s, teacher, streams, runtime = settings, context.teacher, context.streams, context.runtime
    images = s.images_of(context)
    if images % pieces:
        raise UsageError(
            f"-s method.statistics.over.pieces={pieces}: a batch of {images} images does not divide into them; "
            "change it, or -s method.batch_images"
        )
    channels, *size = teacher.card.input_size
    dark = torch.zeros(1, channels, 1, 1, device=runtime.device, dtype=runtime.dtype)
    view = PixelView(s.view, s.jitter, teacher.normalize(dark), teacher.normalize(dark + 1), streams)

    def noise(wanted: int, extra: int, name: str, update: int) -> Tensor:
        shape = (wanted, channels, *(length + extra for length in size))
        drawn = runtime.images(streams.normal(name, update, shape).to(runtime.dtype))
        view.clip_(drawn)
        return drawn

    def piece(place: int, number: int) -> Tensor:
        return noise(images, view.extra, "pixels", number).chunk(pieces)[place]

    def show(clock: Clock, place: Place) -> Shown:
        own = pixels[place.piece].images
        shown = runtime.images(view(own, place.done, clock.update))
        return Shown(teacher.denormalize(shown.detach()), shown, own.detach().clone())

    def follow(ends: bool, bad: Tensor) -> None:
        for own in pixels:
            view.clip_(own.images)

    def finished(own: Pixels) -> Tensor:
        kept = own.best if s.keep == "best" else own.images.detach()
        return teacher.denormalize(view.finished(kept))

    pixels = [Pixels(partial(piece, place)) for place in range(pieces)]
    return Batches(
        "pixels",
        pixels,
        adam(all_of(pixels), s.pixels_lr, s.pixels_betas),
        objective,
        show,
        partial(balanced, images, teacher.card.num_classes),
        start=lambda wanted, name, update: teacher.denormalize(noise(wanted, 0, name, update)),
        finished=finished,
        rate=partial(rate_factor, s.pixels_schedule),
        follow=follow,
        parts={"sampler": "pixels", "labels": "balanced"},
    )
