"""TA-DFKD as it was released, restated plainly: what this library's loop is timed against.

Shin and Choi, "Teacher as a Lenient Expert", AAAI 2024. The method is the paper's; beyond it, the restatement keeps
whatever the released procedure spends time on, because its users pay for that too:

- everything is float32 in torch's default layout;
- the teacher's weights want gradients, and its logits in the student's loss are attached to them: each student step
  goes backwards through the teacher for nothing, and the generator's step fills weight gradients of both networks;
- before selection the teacher runs once with a graph that nobody uses; the selector then asks it for the same logits
  again, 32 images at a time, and fits scikit-learn's mixture to them on the host;
- every round has a mixture of its own, and more than B accepted images are wanted, so there are two rounds at least;
- the hooks that measure batch statistics work in every forward of the teacher, though one in an iteration counts.

Only networks come from the library. What would end the released procedure with an error (scores that are all equal,
fewer than two accepted images for the generator) keeps all images here.
"""

from __future__ import annotations

import math
import random
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from lenient.models import Network

STUDENT_STEPS = 10
CHUNK = 32
"""Images that the selector shows the teacher at a time."""
TAU = 0.5
TEMPERATURE = 3.0
STATISTICS_WEIGHT, TV_WEIGHT, L2_WEIGHT = 10.0, 1.5e-5, 6e-3
PADDING = 4
MOST_ROUNDS = 100
"""The released loop has no end where nothing is accepted; a benchmark needs one."""


class Iteration(NamedTuple):
    """What one outer iteration came to."""

    rounds: list[int]
    """Rounds of synthesis in each student step."""
    kept: list[float]
    """Accepted share of each round, the generator step's last."""
    selected: int
    """Accepted images in the generator step."""
    student_losses: list[float]
    generator_loss: float


class Released:
    """Teacher, student, generator and optimizers; `iterate` makes ten student steps and one generator step."""

    def __init__(
        self,
        teacher: Network,
        student: nn.Module,
        generator: nn.Module,
        latent_dim: int,
        batch_size: int,
        device: torch.device,
        seed: int = 0,
        rates: tuple[float, float] = (0.01, 1e-3),
        *,
        waste: bool = True,
    ) -> None:
        """Without `waste` the teacher's weights want no gradient: the same student, in fewer minutes."""
        self.rates = rates
        self.teacher = teacher.module.to(device).eval().requires_grad_(waste)
        self.student = student.to(device).train()
        self.generator = generator.to(device).train()
        self.latent_dim, self.batch_size, self.device = latent_dim, batch_size, device
        shape = (1, teacher.card.input_size[0], 1, 1)
        self.mean = torch.tensor(teacher.card.mean, device=device).view(shape)
        self.std = torch.tensor(teacher.card.std, device=device).view(shape)
        self.student_optimizer = torch.optim.SGD(
            self.student.parameters(), lr=rates[0], momentum=0.9, weight_decay=5e-4
        )
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), lr=rates[1])
        self.noise = torch.Generator(device).manual_seed(seed)
        self.coin = random.Random(seed)
        self.numpy = np.random.RandomState(seed)  # scikit-learn takes no newer kind
        self.distances: dict[nn.Module, Tensor] = {}
        for layer in self.teacher.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_hook(self._measure)

    def _measure(self, layer: nn.BatchNorm2d, inputs: tuple[Any, ...], _: Tensor) -> None:
        """Put a layer's distance to its running statistics into its one slot, whichever forward this is."""
        maps: Tensor = inputs[0]
        mean, variance = maps.mean(dim=(0, 2, 3)), maps.var(dim=(0, 2, 3), correction=0)
        stored_mean, stored_variance = layer.running_mean, layer.running_var
        assert stored_mean is not None, "nothing to measure the distance to"
        assert stored_variance is not None, "nothing to measure the distance to"
        self.distances[layer] = (variance - stored_variance).norm() + (mean - stored_mean).norm()

    def iterate(self) -> Iteration:
        """Make one outer iteration."""
        rounds, kept, losses = [], [], []
        for _ in range(STUDENT_STEPS):
            images, shares = self._collect()
            losses.append(self._student_step(images))
            rounds.append(len(shares))
            kept += shares
        loss, selected = self._generator_step()
        kept.append(selected / self.batch_size)
        return Iteration(rounds, kept, selected, [float(value) for value in losses], float(loss))

    def anneal(self, done: float) -> None:
        """Set both rates to the cosine's after a share `done` of the run."""
        for optimizer, rate in zip((self.student_optimizer, self.generator_optimizer), self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * done))

    def _draw(self) -> Tensor:
        shape = (self.batch_size, self.latent_dim)
        images: Tensor = self.generator(torch.randn(shape, generator=self.noise, device=self.device))
        return images

    def _views(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised images, and the same after one crop and one flip for the whole batch."""
        height, width = images.shape[2:]
        down, across = self.coin.randint(0, 2 * PADDING), self.coin.randint(0, 2 * PADDING)
        shown = F.pad(images, (PADDING,) * 4)[:, :, down : down + height, across : across + width]
        if self.coin.random() < 0.5:
            shown = shown.flip(3)
        return (images - self.mean) / self.std, (shown - self.mean) / self.std

    def _accepted(self, clean: Tensor) -> Tensor:
        """Ask the teacher twice, fit the mixture, and return the accepted images' numbers."""
        labels = self.teacher(clean).argmax(dim=1)  # the only use of a forward with a graph
        with torch.no_grad():
            scores = [
                F.cross_entropy(self.teacher(images.detach()), own, reduction="none").cpu()
                for images, own in zip(clean.split(CHUNK), labels.split(CHUNK), strict=True)
            ]
        values = torch.cat(scores).double().numpy()
        span = values.max() - values.min()
        if span < 1e-12:
            return torch.arange(len(clean), device=self.device)
        column = ((values - values.min()) / span)[:, None]
        mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=self.numpy)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(column)
        surer = mixture.predict_proba(column)[:, mixture.means_[:, 0].argmin()]
        return torch.from_numpy(np.flatnonzero(surer > TAU)).to(self.device)

    def _collect(self) -> tuple[Tensor, list[float]]:
        """Draw rounds until more than B images are accepted; return B of them, and each round's accepted share."""
        parts: list[Tensor] = []
        shares: list[float] = []
        count = 0
        while count <= self.batch_size:
            if len(shares) == MOST_ROUNDS:
                raise RuntimeError(f"{MOST_ROUNDS} rounds gave {count} accepted images of {self.batch_size}")
            with torch.no_grad():
                clean, shown = self._views(self._draw())
            chosen = self._accepted(clean)
            parts.append(shown[chosen])
            shares.append(len(chosen) / self.batch_size)
            count += len(chosen)
        room = self.batch_size - (count - len(parts[-1]))
        some = torch.randperm(len(parts[-1]), generator=self.noise, device=self.device)[:room]
        parts[-1] = parts[-1][some]
        return torch.cat(parts), shares

    def _student_step(self, images: Tensor) -> Tensor:
        self.student_optimizer.zero_grad()
        loss: Tensor = (self.teacher(images) - self.student(images)).abs().mean()  # the teacher's side is not detached
        loss.backward()
        self.student_optimizer.step()
        return loss.detach()

    def _generator_step(self) -> tuple[Tensor, int]:
        self.generator_optimizer.zero_grad()
        clean, shown = self._views(self._draw())
        chosen = self._accepted(clean)
        if len(chosen) < 2:
            chosen = torch.arange(self.batch_size, device=self.device)
        images = shown[chosen]
        teacher, student = self.teacher(images), self.student(images)
        statistics = torch.stack(list(self.distances.values())).sum()  # what this last forward left behind
        loss = (
            1
            - coded_divergence(teacher, student).clamp(0, 1)
            + STATISTICS_WEIGHT * statistics
            + TV_WEIGHT * total_variation(shown)
            + L2_WEIGHT * shown.norm()
        )
        loss.backward()
        self.generator_optimizer.step()
        return loss.detach(), len(chosen)


def coded_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """The released stand-in for the Jensen-Shannon divergence: arguments swapped, clamped, divided by B and C."""
    p, q = F.softmax(student / TEMPERATURE, dim=1), F.softmax(teacher / TEMPERATURE, dim=1)
    p, q, middle = (values.clamp(0.01, 0.99) for values in (p, q, (p + q) / 2))
    value: Tensor = (0.5 * middle * (middle / p).log() + 0.5 * middle * (middle / q).log()).mean()
    return value


def total_variation(images: Tensor) -> Tensor:
    """Norms over the whole batch of the differences to neighbours right, below and on both diagonals."""
    right, below = images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]
    falling = images[..., 1:, 1:] - images[..., :-1, :-1]
    rising = images[..., 1:, :-1] - images[..., :-1, 1:]
    norm: Tensor = right.norm() + below.norm() + falling.norm() + rising.norm()
    return norm
