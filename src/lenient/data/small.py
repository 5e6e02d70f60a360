"""Grey digits: scikit-learn's 8x8 ones, and MNIST from its IDX files."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lenient.data.raw import Raw, broken, missing
from lenient.data.splits import held_out

DIGITS = tuple("0123456789")
DIGITS_TEST_SHARE, DIGITS_SALT = 0.2, 0


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
    labels = _read_idx(root, f"{part}-labels-idx1-ubyte", 1).long()
    return Raw(images, labels, DIGITS, (0.1307,), (0.3081,), "MNIST")


def _read_idx(root: Path, name: str, dimensions: int) -> Tensor:
    """Read an IDX file of unsigned bytes: magic number 0x0800 + dimensions, big-endian sizes, then the values."""
    folder = root / "MNIST" / "raw"
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise missing("mnist", root, f"MNIST/raw/{name}[.gz] and the other three IDX files")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise broken(path, f"cannot be read ({error})") from error
    start = 4 + 4 * dimensions
    head = struct.unpack(f">{1 + dimensions}I", content[:start]) if len(content) >= start else (0,)
    if head[0] != 0x0800 + dimensions or len(content) != start + int(np.prod(head[1:])):
        raise broken(path, f"not a whole IDX file of {dimensions}-dimensional bytes")
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=start).copy()).reshape(head[1:])
