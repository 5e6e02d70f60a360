"""The mixture against scikit-learn, and what must hold whatever the scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lenient.synthesis.selection import KeepAll, MixtureSelection, MixtureSettings, fit_mixture, log_joint, two_means

RAW = MixtureSelection(MixtureSettings(acceptance="posterior"))
MONOTONE = MixtureSelection()

FAMILIES = {
    "exponential": lambda g: g.exponential(0.3, 256),
    "uniform": lambda g: g.uniform(0.5, 2.3, 256),
    "two far": lambda g: np.concatenate([g.normal(0.1, 0.02, 160), g.normal(1.5, 0.2, 96)]),
    "two near": lambda g: np.concatenate([g.normal(0.5, 0.2, 128), g.normal(0.9, 0.2, 128)]),
    "log normal": lambda g: g.lognormal(-2, 1.2, 512),
    "nested": lambda g: np.concatenate([g.normal(1, 0.02, 230), g.normal(1, 0.5, 26)]),
    "confident": lambda g: -np.log(g.beta(40, 1, 300)),
    "small": lambda g: g.gamma(1.2, 0.4, 24),
}


def slow_two_means(values: np.ndarray) -> np.ndarray:
    ordered, best, cut = np.sort(values), math.inf, 1
    for split in range(1, len(values)):
        low, high = ordered[:split], ordered[split:]
        error = ((low - low.mean()) ** 2).sum() + ((high - high.mean()) ** 2).sum()
        if error < best - 1e-15:
            best, cut = error, split
    return values >= ordered[cut]


def oracle(scores: np.ndarray) -> np.ndarray:
    """Posterior of the surer component, by scikit-learn from the exact 2-means partition."""
    from sklearn.mixture import GaussianMixture  # here, so that collecting the tests does not wait for it

    unit = (scores - scores.min()) / (scores.max() - scores.min())
    upper = slow_two_means(unit)
    groups = [unit[~upper], unit[upper]]
    mixture = GaussianMixture(
        2,
        max_iter=10,
        tol=1e-2,
        reg_covar=5e-4,
        weights_init=[len(group) / len(unit) for group in groups],
        means_init=[[group.mean()] for group in groups],
        precisions_init=[[[1 / (group.var() + 5e-4)]] for group in groups],
    )
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mixture.fit(unit[:, None])
    return mixture.predict_proba(unit[:, None])[:, np.argmin(mixture.means_.ravel())]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fit_agrees_with_scikit_learn_given_the_same_start(family):
    agreed = total = 0
    for seed in range(40):
        scores = FAMILIES[family](np.random.default_rng(seed))
        ours = RAW(torch.tensor(scores)).weight.numpy() > 0
        agreed += int((ours == (oracle(scores) > 0.5)).sum())
        total += len(scores)
    assert agreed / total >= 0.999


def test_two_means_is_exact():
    for seed in range(30):
        values = np.random.default_rng(seed).gamma(1, 1, 37)
        np.testing.assert_array_equal(two_means(torch.tensor(values)).numpy(), slow_two_means(values))


def test_one_round_of_the_fit_equals_its_loop():
    values = torch.tensor([0.0, 0.1, 0.15, 0.7, 1.0], dtype=torch.float64)
    means, variances, shares = fit_mixture(values, MixtureSettings(max_iterations=1))
    start = ([0.0, 0.1, 0.15], [0.7, 1.0])
    first = [(sum(g) / len(g), sum((v - sum(g) / len(g)) ** 2 for v in g) / len(g) + 5e-4, len(g) / 5) for g in start]
    parts = []
    for value in values.tolist():
        densities = [w * math.exp(-((value - m) ** 2) / (2 * v)) / math.sqrt(2 * math.pi * v) for m, v, w in first]
        parts.append([density / sum(densities) for density in densities])
    for k in range(2):
        mass = sum(row[k] for row in parts)
        mean = sum(row[k] * v for row, v in zip(parts, values.tolist(), strict=True)) / mass
        variance = sum(row[k] * (v - mean) ** 2 for row, v in zip(parts, values.tolist(), strict=True)) / mass + 5e-4
        assert means[k].item() == pytest.approx(mean)
        assert variances[k].item() == pytest.approx(variance)
        assert shares[k].item() == pytest.approx(mass / 5)
    assert log_joint(values, means, variances, shares).shape == (5, 2)


@pytest.mark.parametrize("selection", [RAW, MONOTONE])
def test_the_golden_batch(selection):
    scores = torch.tensor([0.01, 0.02, 0.015, 0.03, 0.02, 0.9, 1.1, 0.95, 0.025, 1.3])
    selected = selection(scores)
    assert selected.weight.tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 1, 0]
    assert selected.mixture.limit.item() == pytest.approx(0.03)
    assert selected.mixture.separable.item() == 1
    assert selected.mixture.means[0] < selected.mixture.means[1]
    assert selected.mixture.shares.sum().item() == pytest.approx(1)


SCORES = st.lists(st.floats(0, 20, width=32), min_size=1, max_size=60)


@given(SCORES, st.floats(0.05, 0.95))
@hypothesis_settings(max_examples=300, deadline=None)
def test_monotone_selection_never_rejects_a_surer_sample(values, tau):
    scores = torch.tensor(values)
    selected = MixtureSelection(MixtureSettings(tau=tau))(scores)
    kept, rejected = scores[selected.weight > 0], scores[selected.weight == 0]
    assert set(selected.weight.tolist()) <= {0.0, 1.0}
    assert len(kept) > 0
    assert not len(rejected) or kept.max() <= rejected.min()
    assert selected.mixture.limit.item() == pytest.approx(kept.max().item(), abs=1e-5)
    assert all(torch.isfinite(part).all() for part in selected.mixture)


@given(SCORES, st.floats(0.1, 100), st.floats(-5, 5), st.randoms())
@hypothesis_settings(max_examples=100, deadline=None)
def test_selection_ignores_order(values, scale, shift, random):
    scores = torch.tensor(values, dtype=torch.float64)
    order = list(range(len(values)))
    random.shuffle(order)
    torch.testing.assert_close(MONOTONE(scores).weight[order], MONOTONE(scores[order]).weight)


def test_selection_ignores_scale_and_shift():
    scores = torch.tensor(FAMILIES["two near"](np.random.default_rng(0)))
    torch.testing.assert_close(MONOTONE(scores).weight, MONOTONE(scores * 50 + 3).weight)


@pytest.mark.parametrize("selection", [RAW, MONOTONE, KeepAll()])
@pytest.mark.parametrize("scores", [[0.7] * 9, [0.3], [0.1, 5.0, 0.2]])
def test_degenerate_batches_are_kept_whole(selection, scores):
    selected = selection(torch.tensor(scores))
    assert selected.weight.tolist() == [1.0] * len(scores)
    assert selected.mixture is None or selected.mixture.separable.item() == 0


def test_components_that_cannot_be_told_apart_keep_all():
    scores = torch.tensor(FAMILIES["nested"](np.random.default_rng(1)))
    selected = MONOTONE(scores)
    assert selected.mixture.separable.item() == 0
    assert selected.weight.mean().item() == 1
    assert RAW(scores).weight.mean().item() < 1


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_non_finite_scores_are_never_accepted(poison):
    scores = torch.tensor([0.01, 0.02, 0.015, 0.03, 0.02, 0.9, 1.1, poison])
    selected = MONOTONE(scores)
    assert selected.weight[-1] == 0
    assert selected.weight[:5].tolist() == [1] * 5
    assert MONOTONE(torch.full((6,), poison)).weight.sum() == 0


def test_a_higher_tau_accepts_no_more():
    scores = torch.tensor(FAMILIES["exponential"](np.random.default_rng(0)))
    kept = [MixtureSelection(MixtureSettings(tau=tau))(scores).weight.sum().item() for tau in (0.2, 0.5, 0.8, 0.95)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[-1]


def test_a_stricter_tau_accepts_fewer_not_all():
    draws = torch.cat([torch.rand(300) * 0.3, 0.35 + torch.rand(200)])
    kept = [float(MixtureSelection(MixtureSettings(tau=tau))(draws).weight.mean()) for tau in (0.5, 0.8, 0.99, 0.9999)]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < kept[0]
