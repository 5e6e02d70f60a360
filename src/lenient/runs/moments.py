"""Which mean and deviation a generator's images are to have, where its last layer fixes them: asked of the teacher.

A batch norm at the end (DAFL and heirs) gives all images together mean 0 and deviation 1 in the teacher's normalised
space: right where the teacher was normalised by the constants of its training images, and far off where it takes pixels
as they are. What its own batch norms stored tells which moments the images had.
"""

from __future__ import annotations

import logging
from itertools import product
from statistics import fmean

import torch
from torch import Tensor

from lenient.core.memory import memory_errors
from lenient.core.runtime import Runtime
from lenient.core.seeding import Streams, untouched_global_rng
from lenient.generators.upsampling import GeneratorSettings, UpsamplingGenerator
from lenient.models.card import Card, Network
from lenient.teacher.frozen import FrozenTeacher
from lenient.teacher.probes import BatchNorms

log = logging.getLogger("lenient")

Moments = tuple[float, float]

AS_RELEASED: Moments = (0.0, 1.0)
"""In the teacher's normalised space."""
USUAL: Moments = (0.45, 0.27)
"""Mean and deviation of pixels in photographs, near those of CIFAR and ImageNet: for who tells nothing."""
MEANS, DEVIATIONS = (0.1, 0.3, 0.5, 0.7, 0.9), (0.1, 0.2, 0.3, 0.4, 0.5)
"""Of pixels in [0, 1], that are tried first; then their neighbours, half a step away."""
STEP: Moments = (0.1, 0.05)
FAR, BETTER = 0.4, 0.35
"""Distance from which on moments as released are in doubt, and the share of it at which others are taken instead. Of
teachers of digits and MNIST with the constants of their images others came to 0.4 to 0.8 of a distance of 0.15 to 0.5,
of those without constants to 0.01 of 8 and more."""
PIXELS = 2**18
"""In the images of a trial, of each channel."""
LEAST = 1e-5
"""Added to variances: a channel may be constant."""


def fitting_moments(teacher: Network, runtime: Runtime, settings: GeneratorSettings) -> Moments | None:
    """Return mean and deviation, in the teacher's normalised space, of the images that its batch norms saw in training;
    None where 0 and 1 fit as well.

    Images of a generator with weights drawn by chance are given moments of many kinds; those win for which the means of
    all layers' inputs, in stored deviations, and the logarithms of the ratios of their variances are the smallest, as a
    mean of squares. A teacher without batch norms says nothing: `USUAL` it is where its constants are none of images.
    """
    if settings.output == "sigmoid" or settings.factory is not None:
        return None
    card = teacher.card
    with untouched_global_rng(), memory_errors(), FrozenTeacher(teacher, runtime) as frozen, torch.no_grad():
        if not frozen.batch_norms:
            found = None if _of_images(card) else _normalised(USUAL, card)
        else:
            found = _fitted(frozen, _drawn(card, settings, runtime), card)
    if found is not None:
        log.info("generator.output_moments %.2g, %.2g: the constants are not those of the teacher's images", *found)
    return found


def _drawn(card: Card, settings: GeneratorSettings, runtime: Runtime) -> Tensor:
    """Return images of mean 0 and deviation 1."""
    streams, count = Streams(0, runtime.device), min(max(PIXELS // (card.input_size[1] * card.input_size[2]), 8), 64)
    streams.seed_global("moments", 0)
    plain = settings.model_copy(update={"output_moments": None, "spectral_norm": False})
    generator = runtime.place(UpsamplingGenerator(card.input_size, plain))
    with runtime.autocast():
        images: Tensor = generator(streams.normal("moments", 0, (count, settings.latent_dim)).to(runtime.dtype))
    return (images - images.mean()) / images.std()


def _fitted(teacher: FrozenTeacher, images: Tensor, card: Card) -> Moments | None:
    def distance(moments: Moments) -> float:
        mean, deviation = moments
        layers = teacher.respond(images * deviation + mean, (BatchNorms(),)).of(BatchNorms)
        parts = [
            ((own.mean - own.running_mean).square() / (own.running_variance + LEAST)).mean()
            + ((own.variance + LEAST) / (own.running_variance + LEAST)).log().square().mean()
            for own in layers
        ]
        return float(torch.stack(parts).mean())

    def of_pixels(pixels: Moments) -> float:
        return distance(_normalised(pixels, card))

    released = distance(AS_RELEASED)
    if not released > FAR:  # the usual case, which costs one forward
        return None
    _, best = min((of_pixels(pixels), pixels) for pixels in product(MEANS, DEVIATIONS))
    around = [(best[0] + left * STEP[0], best[1] + up * STEP[1]) for left, up in product((-1, 0, 1), repeat=2)]
    nearest, best = min((of_pixels(pixels), pixels) for pixels in around)
    return _normalised(best, card) if nearest < BETTER * released else None


def _of_images(card: Card) -> bool:
    """Whether the constants can be those of images; assumed ones count, so that a look at the pixels still finds that
    they were wrong."""
    usual = all(0 < value < 1 for value in card.mean) and all(0.05 < value < 0.6 for value in card.std)
    return usual or any("ASSUMED" in note for note in card.notes)


def _normalised(pixels: Moments, card: Card) -> Moments:
    """Return moments of pixels as moments in the teacher's normalised space, one pair for all channels."""
    mean, deviation = fmean(card.mean), fmean(card.std)
    return round((pixels[0] - mean) / deviation, 4), round(pixels[1] / deviation, 4)
