"""Terms that keep a class of images apart: each tells its latent vector, and lies far where latents do (KegNet)."""

from __future__ import annotations

import torch
from torch import Tensor

from lenient.core import ranks
from lenient.core.reductions import batch_mean, batch_size_of, batch_sum, full
from lenient.losses.objective import Needs
from lenient.teacher.batch import Batch


class LatentReconstruction:
    """Mean squared difference between the latents and what a decoder reads of the images, over batch and dimensions
    (KegNet). Independent of both numbers; about 1 where it reads nothing of standard normal latents."""

    label = "latents read back"

    def __init__(self, view: str = "clean") -> None:
        self.needs = Needs(view, decoder=True)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        if batch.latents is None or batch.decoded is None:
            raise ValueError("latents are read back of a generator's images, by a decoder")
        return batch_mean((full(batch.decoded) - full(batch.latents)).square().mean(dim=1))


class PairwiseDiversity:
    """exp(-mean over all pairs of images of the distance of their latents times theirs), within (0, 1] (KegNet).

    Distances are the mean square over dimensions, and the mean absolute difference over pixels of the normalised
    inputs; pairs of an image with itself count, as 0. About 0.1 for white noise, 1 where all images are one; its
    gradient fades where the mean is large. Takes memory of B^2 and no more.
    """

    label = "diversity"

    def __init__(self, view: str = "clean") -> None:
        self.view = view
        self.needs = Needs(view)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        if batch.latents is None:
            raise ValueError("diversity is asked of a generator's images")
        latents, images = full(batch.latents), full(batch.inputs[self.view]).flatten(1)
        others = ranks.stacked(images).flatten(0, 1)
        far = (latents[:, None] - ranks.gather(latents)[None]).square().mean(dim=2)
        apart = torch.cdist(images, others, p=1) / images.shape[1]
        return (-batch_sum((far * apart).sum(dim=1)) / batch_size_of(images) ** 2).exp()
