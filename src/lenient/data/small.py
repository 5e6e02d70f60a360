"""Grey digits: scikit-learn's 8x8 ones, and MNIST from its IDX files."""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lenient.core.files import read_bytes
from lenient.data.raw import LIMIT, Raw, broken, missing, said
from lenient.data.splits import held_out

DIGITS = tuple("0123456789")
DIGITS_TEST_SHARE, DIGITS_SALT = 0.2, 0
PART = 2**22
"""Bytes that are decompressed at once."""


def read_digits(root: Path, train: bool) -> Raw:
    """Read scikit-learn's digits (1, 8, 8), of which a fixed fifth of each class is the test part; `root` is not used.

    The stored values 0..16 become 0..255. Mean and standard deviation are those of all pixels of the training part.
    """
    from sklearn.datasets import load_digits  # slow to import

    stored = load_digits()
    images = torch.from_numpy(np.rint(stored.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(stored.target.astype(np.int64))
    test = held_out(labels, DIGITS_TEST_SHARE, DIGITS_SALT)
    std, mean = torch.std_mean(images[~test].double() / 255, correction=0)
    part = ~test if train else test
    return Raw(images[part], labels[part], DIGITS, (round(float(mean), 4),), (round(float(std), 4),), "digits")


def read_mnist(root: Path, train: bool) -> Raw:
    """Read MNIST (1, 28, 28) from `<root>/MNIST/raw`, plain or gzipped, in its original order."""
    part = "train" if train else "t10k"
    images = _read_idx(root, f"{part}-images-idx3-ubyte", 3)[:, None]
    name = f"{part}-labels-idx1-ubyte"
    labels = _read_idx(root, name, 1).long()
    if len(images) != len(labels):
        raise broken(root / "MNIST" / "raw" / name, f"has {len(labels)} labels for {len(images)} images")
    if len(labels) and int(labels.max()) >= len(DIGITS):
        raise broken(root / "MNIST" / "raw" / name, f"has the label {int(labels.max())}, not only 0 to 9")
    return Raw(images, labels, DIGITS, (0.1307,), (0.3081,), "MNIST")


def _read_idx(root: Path, name: str, dimensions: int) -> Tensor:
    """Read an IDX file of unsigned bytes: magic number 0x0800 + dimensions, big-endian sizes, then the values."""
    folder = root / "MNIST" / "raw"
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)
    if path is None:
        raise missing("mnist", root, f"MNIST/raw/{name}[.gz] and the other three IDX files")
    try:
        content = read_bytes(path, LIMIT)
        file = io.BytesIO(content)
        return torch.from_numpy(_values(gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file, dimensions))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise broken(path, f"not a whole IDX file ({said(error)})") from error


def _values(file: io.BytesIO | gzip.GzipFile, dimensions: int) -> npt.NDArray[np.uint8]:
    """Return what an IDX file holds. What its head promises is looked for before room is made for it.

    Raises:
        ValueError: it is of another kind, longer, shorter, or too long.
    """
    head = file.read(4 + 4 * dimensions)
    if len(head) < 4 + 4 * dimensions or int.from_bytes(head[:4]) != 0x0800 + dimensions:
        raise ValueError(f"its head is not that of {dimensions}-dimensional bytes")
    shape = struct.unpack(f">{dimensions}I", head[4:])
    size = math.prod(shape)
    if size > LIMIT:
        raise ValueError(f"{'x'.join(map(str, shape))} values are more than {LIMIT / 2**20:g} MiB")
    if size == 0:
        raise ValueError(f"{'x'.join(map(str, shape))} values are none")
    parts = []
    while size >= 0 and (part := file.read(min(size + 1, PART))):  # one byte more than there may be
        parts.append(np.frombuffer(part, np.uint8))
        size -= len(part)
    if size:
        raise ValueError(f"{size} bytes are missing" if size > 0 else "it goes on after its last value")
    return np.concatenate(parts).reshape(shape)
