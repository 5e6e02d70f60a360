"""The ways that `speed.py` compares, built on equal networks; the passes they make, counted; and a clock."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from published import STUDENT_STEPS, Released
from torch import Tensor, nn

from lenient.generators.upsampling import UpsamplingGenerator
from lenient.models import Network, build_student
from lenient.models.card import Card
from lenient.runs.request import Request, resolve
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.settings import DistillSettings
from lenient.training.trainer import Distillation

NETWORKS = ("teacher", "student", "generator")
RECIPE = "cifar10"
"""The paper's schedule, weights and generator in the library's own forms."""
RANDOM = "random weights; batch-norm statistics of noise images"


class Made(NamedTuple):
    """What one outer iteration took; shares may still lie on the device, where asking for them would be timed."""

    rounds: list[int]
    """Rounds of synthesis of each student step."""
    kept: Sequence[float | Tensor]
    """Accepted shares of rounds."""
    shortfall: Sequence[float | Tensor]
    """Share of each student batch that is rejected images, because there were too few rounds."""


@dataclass(frozen=True)
class Way:
    """One way to make an outer iteration, with its own copies of the three networks."""

    networks: Mapping[str, nn.Module]
    iterate: Callable[[], Made]


def random_teacher(arch: str, size: tuple[int, int, int], classes: int, seed: int) -> Network:
    """Return an untrained teacher whose statistics fit noise: the others are those of no images, and overflow."""
    card = Card(None, size, classes, (0.5,) * size[0], (0.25,) * size[0])
    network = build_student(arch, card, seed=seed, role="teacher")
    norms = [layer for layer in network.module.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean over all batches
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        network.module.train()
        for _ in range(4):
            network.module((torch.rand(16, *size, generator=generator) - 0.5) / 0.25)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    network.module.eval()
    return network


def settings_of(
    batch: int,
    precision: str,
    augmentation: str,
    device: torch.device,
    seed: int = 0,
    more: Sequence[str] = (),
    *,
    compiled: bool = False,
    overlap: bool = False,
) -> DistillSettings:
    """Return the settings of the library's side; the generator is the released one to the last epsilon."""
    own = (f"augmentation={augmentation}", f"student_steps={STUDENT_STEPS}", *more)
    overrides = [*(f"method.{text}" for text in own), "generator.bn_eps=0.8", f"overlap={overlap}"]
    request = Request(
        method="ta-dfkd",
        recipes=(RECIPE,),
        overrides=overrides,
        batch_size=batch,
        precision=precision,
        device=str(device),
        seed=seed,
        compile=compiled,
    )
    return resolve(request)


def ours(stack: ExitStack, teacher: Network, student: Network, settings: DistillSettings) -> Way:
    """The library's own loop, update by update, without log lines and evaluation; `stack` gives the teacher back."""
    runtime = settings.runtime()
    own = Network(copy.deepcopy(teacher.module), teacher.card)
    frozen = stack.enter_context(FrozenTeacher(own, runtime))
    run = Distillation(frozen, Network(copy.deepcopy(student.module), student.card), settings, runtime)

    def iterate() -> Made:
        rounds, kept, shortfall = [], [], []
        for _ in range(run.algorithm.schedule.phases[-1].length):
            name, output = run.take_update()
            if name == "student":
                rounds.append(output.images // settings.batch_size)
                shortfall.append(output.facts["shortfall"])
            if output.selected is not None:
                kept.append(output.selected.weight.mean())
        return Made(rounds, kept, shortfall)

    networks = {"teacher": own.module, "student": run.student, "generator": run.algorithm.updates["generator"].module}
    return Way(networks, iterate)


def published(teacher: Network, student: Network, settings: DistillSettings) -> Way:
    """The released procedure, restated, on networks equal to those of `ours`."""
    torch.manual_seed(settings.seed)
    generator = UpsamplingGenerator(teacher.card.input_size, settings.generator)
    released = Released(
        Network(copy.deepcopy(teacher.module), teacher.card),
        copy.deepcopy(student.module),
        generator,
        settings.generator.latent_dim,
        settings.batch_size,
        torch.device(settings.device),
        settings.seed,
    )

    def iterate() -> Made:
        done = released.iterate()
        return Made(done.rounds, done.kept, [0.0])

    networks = {"teacher": released.teacher, "student": released.student, "generator": released.generator}
    return Way(networks, iterate)


@contextmanager
def counted(networks: Mapping[str, nn.Module]) -> Iterator[dict[str, int]]:
    """Count images: `NAME forward`, `NAME backward`, and of the latter `NAME weights`, which filled weight gradients.

    A backward pass is counted where it reaches the network's first layer: terms on batch statistics start it halfway
    up, so that the output's gradient would miss them.
    """
    seen = {f"{name} {kind}": 0 for name in networks for kind in ("forward", "backward", "weights")}
    handles = []
    for name, network in networks.items():

        def forward(_: nn.Module, inputs: tuple[Any, ...], __: object, name: str = name) -> None:
            seen[f"{name} forward"] += len(inputs[0])

        def first(layer: nn.Module, _: object, output: Tensor, name: str = name) -> None:
            if not output.requires_grad:
                return
            weights = any(parameter.requires_grad for parameter in layer.parameters())

            def backward(gradient: Tensor) -> None:
                seen[f"{name} backward"] += len(gradient)
                seen[f"{name} weights"] += len(gradient) * weights

            output.register_hook(backward)

        start = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
        handles += [network.register_forward_hook(forward), start.register_forward_hook(first)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def clock(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Return the seconds that `work` took, the device's own included, and what it returned."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, result
