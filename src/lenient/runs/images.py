"""Synthetic images with the teacher's soft labels as a data set, in memory or in a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import Dataset

from lenient.core import files
from lenient.core.errors import UsageError
from lenient.core.files import disk_errors
from lenient.core.schemas import StoredImages, check, damaged, parse_json
from lenient.training.verdict import Check, Health

FILE = "images.safetensors"
"""The one file in a folder of such images."""
KEY = "lenient"
"""Of its metadata, which hold as JSON what is no tensor."""
CURE = "make the images again"


@dataclass(frozen=True, eq=False)
class SyntheticImages(Dataset[tuple[Tensor, Tensor]]):
    """Images that a teacher recognises, and what it says of each; item i is (image, soft labels).

    An item's image is (C, H, W) float32 in [0, 1], what a camera would give: who trains on it normalises it. Its soft
    labels are (K,) float32, the teacher's probabilities on just this image, in the order of `classes`.
    """

    images: Tensor
    """(N, C, H, W) uint8."""
    soft_labels: Tensor
    """(N, K) float32; each row sums to 1."""
    classes: tuple[str, ...]
    """Names of the K classes, their numbers where the teacher has none."""
    steps: int
    """Student updates made beside the images; of a run that was drawn from, all of its own."""
    seconds: float
    """That making them took; of a run that was drawn from, drawing them."""
    health: Health
    """The verdict about the images: all of a run's checks but that of its student."""
    clipped: float
    """Share, in [0, 1], of the values that lay outside of [0, 1] and were clipped to 8 bit."""

    @property
    def labels(self) -> Tensor:
        """Return the class (N,) int64 that the teacher is surest of."""
        return self.soft_labels.argmax(dim=1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index].float() / 255, self.soft_labels[index]

    def save(self, folder: str | Path) -> None:
        """Write them to a folder that is new or empty; the file is there whole or not at all.

        Raises:
            UsageError: the folder holds files, or is none.
            MachineError: the disk refuses.
        """
        path = check_empty(folder)
        told = {
            "classes": list(self.classes),
            "steps": self.steps,
            "seconds": self.seconds,
            "health": asdict(self.health),
            "clipped": self.clipped,
        }
        tensors = {"images": self.images.contiguous(), "soft_labels": self.soft_labels.contiguous()}
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            files.write(path / FILE, save(tensors, {KEY: json.dumps(told)}))

    @classmethod
    def open(cls, folder: str | Path) -> SyntheticImages:
        """Return what `save` wrote; the tensors are mapped, so that an image is read from the disk when it is used.

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
                images, soft_labels = file.get_tensor("images"), file.get_tensor("soft_labels")
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise damaged(path, str(error), CURE) from None
        check(StoredImages, told, path, CURE)
        return cls(
            *_fitting(images, soft_labels, len(told["classes"]), path),
            tuple(told["classes"]),
            told["steps"],
            told["seconds"],
            Health(**told["health"] | {"checks": [Check(**found) for found in told["health"]["checks"]]}),
            told["clipped"],
        )


def _fitting(images: Tensor, soft_labels: Tensor, classes: int, path: Path) -> tuple[Tensor, Tensor]:
    """Return both where they belong together; the images themselves are not looked at."""
    sound = images.dim() == 4 and images.dtype == torch.uint8 and soft_labels.dtype == torch.float32
    if not sound or soft_labels.shape != (len(images), classes):
        raise damaged(path, "images (N, C, H, W) of 8 bits and soft labels (N, K) are expected", CURE)
    return images, soft_labels


def check_empty(folder: str | Path) -> Path:
    """Return a folder that is new or empty; raises UsageError for any other, and for what is none."""
    path = Path(folder)
    if (path.is_symlink() or path.exists()) and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"-o {path}: is there and no empty folder; choose another")
    return path
