"""Synthetic images with the teacher's answers as a data set, in memory or in a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from lenient.core import files
from lenient.core.errors import UsageError
from lenient.core.schemas import StoredImages, check, damaged, parse_json
from lenient.runs import formats
from lenient.runs.crops import Crops, cut
from lenient.runs.formats.columns import FILE, KEY
from lenient.runs.parts import About, Part

CURE = "make the images again"
ROWS = 256
"""Images that are written at a time."""


@dataclass(frozen=True, eq=False)
class SyntheticImages(About, Dataset[tuple[Tensor, Tensor]]):
    """Images that a teacher recognises, and what it says of each; item i is (image, soft labels).

    An item's image is (C, H, W) float32 in [0, 1], what a camera would give: who trains on it normalises it. Its soft
    labels are (K,) float32, the teacher's probabilities on just this image, in the order of `classes`.
    """

    images: Tensor
    """(N, C, H, W) uint8."""
    logits: Tensor
    """(N, K) float32: the teacher's, on each image as it is stored."""
    crops: Crops | None = None
    """Crops of each image with the teacher's answers to these, where they were asked for."""

    @property
    def soft_labels(self) -> Tensor:
        """Return the teacher's probabilities (N, K) float32; each row sums to 1."""
        return self.logits.softmax(dim=1)

    @property
    def labels(self) -> Tensor:
        """Return the class (N,) int64 that the teacher is surest of."""
        return self.logits.argmax(dim=1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index].float() / 255, self.logits[index].softmax(dim=0)

    def crop(self, index: int, number: int) -> tuple[Tensor, Tensor]:
        """Return one crop of image `index`, `number` from 0, as (image, soft labels): as an item, for just this crop.

        Raises:
            UsageError: they were made without crops.
        """
        if self.crops is None:
            raise UsageError("these images have no crops; make them with crops=10")
        crops = self.crops
        image = cut(self.images[index], crops.boxes[index, number], crops.flips[index, number])
        return image, crops.logits[index, number].float().softmax(dim=0)

    def parts(self) -> Iterator[Part]:
        """Yield all of it, some images at a time."""
        for start in range(0, len(self), ROWS):
            rows = slice(start, start + ROWS)
            crops = None if self.crops is None else self.crops[rows]
            yield Part(self.images[rows], self.logits[rows], crops)

    def save(self, folder: str | Path, format: str = "safetensors", *, overwrite: bool = False) -> None:
        """Write them to a folder, which is there whole or not at all: see `lenient.sample`.

        Args:
            folder: new or empty; with `overwrite`, or another data set of lenient's.
            format: safetensors, which `open` reads, png, imagefolder, webdataset or npz.
            overwrite: replace the data set in the folder.

        Raises:
            UsageError: the folder holds other files, or is none; or the format cannot hold such images.
            MachineError: the disk refuses.
        """
        channels, height, width = self.images.shape[1:]
        crops = 0 if self.crops is None else self.crops.flips.shape[1]
        shape = formats.Shape((channels, height, width), self.classes, crops)
        formats.check(format, shape)
        formats.check_place(Path(folder), overwrite)
        formats.check_space(format, len(self), shape, Path(folder))
        formats.write(Path(folder), format, self.parts(), shape, lambda: self)

    @classmethod
    def open(cls, folder: str | Path) -> SyntheticImages:
        """Return what `save` wrote as safetensors; the tensors are mapped, so that an image is read from the disk when
        it is used.

        Raises:
            UsageError: there are no such images.
            DamagedError: the file holds something else.
        """
        path = Path(folder) / FILE
        if files.kind_of(path) is None:
            raise UsageError(f"{folder}: holds no synthetic images; {FILE} is missing")
        try:
            files.reading(path).close()  # a file, no pipe
            with safe_open(path, "pt") as file:
                told = parse_json((file.metadata() or {})[KEY].encode())
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise damaged(path, str(error), CURE) from None
        check(StoredImages, told, path, CURE)
        crops = None if told["cropping"] is None else told["cropping"]["count"]
        return cls(**About.read(told), **_fitting(found, len(told["classes"]), crops, path))


def _fitting(found: dict[str, Tensor], classes: int, crops: int | None, path: Path) -> dict[str, Any]:
    """Return the tensors where they belong together; the images themselves are not looked at."""
    names = ["images", "logits"] + ([] if crops is None else ["crop_boxes", "crop_flips", "crop_logits"])
    for name in names:
        if name not in found:
            raise damaged(path, f"it has no tensor {name}", CURE)
    images, logits, *rest = (found[name] for name in names)
    sound = images.dim() == 4 and images.dtype == torch.uint8 and logits.dtype == torch.float32
    if not sound or logits.shape != (len(images), classes):
        raise damaged(path, "images (N, C, H, W) of 8 bits and logits (N, K) are expected", CURE)
    if crops is None:
        return {"images": images, "logits": logits}
    rows = (len(images), crops)
    expected = [((*rows, 4), torch.int32), (rows, torch.bool), ((*rows, classes), torch.float16)]
    if [(tuple(tensor.shape), tensor.dtype) for tensor in rest] != expected:
        raise damaged(path, "boxes (N, R, 4), flips (N, R) and logits (N, R, K) of R crops are expected", CURE)
    _check_boxes(rest[0], images.shape[2], images.shape[3], path)
    return {"images": images, "logits": logits, "crops": Crops(*rest)}


def _check_boxes(boxes: Tensor, height: int, width: int, path: Path) -> None:
    ends = boxes[..., :2] + boxes[..., 2:]
    inside = (
        (boxes[..., :2] >= 0).all() and (boxes[..., 2:] >= 1).all() and (ends <= ends.new_tensor([height, width])).all()
    )
    if not inside:
        raise damaged(path, f"a crop lies outside of images of {height}x{width} pixels", CURE)
