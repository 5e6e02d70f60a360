"""Images in one folder per class: listing, and decoding on demand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from lenient.core import processors
from lenient.core.errors import UsageError
from lenient.pictures.folders import LeftOut, images_below, sub_folders
from lenient.pictures.reading import read_picture


class FolderImages:
    """Image files read as uint8 when asked for, and not kept.

    Each is scaled (bilinear, antialiased) until it just covers the target and cropped at the centre.
    """

    def __init__(self, paths: Sequence[Path], input_size: tuple[int, int, int]) -> None:
        self.paths = tuple(paths)
        self.input_size = input_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Decode the images at `index` (int64 (B,)) into uint8 (B, C, H, W), on a few threads."""
        paths = [self.paths[position] for position in index.tolist()]
        with ThreadPoolExecutor(min(8, processors.available())) as pool:
            return torch.stack(list(pool.map(lambda path: read_picture(path, self.input_size), paths)))

    def subset(self, index: Tensor) -> FolderImages:
        """Return the images at `index` (int64 positions), still undecoded."""
        return FolderImages([self.paths[position] for position in index.tolist()], self.input_size)


def class_folders(folder: Path) -> list[str]:
    """Return the sorted names of the sub-folders that hold images at any depth; [] if there is no such folder."""
    return [name for name in sub_folders(folder, Counter()) if any(images_below(folder / name, Counter()))]


def list_images(folder: Path, classes: Sequence[str]) -> tuple[list[Path], Tensor, LeftOut]:
    """List the images of `folder/<class>/`, sub-folders included, classes in the given order, files sorted.

    Returns paths, int64 labels (N,), and what in the folder was left out. Links to files are followed, and those of
    whole classes, but no others.

    Raises:
        UsageError: a folder with images is none of the classes, or one cannot be read.
    """
    left_out: LeftOut = Counter()
    found = {name: sorted(images_below(folder / name, left_out)) for name in sub_folders(folder, left_out)}
    left_out["folders without images"] += sum(not files for files in found.values())
    unknown = [name for name, files in found.items() if files and name not in classes]
    if unknown:
        raise UsageError(f"{folder}: class folder {unknown[0]!r} is no training class; rename or remove it")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = found.get(name, [])
        paths += files
        labels += [label] * len(files)
    return paths, torch.tensor(labels, dtype=torch.int64), +left_out


def order_of_numbers(classes: Sequence[str]) -> list[int] | None:
    """Return the places of classes that are told apart by a number, in the order of numbers; None if that is theirs."""
    parts = [re.fullmatch(r"(.*?)(\d+)", name, re.DOTALL) for name in classes]
    numbers = [int(part[2]) for part in parts if part]
    if len(numbers) < len(classes) or len({part[1] for part in parts if part}) > 1:
        return None
    order = sorted(range(len(classes)), key=lambda place: numbers[place])
    return None if order == list(range(len(classes))) else order
