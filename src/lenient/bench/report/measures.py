"""What is measured on features: the Frechet distance, the share outside of a class, a map in two dimensions."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Projection = Literal["tsne", "pca"]
QUANTILE = 0.95


def frechet(first: Floats, second: Floats) -> float:
    """Squared Frechet (2-Wasserstein) distance of Gaussians fitted to two sets of features, (N, D) and (M, D).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), covariances divided by n - 1; in squared units of the features. The
    square root is taken of the symmetric S1^(1/2) S2 S1^(1/2), which has the same trace. At least two rows each.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError("a covariance needs at least two rows")
    shift = first.mean(axis=0) - second.mean(axis=0)
    one, two = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (first, second))
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ two @ root).clip(0)).sum()
    return max(0.0, float(shift @ shift + np.trace(one) + np.trace(two) - 2 * cross))


def outside(real: Floats, real_labels: Labels, made: Floats, made_labels: Labels) -> NDArray[np.bool_]:
    """Whether each synthetic image, (M, D), lies outside of its class, (M,).

    That is: further from the mean of its class's real features than 95 % of them are. A class of which there are fewer
    than two real images has no boundary: nothing lies outside of it.
    """
    found = np.zeros(len(made), dtype=bool)
    for label in np.unique(made_labels):
        own = real[real_labels == label]
        if len(own) < 2:
            continue
        centre = own.mean(axis=0)
        limit = np.quantile(np.linalg.norm(own - centre, axis=1), QUANTILE)
        chosen = made_labels == label
        found[chosen] = np.linalg.norm(made[chosen] - centre, axis=1) > limit
    return found


def project(features: Floats, how: Projection) -> Floats:
    """Features (N, D) in two dimensions, (N, 2): t-SNE from the principal components, or these alone."""
    from sklearn.decomposition import PCA

    if how == "pca" or len(features) < 8:  # too few for neighbours to mean anything
        points = PCA(2, svd_solver="full").fit_transform(features)
    else:
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(features) - 1) / 3)
        points = TSNE(2, init="pca", random_state=0, perplexity=perplexity).fit_transform(features)
    return np.asarray(points, dtype=np.float64)
