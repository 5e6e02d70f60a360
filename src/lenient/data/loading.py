"""DATA names to `ImageSet`s: digits, mnist, cifar10, cifar100, imagefolder:DIR."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from lenient.core.errors import UsageError
from lenient.core.text import nearest
from lenient.data.cifar import read_cifar10, read_cifar100
from lenient.data.folder import FolderImages, class_folders, list_images, order_of_numbers
from lenient.data.images import ImageSet
from lenient.data.raw import Raw
from lenient.data.small import read_digits, read_mnist
from lenient.data.splits import held_out
from lenient.pictures.folders import LeftOut, told

Size = tuple[int, int, int]

DATA_NAMES = ("digits", "mnist", "cifar10", "cifar100", "imagefolder:DIR")
SPLITS = ("train", "fit", "holdout", "test")
PARTS = ("train", "test", "val")
"""Folders of an image folder that hold class folders."""
HOLDOUT_SHARE, HOLDOUT_SALT = 0.1, 1
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
READERS: dict[str, Callable[[Path, bool], Raw]] = {
    "digits": read_digits,
    "mnist": read_mnist,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
}


def load_data(name: str, *, split: str, root: str | Path | None = None, input_size: Size | None = None) -> ImageSet:
    """Load one split of a data set.

    Args:
        name: `digits`, `mnist`, `cifar10`, `cifar100`, or `imagefolder:DIR` (DIR/train and DIR/test or DIR/val with one
            folder per class, or class folders right in DIR, which then are both "train" and "test"). Classes are the
            folders' names, sorted as text.
        split: `train` (all training images), `holdout` (a fixed tenth of each class of them, to choose settings on),
            `fit` (the other nine tenths) or `test`.
        root: where the files lie; None means the environment variable LENIENT_DATA, else `./data`. Not needed for
            `digits` and `imagefolder:`.
        input_size: (C, H, W) in which the images are handed out, C being 1 or 3; None means as stored, and
            (3, 224, 224) for an image folder.

    Raises:
        UsageError: unknown name or split, impossible size, or files that are missing or broken.
    """
    if split not in SPLITS:
        raise UsageError(f"--split {split}: unknown; there are {', '.join(SPLITS)}")
    if input_size is not None:
        _check_size(input_size)
    if name.startswith("imagefolder:"):
        return _image_folder(name, split, input_size or (3, 224, 224))
    if name not in READERS:
        near = f"imagefolder:{name}" if os.path.isdir(name) else nearest(name, DATA_NAMES)
        raise UsageError(f"--data {name}: unknown; the nearest is {near} (known: {', '.join(DATA_NAMES)})")
    folder = Path(root if root is not None else os.environ.get("LENIENT_DATA") or "data")
    raw = READERS[name](folder, split != "test")
    size = input_size or (raw.images.shape[1], raw.images.shape[2], raw.images.shape[3])
    mean, std = (_per_channel(values, size[0]) for values in (raw.mean, raw.std))
    whole = ImageSet(name, raw.title, split, raw.images, raw.labels, raw.classes, mean, std, size, raw.notes)
    return _part(whole)


def _part(whole: ImageSet) -> ImageSet:
    if whole.split not in ("fit", "holdout"):
        return whole
    marked = _marked(whole.labels)
    return whole.subset(marked if whole.split == "holdout" else ~marked)


def _marked(labels: Tensor) -> Tensor:
    marked = held_out(labels, HOLDOUT_SHARE, HOLDOUT_SALT)
    if not marked.any():
        raise UsageError("too few training images to hold out a tenth: --data needs at least 6 in one class")
    return marked


def _image_folder(name: str, split: str, size: Size) -> ImageSet:
    top = Path(name.removeprefix("imagefolder:")).expanduser()
    if name == "imagefolder:" or not top.is_dir():
        raise UsageError(f"--data {name}: no such folder; it must hold train/<class>/ and test/<class>/")
    known = {part: class_folders(top / part) for part in PARTS}
    flat = [] if any(known.values()) else class_folders(top)
    wanted = [part for part in (("test", "val") if split == "test" else ("train",)) if known[part]]
    if not flat and not wanted:
        parts = PARTS[1:] if split == "test" else PARTS[:1]
        expected = " or ".join(f"{top / part}/<class>/*.jpg|png" for part in parts)
        raise UsageError(f"--data {name}: no images for split {split!r}; expected {expected}")
    classes = flat or known["train"] or known[wanted[0]]
    paths, labels, left_out = list_images(top if flat else top / wanted[0], classes)
    notes = _notes(name if flat else f"{name}/{wanted[0]}", classes, left_out)
    mean, std = (_per_channel(values, size[0]) for values in IMAGENET)
    images = FolderImages(paths, size)
    return _part(ImageSet(name, top.name, split, images, labels, tuple(classes), mean, std, size, notes))


def _notes(name: str, classes: list[str], left_out: LeftOut) -> tuple[str, ...]:
    notes = [f"{name}: {told(left_out)}"] if left_out else []
    order = order_of_numbers(classes)
    if order is not None:
        place = next(place for place, other in enumerate(order) if place != other)
        notes.append(
            f"{name}: its folders sort as text, so that output {place} stands for {classes[place]!r}; if it stands "
            f"for {classes[order[place]]!r}, give the folders leading zeros (01, 02, ...)"
        )
    return tuple(notes)


def _check_size(size: Size) -> None:
    if len(size) != 3 or min(size) < 1 or size[0] not in (1, 3):
        text = ",".join(str(side) for side in size)
        raise UsageError(f"--input-size {text}: give C,H,W with 1 or 3 channels, for example 3,32,32")


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Repeat a grey constant for each channel, or average those of RGB for grey."""
    if len(values) == channels:
        return values
    return (sum(values) / len(values),) * channels
