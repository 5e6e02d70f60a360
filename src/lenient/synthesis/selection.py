"""Which samples the teacher vouches for: per-sample scores in, weights in [0, 1] out, all on the device.

A score is a loss: the smaller, the surer the teacher. Selections see scores, not networks, and ask the host nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor

from lenient.core.config import BY_NAME, Nothing, Part
from lenient.core.errors import UsageError
from lenient.core.graphs import Graphs


class Mixture(NamedTuple):
    """Two Gaussian components fitted to a batch of scores; all tensors on the device, in the units of the scores."""

    means: Tensor
    """(2,) component means, the surer first."""
    deviations: Tensor
    """(2,) component standard deviations."""
    shares: Tensor
    """(2,) component weights, summing to 1."""
    limit: Tensor
    """Scalar: the largest accepted score."""
    separable: Tensor
    """Scalar 0/1: whether there were two components to tell apart."""


class Selected(NamedTuple):
    """Which samples of a batch are accepted."""

    scores: Tensor
    """(N,) what the selection saw."""
    weight: Tensor
    """(N,) float32 in [0, 1]: 1 is accepted."""
    mixture: Mixture | None = None
    """What told them apart, if a mixture did."""

    def event(self, bins: int = 40) -> tuple[str, dict[str, Any]] | None:
        """Return what belongs into a run's history: the name of an event and its values; None where nothing does."""
        if self.mixture is None:
            return None
        scores, fitted = self.scores.float().cpu(), self.mixture
        finite = scores[torch.isfinite(scores)]
        high = float(finite.max()) if len(finite) else 1.0
        edges = torch.linspace(0, max(high, 1e-6), bins + 1)
        counts = torch.histogram(finite, bins=edges).hist if len(finite) else torch.zeros(bins)
        return "mixture", {
            "edges": edges.tolist(),
            "counts": counts.tolist(),
            "means": fitted.means.tolist(),
            "stds": fitted.deviations.tolist(),
            "weights": fitted.shares.tolist(),
            "limit": float(fitted.limit),
            "kept": float(self.weight.mean()),
            "separable": bool(fitted.separable > 0),
        }


class Selection(Protocol):
    """Scores (N,) to which samples are accepted: deterministic."""

    def __call__(self, scores: Tensor) -> Selected:
        """Decide on one batch of scores."""
        ...


@torch.no_grad()
def check_selection(selection: Selection, name: str, device: torch.device) -> None:
    """Try a selection of somebody's own on eight scores, once, before a run: later nobody asks the device.

    Raises:
        UsageError: what it gives are no weights.
    """
    weight = selection(torch.linspace(0, 4, 8, device=device)).weight
    if weight.shape != (8,) or not weight.is_floating_point():
        found = f"{str(weight.dtype).removeprefix('torch.')} of shape {tuple(weight.shape)}"
        raise UsageError(f"selection {name}: gives {found} for 8 scores; give a float weight for each")
    if not bool(((weight >= 0) & (weight <= 1)).all()):
        least, most = float(weight.min()), float(weight.max())
        raise UsageError(f"selection {name}: gives weights from {least:g} to {most:g}; give 0 to 1")


class MixtureSettings(Part):
    """The teacher vouches for the surer component of a mixture of two (TA-DFKD), and images that it does not vouch for
    are made again; the paper gives none of these figures but tau."""

    not_below: ClassVar[Mapping[str, str]] = {"max_rounds": "min_rounds"}

    name: Literal["mixture"] = "mixture"
    tau: float = Field(0.5, gt=0, lt=1)
    """Posterior above which a sample is accepted (paper: 0.5)."""
    max_iterations: int = Field(10, ge=1, le=10_000)
    """Rounds of expectation maximisation (released code: 10)."""
    tolerance: float = Field(1e-2, ge=0, le=1e6)
    """Stop once the mean log-likelihood gains less than this (released code: 1e-2)."""
    variance_floor: float = Field(5e-4, gt=0, le=1e6)
    """Added to both variances of the scores rescaled to [0, 1] (released code: 5e-4)."""
    acceptance: Literal["monotone", "posterior"] = "monotone"
    """`monotone`: nothing surer than an accepted sample is rejected; `posterior`: the raw rule, as released."""
    carry_leftovers: bool = True
    """Deal accepted samples left over to the next student step, until the generator moves."""
    min_rounds: int = Field(1, ge=1, le=1000)
    """Rounds of synthesis for one student batch at least (released code: 2)."""
    max_rounds: int | None = Field(4, ge=1, le=1000)
    """Rounds of synthesis for one student batch at most; null: until it is full (released code), at most 100."""


MOST_ROUNDS = 100
"""Rounds for one student batch without another bound: a teacher that vouches for nothing must not stop a run."""
SelectionSettings = Annotated[Nothing | MixtureSettings, BY_NAME]
"""Which samples the teacher vouches for: all of them, or TA-DFKD's mixture."""


class KeepAll:
    """The neutral selection: everything is accepted."""

    def __call__(self, scores: Tensor) -> Selected:
        """Accept everything."""
        return Selected(scores, torch.ones_like(scores, dtype=torch.float32))


@dataclass(frozen=True)
class MixtureSelection:
    """Accepts the samples of the surer component of a two-component Gaussian mixture fitted to the batch's scores.

    Scores are rescaled to [0, 1] over the batch. The fit starts from the exact one-dimensional 2-means partition, so it
    is deterministic, and runs a fixed number of rounds, frozen once converged. Monotone acceptance goes up to the last
    score between the two means at which the surer component still leads; where the lead does not change hands between
    the means the components cannot be told apart and all is kept. All is kept, too, of fewer than four samples or of
    scores that are all equal. Non-finite scores are never accepted.
    """

    settings: MixtureSettings = field(default_factory=MixtureSettings)
    graphs: Graphs = field(default_factory=Graphs, repr=False, compare=False)
    """What a fit is recorded in on CUDA: its rounds are hundreds of operators, more than half of all in an update."""

    def __call__(self, scores: Tensor) -> Selected:
        """Fit the mixture to scores (N,) and decide."""
        return Selected(scores, *self.graphs(self._decided, scores.detach()))

    def _decided(self, scores: Tensor) -> tuple[Tensor, Mixture]:
        double = torch.float32 if scores.device.type == "mps" else torch.float64
        finite = torch.isfinite(scores)
        values = scores.to(double)
        largest = values.masked_fill(~finite, -math.inf).amax()
        values = torch.where(finite, values, torch.where(torch.isfinite(largest), largest, largest.new_zeros(())))
        low, high = values.amin(), values.amax()
        span = high - low
        flat = span < 1e-12
        unit = (values - low) / torch.where(flat, torch.ones_like(span), span)

        means, variances, shares = fit_mixture(unit, self.settings)
        order = torch.argsort(means, stable=True)
        means, variances, shares = means[order], variances[order], shares[order]
        posterior = torch.softmax(log_joint(unit, means, variances, shares), dim=1)[:, 0]
        leads = posterior > self.settings.tau

        if self.settings.acceptance == "posterior":
            accepted, separable = leads, ~flat
        else:
            between = (unit >= means[0]) & (unit <= means[1])
            crossing = self._leads_at(means, variances, shares)
            separable = crossing[0] & ~crossing[1] & ~flat
            limit = torch.where(leads & between, unit, means[0]).amax()
            accepted = (unit <= limit) | ~separable
        if scores.shape[0] < 4:
            accepted, separable = torch.ones_like(accepted), torch.zeros_like(separable)
        accepted = (accepted | flat) & finite
        limit = torch.where(accepted, values, low).amax()
        mixture = Mixture(
            (means * span + low).float(),
            (variances.sqrt() * span).float(),
            shares.float(),
            limit.float(),
            separable.float(),
        )
        return accepted.float(), mixture

    def _leads_at(self, means: Tensor, variances: Tensor, shares: Tensor) -> Tensor:
        """Whether the surer component leads at each of the two means, (2,) bool."""
        return torch.softmax(log_joint(means, means, variances, shares), dim=1)[:, 0] > 0.5


def two_means(values: Tensor) -> Tensor:
    """Exact 2-means of (N,) in one dimension: returns a bool mask of the upper cluster.

    The best partition is a cut of the sorted values; prefix sums give the squared error of every cut at once.
    """
    count = values.shape[0]
    ordered, order = torch.sort(values, stable=True)
    sizes = torch.arange(1, count, device=values.device, dtype=values.dtype)
    left = ordered.cumsum(0)[:-1]
    right = ordered.sum() - left
    cut = (left.square() / sizes + right.square() / (count - sizes)).argmax()
    upper = torch.arange(count, device=values.device) > cut
    return torch.empty_like(upper).scatter(0, order, upper)


def fit_mixture(values: Tensor, settings: MixtureSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Fit two Gaussians to (N,) values in [0, 1] by expectation maximisation from the 2-means partition.

    Returns means, variances and shares, (2,) each. Follows scikit-learn's GaussianMixture given the same start: the
    stop rule compares the mean log-likelihoods of successive rounds, and keeps the parameters of the round that met it.
    """
    if values.shape[0] < 2:
        ones = torch.ones(2, dtype=values.dtype, device=values.device)
        return values.expand(2).clone(), ones * settings.variance_floor, ones / 2
    upper = two_means(values)
    responsibility = torch.stack([~upper, upper], dim=1).to(values.dtype)
    state = _maximise(values, responsibility, settings.variance_floor)
    bound = torch.full((), -math.inf, dtype=values.dtype, device=values.device)
    running = torch.ones((), dtype=torch.bool, device=values.device)
    for _ in range(settings.max_iterations):
        joint = log_joint(values, *state)
        new_bound = torch.logsumexp(joint, dim=1).mean()
        proposal = _maximise(values, torch.softmax(joint, dim=1), settings.variance_floor)
        state = tuple(torch.where(running, new, old) for new, old in zip(proposal, state, strict=True))  # type: ignore[assignment]
        running = running & ((new_bound - bound).abs() >= settings.tolerance)
        if running.device.type == "cpu" and not running.numpy():
            break  # the rounds left would change nothing; on other devices asking costs more than they do
        bound = new_bound
    return state


def log_joint(values: Tensor, means: Tensor, variances: Tensor, shares: Tensor) -> Tensor:
    """Log of share times Gaussian density of each value under each component, (N, 2)."""
    distance = (values[:, None] - means).square() / variances
    return shares.log() - 0.5 * (distance + variances.log() + math.log(2 * math.pi))


def _maximise(values: Tensor, responsibility: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    tiny = 10 * torch.finfo(values.dtype).eps
    mass = responsibility.sum(dim=0) + tiny
    means = (responsibility * values[:, None]).sum(dim=0) / mass
    variances = (responsibility * (values[:, None] - means).square()).sum(dim=0) / mass + floor
    return means, variances, mass / mass.sum()
