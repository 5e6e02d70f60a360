"""A folder of pictures held in memory: read once, in one size, as 8 bit, as many as fit."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lenient.core import processors, ranks
from lenient.core.errors import UsageError
from lenient.core.seeding import derive
from lenient.core.text import VALUE, visible
from lenient.pictures.folders import LeftOut, images_below, told
from lenient.pictures.reading import read_picture

log = logging.getLogger("lenient")

FLAG = "--proxy-images"
CHUNK = 1024
"""Files that wait for a thread at a time."""
NAMED = 3
"""Files that cannot be read and are named; the others are counted."""


class Listing(NamedTuple):
    """The picture files below a folder."""

    folder: str
    """As the user wrote it."""
    files: tuple[str, ...]
    """Paths below it, sorted."""
    facts: tuple[tuple[int, int], ...]
    """Of each its bytes, and when it was last written, in nanoseconds."""
    left_out: tuple[tuple[str, int], ...]
    """How many entries of each kind are none."""

    @property
    def flag(self) -> str:
        """What messages about it begin with."""
        return f"{FLAG} {visible(self.folder, VALUE)}"

    @property
    def top(self) -> Path:
        """The folder itself, links resolved."""
        return Path(os.path.realpath(os.path.expanduser(self.folder)))

    def sha256(self) -> str:
        """Return a hash of names and sizes, by which two folders of the same files are one wherever they lie."""
        digest = hashlib.sha256()
        for name, (size, _) in zip(self.files, self.facts, strict=True):
            digest.update(os.fsencode(name) + b"\0%d\0" % size)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures without labels: `pixels` uint8 (N, C, H, W) on the CPU, C being 1 or 3."""

    name: str
    """`proxy:FOLDER`, the folder's last name: what reports call it."""
    pixels: Tensor
    notes: tuple[str, ...]
    """A line for each thing that whoever uses them should know: what was left out."""

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def sha256(self) -> str:
        """A hash of all pixels in their order: what a run depends on."""
        digest = hashlib.sha256(str(tuple(self.pixels.shape)).encode())
        for part in self.pixels.split(CHUNK):
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()


def listed(folder: str) -> Listing:
    """List the pictures below a folder, sub-folders included, whatever these are called; links to files are followed,
    those to folders not.

    Raises:
        UsageError: there is no such folder, no picture in it, or a folder that cannot be read.
    """
    top = os.path.realpath(os.path.expanduser(folder))
    where = f"{FLAG} {visible(folder, VALUE)}"
    if not os.path.isdir(top):
        raise UsageError(f"{where}: no such folder; name one with pictures in it, or in folders below")
    left_out: LeftOut = Counter()
    try:
        files = sorted(os.path.relpath(path, top) for path in images_below(Path(top), left_out))
    except UsageError as error:
        raise UsageError(f"{FLAG} {error}") from error
    if not files:
        raise UsageError(f"{where}: holds no picture (.jpg, .png and the like); name another folder")
    facts = tuple(_facts(os.path.join(top, name)) for name in files)
    return Listing(folder, tuple(files), facts, tuple(sorted((+left_out).items())))


def _facts(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:  # it is gone by now; reading it will say so
        return -1, -1
    return status.st_size, status.st_mtime_ns


def held(folder: str, input_size: tuple[int, int, int], seed: int, mebibytes: int) -> Pictures:
    """Return the pictures of a folder, each scaled until it just covers H x W, and cropped at the centre.

    For networks of one channel they are grey by luma, for all others RGB. What cannot be read is left out and named.
    The last pictures held stay in memory, for the next who asks for the same.

    Args:
        folder: where they lie.
        input_size: (C, H, W).
        seed: draws those that are held, where there are more than fit.
        mebibytes: what they may take.

    Raises:
        UsageError: as `listed`; not one fits, or can be read; or ranks see different files.
    """
    listing = listed(folder)
    if ranks.agree(listing.sha256()) != listing.sha256():
        raise UsageError(f"{listing.flag}: holds other files on rank {ranks.rank()} than on rank 0; share one folder")
    return _read(listing, (1 if input_size[0] == 1 else 3, *input_size[1:]), seed, mebibytes)


@lru_cache(maxsize=1)
def _read(listing: Listing, size: tuple[int, int, int], seed: int, mebibytes: int) -> Pictures:
    notes = [f"{listing.flag}: {told(Counter(dict(listing.left_out)))}"] if listing.left_out else []
    files, room = listing.files, mebibytes * 2**20 // (size[0] * size[1] * size[2])
    if not room:
        raise UsageError(f"-s source.proxy_memory={mebibytes}: not one picture fits into so many MiB; give more")
    if len(files) > room:
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(derive(seed, "proxy/files")))
        files = tuple(files[place] for place in sorted(order[:room].tolist()))
        notes.append(
            f"{listing.flag}: {room:,} of {len(listing.files):,} pictures are used, drawn by the seed: no more fit "
            f"into {mebibytes:,} MiB (-s source.proxy_memory)"
        )
    if ranks.is_main():
        log.info("%s: reading %d pictures", listing.flag, len(files))
    pixels, bad = _decoded(listing.top, files, size)
    if not len(pixels):
        raise UsageError(f"{FLAG} {bad[0]}; not one of its {len(files)} pictures can be read")
    if bad:
        rest = f"; and {len(bad) - NAMED} others" if len(bad) > NAMED else ""
        many = f"{len(bad)} of {len(files)} pictures cannot be read and are left out"
        notes.append(f"{listing.flag}: {many}: {'; '.join(bad[:NAMED])}{rest}")
    name = visible(listing.top.name or os.sep, VALUE)
    return Pictures(f"proxy:{name}", pixels, tuple(notes))


def _decoded(top: Path, files: Sequence[str], size: tuple[int, int, int]) -> tuple[Tensor, list[str]]:
    """Return what can be read, (N, C, H, W) uint8, and of the other files a line each."""
    pixels, bad, count = torch.empty(len(files), *size, dtype=torch.uint8), list[str](), 0

    def read(name: str) -> Tensor | str:
        try:
            return read_picture(top / name, size)
        except UsageError as error:
            return visible(str(error).removeprefix(f"{top}{os.sep}").removesuffix("; remove or replace it"))

    for found in _on_threads(read, files):
        if isinstance(found, str):
            bad.append(found)
        else:
            pixels[count] = found
            count += 1
    return pixels[:count], bad


def _on_threads(read: Callable[[str], Tensor | str], files: Sequence[str]) -> Iterator[Tensor | str]:
    with ThreadPoolExecutor(min(8, processors.available())) as pool:
        for start in range(0, len(files), CHUNK):
            yield from pool.map(read, files[start : start + CHUNK])
