"""What one batch of images is, and what each network said about it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lenient.core.reductions import full


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
    """What one forward pass of one network returned; all but the logits is empty unless asked for.

    `logits` is (N, num_classes); `statistics` holds one entry per batch-norm layer; `features` is (N, d), the input of
    the classifying layer; `blocks` holds (N, channels, height, width), one for each resolution asked for.
    """

    logits: Tensor
    statistics: tuple[LayerStatistics, ...] = ()
    features: Tensor | None = None
    blocks: tuple[Tensor, ...] = ()

    def split(self, first: int) -> tuple[Response, Response]:
        """Return the answers on the `first` images and on the rest, as views; statistics belong to neither."""

        def part(chosen: slice) -> Response:
            features = None if self.features is None else self.features[chosen]
            return Response(self.logits[chosen], (), features, tuple(block[chosen] for block in self.blocks))

        return part(slice(None, first)), part(slice(first, None))


@dataclass(frozen=True)
class Clock:
    """When in a run an update is made: what was done before it, and of how much."""

    update: int = 0
    """Updates of all networks."""
    round: int = 0
    """Rounds of the schedule, over all phases."""
    step: int = 0
    """Student updates, of `steps` in the run."""
    steps: int = 1
    epoch: int = 0
    """Epochs, of `epochs` in the run."""
    epochs: int = 1
    ends_epoch: bool = False
    """Whether this update is the student's last of its epoch."""


@dataclass
class Batch:
    """One batch and everything the networks said about it; terms read it and own no network.

    `images`: (N, C, H, W) in pixel units, the clean view. `inputs[view]`: the view as the teacher saw it, normalised.
    `weight`: (N,) float32 in [0, 1], how far the teacher vouches for each sample. `answers[view][network]`: responses.
    Views are `clean` (as synthesised) and `train` (augmented; the same object as `clean` without augmentation).
    `labels`: (N,) int64, the classes that a conditional generator was asked for.
    """

    images: Tensor
    weight: Tensor
    inputs: dict[str, Tensor] = field(default_factory=dict)
    answers: dict[str, dict[str, Response]] = field(default_factory=dict)
    labels: Tensor | None = None
    clock: Clock = Clock()

    def logits(self, view: str, network: str) -> Tensor:
        """Return the logits of `network` ("teacher" or "student") on `view` in float32."""
        return full(self.answers[view][network].logits)
