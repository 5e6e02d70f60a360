"""What one batch of images is, and what each network said about it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class LayerStatistics:
    """Statistics of the input of one batch-norm layer over (batch, height, width), beside those it stored in training.

    All float32 of shape (channels,); `variance` is biased (divided by the count).
    """

    mean: Tensor
    variance: Tensor
    running_mean: Tensor
    running_variance: Tensor


@dataclass(frozen=True)
class Response:
    """What one forward pass of one network returned.

    `logits` is (N, num_classes); `statistics` holds one entry per batch-norm layer, empty unless asked for.
    """

    logits: Tensor
    statistics: tuple[LayerStatistics, ...] = ()


@dataclass
class Record:
    """One batch and everything the networks said about it; terms read it and own no network.

    `images`: (N, C, H, W) in pixel units, the clean view. `inputs[view]`: the view as the teacher saw it, normalised.
    `weight`: (N,) float32 in [0, 1], how far the teacher vouches for each sample. `answers[view][network]`: responses.
    Views are `clean` (as synthesised) and `train` (augmented; the same object as `clean` without augmentation).
    """

    images: Tensor
    weight: Tensor
    inputs: dict[str, Tensor] = field(default_factory=dict)
    answers: dict[str, dict[str, Response]] = field(default_factory=dict)

    def logits(self, view: str, network: str) -> Tensor:
        """Return the logits of `network` ("teacher" or "student") on `view` in float32."""
        return self.answers[view][network].logits.float()
