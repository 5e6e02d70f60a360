"""Data sets of synthetic images as files: a folder in one of several formats, there whole or not at all.

A format is a function that takes the parts of a data set one after the other and writes them into an empty folder; what
all have in common, a card for people and one for programs, is written here.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lenient.core import files
from lenient.core.errors import UsageError
from lenient.core.files import disk_errors
from lenient.core.schemas import StoredDataSet, read_json
from lenient.core.text import VALUE, visible
from lenient.runs.formats import card, columns, pictures, shards
from lenient.runs.formats.shape import Shape, Write
from lenient.runs.parts import About, Part

__all__ = ["FORMATS", "Shape", "check", "check_place", "check_space", "write"]


@dataclass(frozen=True)
class Format:
    """One way to write a data set."""

    write: Write
    size: Callable[[Shape], int]
    """Bytes on the disk that an image takes at most, while it is written."""
    colours: tuple[int, ...] = ()
    """Channels that its pictures can have; empty where there are none, or any number will do."""
    crops: bool = True
    """Whether it has a place for crops."""


FORMATS = {
    "png": Format(pictures.write_png, pictures.png_size, crops=False),
    "imagefolder": Format(pictures.write_imagefolder, pictures.imagefolder_size, (1, 3)),
    "webdataset": Format(shards.write_webdataset, shards.webdataset_size, (1, 3)),
    "npz": Format(columns.write_npz, columns.columns_size),
    "safetensors": Format(columns.write_safetensors, columns.columns_size),
}
OURS = re.compile(
    r"README\.md|soft_labels\.safetensors|images\.(npz|safetensors)|labels\.csv|\d{6,}(-\d+)?\.png"
    r"|train-\d{6}\.tar|train/metadata\.jsonl|train/[^/]+/\d{6,}\.png|" + re.escape(card.FILE)
)
"""Files of a data set."""


def check(kind: str, shape: Shape | None = None) -> None:
    """Refuse a format that is none, or cannot hold such images; raises UsageError."""
    if kind not in FORMATS:
        raise UsageError(f"--format {visible(kind, VALUE)}: unknown; there are {', '.join(FORMATS)}")
    if shape is None:
        return
    form, channels = FORMATS[kind], shape.input_size[0]
    if form.colours and channels not in form.colours:
        raise UsageError(f"--format {kind}: pictures have 1 or 3 channels, not {channels}; take npz or safetensors")
    if shape.crops and not form.crops:
        others = ", ".join(name for name, other in FORMATS.items() if other.crops)
        raise UsageError(f"--crops {shape.crops}: --format {kind} has no place for them; there are {others}")


def check_place(folder: Path, overwrite: bool = False) -> None:
    """Refuse a folder that is not there to be filled: new, empty, or with `overwrite` another data set.

    A data set is replaced as a whole, so all that the folder holds must be of it: files of other names, links, and more
    or fewer files than were written are refused.

    Raises:
        UsageError: it holds something else, or is no folder.
        DamagedError: what describes the data set is.
    """
    files.check_folder(folder)
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"-o {folder}: is there and no empty folder; choose another, or --overwrite a data set there")
    told = read_json(folder / card.FILE, StoredDataSet, "choose another folder")
    if told is None:
        raise UsageError(f"-o {folder}: is no data set of lenient's, for {card.FILE} is missing; choose another folder")
    found = list(_below(folder))
    for name in found:
        if not OURS.fullmatch(name) or files.kind_of(folder / name) != "a file":
            raise UsageError(f"-o {folder}: {name} is not of the data set there; move it elsewhere")
    if len(found) != told["files"]:
        raise UsageError(
            f"-o {folder}: holds {len(found)} files, and {told['files']} were written; choose another folder"
        )


def _below(folder: Path) -> Iterator[str]:
    """Yield all that is no folder, links to folders among it, below a folder; empty folders that are not of it, too."""
    for place, folders, names in os.walk(folder):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        yield from ((here / name).relative_to(folder).as_posix() for name in (*names, *links))


def check_space(kind: str, count: int, shape: Shape, folder: Path) -> None:
    """Refuse more than the disk can take, at worst; raises UsageError."""
    needed = count * FORMATS[kind].size(shape)
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UsageError(
            f"-n {count}: up to {needed / 2**30:,.1f} GiB, and -o {folder} has {free / 2**30:,.1f} GiB left"
        )


def write(folder: Path, kind: str, parts: Iterable[Part], shape: Shape, about: Callable[[], About]) -> int:
    """Write a data set, which `check`, `check_place` and `check_space` let pass, and return how many images it has.

    Args:
        folder: what it holds is replaced once all is written.
        about: asked at the end, when all parts have been taken.

    Raises:
        MachineError: it cannot be written.
    """
    count = 0

    def counted() -> Iterator[Part]:
        nonlocal count
        for part in parts:
            count += len(part.images)
            yield part

    with disk_errors(folder), files.whole_folder(folder) as place:
        FORMATS[kind].write(place, counted(), shape, about)
        files.write(place / "README.md", card.readme(kind, count, shape, about()))
        held = 1 + sum(1 for _ in _below(place))
        files.write(place / card.FILE, card.described(kind, count, held, shape, about()))
    return count
