"""Pictures of the user's own as images to learn from, alone or among a method's: where they come from, and which."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lenient.core import ranks
from lenient.core.config import BY_NAME, Nothing, Part, Settings
from lenient.core.errors import UsageError
from lenient.core.runtime import Runtime
from lenient.core.seeding import Streams
from lenient.losses.prior import confidence_score
from lenient.pictures.holding import Pictures
from lenient.synthesis.photo import mixing_of
from lenient.synthesis.quota import ranks_within
from lenient.synthesis.selection import MixtureSelection, MixtureSettings, Selected
from lenient.synthesis.source import Drawn
from lenient.synthesis.views import Augmentation, Viewer
from lenient.teacher.batch import Clock
from lenient.teacher.frozen import FrozenTeacher

log = logging.getLogger("lenient")

SHARE = 0.5
"""Of each batch, where nothing is said."""
SHOWN_CLASSES = 20
"""Classes whose counts are logged one by one."""


class SurestSettings(Part):
    """The teacher vouches for the surer component of a mixture of two, fitted once to the whole folder, and classes of
    which there is much are cut down."""

    name: Literal["mixture"] = "mixture"
    tau: float = Field(0.5, gt=0, lt=1)
    """Posterior above which a picture is accepted."""
    quota: float | None = Field(2.0, ge=1, le=1e6)
    """Pictures kept of a class at most, the surest, as a multiple of the median over the classes that the teacher
    names; null: all."""


PictureSelection = Annotated[Nothing | SurestSettings, BY_NAME]
"""Which pictures of the folder the student learns from: all, or those that the teacher is sure of."""


class SourceSettings(Settings):
    """Pictures of the user's own among the images that a student learns from."""

    proxy_images: str | None = None
    """Folder of pictures, walked whole, whatever its sub-folders are called; null: none."""
    proxy_share: float | None = Field(None, ge=0, le=1)
    """Share of each student batch that is pictures, beside the method's own images: by default 0.5."""
    proxy_memory: int = Field(1024, ge=1, le=2**20)
    """MiB that the pictures take at most, in the teacher's size and a byte for each value; of more the seed draws."""
    proxy_augmentation: Augmentation = "crop-flip"
    """How pictures among a method's own images are shown."""
    proxy_cutmix: float = Field(0.25, ge=0, le=1e3)
    """Both parameters of the beta distribution of how much of such a picture is its own; the rest is a box of another
    one. 0 shows pictures whole."""
    proxy_selection: PictureSelection = Nothing()
    """Which of them the student learns from: all, or those that the teacher is sure of."""

    def share(self, method: str, shows_pictures: bool) -> float:
        """Return the share of a batch that is pictures beside the method's own images.

        Args:
            method: its name.
            shows_pictures: whether its own images are, or hold, the pictures.

        Raises:
            UsageError: a folder is missing, or a share is asked for where there is none to give.
        """
        if self.proxy_images is None:
            if self.proxy_share:
                raise UsageError("-s source.proxy_share: there are no pictures; name their folder with --proxy-images")
            if shows_pictures:
                raise UsageError(
                    f"--method {method}: it shows pictures of yours; name a folder with --proxy-images DIR"
                )
            return 0.0
        if shows_pictures:
            return 0.0
        return SHARE if self.proxy_share is None else self.proxy_share


def chosen(scores: Tensor, classes: Tensor, num_classes: int, settings: SurestSettings) -> Selected:
    """Decide on all pictures of a folder.

    Args:
        scores: (N,) the teacher's cross-entropy with its own class, the smaller, the surer.
        classes: (N,) int64 that it names.
        num_classes: how many there are.
        settings: which are kept.
    """
    sure = MixtureSelection(MixtureSettings(tau=settings.tau, max_iterations=100, tolerance=1e-3))(scores)
    if settings.quota is None:
        return sure
    accepted = sure.weight > 0
    counts = torch.zeros(num_classes, device=scores.device).scatter_add(0, classes, sure.weight)
    most = max(1, int(settings.quota * float(counts[counts > 0].median()))) if bool(accepted.any()) else 0
    places = ranks_within(classes, torch.where(accepted, -scores, -torch.inf), num_classes)
    return sure._replace(weight=(accepted & (places < most)).float())


class Proxy:
    """Deals pictures, drawn with replacement from those that the teacher vouches for: all, unless `settings` select.

    The selection is made once, of all pictures as they are, before the first batch; a checkpoint holds what it went by.
    """

    def __init__(
        self,
        pictures: Pictures,
        teacher: FrozenTeacher,
        viewer: Viewer,
        runtime: Runtime,
        streams: Streams,
        batch_size: int,
        settings: Nothing | SurestSettings,
    ) -> None:
        self.pictures, self.teacher, self.viewer, self.runtime = pictures, teacher, viewer, runtime
        self.streams, self.batch_size, self.settings = streams, batch_size, settings
        self.pixels = pictures.pixels.to(streams.device)
        self.mixing = mixing_of(len(pictures), teacher.card.input_size[0], streams, "proxy/channels")
        self.scores = torch.empty(0, device=streams.device)
        self.classes = torch.empty(0, dtype=torch.int64, device=streams.device)
        self._kept: Tensor | None = None

    @property
    def kept(self) -> Tensor:
        """The places (n,) int64 of the pictures that are dealt; the first time, the teacher is asked about all."""
        if self._kept is None:
            if isinstance(self.settings, Nothing):
                self._kept = torch.arange(len(self.pixels), device=self.pixels.device)
            else:
                if not len(self.scores):
                    self.scores, self.classes = self._judged()
                self._kept = self._select(self.settings)
        return self._kept

    @torch.no_grad()
    def _judged(self) -> tuple[Tensor, Tensor]:
        """Return the teacher's scores of all pictures as they are, and the classes that it names."""
        parts, size = [], -(-self.batch_size // ranks.count()) * ranks.count()
        for start in range(0, len(self.pixels), size):  # round again at the end, for ranks have equally many
            places = torch.arange(start, start + size, device=self.pixels.device) % len(self.pixels)
            images = self.at(ranks.mine(places))
            parts.append(ranks.gather(self.teacher.respond(self.teacher.normalize(images)).logits).float())
        logits = torch.cat(parts)[: len(self.pixels)]
        return confidence_score(logits), logits.argmax(dim=1)

    def _select(self, settings: SurestSettings) -> Tensor:
        num_classes = self.teacher.card.num_classes
        kept = chosen(self.scores, self.classes, num_classes, settings).weight.nonzero().flatten()
        if not len(kept):
            raise UsageError(f"{self.pictures.name}: the teacher vouches for no picture; leave the selection out")
        if ranks.is_main():
            counts = torch.bincount(self.classes[kept], minlength=num_classes).tolist()
            few, many = (" ".join(map(str, counts)), f"{min(counts)} to {max(counts)}")
            each = few if num_classes <= SHOWN_CLASSES else many
            log.info("%s: %d of %d kept; by class: %s", self.pictures.name, len(kept), len(self.pixels), each)
        return kept

    @torch.no_grad()
    def batch(self, clock: Clock) -> Drawn:
        """Return pictures with the teacher's answer; none are made for it."""
        images = self.at(ranks.mine(self._places(self.batch_size, "proxy", clock.update)))
        return Drawn(self.viewer.view(self.teacher, images, "proxy-view", clock), 0)

    def _places(self, count: int, name: str, update: int) -> Tensor:
        return self.kept[self.streams.integers(name, update, (count,), len(self.kept))]

    def at(self, places: Tensor) -> Tensor:
        """Return the pictures (n, C, H, W) in pixel units that lie at places (n,) int64."""
        images = self.pixels[places].float() / 255
        if self.mixing is not None:
            images = torch.einsum("nkc,nchw->nkhw", self.mixing[places], images)
        return self.runtime.images(images)

    def __len__(self) -> int:
        return len(self.kept)

    def distinct(self, count: int, name: str, update: int) -> Tensor:
        """Return the places (n,) of up to `count` different pictures, by the key of a random stream."""
        order = torch.randperm(len(self.kept), generator=self.streams.host(name, update))
        return self.kept[order[:count].to(self.kept.device)]

    def sample(self, count: int, name: str, update: int) -> Tensor:
        """Return pictures as they are."""
        return self.at(self._places(count, name, update))

    def moved(self) -> None:
        """Keep all: pictures stay."""

    def close(self) -> None:
        """Do nothing: nothing is begun."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the selection went by; nothing before it is made."""
        return {"scores": self.scores, "classes": self.classes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from it; raises ValueError where it is not that of so many pictures."""
        scores, classes = state["scores"], state["classes"]
        if len(scores) != len(classes) or len(scores) not in (0, len(self.pixels)):
            raise ValueError(f"it is not of {len(self.pixels)} pictures")
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < self.teacher.card.num_classes:
            raise ValueError("it has pictures of classes that there are not")
        self.scores, self.classes, self._kept = scores, classes, None


def with_pictures(images: Tensor, numbers: range, pictures: Proxy, share: float) -> Tensor:
    """Return images (n, C, H, W) in [0, 1] of these numbers with pictures for a share of them, spread evenly over all
    numbers; each picture comes once, in a random order, and none after the last."""
    order = torch.randperm(len(pictures.pixels), generator=pictures.streams.host("proxy/order"))
    places = [int(share * number) if int(share * (number + 1)) > int(share * number) else -1 for number in numbers]
    taken = [(row, place) for row, place in enumerate(places) if 0 <= place < len(order)]
    if not taken:
        return images
    rows, chosen = (torch.tensor(each) for each in zip(*taken, strict=True))
    shown = pictures.at(order[chosen].to(pictures.pixels.device)).to(images.dtype)
    return images.index_copy(0, rows.to(images.device), shown)
