"""Synthetic images as files, for people to look at and for other tools to train on."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from PIL import Image

from lenient.files import disk_errors
from lenient.loop import Distillation
from lenient.teacher import FrozenTeacher

BATCH = 256


def write_samples(run: Distillation, teacher: FrozenTeacher, count: int, folder: Path, seed: int = 0) -> float:
    """Write `count` PNG files and `labels.csv` (file, label, one probability per class); return the clipped share.

    Images of other than one or three channels are written as one grey PNG per channel, which `labels.csv` calls by
    their common name.
    """
    classes = teacher.card.classes or tuple(str(number) for number in range(teacher.card.num_classes))
    clipped = 0.0
    with disk_errors(folder), teacher:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "labels.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file", "label", *classes])
            for start in range(0, count, BATCH):
                images = run.game.sample(min(BATCH, count - start), f"sample/{seed}", start).float()
                with torch.no_grad():
                    soft = teacher.respond(teacher.normalize(images)).logits.float().softmax(dim=1).cpu()
                clipped += float(((images < 0) | (images > 1)).float().mean()) * len(images)
                pixels = (images.clamp(0, 1) * 255).round().byte().cpu()
                for offset, (image, row) in enumerate(zip(pixels, soft, strict=True)):
                    name = f"{start + offset:06d}.png"
                    _write_png(image, folder / name)
                    table.writerow([name, classes[int(row.argmax())], *(f"{value:.6f}" for value in row.tolist())])
    return clipped / count


def _write_png(image: torch.Tensor, path: Path) -> None:
    if image.shape[0] == 3:
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(path)
        return
    for number, channel in enumerate(image):
        place = path if image.shape[0] == 1 else path.with_name(f"{path.stem}-{number}.png")
        Image.fromarray(channel.contiguous().numpy()).save(place)
