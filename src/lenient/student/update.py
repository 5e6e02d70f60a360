"""How the student learns from a batch: fills its gradients and returns the detached losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lenient.core import ranks
from lenient.core.config import BY_NAME, Part
from lenient.core.conv_cpu import SmallMaps
from lenient.core.recomputing import Recomputed
from lenient.core.runtime import Runtime
from lenient.losses.objective import Objective
from lenient.models.lending import own_grad_mode
from lenient.teacher.batch import Batch, Response
from lenient.teacher.probes import Blocks


class LiveStudent:
    """The student as a network that answers; `blocks` are layers of it whose outputs belong to the answer."""

    def __init__(self, module: nn.Module, runtime: Runtime, blocks: Sequence[nn.Module] = ()) -> None:
        self.module, self.runtime, self.blocks = module, runtime, Blocks(tuple(blocks))
        self._plain = module if blocks else runtime.compiled(module)
        self._small = SmallMaps(module, runtime)
        self._recomputed = Recomputed(module, self._small.products) if runtime.recompute else None

    def respond(
        self, inputs: Tensor, weights: Mapping[str, Tensor] | None = None, *, autocast: bool = True
    ) -> Response:
        """Answer normalised inputs (N, C, H, W), with other parameters or buffers where `weights` names them."""
        inputs = self.runtime.inputs(inputs)
        precision = self.runtime.autocast() if autocast else torch.autocast(inputs.device.type, enabled=False)
        # with other weights than its own a block would be computed anew with its own
        recomputed = self._recomputed.armed() if self._recomputed and weights is None else nullcontext()
        with self.blocks.armed() as probed, precision, own_grad_mode(), self._small.products(), recomputed:
            logits = (
                self._plain(inputs)
                if weights is None
                else torch.func.functional_call(self.module, dict(weights), inputs)
            )
            return Response(logits, {Blocks: probed()} if self.blocks.layers else {})


class StudentUpdate(Protocol):
    """How the student learns from new images and, where there are such, old ones; `label` says it in a word or two."""

    label: str

    def __call__(self, new: Batch, old: Batch | None = None) -> dict[str, Tensor]:
        """Fill the student's gradients and return the detached losses."""
        ...


class PlainSettings(Part):
    """New and old images make one batch."""

    name: Literal["plain"] = "plain"


class RetainSettings(Part):
    """Acquire and retain through a virtual step (META-DFKD)."""

    name: Literal["retain"] = "retain"
    order: Literal["second", "first"] = "first"
    """Differentiate through the virtual step (paper), or take the gradient after it as it is, at a third of the cost:
    for steps of usual length they are the same (`results/virtual-step.md`)."""
    alpha: float | None = Field(0.2, ge=0, le=1e6)
    """Length of the virtual step (released code: 0.9, without effect; no length stands out in
    `results/meta-dfkd-alpha.md`, and up to 0.2 both orders agree). `null` is the student's learning rate now: where a
    schedule takes that to 0, the two points are one, and old images are replayed and no more."""
    joint: bool = False
    """Learn the new images together with the old ones at the point before the step, as released."""


UpdateSettings = Annotated[PlainSettings | RetainSettings, BY_NAME]
"""How new and old images join."""


class PlainUpdate:
    """One forward of the student on new and old images together, one backward of the objective.

    New and old count by their numbers (MB-DFKD: 8/9 and 1/9), or by `shares` (MAD).
    """

    label = "plain"

    def __init__(
        self, objective: Objective, student: LiveStudent, shares: tuple[float, float] | None = None, view: str = "train"
    ) -> None:
        self.objective, self.student, self.shares, self.view = objective, student, shares, view

    def __call__(self, new: Batch, old: Batch | None = None) -> dict[str, Tensor]:
        """Fill the student's gradients from batches whose training view and teacher answer are there."""
        if old is None:
            return self._alone(new)
        count = len(new.images)
        answer = self.student.respond(torch.cat([new.inputs[self.view], old.inputs[self.view]]))
        for batch, part in zip((new, old), answer.split(count), strict=True):
            batch.answers[self.view]["student"] = part
        first, second = self.shares or _by_number(count, len(old.images))
        (loss, losses), (old_loss, old_losses) = self.objective(new), self.objective(old)
        (first * loss + second * old_loss).backward()
        return losses | _renamed(old_losses)

    def _alone(self, new: Batch) -> dict[str, Tensor]:
        new.answers[self.view]["student"] = self.student.respond(new.inputs[self.view])
        loss, losses = self.objective(new)
        loss.backward()
        return losses


class RetainUpdate:
    """META-DFKD: min L_acq(theta) + L_ret(theta - alpha grad L_acq(theta)), new images acquired, old ones retained.

    The second order goes through the virtual step: grad L_acq + (I - alpha H_acq) grad L_ret(theta'). It runs in
    contiguous float32. The virtual student has clones of the live buffers, which see the new images' one forward only.
    Logs the cosine between both gradients. Without old images it is the plain update.
    """

    def __init__(
        self,
        objective: Objective,
        student: LiveStudent,
        settings: RetainSettings,
        rate: Callable[[], float],
        weight: float = 1.0,
        view: str = "train",
    ) -> None:
        self.objective, self.student, self.settings, self.rate, self.view = objective, student, settings, rate, view
        self.weight = weight
        self.plain = PlainUpdate(objective, student, view=view)
        self.label = f"retain, {settings.order} order"

    def __call__(self, new: Batch, old: Batch | None = None) -> dict[str, Tensor]:
        """Fill the student's gradients from batches whose training view and teacher answer are there."""
        if old is None:
            return self.plain(new)
        s = self.settings
        alpha = self.rate() if s.alpha is None else s.alpha
        second = s.order == "second"
        live = {name: p.contiguous() if second else p for name, p in self.student.module.named_parameters()}
        leaves = [p for _, p in self.student.module.named_parameters()]
        buffers = {name: b.clone() for name, b in self.student.module.named_buffers()}
        if s.joint:  # the live forward is the joint one; the step is taken from a forward on clones
            losses = self.plain(new, old)
            acquired, new_losses = self._loss(new, live | {name: b.clone() for name, b in buffers.items()}, second)
        else:
            acquired, new_losses = self._loss(new, live, second)
            losses = {}
        gradients = torch.autograd.grad(acquired, leaves, create_graph=second, allow_unused=True)
        step = ranks.averaged(torch.zeros_like(p) if g is None else g for p, g in zip(leaves, gradients, strict=True))
        moved = {name: p - alpha * g for (name, p), g in zip(live.items(), step, strict=True)}
        if not second:
            moved = {name: p.detach().requires_grad_(True) for name, p in moved.items()}
        retained, old_losses = self._loss(old, moved | buffers, second)
        backs = torch.autograd.grad(self.weight * retained, list(moved.values()), allow_unused=True)
        kept = [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, backs, strict=True)]
        if second:
            # through the step: what moved gets the gradient of L_ret there, and L_acq its own unless it had it jointly
            ends = list(moved.values()) + ([] if s.joint else [acquired])
            torch.autograd.backward(ends, kept + ([] if s.joint else [torch.ones_like(acquired)]))
        else:
            for parameter, own, back in zip(leaves, step, kept, strict=True):
                total = back if s.joint else own + back
                if parameter.grad is None:  # in the weight's own layout, which fused optimizers take for granted
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad += total
        return new_losses | losses | _renamed(old_losses) | {"gradient_cosine": _cosine(step, ranks.averaged(kept))}

    def _loss(self, batch: Batch, weights: Mapping[str, Tensor], exact: bool) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = batch.inputs[self.view]
        if exact:  # fused attention has no second derivative
            with sdpa_kernel(SDPBackend.MATH):
                answer = self.student.respond(inputs.contiguous(), weights, autocast=False)
        else:
            answer = self.student.respond(inputs, weights)
        batch.answers[self.view]["student"] = answer
        return self.objective(batch)


def _by_number(new: int, old: int) -> tuple[float, float]:
    return new / (new + old), old / (new + old)


def _renamed(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"replay_{name}": value for name, value in losses.items()}


@torch.no_grad()
def _cosine(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Cosine between two gradients, each a list of tensors, as a scalar; 0 where one is zero."""
    dot = torch.stack([(a.float() * b.float()).sum() for a, b in zip(first, second, strict=True)]).sum()
    sizes = [torch.stack(torch._foreach_norm(list(vectors))).norm() for vectors in (first, second)]
    cosine: Tensor = dot / (sizes[0] * sizes[1]).clamp_min(1e-20)
    return cosine
