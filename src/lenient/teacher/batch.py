"""What one batch of images is, and what each network said about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from lenient.core.reductions import full
from lenient.teacher.probes import Probe

T = TypeVar("T")


@dataclass(frozen=True)
class Response:
    """What one forward pass of one network returned: `logits` (N, num_classes), and what the probes found, by the kind
    of probe."""

    logits: Tensor
    probed: Mapping[type, Any] = field(default_factory=dict)

    def of(self, kind: type[Probe[T]]) -> T:
        """Return what a kind of probe found; raises ValueError where none was armed."""
        if kind not in self.probed:
            raise ValueError(f"the networks were not asked for {kind.__name__}: a term's `needs` have to say so")
        found: T = self.probed[kind]
        return found

    def split(self, first: int) -> tuple[Response, Response]:
        """Return the answers on the `first` images and on the rest, as views; what is of all of them is of neither."""
        return self.rows(slice(None, first)), self.rows(slice(first, None))

    def rows(self, chosen: slice | Tensor) -> Response:
        """Return the answers on some images, by a slice or by their numbers (n,); what is of all of them is left
        out."""
        probed = {kind: kind.rows(found, chosen) for kind, found in self.probed.items()}  # type: ignore[attr-defined]
        return Response(self.logits[chosen], _known(probed))

    def joined(self, other: Response) -> Response:
        """Return the answers on two batches as on one; what is of a batch as a whole is left out."""
        probed = {
            kind: kind.joined(found, other.probed[kind])  # type: ignore[attr-defined]
            for kind, found in self.probed.items()
            if kind in other.probed
        }
        return Response(torch.cat([self.logits, other.logits]), _known(probed))


def _known(probed: Mapping[type, Any]) -> dict[type, Any]:
    return {kind: found for kind, found in probed.items() if found is not None}


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


class Partners(NamedTuple):
    """Of images that show a part of another one each: that one's class, (N,) int64, and the share of the area, (N,)."""

    labels: Tensor
    share: Tensor


@dataclass
class Batch:
    """One batch and everything the networks said about it; terms read it and own no network.

    `images`: (N, C, H, W) in pixel units, the clean view. `inputs[view]`: the view as the teacher saw it, normalised.
    `weight`: (N,) float32 in [0, 1], how far the teacher vouches for each sample. `answers[view][network]`: responses.
    Views are `clean` (as synthesised) and `train` (augmented; the same object as `clean` without augmentation).
    `labels`: (N,) int64, the classes that the images are to show, or (N, K) distributions over the classes.
    `latents`: (N, d), what a generator drew the images from. `decoded`: (N, d), what a decoder reads of them. `drawn`:
    the generator's maps on the way, (N, C, H, W) each. `partners`: where the views show parts of other images. `piece`:
    which one this is of a batch that is optimised piece by piece.
    """

    images: Tensor
    weight: Tensor
    inputs: dict[str, Tensor] = field(default_factory=dict)
    answers: dict[str, dict[str, Response]] = field(default_factory=dict)
    labels: Tensor | None = None
    clock: Clock = Clock()
    latents: Tensor | None = None
    decoded: Tensor | None = None
    drawn: Sequence[Tensor] = ()
    partners: Partners | None = None
    piece: int = 0

    def logits(self, view: str, network: str) -> Tensor:
        """Return the logits of `network` ("teacher" or "student") on `view` in float32; raises ValueError where it was
        not asked."""
        if network not in self.answers.get(view, {}):
            raise ValueError(f"the {network} was not asked about the view {view!r}: a term's `needs` have to say so")
        return full(self.answers[view][network].logits)

    def with_others(self, other: Batch, order: Tensor) -> Batch:
        """Return a batch of images of this one and of another, with what the teacher said of them on both views.

        Args:
            other: whose views were shown to the same teacher, with the same probes.
            order: (n,) int64, numbers of images, those of the other one counted on from this one's.
        """

        def chosen(own: Tensor, others: Tensor) -> Tensor:
            return torch.cat([own, others])[order]

        inputs = {view: chosen(own, other.inputs[view]) for view, own in self.inputs.items()}
        answers = {
            view: {"teacher": own["teacher"].joined(other.answers[view]["teacher"]).rows(order)}
            for view, own in self.answers.items()
        }
        weight = chosen(self.weight, other.weight)
        return Batch(chosen(self.images, other.images), weight, inputs, answers, clock=self.clock)
