"""The momentum generator of MAD: an average of past generators draws the old images."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lenient.core import ranks
from lenient.core.averaging import WeightAverage
from lenient.replay import Recalled, RecallSettings
from lenient.synthesis.sampler import Sampler
from lenient.teacher.batch import Batch, Clock


class MomentumSettings(RecallSettings):
    """An average of past generators draws old images (MAD)."""

    name: Literal["momentum"] = "momentum"
    share: float = Field(1.0, ge=0, le=1e6)
    """Old images in one student step, as a share of the batch (our choice: as many as new ones)."""
    weight: float | None = Field(1.0, ge=0, le=1e6)
    """Weight of the old images' loss beside 1 for the new (paper: leaving it out costs much; the value is ours)."""
    decay: float = Field(0.95, ge=0, lt=1)
    """Share of the old average kept at each generator step (paper: 0.95; 0.2 and 0.999 clearly worse)."""
    warm_up: bool = True
    """Whether step t uses at most (1 + t) / (10 + t), so that the untrained start is soon forgotten (our choice)."""


class MomentumGenerator:
    """An exponential moving average of the generator, in float32, moved after each generator update.

    Images are drawn with statistics of the batch, and with the generator's buffers, which they leave alone. Class
    embeddings are the live ones.
    """

    learner: nn.Module | None = None

    def __init__(self, sampler: Sampler, size: int, settings: MomentumSettings) -> None:
        self.sampler, self.size, self.settings = sampler, size, settings
        generator, decay = sampler.generator, settings.decay
        self.average = WeightAverage(generator, decay, first=1, warm_up=settings.warm_up)
        self.module = self.average.module.train()
        self.label = f"momentum, {decay:g}"

    def after_generator(self, clock: Clock, batch: Batch, bad: Tensor) -> None:
        """Move towards the generator; a skipped update moves nothing."""
        self.average.update(self.sampler.generator, bad)

    def after_student(self, clock: Clock, batch: Batch, bad: Tensor) -> None:
        """Take no note."""

    @torch.no_grad()
    def draw(self, clock: Clock) -> Recalled | None:
        """Return `size` fresh images of the average."""
        images = self.sampler.sample(self.size, "momentum-latents", clock.update, self._frozen).images
        return Recalled(images, len(images) * ranks.count())

    def _frozen(self, *given: Tensor) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        embedding = getattr(self.sampler.generator, "embedding", None)
        if isinstance(embedding, nn.Module):
            buffers |= {f"embedding.{name}": value.detach() for name, value in embedding.named_parameters()}
        images: Tensor = torch.func.functional_call(self.module, buffers, given)
        return images

    def state_dict(self) -> dict[str, Any]:
        """Return the average and how often it moved."""
        return {"module": self.module.state_dict(), "updates": self.average.updates}

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Go on from a saved state."""
        self.module.load_state_dict(state["module"])
        self.average.updates = state["updates"]
        return None
