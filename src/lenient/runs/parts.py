"""What data sets of synthetic images are made of: some images at a time, and what is said of them all."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lenient.runs.crops import Cropping, Crops
from lenient.training.verdict import Check, Health


@dataclass(frozen=True, eq=False)
class Part:
    """Some images in a row, and the teacher's answers to them as they are stored."""

    images: Tensor
    """(n, C, H, W) uint8, on the CPU, as all else."""
    logits: Tensor
    """(n, K) float32."""
    crops: Crops | None = None

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that a data set has, one row for each image: see `docs/data-set.md`."""
        found = {"images": self.images, "labels": self.logits.argmax(dim=1), "logits": self.logits}
        if self.crops is not None:
            crops = self.crops
            found |= {"crop_boxes": crops.boxes, "crop_flips": crops.flips, "crop_logits": crops.logits}
        return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in found.items()}


@dataclass(frozen=True)
class About:
    """What there is to say of a data set beside its images."""

    classes: tuple[str, ...]
    """Names of the K classes, their numbers where the teacher has none."""
    steps: int
    """Student updates made beside the images; of a run that was drawn from, all of its own."""
    seconds: float
    """That making them took; of a run that was drawn from, drawing them."""
    health: Health
    """The verdict about the images: all of a run's checks but that of its student."""
    clipped: float
    """Share, in [0, 1], of the values that lay outside of [0, 1] and were clipped to 8 bit."""
    method: str
    """That made them."""
    teacher: str | None
    """The SPEC of its network, None for one of somebody's own code."""
    seed: int
    """Of a run that was drawn from, the one that they were drawn by."""
    cropping: Cropping | None
    """How crops were drawn, where there are any."""
    foreign: tuple[str, ...]
    """What the images came from besides the teacher."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as lists, numbers and strings, ready for JSON."""
        return {name: _plain(getattr(self, name)) for name in About.__dataclass_fields__}

    @classmethod
    def read(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return as keyword arguments what `to_dict` gave, which fits the schema."""
        health, cropping = values["health"], values["cropping"]
        return {name: values[name] for name in About.__dataclass_fields__} | {
            "classes": tuple(values["classes"]),
            "foreign": tuple(values["foreign"]),
            "health": Health(**health | {"checks": [Check(**check) for check in health["checks"]]}),
            "cropping": None if cropping is None else Cropping(**cropping),
        }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return asdict(value) if isinstance(value, (Health, Cropping)) else value
