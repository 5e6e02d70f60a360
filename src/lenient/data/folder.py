"""Images in one folder per class: listing, and decoding on demand."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from lenient.core.errors import UsageError
from lenient.data.pictures import SUFFIXES, read_picture

DESKTOP = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "icon\r"}
"""What desktops leave in any folder, besides names with a leading dot."""

LeftOut = Counter[str]
"""How many entries of each kind are no images."""


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
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return torch.stack(list(pool.map(lambda path: read_picture(path, self.input_size), paths)))

    def subset(self, index: Tensor) -> FolderImages:
        """Return the images at `index` (int64 positions), still undecoded."""
        return FolderImages([self.paths[position] for position in index.tolist()], self.input_size)


def class_folders(folder: Path) -> list[str]:
    """Return the sorted names of the sub-folders that hold images at any depth; [] if there is no such folder."""
    return [name for name in _sub_folders(folder, Counter()) if any(_images(folder / name, Counter()))]


def list_images(folder: Path, classes: Sequence[str]) -> tuple[list[Path], Tensor, LeftOut]:
    """List the images of `folder/<class>/`, sub-folders included, classes in the given order, files sorted.

    Returns paths, int64 labels (N,), and what in the folder was left out. Links to files are followed, and those of
    whole classes, but no others.

    Raises:
        UsageError: a folder with images is none of the classes, or one cannot be read.
    """
    left_out: LeftOut = Counter()
    found = {name: sorted(_images(folder / name, left_out)) for name in _sub_folders(folder, left_out)}
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


def told(left_out: LeftOut) -> str:
    """Say what was left out: `5 of its entries left out (.txt: 3, linked folders: 2)`."""
    kinds = [f"{kind}: {count}" for kind, count in left_out.most_common(4)]
    if len(left_out) > len(kinds):
        kinds.append("others")
    return f"{left_out.total()} of its entries left out ({', '.join(kinds)})"


def order_of_numbers(classes: Sequence[str]) -> list[int] | None:
    """Return the places of classes that are told apart by a number, in the order of numbers; None if that is theirs."""
    parts = [re.fullmatch(r"(.*?)(\d+)", name, re.DOTALL) for name in classes]
    numbers = [int(part[2]) for part in parts if part]
    if len(numbers) < len(classes) or len({part[1] for part in parts if part}) > 1:
        return None
    order = sorted(range(len(classes)), key=lambda place: numbers[place])
    return None if order == list(range(len(classes))) else order


def _sub_folders(folder: Path, left_out: LeftOut) -> list[str]:
    """Return the names of what may be classes, sorted."""
    if not folder.is_dir():
        return []
    names = []
    for entry in _entries(folder):
        if _is(entry, "dir"):
            names.append(entry.name)
        elif _is_image(entry):
            left_out["outside of the class folders"] += 1
        else:
            left_out[_kind(entry)] += 1
    return sorted(names)


def _images(folder: Path, left_out: LeftOut) -> Iterator[Path]:
    """Yield the images below a class's folder, in no order. Behind a link only the first level is looked at."""
    linked, waiting = folder.is_symlink(), [folder]
    while waiting:
        for entry in _entries(waiting.pop()):
            if entry.is_dir(follow_symlinks=False) and not linked:
                waiting.append(Path(entry.path))
            elif _is_image(entry):
                yield Path(entry.path)
            else:
                left_out[_kind(entry)] += 1


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a folder, but for hidden names and those of desktops."""
    try:
        with os.scandir(folder) as entries:
            yield from (e for e in entries if not e.name.startswith(".") and e.name.lower() not in DESKTOP)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror}); change its permissions or move it") from error


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and _is(entry, "file")


def _is(entry: os.DirEntry[str], kind: str) -> bool:
    try:
        return entry.is_dir() if kind == "dir" else entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _kind(entry: os.DirEntry[str]) -> str:
    if _is(entry, "dir"):
        return "linked folders"
    if not _is(entry, "file"):
        return "no regular files"
    suffix = os.path.splitext(entry.name)[1].lower()
    return suffix[:20] or "without an ending"
