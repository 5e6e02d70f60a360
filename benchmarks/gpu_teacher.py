"""A teacher in two minutes, and its weights in parts that fit through small doors."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_sizes import Sizes
from safetensors.torch import load_file, save
from torch import Tensor

from lenient.core import files
from lenient.core.runtime import cudnn_algorithms
from lenient.data import ImageSet, load_data
from lenient.evaluation import evaluate
from lenient.models import Network, build_student
from lenient.models.card import Card
from lenient.supervised import Epoch, TeacherRecipe, train_classifier, untrained

PART_BYTES = 15 * 10**6
PARTS = "teacher-*-of-*.safetensors"
SPARE = 0.85
"""Share of the time that epochs are planned for; the rest is for reading, the trial and writing."""


def teacher(
    found: dict[str, Any], keep: Callable[[], None], until: float, out: Path, sizes: Sizes, device: torch.device
) -> None:
    """Train for as many epochs as there is time for, keep the weights, and measure what was kept.

    cuDNN tries its algorithms, which the library leaves to its user.
    """
    train, test = load_data(sizes.data, split="train"), load_data(sizes.data, split="test")
    precision = "bf16" if device.type == "cuda" else "32"
    with cudnn_algorithms(tried=True):
        per_epoch = _seconds_per_epoch(train, test, sizes, device, precision)
        left = until - time.monotonic()
        epochs = int(min(max(SPARE * left / per_epoch, 1), sizes.most_epochs))
        network = untrained(sizes.teacher, train, seed=0)
        recipe = TeacherRecipe(epochs=epochs, **sizes.recipe)
        found |= {"data": train.title, "recipe": recipe.model_dump(mode="json"), "precision": precision, "curve": []}

        def note(epoch: Epoch) -> None:
            found["curve"].append({"epoch": epoch.epoch, "seconds": epoch.seconds, "accuracy": epoch.test_accuracy})
            keep()

        train_classifier(network, train, recipe, test=test, device=device, precision=precision, on_epoch=note)
    write_parts(network, out)
    kept = read_parts(out)
    assert kept is not None, "they were written"
    found["accuracy"] = evaluate(kept, test, device=device).accuracy
    seconds = found["curve"][-1]["seconds"]
    found["images_per_second"] = epochs * len(train) / seconds
    found["done"] = True


def _seconds_per_epoch(train: ImageSet, test: ImageSet, sizes: Sizes, device: torch.device, precision: str) -> float:
    """Time one epoch on a tenth of the images, after one that does not count."""
    few = train.subset(torch.arange(0, len(train), 10))
    recipe = TeacherRecipe(epochs=2, **{**sizes.recipe, "batch_size": min(sizes.recipe["batch_size"], len(few))})
    seconds: list[float] = []
    train_classifier(
        untrained(sizes.teacher, few, seed=1),
        few,
        recipe,
        test=test.subset(torch.arange(0, len(test), 10)),
        device=device,
        precision=precision,
        on_epoch=lambda epoch: seconds.append(epoch.seconds),
    )
    return 10 * (seconds[1] - seconds[0])


def write_parts(network: Network, out: Path) -> None:
    """Write the weights in half precision, what has one dimension in float32, in files of at most `PART_BYTES`."""
    tensors = {
        name: (value.half() if value.dim() > 1 else value).contiguous()
        for name, value in network.module.state_dict().items()
    }
    parts: list[dict[str, Tensor]] = [{}]
    room = PART_BYTES
    for name, value in tensors.items():
        if value.nbytes > room and parts[-1]:
            parts.append({})
            room = PART_BYTES
        parts[-1][name] = value
        room -= value.nbytes
    for old in out.glob(PARTS):
        old.unlink()
    card = {"card": json.dumps(network.card.to_dict())}
    for number, part in enumerate(parts, 1):
        files.write(out / f"teacher-{number}-of-{len(parts)}.safetensors", save(part, card))


def read_parts(out: Path) -> Network | None:
    """Return the network of all parts in a folder, in float32; None where one is missing."""
    from safetensors import safe_open

    found = sorted(out.glob(PARTS))
    if not found or len(found) != int(found[0].stem.rpartition("-")[2]):
        return None
    with safe_open(found[0], "pt") as file:
        card = Card.from_dict(json.loads(file.metadata()["card"]))
    assert card.arch is not None, "it was built by its name"
    network = build_student(card.arch, card, seed=0, role="teacher")
    tensors = {name: value for path in found for name, value in load_file(path).items()}
    network.module.load_state_dict({name: v.float() if v.is_floating_point() else v for name, v in tensors.items()})
    network.module.eval()
    return network
