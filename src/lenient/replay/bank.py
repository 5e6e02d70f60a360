"""The memory bank of MB-DFKD: images kept from earlier epochs."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lenient.core import ranks
from lenient.core.seeding import Streams
from lenient.replay import Recalled, RecallSettings
from lenient.teacher.batch import Batch, Clock


class BankSettings(RecallSettings):
    """Kept images (MB-DFKD), and how they are read; figures of the released re-implementation in META-DFKD's code."""

    name: Literal["bank"] = "bank"
    slots: int = Field(10, ge=1, le=10**6)
    """Writes that the bank holds; each is as large as one read (released code: 10)."""
    every: int = Field(5, ge=1, le=10**9)
    """Epochs between writes, the first after epoch 0 (released code: 5)."""
    policy: Literal["ring", "reservoir"] = "ring"
    """`ring`: the newest writes; `reservoir`: an even sample of all images ever offered."""
    granularity: Literal["image", "slot"] = "image"
    """Read images from all writes, without replacement; or one whole write (released code: slot), which a
    reservoir mixes."""


class MemoryBank:
    """Keeps the first `size` of the newest images at the end of every few epochs, and hands out `size` at a time.

    Images are float32 in pixel units on the device: slots x size x C x H x W x 4 bytes, part of every checkpoint. No
    labels are kept: the teacher is asked again. An update with non-finite numbers overwrites nothing; should it be the
    first, the images go in where they are finite and as grey where not, for which places are filled is known without a
    look at the device. Every rank holds the whole bank and reads its rows of each draw.
    """

    learner: nn.Module | None = None

    def __init__(
        self,
        size: int,
        input_size: tuple[int, int, int],
        settings: BankSettings,
        streams: Streams,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.size, self.settings, self.streams = size, settings, streams
        self.images = torch.zeros(settings.slots * size, *input_size, dtype=dtype, device=streams.device)
        self.offered = self.epochs = 0
        self.label = f"bank, {settings.policy}"

    def __len__(self) -> int:
        return min(self.offered, len(self.images))

    def after_generator(self, clock: Clock, batch: Batch, bad: Tensor) -> None:
        """Take no note."""

    def after_student(self, clock: Clock, batch: Batch, bad: Tensor) -> None:
        """Write at the end of every few epochs."""
        if not clock.ends_epoch:
            return
        if self.epochs % self.settings.every == 0:
            self.push(ranks.gather(batch.images)[: self.size], bad)
        self.epochs += 1

    @torch.no_grad()
    def push(self, images: Tensor, bad: Tensor) -> None:
        """Store `size` images (size, C, H, W); the bank does not alias them."""
        order = torch.arange(len(images), device=images.device)
        number = self.offered + order
        if self.settings.policy == "ring" or self.offered + len(images) <= len(self.images):
            place = number % len(self.images)
        else:  # Vitter's algorithm R: image number n takes a random place among n + 1, if the bank has it
            draw = self.streams.uniform("bank/reservoir", self.offered, (len(images),))
            random = (draw * (number + 1)).long()
            place = torch.where(number < len(self.images), number, random)
        # the last image for each place wins, the rest of the bank stays: gather instead of an indexed write
        hits = place[None, :] == torch.arange(len(self.images), device=images.device)[:, None]
        last = torch.where(hits, order[None, :], -1).amax(dim=1)
        shape = (-1, *[1] * (images.dim() - 1))
        chosen = (last >= 0).view(shape)
        fresh = images.detach().to(self.images.dtype)[last.clamp_min(0)]
        kept = torch.where(bad > 0, self.images, fresh)
        empty = (torch.arange(len(self.images), device=images.device) >= self.offered).view(shape)
        finite = torch.where(torch.isfinite(fresh), fresh, 0.5)
        self.images = torch.where(chosen, torch.where(empty, finite, kept), self.images)
        self.offered += len(images)

    def draw(self, clock: Clock) -> Recalled | None:
        """Return `size` of the images held, None while the bank is empty."""
        held = len(self)
        if not held:
            return None
        if self.settings.granularity == "slot":
            slot = self.streams.integers("bank/slot", clock.update, (1,), held // self.size)
            chosen = slot * self.size + torch.arange(self.size, device=slot.device)
        else:
            chosen = self.streams.uniform("bank/images", clock.update, (held,)).argsort()[: self.size]
        return Recalled(self.images[ranks.mine(chosen)])

    def state_dict(self) -> dict[str, Any]:
        """Return the images held and the counts."""
        return {"images": self.images[: len(self)].clone(), "offered": self.offered, "epochs": self.epochs}

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Go on from a saved state."""
        self.images = self.images.clone()
        self.images[: len(state["images"])] = state["images"].to(self.images.device)
        self.offered, self.epochs = state["offered"], state["epochs"]
        return None
