"""How large `gpu.py` measures: as the paper does, or as a toy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Networks, data, batches, and how often something is timed."""

    data: str
    teacher: str
    student: str
    size: tuple[int, int, int]
    batches: tuple[int, ...]
    rounds: int
    patience: float
    """Seconds for which each layer is timed alone."""
    recipe: dict[str, Any]
    """Of the teacher's training; the epochs follow from the time."""
    most_epochs: int
    steps: int
    """Student steps of a distillation at most."""
    distil: dict[str, Any] = field(default_factory=dict)
    """Settings of distillations that make them toys."""

    @property
    def generator(self) -> dict[str, Any]:
        """Settings of generators that make them toys."""
        found: dict[str, Any] = self.distil.get("generator", {})
        return found


FULL = Sizes(
    data="cifar10",
    teacher="lenient:resnet34",
    student="lenient:resnet18",
    size=(3, 32, 32),
    batches=(256, 1024),
    rounds=5,
    patience=0.05,
    recipe={
        "batch_size": 512,
        "lr": 0.4,  # 0.1 for 128, in proportion
        "schedule": "onecycle",
        "nesterov": True,
        "label_smoothing": 0.1,
        "augment": "crop-flip",
    },
    most_epochs=60,
    steps=72_000,
)
TOY = Sizes(
    data="digits",
    teacher="lenient:resnet8-half",
    student="lenient:resnet8-half",
    size=(1, 8, 8),
    batches=(8,),
    rounds=1,
    patience=1e-4,
    recipe={"batch_size": 256, "lr": 0.1, "schedule": "onecycle", "nesterov": True, "augment": "shift"},
    most_epochs=1,
    steps=6,
    distil={"batch_size": 8, "generator": {"latent_dim": 8, "width": 8}},
)
