"""Images in one folder per class: listing, and decoding on demand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lenient.errors import UsageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")


class FolderImages:
    """Image files read as uint8 when asked for, and not kept.

    Each is scaled (bilinear, antialiased) until it just covers the target and cropped at the centre.
    """

    def __init__(self, paths: Sequence[Path], input_size: tuple[int, int, int]) -> None:
        self.paths = tuple(paths)
        self.input_size = input_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Decode the images at `index` (int64 (B,)) into uint8 (B, C, H, W), on a few threads."""
        paths = [self.paths[position] for position in index.tolist()]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return torch.stack(list(pool.map(self._decode, paths)))

    def subset(self, index: Tensor) -> FolderImages:
        """Return the images at `index` (int64 positions), still undecoded."""
        return FolderImages([self.paths[position] for position in index.tolist()], self.input_size)

    def _decode(self, path: Path) -> Tensor:
        channels, height, width = self.input_size
        try:
            with Image.open(path) as opened:
                image = eight_bit(opened).convert("RGB" if channels == 3 else "L")
        except (OSError, UnidentifiedImageError) as error:
            raise UsageError(f"{path}: not a readable image ({error}); remove or replace it") from error
        return to_tensor(cover(image, height, width))


def eight_bit(image: Image.Image) -> Image.Image:
    """Return a picture of 16 bits a pixel with 8; Pillow's own conversion makes all above 255 white."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() >= 2**16:
        raise OSError("its pixels are neither of 8 nor of 16 bits")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def cover(image: Image.Image, height: int, width: int) -> Image.Image:
    """Scale an image until it just covers height x width, then crop the centre."""
    if image.size == (width, height):
        return image
    scale = max(width / image.width, height / image.height)
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    scaled = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return scaled.crop((left, top, left + width, top + height))


def to_tensor(image: Image.Image) -> Tensor:
    """Copy a grey or RGB image into uint8 (C, H, W)."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.permute(2, 0, 1).contiguous() if pixels.ndim == 3 else pixels[None]


def class_folders(folder: Path) -> list[str]:
    """Return the sorted names of the sub-folders that hold images directly; [] if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and _files(entry))


def list_images(folder: Path, classes: Sequence[str]) -> tuple[list[Path], Tensor]:
    """List the images of `folder/<class>/`, classes in the given order, files sorted, with int64 labels (N,)."""
    unknown = sorted(set(class_folders(folder)) - set(classes))
    if unknown:
        raise UsageError(f"{folder}: class folder {unknown[0]!r} is no training class; rename or remove it")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = _files(folder / name)
        paths += files
        labels += [label] * len(files)
    return paths, torch.tensor(labels, dtype=torch.int64)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES)
