"""`ImageSet`: labelled 8-bit images and what a network must know about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lenient.core.errors import UsageError
from lenient.core.runtime import sent
from lenient.data.augment import AUGMENTS, Augment
from lenient.data.folder import FolderImages

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL converts RGB to grey


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one split.

    `images` is uint8 (N, C, H, W), or `FolderImages`, which decodes when asked; `labels` is int64 (N,), indices into
    `classes`. `mean` and `std` are the constants to normalise with, in pixel units (real images lie in [0, 1]), one per
    channel of `input_size` = (C, H, W): the size in which `batches` hands images out, whatever the stored one is.
    `title` names the data in tables ("CIFAR-10 (JPEG)"). `notes` has a line for each thing that whoever uses the data
    should know: what was left out, an order of classes that may be another than the network's.
    """

    name: str
    title: str
    split: str
    images: Tensor | FolderImages
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, int, int]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> ImageSet:
        """Return the images at `index` (int64 positions or a bool mask (N,)), same classes and constants."""
        if index.dtype == torch.bool:
            index = index.nonzero().flatten()
        images = self.images[index] if isinstance(self.images, Tensor) else self.images.subset(index)
        return dataclasses.replace(self, images=images, labels=self.labels[index])

    def to(self, device: str | torch.device) -> ImageSet:
        """Return a set whose stored images lie on `device` (images in files stay there), for many passes over it."""
        if not isinstance(self.images, Tensor):
            return self
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def batches(
        self,
        batch_size: int,
        *,
        generator: torch.Generator | None = None,
        device: str | torch.device | None = None,
        augment: str | Augment = "none",
        drop_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images float32 (B, C, H, W) in [0, 1], labels int64 (B,)), each image once.

        With a CPU `generator` the order is random and `augment` (a key of `AUGMENTS`, or a function of images in
        0..255 and the generator) draws from it too; without one the order is the stored one. `device` None means
        where the images are stored. `drop_last` leaves out an incomplete last batch unless it is the only one.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        change = _augment(augment)
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        chunks = list(sent(order, self.labels.device).split(batch_size))
        if drop_last and len(chunks) > 1 and len(chunks[-1]) < batch_size:
            chunks.pop()
        for chunk, stored in zip(chunks, self._stored(chunks), strict=True):
            target = self.labels.device if device is None else torch.device(device)
            images = fitted(sent(stored, target), self.input_size)
            yield change(images, generator).float().div_(255), sent(self.labels[chunk], target)

    def _stored(self, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the stored images of each chunk; files are decoded one batch ahead."""
        images = self.images
        if isinstance(images, Tensor):
            yield from (images[chunk] for chunk in chunks)
            return
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(images.__getitem__, chunks[0])
            for following in chunks[1:]:
                ready, pending = pending.result(), pool.submit(images.__getitem__, following)
                yield ready
            yield pending.result()


def fitted(images: Tensor, input_size: tuple[int, int, int]) -> Tensor:
    """Fit images in 0..255 (N, C, H, W) to `input_size`: grey to RGB or back, then bilinear with antialiasing.

    Images that fit come back untouched (uint8 stays uint8), others as float32.
    """
    channels, height, width = input_size
    if images.shape[1] == 1 and channels == 3:
        images = images.expand(-1, 3, -1, -1)
    elif images.shape[1] == 3 and channels == 1:
        weights = torch.tensor(LUMA, device=images.device).view(1, 3, 1, 1)
        images = (images.float() * weights).sum(1, keepdim=True)
    if images.shape[2:] != (height, width):
        images = F.interpolate(images.float(), (height, width), mode="bilinear", antialias=True)
    return images


def _augment(augment: str | Augment) -> Augment:
    if not isinstance(augment, str):
        return augment
    if augment not in AUGMENTS:
        raise UsageError(f"unknown augment {augment!r}: use one of {', '.join(AUGMENTS)}")
    return AUGMENTS[augment]
