"""Whether a network's answers are right but for the order of the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MOST_CLASSES = 4096
"""The table of labels against answers grows with their square."""
CLEARLY = 0.2


def other_order(predicted: Tensor, labels: Tensor, classes: Sequence[str]) -> str | None:
    """Say so where answers fit the images' classes far better in another order of the outputs; else None.

    `predicted` and `labels` are int64 (N,). The order is fitted on one half of each class and its accuracy taken on
    the other, so that answers by chance fit none. It counts as far better at twice the accuracy and more, clearly above
    what N images could show by accident.
    """
    right = float((predicted == labels).double().mean())
    outputs = max(len(classes), int(predicted.max()) + 1)
    if right > 0.5 or outputs > MOST_CLASSES:
        return None
    halves = [labels.argsort(stable=True)[start::2] for start in (0, 1)]
    hits = 0
    for half, other in (halves, halves[::-1]):
        order = _fitted(predicted[half], labels[half], len(classes), outputs)
        hits += int((predicted[other] == order[labels[other]]).sum())
    share = hits / len(labels)
    if share < 2 * right or share - right < max(CLEARLY, 3 / math.sqrt(len(labels))):
        return None
    order = _fitted(predicted, labels, len(classes), outputs)
    label = next((label for label in labels.unique().tolist() if order[label] != label), 0)
    return (
        f"the classes seem to be in another order than the network's: accuracy is {right:.1%}, and {share:.1%} where "
        f"class {label} ({classes[label]!r:.60}) is the network's output {int(order[label])}, and so on; name the "
        "folders so that they sort like the network's outputs"
    )


def _fitted(predicted: Tensor, labels: Tensor, classes: int, outputs: int) -> Tensor:
    """Return for each class the output that stands for it, each one once, in the order that fits most answers."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    table = (labels * outputs + predicted).bincount(minlength=classes * outputs).reshape(classes, outputs)
    _, order = linear_sum_assignment(table.numpy(), maximize=True)
    return torch.from_numpy(order)
