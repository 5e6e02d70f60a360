"""What a network's batch norms normalise by while it is measured.

A student that learned with statistics of the batch from images unlike real ones has stored nothing of real ones. By
`running` it is measured as it is; by `batch`, as is published of such students (Raikwar and Mishra, NeurIPS 2022), each
answer depends on the other test images; `adapted` and `synthetic` estimate what is stored anew, on unlabelled images
that are no test images (AdaBN, Li et al. 2016), and are what can be deployed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lenient.core.batch_norm import by_batch
from lenient.core.errors import UsageError
from lenient.core.text import VALUE, visible
from lenient.models.card import Network
from lenient.models.checking import readable_batch_norms
from lenient.models.probing import batch_norm_layers

if TYPE_CHECKING:
    from lenient.data import ImageSet

MEASURED_BY = {
    "running": "as stored",
    "batch": "those of the test batch: transductive, for each answer depends on the other test images",
    "adapted": "estimated anew on real images without labels",
    "synthetic": "estimated anew on images of the method's own source",
}
"""What a network can be measured by, and what that is."""
ANEW = ("adapted", "synthetic")
"""Those of them that need images."""
BATCH = 256
"""Images of a batch whose statistics count, about: as published, and enough for every class to be in it."""


def normalising(network: Network | nn.Module) -> list[nn.Module]:
    """Return the batch norms of a network to which other statistics make a difference."""
    layers = readable_batch_norms(network) if isinstance(network, Network) else batch_norm_layers(network)
    return [layer for _, layer in layers]


def check_statistics(statistics: str, network: Network | nn.Module, images: bool) -> None:
    """Refuse a name that is none, images that go with no such name or lack, and a network without batch norm.

    Raises:
        UsageError: in one line that names the flag.
    """
    if statistics not in MEASURED_BY:
        raise UsageError(f"--statistics {visible(statistics, VALUE)}: use one of {', '.join(MEASURED_BY)}")
    if images != (statistics in ANEW):
        wrong = "takes no images to estimate on" if images else "needs images to estimate on"
        raise UsageError(f"--statistics {statistics}: {wrong}")
    if statistics != "running" and not normalising(network):
        raise UsageError(f"--statistics {statistics}: the network has 0 batch-norm layers; leave it out")


@torch.no_grad()
def reestimate(layers: Iterable[nn.Module], forward: Callable[[Tensor], object], batches: Iterable[Tensor]) -> None:
    """Let batch norms in eval mode store the averages over batches, in place of what they have stored.

    mean = 1/n sum of the batches' means, variance = 1/n sum of their variances (divided by the count less one): every
    batch counts alike, as with torch's momentum None. What differs between batches is missing from the variance, so
    they have to be of mixed images and of one size. Each batch is normalised by its own statistics on the way.

    Args:
        layers: with `running_mean` and `running_var`, in eval mode.
        forward: runs them on a batch.
        batches: one at least; this rank's alone.
    """
    sums: dict[nn.Module, tuple[int, Tensor, Tensor]] = {}

    def note(layer: nn.Module, mean: Tensor, variance: Tensor, count: int) -> None:
        runs, means, variances = sums.get(layer, (0, torch.zeros_like(mean), torch.zeros_like(mean)))
        sums[layer] = runs + 1, means + mean, variances + variance * (count / max(count - 1, 1))

    with by_batch(list(layers), note, alone=True):
        for batch in batches:
            forward(batch)
    for layer, (runs, means, variances) in sums.items():
        averages = {"running_mean": means / runs, "running_var": variances / runs}
        for name, value in {**averages, "num_batches_tracked": torch.tensor(runs)}.items():
            stored = getattr(layer, name, None)
            if isinstance(stored, Tensor):
                stored.copy_(value)


def mixed(data: ImageSet) -> ImageSet:
    """Return the images in an order that is always the same and mixes the classes: sorted ones have one a batch."""
    return data.subset(torch.randperm(len(data), generator=torch.Generator().manual_seed(0)))


def even(count: int, size: int = BATCH) -> int:
    """Return the size of batches so that `count` images make batches of one size and at least `size`, as nearly as can
    be: a rest of a few images would have statistics of its own."""
    return -(-count // max(1, count // size))


def shown(images: ImageSet | Tensor, device: torch.device) -> Iterator[Tensor]:
    """Yield images in pixel units, mixed, in batches of one size, as nearly as can be."""
    if isinstance(images, Tensor):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        yield from (images[chosen].to(device) for chosen in order.split(even(len(images))))
    else:
        yield from (batch for batch, _ in mixed(images).batches(even(len(images)), device=device))
