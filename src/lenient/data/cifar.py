"""CIFAR-10 and CIFAR-100: class folders, tar archives of them, or the original Python batches."""

from __future__ import annotations

import io
import lzma
import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lenient.data.folder import SUFFIXES, class_folders, eight_bit, list_images, to_tensor
from lenient.data.raw import Raw, broken, missing

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
NAMES10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read_cifar10(root: Path, train: bool) -> Raw:
    """Read CIFAR-10 (3, 32, 32) from the first of these that is under `root`.

    `cifar10/{train,test}/<class>/*.jpg|png`, `cifar10/{train,test}.tar.xz` (read straight from the archive), or
    torchvision's `cifar-10-batches-py`. JPEG files are lossy: the title says so.
    """
    part = "train" if train else "test"
    folder, archive = root / "cifar10" / part, root / "cifar10" / f"{part}.tar.xz"
    batches = root / "cifar-10-batches-py"
    if classes := class_folders(folder):
        paths, labels = list_images(folder, classes)
        images = _decode_all((str(path), path.read_bytes()) for path in paths)
        return Raw(images, labels, tuple(classes), MEAN, STD, _title(path.name for path in paths))
    if archive.is_file():
        return _read_archive(archive)
    if batches.is_dir():
        names = [f"data_batch_{i}" for i in range(1, 6)] if train else ["test_batch"]
        parts = [_unpickle(batches / name) for name in names]
        images = torch.cat([_planes(part["data"]) for part in parts])
        return Raw(images, _labels([part["labels"] for part in parts]), NAMES10, MEAN, STD, "CIFAR-10")
    layouts = f"cifar10/{part}/<class>/*.jpg|png, cifar10/{part}.tar.xz, or cifar-10-batches-py/"
    raise missing("cifar10", root, layouts)


def read_cifar100(root: Path, train: bool) -> Raw:
    """Read CIFAR-100 (3, 32, 32), fine labels, from torchvision's `<root>/cifar-100-python`."""
    folder, part = root / "cifar-100-python", "train" if train else "test"
    if not folder.is_dir():
        raise missing("cifar100", root, "cifar-100-python/{train,test,meta}")
    content, meta = _unpickle(folder / part), _unpickle(folder / "meta")
    labels = _labels([content["fine_labels"]])
    return Raw(_planes(content["data"]), labels, tuple(meta["fine_label_names"]), MEAN, STD, "CIFAR-100")


def _read_archive(path: Path) -> Raw:
    """Read `<part>/<class>/<file>` members, in sorted order."""
    try:
        with tarfile.open(path) as archive:
            found = {
                PurePosixPath(member.name): archive.extractfile(member).read()  # type: ignore[union-attr]
                for member in archive
                if member.isfile() and member.name.lower().endswith(SUFFIXES)
            }
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError) as error:
        raise broken(path, f"not a readable tar archive ({error})") from error
    if not found:
        raise broken(path, "holds no images in class folders")
    names = sorted(found)
    classes = tuple(sorted({name.parent.name for name in names}))
    labels = torch.tensor([classes.index(name.parent.name) for name in names], dtype=torch.int64)
    images = _decode_all((f"{path}/{name}", found[name]) for name in names)
    return Raw(images, labels, classes, MEAN, STD, _title(name.name for name in names))


def _title(names: Iterable[str]) -> str:
    return "CIFAR-10 (JPEG)" if any(name.lower().endswith((".jpg", ".jpeg")) for name in names) else "CIFAR-10"


def _decode_all(files: Iterable[tuple[str, bytes]]) -> Tensor:
    images = []
    for name, content in files:
        try:
            with Image.open(io.BytesIO(content)) as opened:
                image = to_tensor(eight_bit(opened).convert("RGB"))
        except OSError as error:
            raise broken(Path(name), f"not a readable image ({error})") from error
        if image.shape != (3, 32, 32):
            raise broken(Path(name), f"is {image.shape[2]}x{image.shape[1]} pixels, not 32x32")
        images.append(image)
    return torch.stack(images)


def _planes(rows: Any) -> Tensor:
    return torch.from_numpy(np.array(rows, dtype=np.uint8)).reshape(-1, 3, 32, 32)


def _labels(lists: list[list[int]]) -> Tensor:
    return torch.tensor([label for part in lists for label in part], dtype=torch.int64)


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds numpy arrays and nothing else, so that a data file cannot run code."""

    ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "encode"})

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in ("numpy", "_codecs") and name in self.ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a CIFAR batch")


def _unpickle(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise broken(path, "is missing")
    try:
        with path.open("rb") as file:
            return dict(_ArraysOnly(file, encoding="latin1").load())
    except (pickle.UnpicklingError, EOFError, ValueError) as error:
        raise broken(path, f"not a CIFAR batch ({error})") from error
