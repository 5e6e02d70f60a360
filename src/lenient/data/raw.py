"""What a reader returns: one part (training or test) of a data set as stored."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from lenient.core.errors import UsageError
from lenient.models.names import one_line

LIMIT = 2**28
"""Bytes of the largest data file, as it is and unpacked; the largest of the known sets is 148 MiB."""


class Raw(NamedTuple):
    """`images` uint8 (N, C, H, W), `labels` int64 (N,) into `classes`, constants to normalise with in pixel units."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    title: str
    notes: tuple[str, ...] = ()


def missing(name: str, root: Path, expected: str) -> UsageError:
    """Return the error for files that are not there; `expected` names them relative to the root."""
    return UsageError(f"{name}: nothing found under {root}; expected {expected}: set --data-root (or LENIENT_DATA)")


def broken(path: Path, what: str) -> UsageError:
    """Return the error for a file that cannot be used."""
    return UsageError(f"{path}: {what}; fetch the file again or choose another --data-root")


def said(error: BaseException) -> str:
    """Return what an error says, in one line: of those of the system and our own only the words."""
    words = error.strerror if isinstance(error, OSError) else str(error) if isinstance(error, ValueError) else None
    return words or one_line(error)
