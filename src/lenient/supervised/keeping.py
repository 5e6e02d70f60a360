"""Keeping a few checkpoints of one long run, without ever holding many."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lenient.core.errors import UsageError
from lenient.models.card import Network
from lenient.models.files import save_network
from lenient.supervised.recipe import TeacherRecipe


@dataclass(frozen=True)
class Kept:
    """A checkpoint kept from the run: a file that `load_network` reads."""

    epoch: int
    accuracy: float
    path: Path


class Keeper:
    """Keeps N checkpoints of one run, spread evenly; no more than N + 1 files exist at any time.

    The wanted epochs are known once the first good epoch is: evenly from that one to the last. Each good epoch that is
    nearest to a wanted one is saved, and the one that it replaces deleted.
    """

    def __init__(
        self, network: Network, recipe: TeacherRecipe, keep: int, above: float | None, folder: Path | None
    ) -> None:
        if keep > recipe.epochs:
            raise UsageError(f"--keep {keep}: the run has only {recipe.epochs} epochs; raise --epochs or lower --keep")
        self.network, self.recipe, self.keep = network, recipe, keep
        self.above = -1.0 if above is None else above
        self.folder = Path(tempfile.mkdtemp(prefix="lenient-kept-")) if folder is None else folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.wanted: list[float] = []
        self.kept: list[Kept] = []

    def consider(self, epoch: int, reached: float) -> None:
        """Save this epoch if it is good enough, and drop the one that it makes superfluous."""
        if reached <= self.above:
            return
        if not self.wanted:
            self.wanted = [float(value) for value in np.linspace(self.recipe.epochs, epoch, self.keep)][::-1]
        candidate = Kept(epoch, reached, self.folder / f"epoch-{epoch:04d}.safetensors")
        chosen = nearest_to(self.wanted, [kept.epoch for kept in self.kept] + [epoch])
        if epoch in chosen:
            save_network(candidate.path, self.network)
            self.kept.append(candidate)
        for kept in [kept for kept in self.kept if kept.epoch not in chosen]:
            kept.path.unlink()
            self.kept.remove(kept)

    def finish(self) -> tuple[list[Kept], list[str]]:
        """Return what was kept, oldest first, and what could not be had."""
        notes = []
        if len(self.kept) < self.keep:
            notes.append(f"only {len(self.kept)} of {self.keep} checkpoints kept: too few epochs above {self.above:g}")
        drops = [drop for drop in self.recipe.drops if self.recipe.schedule == "multistep"]
        first = min(drops, default=0.0) * self.recipe.epochs
        if drops and self.keep > 1 and not any(kept.epoch <= first for kept in self.kept):
            notes.append(f"no kept checkpoint is from before the first drop of the learning rate (epoch {first:g})")
        return self.kept, notes


def nearest_to(wanted: list[float], epochs: list[int]) -> set[int]:
    """Pick for each wanted epoch, in order, the nearest of `epochs` that is not taken yet (the earlier of two)."""
    free = sorted(epochs)
    chosen: set[int] = set()
    for target in wanted:
        if free:
            best = min(free, key=lambda epoch: abs(epoch - target))
            free.remove(best)
            chosen.add(best)
    return chosen
