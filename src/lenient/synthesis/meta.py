"""A generator that learns to be a good start: what is adapted to one batch after another starts from its weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lenient.core.optimizers import load_optimizer, step_unless

MetaForm = Literal["fomaml", "reptile"]
"""First-order MAML, the sum of the gradients at all steps of adaptation; or Reptile, the way back from where it led."""


class MetaGenerator:
    """The common start of all batches (FastDFKD), with an Adam whose moments outlive them.

    Its weights move once a batch; its buffers never do, since only adapted copies draw. A batch with a skipped update
    is no evidence: its step is skipped, too.
    """

    def __init__(self, adapted: nn.Module, form: MetaForm, lr: float, betas: tuple[float, float]) -> None:
        self.generator, self.form = copy.deepcopy(adapted), form
        self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=lr, betas=betas, fused=True)
        self.gradient = [torch.zeros_like(parameter) for parameter in self.generator.parameters()]
        self.spoiled = torch.zeros((), device=self.gradient[0].device)

    @torch.no_grad()
    def gather(self, adapted: nn.Module, bad: Tensor) -> None:
        """Note one step of adaptation, before its gradients are gone; `bad` is 1 where it was skipped."""
        self.spoiled = torch.maximum(self.spoiled, bad)
        if self.form == "fomaml":
            for total, parameter in zip(self.gradient, adapted.parameters(), strict=True):
                if parameter.grad is not None:
                    total += parameter.grad

    @torch.no_grad()
    def learn(self, adapted: nn.Module) -> None:
        """Make one step after the last one of adaptation, and forget what was gathered."""
        if self.form == "reptile":
            pairs = zip(self.generator.parameters(), adapted.parameters(), strict=True)
            self.gradient = [own - there for own, there in pairs]
        for parameter, gradient in zip(self.generator.parameters(), self.gradient, strict=True):
            parameter.grad = gradient
        step_unless(self.optimizer, self.spoiled)
        self.optimizer.zero_grad()
        self.gradient = [torch.zeros_like(gradient) for gradient in self.gradient]
        self.spoiled = torch.zeros_like(self.spoiled)

    @torch.no_grad()
    def start(self, changed: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what the next batch's generator starts from, by name, once the tensors in `changed` have these
        values."""
        held: dict[str, Tensor] = self.generator.state_dict()
        for name, value in changed.items():
            held[name].copy_(value)
        return held

    def state_dict(self) -> dict[str, Any]:
        """Return all that outlives an update."""
        return {
            "generator": self.generator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "gradient": self.gradient,
            "spoiled": self.spoiled,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from it; raises ValueError where what the optimizer kept is of another kind."""
        self.generator.load_state_dict(state["generator"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.gradient = [gradient.clone() for gradient in state["gradient"]]
        self.spoiled = state["spoiled"].clone()
