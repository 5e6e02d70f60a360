"""One file of arrays with a row for each image: safetensors or numpy's npz."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lenient.core import files
from lenient.runs.formats.shape import Shape
from lenient.runs.parts import About, Part

FILE = "images.safetensors"
KEY = "lenient"
"""Of its metadata, which hold as JSON what is no tensor."""
NAMES = {"int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL", "float32": "F32", "float16": "F16"}
"""What safetensors calls numpy's types."""


def columns_size(shape: Shape) -> int:
    """Return the bytes of an image: twice, for columns lie in files of their own until all are there."""
    return 2 * (shape.pixel_bytes + shape.label_bytes)


def write_safetensors(folder: Path, parts: Iterator[Part], shape: Shape, about: Callable[[], About]) -> None:
    """Write `images.safetensors`, which `SyntheticImages.open` reads."""
    with Columns(folder) as columns:
        for part in parts:
            columns.add(part.columns())
        columns.as_safetensors(folder / FILE, {KEY: json.dumps(about().to_dict())})


def write_labels(folder: Path, columns: Columns) -> None:
    """Write `soft_labels.safetensors`: the columns of labels, for pictures that lie beside them."""
    columns.as_safetensors(folder / "soft_labels.safetensors", {})


def write_npz(folder: Path, parts: Iterator[Part], shape: Shape, about: Callable[[], About]) -> None:
    """Write `images.npz`, which `numpy.load` reads; it has the names of the classes, too."""
    with Columns(folder) as columns:
        for part in parts:
            columns.add(part.columns())
        columns.as_npz(folder / "images.npz", classes=np.array(about().classes))


@dataclass
class _Column:
    file: IO[bytes]
    dtype: np.dtype[Any]
    row: tuple[int, ...]
    count: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.count, *self.row

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def copy(self, target: IO[bytes]) -> None:
        self.file.seek(0)
        shutil.copyfileobj(self.file, target, 2**20)


class Columns:
    """Arrays that grow by rows, each in a file without a name, since a file of them all begins with how long they are.

    Neither library writes an array of which it does not hold the whole, so both kinds of files are put together here;
    what they look like is fixed by their specifications.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._columns, self._stack = folder, dict[str, _Column](), ExitStack()

    def __enter__(self) -> Columns:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self, rows: dict[str, NDArray[Any]]) -> None:
        """Append rows to each column."""
        for name, array in rows.items():
            if name not in self._columns:
                file = self._stack.enter_context(tempfile.TemporaryFile(dir=self.folder))  # noqa: SIM115
                self._columns[name] = _Column(file, array.dtype, array.shape[1:])
            column = self._columns[name]
            column.file.write(array.data)
            column.count += len(array)

    def as_safetensors(self, path: Path, metadata: dict[str, str]) -> None:
        """Write them as one file of tensors, wide types first, so that each is aligned."""
        order = sorted(self._columns.items(), key=lambda item: -item[1].dtype.itemsize)
        header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
        start = 0
        for name, column in order:
            places = [start, start + column.size]
            header[name] = {"dtype": NAMES[column.dtype.name], "shape": column.shape, "data_offsets": places}
            start = places[1]
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with files.replacing(path) as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _, column in order:
                column.copy(file)

    def as_npz(self, path: Path, **more: NDArray[Any]) -> None:
        """Write them as a zip of arrays, not compressed, and `more` arrays."""
        with files.replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
            for name, column in self._columns.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    described = {"descr": column.dtype.str, "fortran_order": False, "shape": column.shape}
                    np.lib.format.write_array_header_1_0(member, described)
                    column.copy(member)
            for name, array in more.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
