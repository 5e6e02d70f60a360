"""Synthetic images as files, for people to look at and for other tools to train on."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import torch
from PIL import Image

from lenient.core.errors import UsageError
from lenient.core.files import disk_errors
from lenient.core.text import cell
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.trainer import Distillation

BATCH = 256
MOST = 10_000_000
"""Images that are written at a time: more files than that are no use in one folder."""
BLOCK = 4096
"""Bytes that a file takes at least, on most disks."""


def write_samples(run: Distillation, teacher: FrozenTeacher, count: int, folder: Path, seed: int = 0) -> float:
    """Write `count` PNG files and `labels.csv` (file, label, one probability per class); return the clipped share.

    Images of other than one or three channels are written as one grey PNG per channel, which `labels.csv` calls by
    their common name.

    Args:
        folder: new or empty; no file that is there is replaced.

    Raises:
        UsageError: the images will not fit on the disk.
        MachineError: it cannot be written.
    """
    names = teacher.card.classes or tuple(str(number) for number in range(teacher.card.num_classes))
    classes = [cell(name, "csv") for name in names]
    clipped = 0.0
    with disk_errors(folder), teacher:
        _check_space(count, teacher.card.input_size, len(classes), folder)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "labels.csv", "x", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["file", "label", *classes])
            for start in range(0, count, BATCH):
                images = run.algorithm.drawn.sample(min(BATCH, count - start), f"sample/{seed}", start).float()
                with torch.no_grad():
                    soft = teacher.respond(teacher.normalize(images)).logits.float().softmax(dim=1).cpu()
                clipped += float(((images < 0) | (images > 1)).float().mean()) * len(images)
                pixels = (images.clamp(0, 1) * 255).round().byte().cpu()
                for offset, (image, row) in enumerate(zip(pixels, soft, strict=True)):
                    name = f"{start + offset:06d}.png"
                    _write_png(image, folder / name)
                    table.writerow([name, classes[int(row.argmax())], *(f"{value:.6f}" for value in row.tolist())])
    return clipped / count


def _check_space(count: int, size: tuple[int, int, int], classes: int, folder: Path) -> None:
    """Refuse more than the disk can take: noise, the worst that may come, does not shrink in a PNG."""
    channels, height, width = size
    pictures, each = (1, 3 * height * width) if channels == 3 else (channels, height * width)
    needed = count * (pictures * -(-each // BLOCK) * BLOCK + 10 * classes)
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UsageError(
            f"-n {count}: up to {needed / 2**30:,.1f} GiB, and -o {folder} has {free / 2**30:,.1f} GiB left"
        )


def _write_png(image: torch.Tensor, path: Path) -> None:
    if image.shape[0] == 3:
        _save(image.permute(1, 2, 0), path)
        return
    for number, channel in enumerate(image):
        _save(channel, path if image.shape[0] == 1 else path.with_name(f"{path.stem}-{number}.png"))


def _save(pixels: torch.Tensor, path: Path) -> None:
    with open(path, "xb") as file:
        Image.fromarray(pixels.contiguous().numpy()).save(file, format="PNG")
