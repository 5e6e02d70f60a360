"""CIFAR-10 and CIFAR-100: class folders, tar archives of them, or the original Python batches."""

from __future__ import annotations

import io
import lzma
import pickle
import pickletools
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lenient.core.files import read_bytes
from lenient.data.folder import class_folders, list_images
from lenient.data.raw import LIMIT, Raw, broken, missing, said
from lenient.pictures.folders import told
from lenient.pictures.reading import SUFFIXES, converted, opened, readable, to_tensor

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
NAMES10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PICTURE = 2**16
"""Bytes of the largest picture file of 32 x 32 pixels."""
MEMBERS = 100_000
"""Entries of the largest archive."""


def read_cifar10(root: Path, train: bool) -> Raw:
    """Read CIFAR-10 (3, 32, 32) from the first of these that is under `root`.

    `cifar10/{train,test}/<class>/*.jpg|png`, `cifar10/{train,test}.tar.xz` (read straight from the archive), or
    torchvision's `cifar-10-batches-py`. JPEG files are lossy: the title says so.
    """
    part = "train" if train else "test"
    folder, archive = root / "cifar10" / part, root / "cifar10" / f"{part}.tar.xz"
    batches = root / "cifar-10-batches-py"
    if classes := class_folders(folder):
        paths, labels, left_out = list_images(folder, classes)
        images = torch.stack([_picture(path) for path in paths])
        notes = (f"{folder}: {told(left_out)}",) if left_out else ()
        return Raw(images, labels, tuple(classes), MEAN, STD, _title(path.name for path in paths), notes)
    if archive.exists():
        return _read_archive(archive)
    if batches.is_dir():
        names = [f"data_batch_{i}" for i in range(1, 6)] if train else ["test_batch"]
        parts = [_batch(batches / name, "labels", NAMES10) for name in names]
        images, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return Raw(images, labels, NAMES10, MEAN, STD, "CIFAR-10")
    layouts = f"cifar10/{part}/<class>/*.jpg|png, cifar10/{part}.tar.xz, or cifar-10-batches-py/"
    raise missing("cifar10", root, layouts)


def read_cifar100(root: Path, train: bool) -> Raw:
    """Read CIFAR-100 (3, 32, 32), fine labels, from torchvision's `<root>/cifar-100-python`."""
    folder, part = root / "cifar-100-python", "train" if train else "test"
    if not folder.is_dir():
        raise missing("cifar100", root, "cifar-100-python/{train,test,meta}")
    names = _unpickle(folder / "meta").get("fine_label_names")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise broken(folder / "meta", "does not name the classes")
    return Raw(*_batch(folder / part, "fine_labels", names), tuple(names), MEAN, STD, "CIFAR-100")


# pictures


def _picture(path: Path) -> Tensor:
    with readable(path):
        return _decoded(path, read_bytes(path, PICTURE))


def _decoded(path: Path, content: bytes) -> Tensor:
    with readable(path), opened(content) as picture:
        if picture.size != (32, 32):
            raise broken(path, f"is {picture.width}x{picture.height} pixels, not 32x32")
        return to_tensor(converted(picture, 3))


def _title(names: Iterable[str]) -> str:
    lossy = (".jpg", ".jpeg", ".jpe", ".jfif")
    return "CIFAR-10 (JPEG)" if any(name.lower().endswith(lossy) for name in names) else "CIFAR-10"


def _read_archive(path: Path) -> Raw:
    """Read `<part>/<class>/<file>` members, in sorted order."""
    found: dict[PurePosixPath, Tensor] = {}
    try:
        with (
            io.BytesIO(read_bytes(path, LIMIT)) as packed,
            lzma.open(packed) as unpacked,
            tarfile.open(fileobj=_Bounded(unpacked), mode="r:") as archive,  # type: ignore[call-overload]
        ):
            for number, member in enumerate(archive):
                if number == MEMBERS:
                    raise ValueError(f"it has more than {MEMBERS:,} entries")
                name = PurePosixPath(member.name)
                if not _is_picture(member, name):
                    continue
                content = archive.extractfile(member)
                assert content is not None, "a regular file"
                found[name] = _decoded(path / name, content.read())
    except (tarfile.TarError, EOFError, OSError, ValueError, lzma.LZMAError) as error:
        raise broken(path, f"not a readable tar.xz archive ({said(error)})") from error
    if not found:
        raise broken(path, "holds no images in class folders")
    names = sorted(found)
    classes = tuple(sorted({name.parent.name for name in names}))
    places = {name: place for place, name in enumerate(classes)}
    labels = torch.tensor([places[name.parent.name] for name in names], dtype=torch.int64)
    images = torch.stack([found[name] for name in names])
    return Raw(images, labels, classes, MEAN, STD, _title(name.name for name in names))


def _is_picture(member: tarfile.TarInfo, name: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    if hidden or not member.isreg() or not name.name.lower().endswith(SUFFIXES):
        return False
    if member.size > PICTURE or member.issparse():
        raise ValueError(f"{name} has {member.size} bytes, more than a picture of 32x32 pixels")
    return True


class _Bounded:
    """An unpacked file to read from; raises OSError where it is longer than any archive of small pictures."""

    def __init__(self, file: lzma.LZMAFile) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """Return the next bytes; a head that promises more at once than a picture has is no tar's."""
        if size > 2**20:
            raise OSError(f"it has a head of {size} bytes")
        self._check(self._file.tell() + size)
        return self._file.read(size)

    def seek(self, place: int) -> int:
        """Go to a byte."""
        self._check(place)
        return self._file.seek(place)

    def tell(self) -> int:
        """Return the number of the next byte."""
        return self._file.tell()

    def _check(self, place: int) -> None:
        if place > LIMIT:
            raise OSError(f"it unpacks to more than {LIMIT / 2**20:g} MiB")


# batches


def _batch(path: Path, key: str, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the images uint8 (N, 3, 32, 32) and labels int64 (N,) of a batch."""
    content = _unpickle(path)
    rows, labels = content.get("data"), content.get(key)
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3 * 32 * 32:
        raise broken(path, "its images are not rows of 3 x 32 x 32 bytes")
    if not isinstance(labels, list) or len(labels) != len(rows):
        raise broken(path, f"does not have a label for each of its {len(rows)} images")
    if not all(type(label) is int and 0 <= label < len(classes) for label in labels):
        raise broken(path, f"its labels are not numbers from 0 to {len(classes) - 1}")
    return torch.from_numpy(rows.copy()).reshape(-1, 3, 32, 32), torch.tensor(labels, dtype=torch.int64)


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds arrays of numbers and nothing else, so that a data file neither runs code nor takes more memory than it
    has bytes."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name of numpy in a pickle of an array."""
        allowed = {"_reconstruct": _empty_array, "ndarray": "ndarray", "dtype": _dtype, "encode": _latin1}
        if module.split(".")[0] in ("numpy", "_codecs") and name in allowed:
            return allowed[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a CIFAR batch")


def _empty_array(*_: object) -> np.ndarray[Any, Any]:
    """What numpy pickles an array as, before its shape and bytes."""
    return np.empty(0, np.uint8)


def _dtype(code: str, *_: object) -> np.dtype[Any]:
    if code not in ("u1", "|u1"):
        raise pickle.UnpicklingError(f"numbers of type {code!r:.20} are not part of a CIFAR batch")
    return np.dtype(np.uint8)


def _latin1(text: str, _: str) -> bytes:
    return text.encode("latin1")


def _unpickle(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise broken(path, "is missing")
    try:
        content = read_bytes(path, LIMIT)
        for step, argument, _ in pickletools.genops(content):
            if "PUT" in step.name and argument is not None and argument > len(content):
                raise ValueError(f"it remembers value {argument}")  # which makes room for as many
        found = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
        if not isinstance(found, dict):
            raise ValueError("it holds no table")
    except Exception as error:  # damaged pickles end in any of a dozen kinds
        raise broken(path, f"not a CIFAR batch ({said(error)})") from error
    return found
