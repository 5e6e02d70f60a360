"""`lenient evaluate`, for command and function: a model by its name, measured on labelled images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import torch
from torch import Tensor, nn

from lenient.core.errors import UsageError
from lenient.core.memory import memory_errors
from lenient.core.runtime import resolve_device
from lenient.evaluation import Measures, evaluate
from lenient.evaluation.running import named_by
from lenient.models.card import Network
from lenient.models.facts import TeacherFacts
from lenient.runs.job import load_teacher
from lenient.runs.reopen import is_run, reopen

if TYPE_CHECKING:
    from lenient.data import ImageSet


ADAPT_IMAGES = 256
"""That statistics are estimated on anew by default."""


@dataclass(frozen=True)
class Measured:
    """A network, the labelled images that it was measured on, and what was found."""

    network: Network
    images: ImageSet
    measures: Measures


def measure_model(
    model: nn.Module | Network | str | Path,
    data: str | ImageSet,
    *,
    teacher: nn.Module | Network | str | Path | None,
    split: str,
    data_root: str | Path | None,
    statistics: str,
    adapt_to: str | ImageSet | Tensor | None,
    adapt_images: int,
    device: str,
    trust_code: bool,
    **facts: Unpack[TeacherFacts],
) -> Measured:
    """Load `model` and what it is measured on, and measure it; arguments are those of `lenient.evaluate`.

    Raises:
        TeacherError: a network cannot be loaded.
        UsageError: the data does not fit it, or statistics that it cannot have.
    """
    from lenient.data import load_data

    network = load_teacher(model, trust_code=trust_code, **facts)
    other = None if teacher is None else load_teacher(teacher, trust_code=trust_code)
    place = resolve_device(device)
    if isinstance(data, str):
        data = load_data(data, split=split, root=data_root, input_size=network.card.input_size)
    on = _statistics_images(
        model, network, statistics, adapt_to, adapt_images, data_root=data_root, device=device, trust_code=trust_code
    )
    found = evaluate(network, data, teacher=other, device=place, statistics=statistics, images=on)
    return Measured(network, data, found)


def _statistics_images(
    model: nn.Module | Network | str | Path,
    network: Network,
    statistics: str,
    adapt_to: str | ImageSet | Tensor | None,
    adapt_images: int,
    *,
    data_root: str | Path | None,
    device: str,
    trust_code: bool,
) -> ImageSet | Tensor | None:
    """Return the images that a network's statistics are estimated on, None where they are not."""
    from lenient.data import load_data

    if (adapt_to is None) == (statistics == "adapted"):
        raise UsageError("--adapt-to: goes with --statistics adapted, which needs it")
    if adapt_to is None and adapt_images != ADAPT_IMAGES:
        raise UsageError(f"--adapt-images {adapt_images}: goes with --statistics adapted; leave it out")
    if adapt_images < 2:
        raise UsageError(f"--adapt-images {adapt_images}: at least 2")
    if statistics == "synthetic":
        if not is_run(model):
            raise UsageError("--statistics synthetic: name a run folder, whose source draws the images")
        run, teacher = reopen(Path(model), device, trust_code=trust_code)
        with teacher, memory_errors():
            return torch.cat([images.cpu() for images in run.statistics_batches()])
    if adapt_to is None:
        return None
    images = adapt_to
    if isinstance(images, str):
        with named_by("--adapt-to"):
            images = load_data(images, split="train", root=data_root, input_size=network.card.input_size)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:adapt_images]
    return images[order] if isinstance(images, Tensor) else images.subset(order)
