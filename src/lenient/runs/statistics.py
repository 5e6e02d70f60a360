"""The images that a network's batch-norm statistics are estimated on before it is measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lenient.core.errors import UsageError
from lenient.core.memory import memory_errors
from lenient.evaluation.running import named_by
from lenient.models.card import Network
from lenient.runs.reopen import is_run, reopen

if TYPE_CHECKING:
    from lenient.data import ImageSet


def statistics_images(
    model: nn.Module | Network | str | Path,
    network: Network,
    statistics: str,
    adapt_to: str | ImageSet | Tensor | None,
    adapt_images: int,
    *,
    data_root: str | Path | None = None,
    device: str = "auto",
    trust_code: bool = False,
) -> ImageSet | Tensor | None:
    """Return the images that a network's statistics are estimated on, None where they are not; as `evaluate`.

    Raises:
        UsageError: images and `statistics` do not go together, or there are none.
    """
    from lenient.data import load_data

    if (adapt_to is None) == (statistics == "adapted"):
        raise UsageError("--adapt-to: goes with --statistics adapted, which needs it")
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
