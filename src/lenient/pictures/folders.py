"""Which picture files lie in a folder, and what of it is left out. Nothing is opened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lenient.core import files
from lenient.core.errors import UsageError
from lenient.pictures.reading import SUFFIXES

LeftOut = Counter[str]
"""How many entries of each kind are no images."""


def told(left_out: LeftOut) -> str:
    """Say what was left out: `5 of its entries left out (.txt: 3, linked folders: 2)`."""
    kinds = [f"{kind}: {count}" for kind, count in left_out.most_common(4)]
    if len(left_out) > len(kinds):
        kinds.append("others")
    return f"{left_out.total()} of its entries left out ({', '.join(kinds)})"


def sub_folders(folder: Path, left_out: LeftOut) -> list[str]:
    """Return the sorted names of the folders in a folder, linked ones too; [] if there is no such folder.

    Raises:
        UsageError: it cannot be read.
    """
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


def images_below(folder: Path, left_out: LeftOut) -> Iterator[Path]:
    """Yield the images below a folder, in no order. Behind a link only the first level is looked at.

    Raises:
        UsageError: it, or a folder in it, cannot be read.
    """
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
            yield from (e for e in entries if not files.hidden(e.name))
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
