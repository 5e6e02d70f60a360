"""What the student minimises."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lenient.core.reductions import batch_mean, full
from lenient.losses.distances import Distance
from lenient.losses.objective import Needs
from lenient.teacher.batch import Batch, Clock
from lenient.teacher.probes import Blocks

SelfPacedForm = Literal["log", "soft", "hard"]


class Imitation:
    """A distance between the networks, mean over the batch; zero where the student equals the teacher."""

    def __init__(self, distance: Distance, label: str, view: str = "train") -> None:
        self.distance, self.label, self.view = distance, label, view
        self.needs = Needs(view, student=True)

    def per_sample(self, batch: Batch) -> Tensor:
        """Return the distance of each sample, (N,)."""
        return self.distance(batch.logits(self.view, "teacher"), batch.logits(self.view, "student"))

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        return batch_mean(self.per_sample(batch), batch.weight)


class SelfPaced(Imitation):
    """Imitation in which images that the student finds too hard now count less: mean of v(l, pace) l (CuDFKD).

    The pace grows in a straight line from `start` to `end` over the run's student steps; v carries no gradient.
    """

    def __init__(
        self,
        distance: Distance,
        label: str,
        start: float,
        end: float,
        form: SelfPacedForm = "log",
        view: str = "train",
    ) -> None:
        super().__init__(distance, f"{label}, self-paced", view)
        self.start, self.end, self.form = start, end, form

    def pace(self, clock: Clock) -> float:
        """Return the loss at which an image now counts about half."""
        return self.start + (self.end - self.start) * clock.step / clock.steps

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        losses = self.per_sample(batch)
        trust = self_paced_weight(losses.detach(), self.pace(batch.clock), self.form)
        return batch_mean(trust * losses, batch.weight)


def self_paced_weight(losses: Tensor, pace: float, form: SelfPacedForm = "log") -> Tensor:
    """Weights in [0, 1] of per-sample losses >= 0: `log` (1 + e^-pace) / (1 + e^(l - pace)), 1 at 0, about 1/2 at pace;
    `soft` 1 - l / pace and `hard` 1 below the pace, both 0 above it.

    Example:
        >>> self_paced_weight(torch.tensor([0.0, 1.0, 5.0]), pace=1.0)
        tensor([1.0000, 0.6839, 0.0246])
    """
    if form == "log":
        return (1 + math.exp(-pace)) * torch.sigmoid(pace - losses)
    inside = (losses < pace).float()
    return inside if form == "hard" else inside * (1 - losses / pace)


class AttentionTransfer:
    """Squared distance of spatial attention maps, summed over blocks (Zagoruyko and Komodakis 2017; ZSKT as coded).

    A map is the mean over channels of squared activations, flattened and scaled to length 1 per sample; the distance is
    the mean over batch and positions. Independent of batch size; falls with the number of positions.
    """

    label = "attention"

    def __init__(self, view: str = "train") -> None:
        self.view = view
        self.needs = Needs(view, student=True, probes=(Blocks(),))

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term from the block activations in both answers."""
        answers = batch.answers[self.view]
        pairs = zip(answers["teacher"].of(Blocks), answers["student"].of(Blocks), strict=True)
        distances = [
            (attention_map(teacher) - attention_map(student)).square().mean(dim=1) for teacher, student in pairs
        ]
        return batch_mean(torch.stack(distances).sum(dim=0), batch.weight)


def attention_map(activations: Tensor) -> Tensor:
    """(N, channels, H, W) to (N, H W), each row of length 1.

    Example:
        >>> attention_map(torch.tensor([[[[3.0, 0.0]], [[1.0, 0.0]]]]))  # all attention is on the left
        tensor([[1., 0.]])
    """
    return F.normalize(full(activations).square().mean(dim=1).flatten(1), dim=1)
