"""Which shuffle of the teacher's channels ABD takes: one that leaves some images as they were."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from lenient.core import ranks
from lenient.core.config import Settings
from lenient.core.runtime import Readback
from lenient.losses.shuffled import departure
from lenient.methods.contract import StepOutput
from lenient.teacher.batch import Clock
from lenient.teacher.shuffled import ShuffledTeacher

log = logging.getLogger("lenient")


class ShuffleSettings(Settings):
    """The penalty on images that a teacher with late channels in disorder still knows."""

    weight: float = Field(0.1, ge=0, le=1e6)
    """Weight of the penalty beside the method's own terms (paper: 0.1)."""
    copies: int = Field(3, ge=1, le=100)
    """Shuffled copies of the teacher, whose logits are averaged (released code: 3)."""
    layers: int = Field(5, ge=-10_000, le=10_000)
    """Convolutions that are shuffled, from the end of the forward; below 0, from its beginning (released code: 5)."""
    over_classes: bool = True
    """Whether the divergence is divided by the number of classes, to which the weight belongs (released code: yes)."""
    detach_shuffled: bool = False
    """Whether the gradient reaches images through the teacher alone (released code: through both)."""
    trials: int = Field(8, ge=0, le=1000)
    """Shuffles that are tried at most; 0 takes the first unseen (released code: 8, and 0 for ZSKT on CIFAR-10)."""
    warm_up: int = Field(11, ge=0, le=10**6)
    """Updates of what makes the images before the first trial (released code: 11)."""
    batches: int = Field(39, ge=1, le=10**6)
    """Batches of images that shuffles are judged by (released code: 39)."""
    tail: float = Field(0.02, ge=0, le=1)
    """A shuffle is taken where more log divergences lie three deviations below their mean (released code: 0.02)."""


class ShuffleTrials:
    """Looks for a shuffle that leaves a cluster of images on which it agrees with the teacher; then the penalty begins.

    First images are gathered, with the teacher's logits; then each update judges one shuffle by all of them. The answer
    is read one update late, so that asking never stalls the device. Where no shuffle passes there is no penalty.
    """

    def __init__(self, shuffled: ShuffledTeacher, settings: ShuffleSettings, first: Callable[[Clock], int]) -> None:
        self.shuffled, self.settings, self.first = shuffled, settings, first
        self.trial = self.seen = 0
        card, runtime = shuffled.teacher.card, shuffled.teacher.runtime
        self.inputs = torch.zeros(0, *card.input_size, device=runtime.device, dtype=runtime.dtype)
        self.logits = torch.zeros(0, card.num_classes, device=runtime.device, dtype=runtime.dtype)
        """Of all ranks: images as the teacher saw them, and what it said."""
        self.chosen = not settings.trials
        self._pending, self._tail = False, Readback(0.0)
        shuffled.shuffle(0)

    @property
    def ended(self) -> bool:
        """Whether a shuffle was chosen, or none is left."""
        return self.chosen or self.trial == self.settings.trials

    def weight(self, clock: Clock) -> float:
        """Return the penalty's weight: nothing before a shuffle is chosen, nor while the student unlearns."""
        return self.settings.weight if self.chosen and clock.step < self.first(clock) else 0.0

    @torch.no_grad()
    def after(self, clock: Clock, output: StepOutput, bad: Tensor) -> None:
        """Gather the images of an update of what makes them, or judge a shuffle by those gathered."""
        if self._pending:
            self._decide(self._tail.get())
        if self.ended:
            return
        if clock.step >= self.first(clock):
            self._give_up("the run is too short to judge a shuffle")
            return
        self.seen += 1
        if self.settings.warm_up < self.seen <= self.settings.warm_up + self.settings.batches:
            self._gather(output, bad)
        if self.seen >= self.settings.warm_up + self.settings.batches:
            self._tail.put(self._judged())
            self._pending = True

    def _gather(self, output: StepOutput, bad: Tensor) -> None:
        logits, inputs = output.batch.logits("clean", "teacher"), output.batch.inputs["clean"]
        logits = torch.where(bad > 0, torch.nan, ranks.gather(logits))  # what is not finite is not counted
        self.inputs = torch.cat([self.inputs, ranks.gather(inputs)])
        self.logits = torch.cat([self.logits, logits])

    def _judged(self) -> Tensor:
        """Return the tail of log10 of the divergences, a scalar, a batch at a time."""
        size = max(len(self.inputs) // self.settings.batches, 1)
        parts = []
        for inputs, logits in zip(self.inputs.split(size), self.logits.split(size), strict=True):
            shuffled = self.shuffled.logits(ranks.mine(inputs))
            parts.append(departure(ranks.mine(logits), shuffled, self.settings.over_classes))
        return tail(torch.cat([ranks.gather(part) for part in parts]).clamp_min(1e-12).log10())

    def _decide(self, share: float) -> None:
        self._pending, self.chosen = False, share > self.settings.tail
        if not self.chosen:
            self.trial += 1
            if self.ended:
                self._give_up(f"none of {self.trial} shuffles sets images apart")
            else:
                self.shuffled.shuffle(self.trial)
        if self.ended:
            self.inputs, self.logits = self.inputs[:0], self.logits[:0]

    def _give_up(self, why: str) -> None:
        self.trial = self.settings.trials
        self.inputs, self.logits = self.inputs[:0], self.logits[:0]
        if ranks.is_main():
            log.warning("defense abd: %s, so there is no penalty", why)

    def state_dict(self) -> dict[str, Any]:
        """Return the trial, and what was gathered for it."""
        state = {"trial": self.trial, "seen": self.seen, "inputs": self.inputs, "logits": self.logits}
        return {**state, "chosen": int(self.chosen), "pending": int(self._pending), "tail": self._tail.get()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved trial; its shuffle is made anew."""
        self.trial, self.seen, self.inputs, self.logits = (state[k] for k in ("trial", "seen", "inputs", "logits"))
        self.chosen, self._pending, self._tail = bool(state["chosen"]), bool(state["pending"]), Readback(state["tail"])
        self.shuffled.shuffle(self.trial)


def tail(values: Tensor, deviations: float = 3.0) -> Tensor:
    """Return the share of finite values (N,) more than so many standard deviations below their mean, a scalar.

    The deviation is that of the population. A Gaussian has a share of .00135 below three.
    """
    finite = torch.isfinite(values)
    count = finite.sum().clamp_min(1)
    kept = torch.where(finite, values, torch.zeros_like(values))
    mean = kept.sum() / count
    spread = (torch.where(finite, values - mean, torch.zeros_like(values)).square().sum() / count).sqrt()
    return (finite & (values < mean - deviations * spread)).sum() / count
