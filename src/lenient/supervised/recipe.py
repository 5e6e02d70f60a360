"""How a classifier is trained on real images: the settings, and good ones for the known data sets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lenient.core.config import Settings
from lenient.core.rates import Curve, rate_factor


class TeacherRecipe(Settings):
    """How a classifier is trained on real images. The defaults are those of the published CIFAR teachers."""

    epochs: int = Field(500, ge=1, le=10**6)
    """Passes over the training images."""
    batch_size: int = Field(128, ge=1, le=2**20)
    """Images per optimizer step."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = Field(0.1, gt=0, le=1e3)
    """Highest learning rate of the schedule."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd; first decay rate of adam."""
    nesterov: bool = False
    """Nesterov's form of the momentum, sgd only."""
    weight_decay: float = Field(5e-4, ge=0, le=1e6)
    """Pulls every weight towards zero, as an L2 term in the gradient."""
    schedule: Literal["multistep", "cosine", "constant", "onecycle"] = "multistep"
    """`multistep` multiplies by `drop_factor` at each of `drops`; `cosine` falls to 0; `onecycle` rises, then falls."""
    drops: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field((0.4, 0.6), max_length=1000)
    """For `multistep`: where the learning rate drops, as fractions of the epochs in (0, 1)."""
    drop_factor: float = Field(0.1, gt=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target spread evenly over all classes."""
    mixup: float = Field(0.0, ge=0, le=1e6)
    """Parameter of the Beta distribution that pairs of images are mixed with; 0 is off."""
    augment: Literal["none", "shift", "crop-flip"] = "crop-flip"
    seed: int = Field(0, ge=0, le=2**63 - 1)
    """Seed of the order, the augmentation and dropout; the weights come with the network."""

    @model_validator(mode="after")
    def _consistent(self) -> TeacherRecipe:
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs optimizer=sgd and momentum above 0")
        return self


RECIPES: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 30, "batch_size": 64, "schedule": "onecycle", "nesterov": True, "augment": "shift"},
    "mnist": {"epochs": 3, "schedule": "onecycle", "nesterov": True, "augment": "shift"},
    "cifar10": {"epochs": 30, "schedule": "onecycle", "nesterov": True},
    "cifar100": {"epochs": 40, "schedule": "onecycle", "nesterov": True},
    "imagefolder": {"epochs": 90, "schedule": "cosine", "nesterov": True},
}


def default_recipe(data: str) -> dict[str, Any]:
    """Return the settings of `TeacherRecipe` that suit a DATA name and finish on a small machine; {} for unknown data.

    Those of digits and MNIST were tried on the held-out tenth of the training images; the others are customary ones.
    """
    return dict(RECIPES.get(data.partition(":")[0], {}))


def lr_factor(recipe: TeacherRecipe, progress: float) -> float:
    """Return the share of the highest learning rate in use once `progress` (0..1) of the steps are done."""
    curve: Curve = "drops" if recipe.schedule == "multistep" else recipe.schedule
    return rate_factor(curve, progress, drops=recipe.drops, drop_factor=recipe.drop_factor)
