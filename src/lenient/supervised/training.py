"""The loop over real images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lenient.core.conv_cpu import SmallMaps
from lenient.core.errors import HealthError, UsageError
from lenient.core.memory import memory_errors
from lenient.core.runtime import Runtime, sent
from lenient.core.seeding import Streams, untouched_global_rng
from lenient.data import ImageSet
from lenient.evaluation import accuracy
from lenient.evaluation.running import check_fits
from lenient.models.card import Card, Network, PixelClassifier
from lenient.models.checking import check_classifier
from lenient.models.students import build_student
from lenient.supervised.keeping import Keeper, Kept
from lenient.supervised.recipe import TeacherRecipe, lr_factor

PROGRESS_SECONDS = 2.0


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images. Accuracies lie in [0, 1]; `loss` is a mean in nats, as trained on."""

    epoch: int
    """Counted from 1."""
    loss: float
    train_accuracy: float
    """On the augmented images, while learning."""
    test_accuracy: float | None
    lr: float
    """Learning rate of the last step."""
    seconds: float
    """Since the start of training."""


@dataclass(frozen=True)
class Progress:
    """Where training is, about every two seconds."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """What `train_classifier` did; the trained weights are in the network it was given."""

    history: list[Epoch]
    kept: list[Kept]
    notes: list[str]
    """One line for each wish about kept checkpoints that the run could not fulfil."""


def train_classifier(
    network: Network,
    data: ImageSet,
    recipe: TeacherRecipe,
    *,
    test: ImageSet | None = None,
    device: str | torch.device = "cpu",
    precision: str = "32",
    on_epoch: Callable[[Epoch], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    keep: int = 0,
    keep_above: float | None = None,
    keep_dir: Path | None = None,
) -> TrainingResult:
    """Train `network.module` in place, up to the weights of the last epoch.

    Args:
        network: its card's normalisation is used; it must fit the data.
        data: the training images.
        recipe: the settings; the same recipe and weights give the same result on the same machine (CPU: to the bit).
        test: held-out or test images, measured after each epoch; they steer nothing but which checkpoints are kept.
        device: where to train.
        precision: "32", or "bf16" for bfloat16 autocast.
        on_epoch: called after each epoch.
        on_progress: called about every two seconds.
        keep: this many checkpoints are spread evenly over the epochs from the first one above `keep_above`.
        keep_above: epochs at or below this accuracy (0..1) on `test` are not kept; None keeps any.
        keep_dir: where they are written as `epoch-0012.safetensors`; None means a new temporary folder, which is the
            caller's to delete.

    The module comes back in eval mode on the device it was on; the caller's global random state is as before.

    Raises:
        TeacherError: the network is no classifier of such images.
        UsageError: the data does not fit the network, or `keep` cannot be done.
        HealthError: the loss became infinite or not a number.
        MachineError: a batch does not fit into memory.
    """
    for images in (data, test) if test is not None else (data,):
        check_fits(network, images)
    if len(data) < 2:
        raise UsageError(f"{data.name}: {len(data)} training images are not enough to train on")
    if keep and test is None:
        raise UsageError("--keep needs held-out or test images to measure each epoch on")
    runtime = check_classifier(network).behaviour.applied(Runtime(torch.device(device), precision))
    keeper = Keeper(network, recipe, keep, keep_above, keep_dir) if keep else None
    history: list[Epoch] = []
    with untouched_global_rng(), memory_errors("-s batch_size"), _placed(network.module, runtime):
        trainer = _Trainer(network, data.to(runtime.device), recipe, runtime, on_progress)
        held = test.to(runtime.device) if test is not None else None
        for number in range(1, recipe.epochs + 1):
            line = trainer.epoch(number)
            if held is not None:
                reached = accuracy(network, held, device=device, precision=precision)
                line = replace(line, test_accuracy=reached)
                if keeper is not None:
                    keeper.consider(number, reached)
            history.append(line)
            if on_epoch is not None:
                on_epoch(line)
    return TrainingResult(history, *(keeper.finish() if keeper is not None else ([], [])))


class _Trainer:
    """One run over the data: optimizer, schedule, random streams."""

    def __init__(
        self,
        network: Network,
        data: ImageSet,
        recipe: TeacherRecipe,
        runtime: Runtime,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.classifier = PixelClassifier(network.module, network.card).to(runtime.device)
        self.small = SmallMaps(network.module, runtime)
        self.data, self.recipe, self.runtime, self.on_progress = data, recipe, runtime, on_progress
        self.optimizer = build_optimizer(network.module, recipe)
        self.streams = Streams(recipe.seed)
        whole, rest = divmod(len(data), recipe.batch_size)
        self.steps_per_epoch = max(1, whole)  # an incomplete last batch is dropped
        self.batch_size = recipe.batch_size if whole else rest
        self.start = self.reported = time.perf_counter()

    def epoch(self, number: int) -> Epoch:
        """Train on every image once (but an incomplete last batch)."""
        self.streams.seed_global("supervised", number)
        generator, mixing = (self.streams.generator(f"supervised/{name}", number) for name in ("batches", "mixup"))
        self.classifier.train()
        device, augment = self.runtime.device, self.recipe.augment
        batches = self.data.batches(
            self.batch_size, generator=generator, device=device, augment=augment, drop_last=True
        )
        losses, right = torch.zeros((), device=device), torch.zeros((), device=device)
        step = (number - 1) * self.steps_per_epoch
        for images, labels in batches:
            lr = self.recipe.lr * lr_factor(self.recipe, step / (self.recipe.epochs * self.steps_per_epoch))
            loss, hits = self._step(images, labels, lr, mixing)
            losses, right, step = losses + loss, right + hits, step + 1
            self._report(number, step, loss)
        mean = float(losses) / self.steps_per_epoch
        if not math.isfinite(mean):
            raise HealthError(f"training diverged in epoch {number} (loss {mean}): lower -s lr={self.recipe.lr:g}")
        share = float(right) / (self.steps_per_epoch * self.batch_size)
        return Epoch(number, mean, share, None, lr, time.perf_counter() - self.start)

    def _step(self, images: Tensor, labels: Tensor, lr: float, mixing: torch.Generator) -> tuple[Tensor, Tensor]:
        """Take one optimizer step; return the detached loss and the number of right answers."""
        targets = F.one_hot(labels, len(self.data.classes)).float()
        if self.recipe.mixup > 0:
            images, targets = mixed(images, targets, self.recipe.mixup, mixing)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with self.runtime.autocast(), self.small.products():
            logits = self.classifier(self.runtime.images(images)).float()
        loss = F.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach(), (logits.detach().argmax(1) == targets.argmax(1)).sum()

    def _report(self, epoch: int, step: int, loss: Tensor) -> None:
        now = time.perf_counter()
        if self.on_progress is not None and now - self.reported >= PROGRESS_SECONDS:
            self.reported = now
            steps = self.recipe.epochs * self.steps_per_epoch
            self.on_progress(Progress(epoch, self.recipe.epochs, step, steps, float(loss), now - self.start))


def untrained(arch: str, data: ImageSet, seed: int) -> Network:
    """Return the network `arch` with random weights, made for the size, classes and normalisation of `data`.

    Raises:
        UsageError: `arch` names no network, or one that cannot take the images.
    """
    card = Card(None, data.input_size, len(data.classes), tuple(data.mean), tuple(data.std), tuple(data.classes))
    return build_student(arch, card, seed=seed, role="teacher")


def build_optimizer(module: nn.Module, recipe: TeacherRecipe) -> torch.optim.Optimizer:
    """Return the recipe's optimizer over all parameters that want a gradient."""
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(weights, recipe.lr, betas=(recipe.momentum, 0.999), weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        weights, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov
    )


def mixed(images: Tensor, targets: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix each image (N, C, H, W) and its target distribution (N, K) with those of another of the batch.

    The share of the partner is min(l, 1 - l), l ~ Beta(alpha, alpha), one draw for the batch.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    share = min(share, 1 - share)
    partner = sent(torch.randperm(len(images), generator=generator), images.device)
    return torch.lerp(images, images[partner], share), torch.lerp(targets, targets[partner], share)


@contextmanager
def _placed(module: nn.Module, runtime: Runtime) -> Iterator[None]:
    """Train on the device in its layout and type; afterwards all tensors are where they were, contiguous."""
    homes = [(tensor, tensor.device, tensor.dtype) for tensor in chain(module.parameters(), module.buffers())]
    runtime.place(module)
    try:
        yield
    finally:
        module.eval()
        module.zero_grad(set_to_none=True)
        for tensor, device, dtype in homes:
            tensor.data = tensor.data.to(device, dtype).contiguous()
