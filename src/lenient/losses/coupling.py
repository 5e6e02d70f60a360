"""Terms that tie a generator and its images to what the teacher holds inside: its maps, its last layer (CPNet)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lenient.core.reductions import batch_mean, batch_size_of, full
from lenient.losses.objective import Needs
from lenient.losses.representation import AveragedMoments
from lenient.teacher.batch import Batch
from lenient.teacher.probes import BatchNormInputs, Features

EPSILON = 1e-5
"""Beside a variance that is divided by: a channel that is the same everywhere has none."""


class FeatureCoupling:
    """Sum over cuts of the mean squared difference between the generator's maps and the teacher's of the images that it
    drew, scaled to the mean and variance that the cut's batch norm stored (CPNet, L_cp).

    Mean over batch, channels and positions: independent of their numbers, grows with the stored variances. The batch's
    own mean and unbiased variance are averaged with those of batches before by `momentum`, as in `AveragedStatistics`.
    The teacher's maps have no gradient, so only the generator gets any.
    """

    label = "coupling"

    def __init__(self, probe: BatchNormInputs, momentum: float, view: str) -> None:
        self.probe, self.view, self.averages = probe, view, AveragedMoments(momentum)
        self.needs = Needs(view, probes=(probe,))

    def _maps(self, batch: Batch) -> list[Tensor]:
        return [full(maps).detach() for maps in batch.answers[self.view]["teacher"].of(BatchNormInputs)]

    def targets(self, batch: Batch) -> list[Tensor]:
        """Return the teacher's maps at each cut (N, C, H, W), standardised anew."""
        found, maps = [], self._maps(batch)
        averaged = self.averages.joined([_moments(own) for own in maps])
        for own, (mean, variance), layer in zip(maps, averaged, self.probe.layers, strict=True):
            stored = [full(value) for value in (layer.running_mean, layer.running_var) if isinstance(value, Tensor)]
            scale = (stored[1] / (variance + EPSILON)).sqrt()
            found.append((own - _placed(mean)) * _placed(scale) + _placed(stored[0]))
        return found

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        pairs = zip(batch.drawn, self.targets(batch), strict=True)
        distances = [(full(drawn) - wanted).square().flatten(1).mean(dim=1) for drawn, wanted in pairs]
        return batch_mean(torch.stack(distances, dim=1)).sum()

    @torch.no_grad()
    def remember(self, batch: Batch, bad: Tensor) -> None:
        """Move the averages on by a finished batch, from the teacher's answers at its last step."""
        self.averages.move([_moments(own) for own in self._maps(batch)], bad)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages."""
        return self.averages.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from them."""
        self.averages.load_state_dict(state)


def _moments(maps: Tensor) -> Tensor:
    """Return mean and unbiased variance per channel of (N, C, H, W) over the whole batch, (2, C)."""
    mean = batch_mean(maps.flatten(2).mean(dim=2))
    count = batch_size_of(maps) * maps[0, 0].numel()
    square = batch_mean((maps - _placed(mean)).square().flatten(2).mean(dim=2))
    return torch.stack([mean, square * count / max(count - 1, 1)])


def _placed(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def pseudo_inverse(weight: Tensor, least: float = 0.1) -> Tensor:
    """Return (C, d): from logits back to features, for the weight (C, d) of a linear layer; singular values count as
    `least` at least, so that small ones are bounded.

    Example:
        >>> weight, logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 4.0, 1.0]]), torch.tensor([[3.0, -1.0]])
        >>> features = logits @ pseudo_inverse(weight)
        >>> features.shape, torch.allclose(features @ weight.T, logits, atol=1e-5)
        (torch.Size([1, 3]), True)
    """
    left, values, right = torch.linalg.svd(weight.T, full_matrices=False)
    inverse: Tensor = right.T @ torch.diag(1 / values.clamp_min(least)) @ left.T
    return inverse


def target_gap(classes: int, smoothing: float = 0.1) -> float:
    """Return by how much a class's logit has to exceed all others, for its probability to be 1 - `smoothing`.

    Example:
        >>> gap = target_gap(10)
        >>> torch.tensor([gap] + [0.0] * 9).softmax(dim=0)[0]
        tensor(0.9000)
    """
    return math.log((1 - smoothing) * (classes - 1) / smoothing)


class FeatureAlignment:
    """Mean over the batch of |cos(f - f_y, s)|: what parts an image's features f from the ideal ones of its class, f_y,
    shall be at right angles to the direction s that lifts all logits alike (CPNet, L_align). Within [0, 1].

    f_y = (gap onehot(y) - bias) W+ and s = 1 W+, with the pseudo-inverse W+ of the last layer. Images that show a part
    of another one have no ideal features: unless `mixed`, a batch of such gives 0.
    """

    label = "alignment"

    def __init__(self, weight: Tensor, bias: Tensor, *, mixed: bool = False, view: str = "train") -> None:
        inverse = pseudo_inverse(full(weight))
        classes = len(inverse)
        ideal = target_gap(classes) * torch.eye(classes, dtype=inverse.dtype, device=inverse.device) - full(bias)
        self.ideal, self.shift, self.mixed = ideal @ inverse, inverse.new_ones(classes) @ inverse, mixed
        self.view, self.needs = view, Needs(view, probes=(Features(),))

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        if batch.labels is None:
            raise ValueError("an alignment needs the classes that images are to show")
        features = full(batch.answers[self.view]["teacher"].of(Features))
        if batch.partners is not None and not self.mixed:
            return torch.zeros_like(features[0, 0])
        residual = features - self.ideal[batch.labels].to(features.dtype)
        cosine = torch.cosine_similarity(residual, self.shift.to(features.dtype)[None], dim=1)
        return batch_mean(cosine.abs())
