"""The user's pictures among the images of any method: maps its algorithm to one whose student sees both."""

from __future__ import annotations

from dataclasses import replace

from lenient.methods.contract import Algorithm, Context
from lenient.synthesis.mixed import Mixed
from lenient.synthesis.proxy import Proxy, SourceSettings
from lenient.synthesis.source import Source
from lenient.synthesis.views import CutMix, Viewer


def mixed(algorithm: Algorithm, context: Context, settings: SourceSettings, share: float) -> Algorithm:
    """Return the algorithm with `share` of each student batch from the user's pictures.

    Nothing else changes: what makes the method's images, and what it selects of them, goes on as without, and data sets
    of synthetic images hold the method's own. The student minimises on pictures what it minimises on those. At least
    one image is a picture where the share is above 0.

    Raises:
        UsageError: the student's step takes no other source, or the share does not divide among the ranks.
    """
    pictures, size = context.pictures, context.batch_size
    assert pictures is not None, "the settings name a folder"
    count = max(1, round(share * size))

    def among(own: Source, viewer: Viewer) -> Source:
        """Put pictures, shown in their own way with what is probed of the method's images, among these."""
        then = CutMix(settings.proxy_cutmix) if settings.proxy_cutmix else None
        shown = replace(viewer, augmentation=settings.proxy_augmentation, then=then)
        others = Proxy(
            pictures, context.teacher, shown, context.runtime, context.streams, count, settings.proxy_selection
        )
        return Mixed(own, others, size, count)

    changed, told = algorithm.fed(among), f"{count} of {size} images are pictures"
    unasked = [f"--proxy-images: {told} (-s source.proxy_share)"] if settings.proxy_share is None else []
    return replace(
        changed,
        images=algorithm.source if algorithm.images is None else algorithm.images,
        parts={**algorithm.parts, "pictures": told},
        notes=(*algorithm.notes, *unasked, *pictures.notes),
        foreign=(*algorithm.foreign, pictures.name),
    )
