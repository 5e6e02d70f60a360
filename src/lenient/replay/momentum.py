"""The momentum generator of MAD: an average of past generators draws the old images."""

from __future__ import annotations

import copy
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lenient.core.config import Settings
from lenient.replay import Event
from lenient.synthesis.generated import StreamSource
from lenient.teacher.batch import Record


class MomentumSettings(Settings):
    """How the generator is averaged."""

    decay: float = Field(0.95, ge=0, lt=1)
    """Share of the old average kept at each generator step (paper: 0.95; 0.2 and 0.999 clearly worse)."""
    warm_up: bool = True
    """Whether step t uses at most (1 + t) / (10 + t), so that the untrained start is soon forgotten (our choice)."""


class MomentumGenerator:
    """An exponential moving average of the generator, in float32, moved after each generator turn.

    Parameters and floating buffers are averaged, spectral vectors and counters copied. Images are drawn with
    statistics of the batch and leave its buffers alone. Class embeddings are the live ones.
    """

    learner: nn.Module | None = None

    def __init__(self, source: StreamSource, size: int, settings: MomentumSettings) -> None:
        self.source, self.size, self.settings = source, size, settings
        self.module = copy.deepcopy(source.generator).requires_grad_(False).train()
        self.updates = 0
        self.label = f"momentum, {settings.decay:g}"

    @torch.no_grad()
    def observe(self, event: Event, record: Record, bad: Tensor) -> None:
        """Move towards the generator after its turn; a skipped turn moves nothing."""
        if event != "after_generator":
            return
        self.updates += 1
        decay = self.settings.decay
        if self.settings.warm_up:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        share = (1 - decay) * (1 - bad)
        live = self.source.generator.state_dict()
        for name, average in self.module.state_dict().items():
            if average.is_floating_point() and not name.endswith(("._u", "._v")):
                average.lerp_(live[name], share)
            else:
                average.copy_(torch.where(bad > 0, average, live[name]))

    @torch.no_grad()
    def draw(self, turn: int) -> Tensor | None:
        """Return `size` fresh images of the average."""
        return self.source.sample(self.size, "momentum-latents", turn, self._frozen).images

    def _frozen(self, *given: Tensor) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        embedding = getattr(self.source.generator, "embedding", None)
        if embedding is not None:
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
