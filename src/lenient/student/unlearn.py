"""Unlearning a backdoor: find one change of all images that the teacher reacts to, and teach the student not to react.

The self-retrospection of ABD (Hong et al., ICML 2023), a bilevel problem whose hyper-gradient comes from a fixed point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lenient.core import ranks
from lenient.core.config import Settings
from lenient.core.rates import half_cosine
from lenient.core.reductions import batch_mean, full
from lenient.core.seeding import Streams
from lenient.losses.distances import kl_divergence
from lenient.student.update import LiveStudent, StudentUpdate
from lenient.teacher.batch import Batch, Clock
from lenient.teacher.frozen import FrozenTeacher


class UnlearnSettings(Settings):
    """The last student steps, in which the student unlearns reactions to one perturbation of all images."""

    share: float = Field(0.02, ge=0, le=1)
    """Share of the steps, the last of the run, that unlearn; one at least, unless 0 (released code: 0.005 to 0.02)."""
    lr: float = Field(5e-4, ge=0, le=1e3)
    """The student's learning rate there, falling as a cosine; its optimizer starts anew (released code: 1e-4, 5e-4)."""
    perturbed: Literal["teacher", "student"] = "teacher"
    """Whose answer the perturbation is to change (released scripts: the teacher's)."""
    rounds: int = Field(10, ge=0, le=10_000)
    """Steps of Adam on the perturbation, for each step of the student (released code: 10 or 20)."""
    perturbation_lr: float = Field(0.1, ge=0, le=1e3)
    """Learning rate of the perturbation, in deviations of the teacher's normalisation (released code: 0.1)."""
    start: float = Field(1e-3, gt=0, le=1e3)
    """Deviation of the noise that the perturbation starts from; at 0 its gradient is zero (released code: 0)."""
    norm_weight: float = Field(1e-3, ge=0, le=1e6)
    """Weight of the perturbation's squared norm (released code: 0.001 with ZSKT, 0 with CMI)."""
    affected: float = Field(0.02, gt=0, le=1)
    """Share of the batch, one image at least, that is shown with the perturbation (released code: 0.02)."""
    iterations: int = Field(5, ge=0, le=1000)
    """Iterations of the fixed point; 0 takes the perturbation for a constant (released code: 5)."""
    over_classes: bool = True
    """Whether divergences are divided by the number of classes, as released."""
    attached: bool = False
    """Whether the answer to the images without the perturbation moves, too (released code: with CMI alone)."""

    def first(self, clock: Clock) -> int:
        """Return the step, of the run that `clock` belongs to, from which on the student unlearns."""
        return (
            clock.steps if self.share == 0 else clock.steps - min(max(round(self.share * clock.steps), 1), clock.steps)
        )

    def factor(self, clock: Clock) -> float:
        """Return the share of `lr` at a step that unlearns: half a cosine from 1 towards 0 at the end of the run."""
        first = self.first(clock)
        return half_cosine(clock.step - first, max(clock.steps - first, 1))


class Unlearning:
    """A student update; in the last steps of a run, the gradient of what it unlearns is added.

    S is the student, P the perturbed network, x the new batch and d one perturbation (1, C, H, W) of all images. The
    answer to x alone is held constant, in the outer problem unless `attached`.

        inner    d* = argmin -KL(P(x) || P(x + d)) + norm |d|^2
        outer    min over S of KL(S(x) || S(x + d* on a few images))
        through  g(d, S) = -KL(S(x) || S(x + d)) + norm |d|^2 and the map d -> d - rate grad_d g(d, S)

    The student answers in its own mode with clones of its buffers, in contiguous float32: its batch norms see the
    images of the update that is wrapped, and those only.
    """

    def __init__(
        self,
        update: StudentUpdate,
        student: LiveStudent,
        teacher: FrozenTeacher,
        settings: UnlearnSettings,
        streams: Streams,
        view: str = "train",
    ) -> None:
        self.update, self.student, self.teacher, self.settings = update, student, teacher, settings
        self.streams, self.view = streams, view
        self.label = f"{update.label}, then unlearning"

    def __call__(self, new: Batch, old: Batch | None = None) -> dict[str, Tensor]:
        """Fill the student's gradients from batches whose training view and teacher answer are there."""
        losses = self.update(new, old)
        if new.clock.step < self.settings.first(new.clock):
            return losses
        delta, flipped = self.perturbation(new)
        value, gradients = self.hyper_gradient(new, delta)
        for parameter, gradient in zip(self.student.module.parameters(), gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:  # in the weight's own layout, which fused optimizers take for granted
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad += gradient
        return losses | {"unlearn": value, "perturbation": flipped}

    def perturbation(self, new: Batch) -> tuple[Tensor, Tensor]:
        """Return what Adam finds to change the answers most, (1, C, H, W), and the inner divergence there, a scalar."""
        s, inputs = self.settings, new.inputs[self.view].detach()
        if s.perturbed == "teacher":
            wanted, answer = new.logits(self.view, "teacher"), self._taught
        else:
            wanted, answer = self._constant(inputs), self._answer
        wanted = wanted.detach()
        shape = (1, *inputs.shape[1:])
        delta = s.start * self.streams.normal("perturbation", new.clock.update, shape).to(inputs.dtype)
        first, second = torch.zeros_like(delta), torch.zeros_like(delta)
        divergence = torch.zeros((), device=inputs.device, dtype=inputs.dtype)
        for number in range(1, s.rounds + 1):
            delta = delta.detach().requires_grad_()
            divergence = self._divergence(wanted, answer(inputs + delta))
            loss = s.norm_weight * delta.square().sum() - divergence
            (gradient,) = ranks.averaged(torch.autograd.grad(loss, delta))
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
            size = (second / (1 - 0.999**number)).sqrt() + 1e-8
            delta = delta - s.perturbation_lr * first / (1 - 0.9**number) / size
        return delta.detach(), divergence.detach()

    def hyper_gradient(self, new: Batch, delta: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Return the outer divergence and its total derivative with respect to the student's parameters."""
        s, inputs = self.settings, new.inputs[self.view].detach()
        whole = len(inputs) * ranks.count()
        order = self.streams.permutation("perturbed-images", new.clock.update, whole)
        chosen = ranks.mine(order < max(int(s.affected * whole), 1)).to(inputs.dtype).view(-1, 1, 1, 1)
        constant = self._constant(inputs)

        def inner(delta: Tensor) -> Tensor:
            away = self._divergence(constant, self._answer(inputs + delta))
            return s.norm_weight * delta.square().sum() - away

        def outer(delta: Tensor) -> Tensor:
            plain = self._answer(inputs) if s.attached else constant
            return self._divergence(plain, self._answer(inputs + delta * chosen))

        return hyper_gradient(
            inner, outer, delta, list(self.student.module.parameters()), s.perturbation_lr, s.iterations
        )

    def _divergence(self, plain: Tensor, perturbed: Tensor) -> Tensor:
        mean = batch_mean(kl_divergence(plain, perturbed))
        return mean / plain.shape[1] if self.settings.over_classes else mean

    def _answer(self, inputs: Tensor) -> Tensor:
        """Return the student's logits, twice differentiable, its buffers untouched."""
        module = self.student.module
        weights: Mapping[str, Tensor] = {
            **{name: parameter.contiguous() for name, parameter in module.named_parameters()},
            **{name: buffer.clone() for name, buffer in module.named_buffers()},
        }
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            return full(self.student.respond(inputs.contiguous(), weights, autocast=False).logits)

    def _taught(self, inputs: Tensor) -> Tensor:
        return full(self.teacher.respond(inputs).logits)

    def _constant(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return self._answer(inputs)


def hyper_gradient(
    inner: Callable[[Tensor], Tensor],
    outer: Callable[[Tensor], Tensor],
    delta: Tensor,
    weights: Sequence[Tensor],
    rate: float,
    iterations: int,
) -> tuple[Tensor, list[Tensor | None]]:
    """Return outer(d) and its derivative with respect to `weights`, d following them as the inner problem asks.

    With the map F(d, w) = d - rate grad_d inner(d, w), of which d is taken for a fixed point, the derivative is
    outer_w + F_w^T v where (I - F_d)^T v = outer_d. That is solved by v <- F_d^T v + outer_d from 0, `iterations`
    times, which comes to v where the map contracts (Grazzi et al., ICML 2020). Both functions depend on `weights`.
    """
    delta = delta.detach().requires_grad_()
    slope = ranks.averaged(torch.autograd.grad(inner(delta), delta, create_graph=True))[0]
    mapped, value = delta - rate * slope, outer(delta)
    of_delta, *direct = torch.autograd.grad(value, [delta, *weights], allow_unused=True)
    if iterations == 0:
        return value.detach(), list(direct)
    outward = ranks.averaged([of_delta])[0]
    vector = outward
    for _ in range(iterations - 1):
        (back,) = ranks.averaged(torch.autograd.grad(mapped, delta, vector, retain_graph=True))
        vector = back + outward
    through = torch.autograd.grad(mapped, weights, vector, allow_unused=True)
    return value.detach(), [_sum(one, other) for one, other in zip(direct, through, strict=True)]


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other
