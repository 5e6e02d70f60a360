"""The momentum generator of MAD: an average of past generators draws the old images."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lenient.core import ranks
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

    Parameters and floating buffers are averaged, spectral vectors and counters copied. Images are drawn with
    statistics of the batch and leave its buffers alone. Class embeddings are the live ones.
    """

    learner: nn.Module | None = None

    def __init__(self, sampler: Sampler, size: int, settings: MomentumSettings) -> None:
        self.sampler, self.size, self.settings = sampler, size, settings
        self.module = copy.deepcopy(sampler.generator).requires_grad_(False).train()
        self.updates = 0
        self.label = f"momentum, {settings.decay:g}"

    @torch.no_grad()
    def after_generator(self, clock: Clock, batch: Batch, bad: Tensor) -> None:
        """Move towards the generator; a skipped update moves nothing."""
        self.updates += 1
        decay = self.settings.decay
        if self.settings.warm_up:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        share = (1 - decay) * (1 - bad)
        live = self.sampler.generator.state_dict()
        for name, average in self.module.state_dict().items():
            if average.is_floating_point() and not name.endswith(("._u", "._v")):
                average.lerp_(live[name], share)
            else:
                average.copy_(torch.where(bad > 0, average, live[name]))

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
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Go on from a saved state."""
        self.module.load_state_dict(state["module"])
        self.updates = state["updates"]
        return None
