"""Images of 8 bit, up to a quota of each class, those of the largest scores; nothing asks the host."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Quota:
    """Keeps of each class the images with the largest scores, `most` at most; scores that are not above 0 never.

    A row holds an image, its class and its score, minus infinity where there is none; as many rows are made as there
    can be images.
    """

    def __init__(self, size: tuple[int, int, int], num_classes: int, most: int, device: torch.device) -> None:
        self.num_classes, self.most, self.offered = num_classes, most, 0
        self.pixels = torch.empty(0, *size, dtype=torch.uint8, device=device)
        self.classes = torch.empty(0, dtype=torch.int64, device=device)
        self.scores = torch.empty(0, device=device)
        self._sort()

    @torch.no_grad()
    def offer(self, pixels: Tensor, classes: Tensor, scores: Tensor) -> None:
        """Take what belongs to the best of images (n, C, H, W) uint8, of classes (n,) int64 and scores (n,)."""
        self.offered += len(pixels)
        self._make_room()
        held = len(self.pixels)
        all_classes = torch.cat([self.classes, classes])
        all_scores = torch.cat([self.scores, torch.where(scores > 0, scores, -torch.inf).to(self.scores)])
        stays = (ranks_within(all_classes, all_scores, self.num_classes) < self.most) & (all_scores > -torch.inf)
        self.scores = torch.where(stays[:held], self.scores, -torch.inf)
        # those that come, one after the other, into the rows that are free: of these there are enough
        order = torch.argsort((~stays[held:]).byte(), stable=True)[:held]
        rows = torch.argsort(stays[:held].byte(), stable=True)[: len(order)]
        comes = stays[held:][order]
        self.pixels[rows] = torch.where(comes.view(-1, 1, 1, 1), pixels[order], self.pixels[rows])
        self.classes[rows] = torch.where(comes, classes[order], self.classes[rows])
        self.scores[rows] = torch.where(comes, all_scores[held:][order], self.scores[rows])
        self._sort()

    def _make_room(self) -> None:
        """Make a row for each image offered so far, twice as many as before at least: each is copied a few times."""
        held, most = len(self.pixels), self.most * self.num_classes
        if min(self.offered, most) <= held:
            return
        more = min(max(self.offered, 2 * held), most) - held
        self.pixels = torch.cat([self.pixels, self.pixels.new_zeros(more, *self.pixels.shape[1:])])
        self.classes = torch.cat([self.classes, self.classes.new_zeros(more)])
        self.scores = torch.cat([self.scores, self.scores.new_full((more,), -torch.inf)])

    def _sort(self) -> None:
        """Note which rows hold images of each class."""
        there = torch.where(self.scores > -torch.inf, self.classes, self.num_classes)
        by_class, self._rows = torch.sort(there, stable=True)
        ends = torch.arange(self.num_classes + 1, device=there.device)
        self._starts = torch.searchsorted(by_class, ends)
        self.counts = self._starts.diff()
        """Images held of each class, (num_classes,)."""

    def counts_above(self, score: float) -> Tensor:
        """Return how many images of each class have a larger score, (num_classes,)."""
        return torch.zeros_like(self.counts).scatter_add(0, self.classes, (self.scores > score).long())

    @property
    def short(self) -> Tensor:
        """How many images each class lacks of its quota, (num_classes,)."""
        return self.most - self.counts

    def draw(self, draws: Tensor, weights: Tensor) -> Tensor:
        """Return rows (n,) of images, a class by its weight and an image of it evenly; classes without any are passed
        over. Of an empty quota they are of no image.

        Args:
            draws: (n, 2) uniform in [0, 1).
            weights: of classes, (num_classes,), at least 0.
        """
        sums = (weights * (self.counts > 0)).double().cumsum(0)
        reached = draws[:, 0].double() * sums[-1].clamp_min(1e-12)
        classes = torch.searchsorted(sums, reached, right=True).clamp(max=self.num_classes - 1)
        counts = self.counts[classes]
        place = (draws[:, 1].double() * counts).long().minimum(counts - 1).clamp_min(0)
        return self._rows[(self._starts[classes] + place).clamp(max=len(self._rows) - 1)]

    def state_dict(self) -> dict[str, Any]:
        """Return all rows."""
        return {"pixels": self.pixels, "classes": self.classes, "scores": self.scores, "offered": self.offered}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from them; raises ValueError where they do not belong together."""
        pixels, classes, scores = state["pixels"], state["classes"], state["scores"]
        if not len(pixels) == len(classes) == len(scores) <= self.most * self.num_classes:
            raise ValueError("the pool has images without class or score, or more than it can hold")
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < self.num_classes:
            raise ValueError("the pool has images of classes that there are not")
        self.pixels, self.classes, self.scores = pixels.clone(), classes.clone(), scores.clone()
        self.offered = state["offered"]
        self._sort()


def ranks_within(classes: Tensor, scores: Tensor, num_classes: int) -> Tensor:
    """Return how many images of its own class are before each, (n,): those of larger scores, or of equal ones that were
    there before."""
    by_score = torch.argsort(scores, descending=True, stable=True)
    sorted_classes, within = torch.sort(classes[by_score], stable=True)
    starts = torch.searchsorted(sorted_classes, torch.arange(num_classes, device=classes.device))
    place = torch.arange(len(classes), device=classes.device) - starts[sorted_classes]
    return torch.empty_like(place).scatter(0, by_score[within], place)
