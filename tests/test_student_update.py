"""How the student learns: new and old together, and META-DFKD's virtual step."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from lenient.losses.distances import kl_divergence, logit_l1
from lenient.losses.imitation import Imitation
from lenient.losses.objective import Objective
from lenient.student.update import LiveStudent, PlainUpdate, RetainSettings, RetainUpdate
from lenient.teacher.batch import Batch, Response
from toys import CPU, TinyNet

L1 = Objective({"student": (1.0, Imitation(logit_l1, "L1"))})
KL = Objective({"student": (1.0, Imitation(partial(kl_divergence, temperature=2.0), "KL"))})


def batch(seed: int, count: int = 6, dtype: torch.dtype = torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 6, 5, generator=generator, dtype=dtype)
    logits = torch.randn(count, 4, generator=generator, dtype=dtype)
    return Batch(images, torch.ones(count), {"train": images}, {"train": {"teacher": Response(logits)}})


def student(seed: int = 0) -> TinyNet:
    torch.manual_seed(seed)
    return TinyNet(1, 4, 3).train()


class Smooth(nn.Module):
    """Twice differentiable everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.norm(self.conv(images))).mean(dim=(2, 3)))


def smooth() -> Smooth:
    torch.manual_seed(0)
    return Smooth().double().train()


def gradients(module: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in module.parameters()]


def retain(module: nn.Module, objective: Objective = KL, alpha: float = 0.3, **settings: Any) -> RetainUpdate:
    settings = {"alpha": alpha, **settings}
    return RetainUpdate(objective, LiveStudent(module, CPU), RetainSettings(**settings), lambda: 0.1)


# plain


def test_new_and_old_count_by_their_numbers():
    module = student()
    losses = PlainUpdate(L1, LiveStudent(module, CPU))(batch(0, 8), batch(1, 1))
    found = gradients(module)
    module = student()
    images = torch.cat([batch(0, 8).images, batch(1, 1).images])
    wanted = torch.cat([r.answers["train"]["teacher"].logits for r in (batch(0, 8), batch(1, 1))])
    loss = (module(images) - wanted).abs().mean()
    loss.backward()
    assert ((8 * losses["student"] + losses["replay_student"]) / 9).item() == pytest.approx(loss.item(), rel=1e-5)
    for ours, slow in zip(found, gradients(module), strict=True):
        torch.testing.assert_close(ours, slow, atol=1e-6, rtol=1e-4)


def test_shares_weigh_the_two_means():
    module = student()
    PlainUpdate(L1, LiveStudent(module, CPU), (1.0, 2.0))(batch(0), batch(1))
    found = gradients(module)
    module = student()
    new, old = batch(0), batch(1)
    first, second = module(torch.cat([new.images, old.images])).split(6)
    loss = (first - new.answers["train"]["teacher"].logits).abs().mean()
    (loss + 2 * (second - old.answers["train"]["teacher"].logits).abs().mean()).backward()
    for ours, slow in zip(found, gradients(module), strict=True):
        torch.testing.assert_close(ours, slow, atol=1e-6, rtol=1e-4)


# acquire and retain


class Product(nn.Module):
    """s = a b on any input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(3.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.a * self.b).expand(len(images), 2)


@pytest.mark.parametrize(("order", "a", "b"), [("second", 2.63, 1.42), ("first", 2.8, 1.7)])
def test_golden_gradient_of_the_virtual_step(order, a, b):
    """L = |a b| for both; the acquiring gradient (3, 2) comes on top of the retaining one."""

    def zero() -> Batch:
        images = torch.zeros(1, 1, 1, 1)
        return Batch(images, torch.ones(1), {"train": images}, {"train": {"teacher": Response(torch.zeros(1, 2))}})

    module = Product()
    losses = retain(module, L1, 0.1, order=order)(zero(), zero())
    assert losses["replay_student"].item() == pytest.approx(4.76)
    assert (module.a.grad.item() - 3, module.b.grad.item() - 2) == pytest.approx((a, b), abs=1e-5)


def retaining_loss(module: nn.Module, new: Batch, old: Batch, alpha: float) -> torch.Tensor:
    """L_ret(theta - alpha grad L_acq(theta)), written out."""
    names = [name for name, _ in module.named_parameters()]
    buffers = {name: b.clone() for name, b in module.named_buffers()}

    def loss(weights: dict[str, torch.Tensor], r: Batch) -> torch.Tensor:
        out = torch.func.functional_call(module, weights | {n: b.clone() for n, b in buffers.items()}, r.images)
        return kl_divergence(r.answers["train"]["teacher"].logits, out, 2.0).mean()

    live = dict(module.named_parameters())
    step = torch.autograd.grad(loss(live, new), list(live.values()), create_graph=True)
    return loss({n: live[n] - alpha * g for n, g in zip(names, step, strict=True)}, old)


def test_the_gradient_is_that_of_finite_differences():
    module, new, old = smooth(), batch(0, dtype=torch.float64), batch(1, dtype=torch.float64)
    retain(module, order="second")(new, old)
    found = torch.cat([p.grad.flatten() for p in module.parameters()])
    values = [p for p in module.parameters()]
    slow = []

    def total() -> float:
        out = module(new.images)
        acquired = kl_divergence(new.answers["train"]["teacher"].logits, out, 2.0).mean()
        return (acquired + retaining_loss(module, new, old, 0.3)).item()

    for value in values:
        flat = value.data.view(-1)
        for index in range(len(flat)):
            keep = flat[index].item()
            flat[index] = keep + 1e-5
            up = total()
            flat[index] = keep - 1e-5
            slow.append((up - total()) / 2e-5)
            flat[index] = keep
    torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64), atol=2e-5, rtol=1e-3)


def test_the_retaining_term_alone_moves_the_student_and_differs_from_no_step():
    """The released code's defect: there the student's gradient of this term is None."""
    only_old = []
    for alpha in (0.0, 0.5):
        module = smooth()
        both, plain = (batch(seed, dtype=torch.float64) for seed in (0, 0))
        retain(module, alpha=alpha)(both, batch(1, dtype=torch.float64))
        whole = gradients(module)
        module.zero_grad()
        PlainUpdate(KL, LiveStudent(module, CPU))(plain)
        only_old.append([a - b for a, b in zip(whole, gradients(module), strict=True)])
    assert all(any(g.abs().max() > 1e-4 for g in each) for each in only_old)
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(*only_old, strict=True))


def test_for_small_steps_the_gradient_aligns_the_two():
    """(gradient(alpha) - gradient(0)) / alpha goes to - grad(grad L_ret . grad L_acq)."""
    module, new, old = smooth(), batch(0, dtype=torch.float64), batch(1, dtype=torch.float64)
    parameters = list(module.parameters())

    def loss(r: Batch) -> torch.Tensor:
        return kl_divergence(r.answers["train"]["teacher"].logits, module(r.images), 2.0).mean()

    a = torch.autograd.grad(loss(new), parameters, create_graph=True)
    b = torch.autograd.grad(loss(old), parameters, create_graph=True)
    inner = sum((x * y).sum() for x, y in zip(a, b, strict=True))
    expected = [-g for g in torch.autograd.grad(inner, parameters)]

    def gradient(alpha: float) -> list[torch.Tensor]:
        fresh = smooth()
        retain(fresh, order="second", alpha=alpha)(batch(0, dtype=torch.float64), batch(1, dtype=torch.float64))
        return gradients(fresh)

    zero = gradient(0.0)
    errors = []
    for alpha in (1e-2, 1e-3):
        found = [(g - z) / alpha for g, z in zip(gradient(alpha), zero, strict=True)]
        errors.append(max(float((f - e).abs().max()) for f, e in zip(found, expected, strict=True)))
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 5, "what is left is of second order"


@pytest.mark.parametrize("order", ["first", "second"])
def test_a_step_of_length_zero_is_the_two_losses_added_as_two_forwards(order):
    module = student()
    retain(module, L1, 0.0, order=order)(batch(0), batch(1))
    found = gradients(module)
    module = student()
    for r in (batch(0), batch(1)):
        (module(r.images) - r.answers["train"]["teacher"].logits).abs().mean().backward()
    for ours, slow in zip(found, gradients(module), strict=True):
        torch.testing.assert_close(ours, slow, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("order", ["first", "second"])
def test_the_live_buffers_see_the_new_images_once(order):
    module, other = student(), student()
    retain(module, order=order)(batch(0), batch(1))
    other(batch(0).images)
    for ours, once in zip(module.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(ours, once)
    joint, other = student(), student()
    retain(joint, order=order, joint=True)(batch(0), batch(1))
    other(torch.cat([batch(0).images, batch(1).images]))
    for ours, once in zip(joint.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(ours, once)


def test_jointly_the_old_images_come_twice():
    module = smooth()
    new, old = batch(0, dtype=torch.float64), batch(1, dtype=torch.float64)
    retain(module, order="second", joint=True)(new, old)
    found = gradients(module)
    module = smooth()
    PlainUpdate(KL, LiveStudent(module, CPU))(batch(0, dtype=torch.float64), batch(1, dtype=torch.float64))
    module2 = smooth()
    retaining_loss(module2, batch(0, dtype=torch.float64), batch(1, dtype=torch.float64), 0.3).backward()
    for ours, a, b in zip(found, gradients(module), gradients(module2), strict=True):
        torch.testing.assert_close(ours, a + b, atol=1e-8, rtol=1e-5)


def test_the_orders_differ_and_by_default_the_step_is_as_long_as_the_rate():
    def total(**settings: Any) -> torch.Tensor:
        module = smooth()
        retain(module, **settings)(batch(0, dtype=torch.float64), batch(1, dtype=torch.float64))
        return torch.cat([g.flatten() for g in gradients(module)])

    assert not torch.allclose(total(order="first"), total(order="second"))
    torch.testing.assert_close(total(alpha=None), total(alpha=0.1))


def test_the_cosine_of_the_two_gradients_is_logged():
    same = retain(smooth(), alpha=0.0)(batch(0, dtype=torch.float64), batch(0, dtype=torch.float64))
    assert same["gradient_cosine"].item() == pytest.approx(1, abs=1e-5)
    other = retain(smooth(), alpha=0.0)(batch(0, dtype=torch.float64), batch(1, dtype=torch.float64))
    assert -1 <= other["gradient_cosine"].item() < 0.999


def test_without_old_images_it_is_the_plain_update():
    module, other = student(), student()
    retain(module, L1)(batch(0))
    PlainUpdate(L1, LiveStudent(other, CPU))(batch(0))
    assert all(torch.equal(a, b) for a, b in zip(gradients(module), gradients(other), strict=True))
