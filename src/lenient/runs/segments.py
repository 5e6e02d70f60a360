"""Checkpoints without what is written once: rows that are new go to a file beside them, which never changes.

A file is called by the hash of what it holds, so no other content can come to stand under its name. What is too little
for a file stays in the checkpoint, so that however often one is written, files stay few.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lenient.core import files, schemas
from lenient.core.manifest import SEGMENTS, Manifest
from lenient.core.segments import MOST, Segment, Segments

LEAST, SHARE = 2**20, 256
"""Bytes of the smallest file; and it holds no less than one part in so many of all rows that there are."""
DIGITS = 32
"""Of the SHA-256 that a file is called by, hexadecimal."""


def set_apart(state: Mapping[str, Any], manifest: Manifest) -> tuple[dict[str, Any], set[str]]:
    """Write what is new of the `Segments` in a state to files in the folder of a manifest.

    Returns the state as its checkpoint holds it, and the names of all files that it needs.

    Raises:
        UsageError: something is there that no run wrote.
        OSError: the disk refuses.
    """
    plain, told, needed = dict(state), [], set[str]()
    for path, segments in _found(state):
        rest = _write(segments, manifest)
        plain = _put(plain, path, None)
        entries = [asdict(segment) for segment in segments.files]
        told.append(
            {"path": [*path], "first": segments.first, "end": segments.end, "files": entries, "rest": rest},
        )
        needed |= {SEGMENTS + segment.name for segment in segments.files}
    return {**plain, "segments": told}, needed


def _found(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Segments]]:
    if isinstance(value, Segments):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _found(inner, (*path, key))


def _put(tree: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return a tree that has another value in one place; raises KeyError or TypeError where there is none."""
    key, *more = path
    return {**tree, key: _put(tree[key], (*more,), value) if more else value}


def _write(segments: Segments, manifest: Manifest) -> dict[str, Tensor]:
    """Write rows that are in no file yet, and enter the files; returns the rows that are too few for one."""
    kept = [segment for segment in segments.files if segment.end > segments.first]
    there = (SEGMENTS + segment.name in manifest.named and not _wrong(manifest.folder, segment) for segment in kept)
    if not all(there):
        kept = []  # what has gone is written again
    segments.files[:] = kept
    start = kept[-1].end if kept else segments.first
    for part in segments.parts(start):
        rows = {name: value.cpu().contiguous() for name, value in part.items()}
        count = len(next(iter(rows.values())))
        size = sum(value.nbytes for value in rows.values())
        if size < min(max(LEAST, size // count * (segments.end - segments.first) // SHARE), MOST):
            return rows  # the last ones: the parts before are as large as they come
        segments.files.append(_write_one(rows, start, start + count, manifest))
        start += count
    return {}


def _write_one(rows: dict[str, Tensor], first: int, end: int, manifest: Manifest) -> Segment:
    content = save(rows)
    name = f"{hashlib.sha256(content).hexdigest()[:DIGITS]}.safetensors"
    manifest.claim(SEGMENTS + name)
    (manifest.folder / SEGMENTS).mkdir(exist_ok=True)
    files.write(manifest.folder / SEGMENTS / name, content)
    return Segment(name, first, end, len(content))


def put_back(state: dict[str, Any], checkpoint: Path, device: torch.device) -> dict[str, Any]:
    """Return a state with the `Segments` that its checkpoint was written without; files are read when rows are.

    Raises:
        DamagedError: one is missing or no longer what it was; `Segments.parts` raises it, too.
    """
    folder = checkpoint.parents[1]
    for number, told in enumerate(state.pop("segments", [])):
        kept = [Segment(**entry) for entry in told["files"]]
        for segment in kept:
            wrong = _wrong(folder, segment)
            if wrong is not None:
                raise schemas.damaged(folder / SEGMENTS / segment.name, wrong, schemas.ANEW)
        if any(one.end != following.first for one, following in pairwise(kept)):
            raise schemas.damaged(checkpoint, f"segments.{number}.files: there is a gap", schemas.ANEW)
        parts = partial(_parts, folder, kept, told["rest"], device)
        try:
            state = _put(state, (*told["path"],), Segments(told["first"], told["end"], parts, kept))
        except (KeyError, TypeError):
            why = f"segments.{number}.path: the state has no such place"
            raise schemas.damaged(checkpoint, why, schemas.ANEW) from None
    return state


def _wrong(folder: Path, segment: Segment) -> str | None:
    """Say what is wrong with a file as far as can be seen without reading it."""
    path = folder / SEGMENTS / segment.name
    kind = files.kind_of(path)
    if kind != "a file":
        return "it is missing" if kind is None else f"it is {kind}"
    size = path.stat().st_size
    return None if size == segment.bytes else f"it has {size} bytes, the checkpoint says {segment.bytes}"


def _parts(
    folder: Path, kept: list[Segment], rest: Mapping[str, Tensor], device: torch.device, start: int
) -> Iterator[dict[str, Tensor]]:
    """Yield rows from files, and last those that a checkpoint holds itself."""
    for segment in kept:
        rows = _read_one(folder / SEGMENTS / segment.name, segment.bytes)
        if any(len(value) != segment.end - segment.first for value in rows.values()):
            raise ValueError("it has not as many rows as it says")
        yield {name: value[max(start - segment.first, 0) :].to(device) for name, value in rows.items()}
    if rest:
        yield {name: value.to(device) for name, value in rest.items()}


def _read_one(path: Path, size: int) -> dict[str, Tensor]:
    try:
        content = files.read_bytes(path, size)
        if hashlib.sha256(content).hexdigest()[:DIGITS] != path.stem:
            raise ValueError("it holds something else than was written")
        return load(content)
    except OSError as error:
        raise schemas.damaged(path, error.strerror or type(error).__name__, schemas.ANEW) from None
    except (ValueError, SafetensorError) as error:
        raise schemas.damaged(path, str(error), schemas.ANEW) from None
