"""Small things that many tests need: batches, a teacher in a millisecond, a run of a few steps."""

from __future__ import annotations

import atexit
import copy
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lenient.core.config import merge, parse
from lenient.core.runtime import Runtime
from lenient.models import build_student
from lenient.models.card import Card, Network
from lenient.runs.folder import RunFolder
from lenient.teacher.batch import Batch, Response
from lenient.teacher.frozen import FrozenTeacher
from lenient.teacher.probes import BatchNorms, LayerStatistics
from lenient.training.settings import DistillSettings, method_settings
from lenient.training.trainer import Distillation

CPU = Runtime(torch.device("cpu"))


class TinyNet(nn.Module):
    """Two batch-norm layers and a head, on images of any size and channels."""

    def __init__(self, channels: int = 1, classes: int = 4, width: int = 6) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm2(self.conv2(self.norm1(self.conv1(images)).relu())).relu()
        return self.head(maps.mean(dim=(2, 3)) * 4)


def tiny_card(channels: int = 1, size: tuple[int, int] = (6, 5), classes: int = 4, **facts: Any) -> Card:
    values = {"arch": None, "mean": (0.4,) * channels, "std": (0.3,) * channels} | facts
    return Card(input_size=(channels, *size), num_classes=classes, **values)


def tiny_teacher(seed: int = 0, channels: int = 1, size: tuple[int, int] = (6, 5), classes: int = 4) -> Network:
    """A random teacher whose running statistics fit noise images, so that no image is far from them."""
    return Network(copy.deepcopy(_fitted(seed, channels, size, classes)), tiny_card(channels, size, classes))


@cache
def _fitted(seed: int, channels: int, size: tuple[int, int], classes: int) -> TinyNet:
    """The module of one, to be copied: fitting takes ten times as long."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = TinyNet(channels, classes)
        module.head.weight.data *= 6
        module.train()
        for _ in range(20):
            module((torch.rand(64, channels, *size) - 0.4) / 0.3)
    return module.eval()


def tiny_student(seed: int = 0, channels: int = 1, size: tuple[int, int] = (6, 5), classes: int = 4) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(1000 + seed)
        return Network(TinyNet(channels, classes, 4), tiny_card(channels, size, classes))


QUICK: dict[str, Any] = {
    "steps": 6,
    "batch_size": 8,
    "seed": 3,
    "device": "cpu",
    "precision": "32",
    "overlap": False,
    "log_every": 2,
    "steps_per_epoch": 3,
    "generator": {"latent_dim": 7, "width": 6, "bn_eps": 1e-5},
}
TA_QUICK: dict[str, Any] = {"name": "ta-dfkd", "student_steps": 2, "student_lr": 0.05, "generator_lr": 0.01}


@cache
def pictures_folder() -> str:
    """A folder of a dozen small pictures, some of them in a folder below."""
    folder = Path(tempfile.mkdtemp(prefix="pictures-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_pictures(folder, 8)
    write_pictures(folder / "more", 4, seed=1)
    return str(folder)


def write_pictures(folder: Path, count: int, seed: int = 0, size: tuple[int, int] = (9, 7)) -> None:
    """Write pictures of H x W: waves of three colours, and noise."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[: size[0], : size[1]]
    for number in range(count):
        turns = rng.uniform(0, 1.5, (2, 3))
        waves = 128 + 90 * np.sin(down[..., None] * turns[0] + across[..., None] * turns[1] + rng.uniform(0, 6, 3))
        pixels = np.clip(waves + rng.normal(0, 15, waves.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")


def settings(**changes: Any) -> DistillSettings:
    """Quick settings; a method that shows pictures of the user's has some."""
    method = changes.get("method", {})
    if "source" not in changes and (method.get("name") == "proxy" or method.get("pictures")):
        changes["source"] = {"proxy_images": pictures_folder()}
    name = changes.get("method", {}).get("name", "ta-dfkd")
    base = {**quick(name), "method": {"name": name}}
    if base["method"]["name"] == "ta-dfkd":
        base = merge(base, {"method": TA_QUICK})
    return parse(DistillSettings, merge(base, changes))


def quick(method: str, plan: Mapping[str, Any] = QUICK) -> dict[str, Any]:
    """Quick settings, or a plan, without what a method has no use for."""
    return method_settings({"name": method}).taken(plan)


def distillation(teacher: Network | None = None, student: Network | None = None, **changes: Any) -> Distillation:
    """A run in memory, teacher entered and never left: for tests that look inside."""
    frozen = FrozenTeacher(teacher or tiny_teacher(), CPU)
    frozen.__enter__()
    return Distillation(frozen, student or tiny_student(), settings(**changes), CPU)


def stored(run: Distillation, path: Path, device: torch.device = CPU.device) -> dict[str, Any]:
    """The state of a run as it comes back from a checkpoint in a folder."""
    folder = RunFolder.create(path)
    folder.open_logs(0)
    folder.save_checkpoint(run.state_dict())
    folder.close()
    state = RunFolder(path).load_checkpoint(device)
    assert state is not None
    return state


def digits_like(seed: int = 0) -> Network:
    """An untrained network that a file can hold and name."""
    return copy.deepcopy(_built(seed))


@cache
def _built(seed: int) -> Network:
    return build_student("lenient:resnet8", tiny_card(size=(8, 8), classes=10), seed=seed, role="teacher")


def batch_of(
    teacher: Tensor | None = None,
    student: Tensor | None = None,
    *,
    images: Tensor | None = None,
    weight: Tensor | None = None,
    statistics: tuple[LayerStatistics, ...] = (),
) -> Batch:
    """A batch with one view under both names."""
    count = next(len(t) for t in (teacher, images, torch.zeros(1)) if t is not None)
    answers = {"teacher": Response(teacher if teacher is not None else torch.zeros(count, 2), {BatchNorms: statistics})}
    if student is not None:
        answers["student"] = Response(student)
    images = images if images is not None else torch.zeros(count, 1, 2, 2)
    weight = weight if weight is not None else torch.ones(count)
    return Batch(images, weight, {"clean": images, "train": images}, {"clean": answers, "train": answers})
