"""ABD: the teacher in disorder, the penalty, the choice of a shuffle, and what the student unlearns."""

from __future__ import annotations

import logging
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lenient.core.errors import UsageError
from lenient.core.runtime import Runtime
from lenient.core.seeding import Streams
from lenient.defenses.shuffles import ShuffleSettings, ShuffleTrials, tail
from lenient.losses.distances import kl_divergence
from lenient.losses.objective import Objective
from lenient.losses.shuffled import ShuffledTeacherPenalty, departure, suspicious
from lenient.methods.contract import STUDENT, StepOutput, restart
from lenient.models.card import Network
from lenient.models.probing import convolutions
from lenient.student.unlearn import Unlearning, UnlearnSettings, hyper_gradient
from lenient.student.update import LiveStudent, PlainUpdate
from lenient.teacher.batch import Batch, Clock
from lenient.teacher.frozen import FrozenTeacher
from lenient.teacher.shuffled import ShuffledTeacher
from test_methods import BASE, same, take, weights
from test_student_update import KL, smooth
from toys import CPU, batch_of, distillation, tiny_card, tiny_teacher

DOUBLE = Runtime(torch.device("cpu"), "64")
T = torch.tensor([[3.0, 2, 1], [0, 4, 1], [1, 1, 5]], dtype=torch.float64)
S = torch.tensor([[1.0, 2, 3], [0, 3, 1], [2, 0, 4]], dtype=torch.float64)
ALWAYS = {"trials": 0, "layers": 1}
"""A penalty from the first update on; the first convolution of the toys has one input channel."""


# the penalty


def test_golden_value_of_the_penalty():
    batch = batch_of(T, images=torch.zeros(3, 1, 2, 2))
    assert suspicious(T, S).tolist() == [0, 1, 1]
    assert 0.1 * ShuffledTeacherPenalty(lambda inputs: S)(batch).item() == pytest.approx(-0.001864, abs=5e-7)
    summed = ShuffledTeacherPenalty(lambda inputs: S, over_classes=False)(batch).item()
    assert 0.1 / 3 * summed == pytest.approx(-0.001864, abs=5e-7)


def test_without_a_suspicious_image_the_penalty_is_zero_and_pushes_nowhere():
    images = torch.zeros(3, 1, 2, 2, requires_grad=True)
    value = ShuffledTeacherPenalty(lambda inputs: T.roll(1, dims=1) + inputs.sum())(batch_of(T, images=images))
    value.backward()
    assert value.item() == 0
    assert not images.grad.any()


def test_gradient_reaches_the_images_through_both_networks_or_through_the_teacher_alone():
    frozen = FrozenTeacher(tiny_teacher(), CPU).__enter__()
    shuffled = ShuffledTeacher(frozen, 1, 3, Streams(0))
    shuffled.shuffle(0)
    found = []
    for detach in (False, True):
        images = torch.rand(8, 1, 6, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
        inputs = frozen.normalize(images)
        batch = Batch(images, torch.ones(8), {"clean": inputs}, {"clean": {"teacher": frozen.respond(inputs)}})
        ShuffledTeacherPenalty(shuffled.logits, detach_shuffled=detach)(batch).backward()
        found.append(images.grad)
    assert all(gradient.abs().max() > 0 for gradient in found)
    assert not torch.allclose(*found)


# the teacher in disorder


class Odd(nn.Module):
    """Convolutions that no name tells of, called in another order than they are registered in; and a name that lies."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(4, 6, 1)
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.middle = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.conv_head = nn.Linear(6, 4)
        self.unused = nn.Conv2d(4, 4, 1)
        self.upwards = nn.ConvTranspose2d(4, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.upwards(self.depthwise(self.middle(self.features(images)).relu()))
        return self.conv_head(self.last(maps).relu().mean(dim=(2, 3)))


def odd() -> FrozenTeacher:
    torch.manual_seed(0)
    module = Odd().train()
    for _ in range(5):
        module(torch.randn(32, 1, 6, 5))
    return FrozenTeacher(Network(module, tiny_card()), CPU).__enter__()


def test_convolutions_are_found_by_type_in_the_order_of_the_forward():
    """Released code: by the letters "conv" in the names of parameters."""
    teacher = odd()
    assert teacher.convolutions() == ["features.0", "middle", "depthwise", "last"]
    assert convolutions(nn.Linear(3, 2), torch.zeros(1, 3)) == []


@pytest.mark.parametrize(("layers", "names"), [
    (2, ["depthwise", "last"]), (-2, ["features.0", "middle"]), (0, []),
    (9, ["features.0", "middle", "depthwise", "last"]),
])  # fmt: skip
def test_late_layers_are_shuffled_or_early_ones_below_zero(layers, names):
    assert list(ShuffledTeacher(odd(), layers, 1, Streams(0)).layers) == names


def test_what_has_one_input_channel_stays_and_is_named():
    teacher = odd()
    shuffled = ShuffledTeacher(teacher, 2, 1, Streams(0))
    shuffled.shuffle(0)
    assert shuffled.unmoved == ("depthwise",)
    (copied,) = (network.module for network in shuffled._networks)
    assert torch.equal(copied.depthwise.weight, teacher.module.depthwise.weight)
    assert not torch.equal(copied.last.weight, teacher.module.last.weight)


def test_every_shuffle_is_made_from_the_teacher_whose_order_no_earlier_one_moves():
    """Released code: permutes what is permuted already."""
    teacher = odd()
    before = {key: value.clone() for key, value in teacher.module.state_dict().items()}
    shuffled = ShuffledTeacher(teacher, 9, 3, Streams(5))
    seen = []
    for number in (0, 1, 0):
        shuffled.shuffle(number)
        seen.append([network.module.last.weight.clone() for network in shuffled._networks])
        for copy, weight in enumerate(seen[-1]):
            order = torch.randperm(4, generator=Streams(5).host(f"shuffle/{copy}/last", number))
            assert torch.equal(weight, teacher.module.last.weight[:, order])
    assert all(torch.equal(one, again) for one, again in zip(seen[0], seen[2], strict=True))
    assert not torch.equal(torch.stack(seen[0]), torch.stack(seen[1]))
    assert same(before, teacher.module.state_dict())


def test_the_copies_are_the_teacher_but_for_the_order_and_carry_no_hooks():
    teacher = odd()
    calls = []
    handles = [
        teacher.module.middle.register_forward_hook(lambda *_: calls.append("forward")),
        teacher.module.middle.register_forward_pre_hook(lambda *_: calls.append("pre")),
    ]
    shuffled = ShuffledTeacher(teacher, 2, 3, Streams(0))
    shuffled.shuffle(0)
    calls.clear()
    images, before = torch.rand(5, 1, 6, 5), teacher.forwards
    found = shuffled.logits(images)
    assert calls == []
    assert teacher.forwards - before == 15, "each image is asked about three times"
    slow = []
    for network in shuffled._networks:
        assert not any(part.training for part in network.module.modules())
        assert not any(parameter.requires_grad for parameter in network.module.parameters())
        state, own = network.module.state_dict(), teacher.module.state_dict()
        changed = {key for key in own if not torch.equal(state[key], own[key])}
        assert changed <= {"last.weight"}
        assert torch.equal(state["features.1.running_mean"], own["features.1.running_mean"])
        with torch.no_grad():
            slow.append(network.module(images))
    torch.testing.assert_close(found, torch.stack(slow).mean(dim=0))
    assert not torch.allclose(found, teacher.respond(images).logits, atol=1e-3)
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("computed", [
    nn.utils.weight_norm, nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm,
    nn.utils.parametrizations.spectral_norm,
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_computed_weights_are_shuffled_and_elsewhere_still_computed(computed):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), computed(nn.Conv2d(4, 4, 1)), nn.Flatten(), computed(nn.Linear(48, 4))
    ).eval()
    images = torch.rand(3, 1, 6, 5)
    teacher = FrozenTeacher(Network(module, tiny_card()), CPU).__enter__()
    shuffled = ShuffledTeacher(teacher, 1, 1, Streams(0))
    shuffled.shuffle(0)
    order = torch.randperm(4, generator=Streams(0).host("shuffle/0/1", 0))
    with torch.no_grad():
        maps = nn.functional.conv2d(module[0](images), module[1].weight[:, order], module[1].bias)
        torch.testing.assert_close(shuffled.logits(images), module[3](module[2](maps)))


# the choice of a shuffle


def test_the_tail_is_a_share_of_what_is_finite():
    values = torch.cat([torch.linspace(-1, 1, 97), torch.tensor([-9.0, -9.0, float("nan")])])
    finite = values[:-1]
    by_hand = (finite < finite.mean() - 3 * finite.std(correction=0)).float().mean()
    assert tail(values).item() == pytest.approx(by_hand.item())
    assert tail(values).item() == pytest.approx(2 / 99)
    assert tail(torch.full((4,), 2.0)).item() == 0
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    assert tail(normal).item() == pytest.approx(0.00135, abs=4e-4)


class Scripted:
    """A shuffled teacher that is far from the teacher, but on every fortieth image from shuffle `good` on."""

    def __init__(self, good: int) -> None:
        self.good, self.number = good, -1
        self.teacher = FrozenTeacher(tiny_teacher(), CPU).__enter__()

    def shuffle(self, number: int) -> None:
        self.number = number

    def logits(self, inputs: Tensor) -> Tensor:
        logits = torch.tensor([0.0, 3.0, 0.0, 0.0]).repeat(len(inputs), 1)
        if self.number >= self.good:
            logits[::40] = torch.tensor([3.0, 1e-3, 0.0, 0.0])
        return logits


def shown(trials: ShuffleTrials, updates: int, clock: Clock | None = None) -> None:
    logits = torch.tensor([3.0, 0.0, 0.0, 0.0]).repeat(80, 1)
    output = StepOutput({}, batch_of(logits, images=torch.zeros(80, 1, 6, 5)))
    for _ in range(updates):
        trials.after(clock or Clock(steps=10), output, torch.zeros(()))


def trials(good: int, **changes: Any) -> ShuffleTrials:
    told: Any = Scripted(good)
    return ShuffleTrials(told, ShuffleSettings(warm_up=2, batches=3, trials=4, **changes), lambda clock: 8)


def test_the_first_shuffle_with_a_tail_is_taken_and_the_penalty_begins_with_the_next_update():
    found = trials(1)
    shown(found, 5)  # two to warm up, three to gather, and the first shuffle is judged by them
    assert len(found.inputs) == len(found.logits) == 240
    assert found.weight(Clock(steps=10)) == 0
    shown(found, 1)
    assert (found.trial, found.chosen) == (1, False)
    shown(found, 1)
    assert (found.trial, found.chosen, found.shuffled.number) == (1, True, 1)
    assert [found.weight(Clock(step=step, steps=10)) for step in (0, 7, 8)] == [0.1, 0.1, 0]
    assert len(found.inputs) == len(found.logits) == 0, "images are kept no longer than they are needed"


def test_where_no_shuffle_passes_there_is_no_penalty_and_one_line_says_so(caplog):
    found = trials(99)
    with caplog.at_level(logging.WARNING, "lenient"):
        shown(found, 40)
    assert found.ended
    assert len(found.inputs) == 0
    assert found.weight(Clock(steps=10)) == 0
    assert [record.getMessage() for record in caplog.records] == [
        "defense abd: none of 4 shuffles sets images apart, so there is no penalty"
    ]


def test_a_run_too_short_for_the_choice_says_so_once(caplog):
    found = trials(0)
    with caplog.at_level(logging.WARNING, "lenient"):
        shown(found, 3)
        shown(found, 9, Clock(step=8, steps=10))
    assert found.weight(Clock(steps=10)) == 0
    assert [record.getMessage() for record in caplog.records] == [
        "defense abd: the run is too short to judge a shuffle, so there is no penalty"
    ]


def test_the_tail_is_that_of_the_divergences_by_hand_and_skipped_updates_are_left_out():
    found = trials(0)
    shown(found, 4)
    images = torch.zeros(80, 1, 6, 5)
    found.after(Clock(steps=10), StepOutput({}, batch_of(torch.ones(80, 4), images=images)), torch.ones(()))
    plain = torch.tensor([3.0, 0.0, 0.0, 0.0]).repeat(160, 1)
    distances = departure(plain, torch.cat([found.shuffled.logits(images)] * 2)).log10()
    assert found._tail.get() == pytest.approx(tail(distances).item())
    assert found._tail.get() == pytest.approx(1 / 40)


def test_a_choice_without_trials_is_made_at_once():
    found = ShuffleTrials(trials(0).shuffled, ShuffleSettings(trials=0), lambda clock: 8)
    assert found.weight(Clock(steps=10)) == 0.1
    shown(found, 3)
    assert len(found.inputs) == 0


# the hyper-gradient


def problem():
    """A tiny student in float64, and the two problems as functions of the perturbation and the student's weights."""
    module = smooth()
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(6, 1, 4, 4, generator=generator, dtype=torch.float64)
    constant = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    delta = 0.3 * torch.randn(1, 1, 4, 4, generator=generator, dtype=torch.float64)
    buffers = dict(module.named_buffers())

    def answer(weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return torch.func.functional_call(module, weights | {n: b.clone() for n, b in buffers.items()}, inputs)

    def inner(weights: dict[str, Tensor], delta: Tensor) -> Tensor:
        # a strong norm, so that the map contracts and the fixed point is a minimum
        return 2.0 * delta.square().sum() - kl_divergence(constant, answer(weights, images + delta)).mean()

    def outer(weights: dict[str, Tensor], delta: Tensor) -> Tensor:
        chosen = torch.tensor([1.0, 0, 0, 1, 0, 0], dtype=torch.float64).view(-1, 1, 1, 1)
        return kl_divergence(constant, answer(weights, images + chosen * delta)).mean()

    return module, delta, inner, outer


def flat(tensors) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


RATE = 0.1


def dense(module: nn.Module, delta: Tensor, inner: Any, outer: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dF/dd (n, n), dF/dw (n, m), dh/dd (n) and dh/dw (m), row by row."""
    live = dict(module.named_parameters())
    delta = delta.clone().requires_grad_()
    (slope,) = torch.autograd.grad(inner(live, delta), delta, create_graph=True)
    mapped = (delta - RATE * slope).flatten()
    rows = [torch.autograd.grad(one, [delta, *live.values()], retain_graph=True) for one in mapped]
    of_outer = torch.autograd.grad(outer(live, delta), [delta, *live.values()])
    by_delta = torch.stack([row[0].flatten() for row in rows])
    by_weights = torch.stack([flat(row[1:]) for row in rows])
    return by_delta, by_weights, of_outer[0].flatten(), flat(of_outer[1:])


def ours(module: nn.Module, delta: Tensor, inner: Any, outer: Any, iterations: int) -> Tensor:
    live = dict(module.named_parameters())
    found = hyper_gradient(
        lambda d: inner(live, d), lambda d: outer(live, d), delta, list(live.values()), RATE, iterations
    )[1]
    return flat(g for g in found if g is not None)


@pytest.mark.parametrize("iterations", [0, 1, 2, 5])
def test_so_many_iterations_are_so_many_terms_of_the_series(iterations):
    parts = problem()
    by_delta, by_weights, of_delta, of_weights = dense(*parts)
    vector, power = torch.zeros_like(of_delta), of_delta
    for _ in range(iterations):
        vector, power = vector + power, by_delta.T @ power
    torch.testing.assert_close(ours(*parts, iterations), of_weights + by_weights.T @ vector, atol=1e-12, rtol=1e-9)


def test_many_iterations_solve_the_linear_system():
    parts = problem()
    by_delta, by_weights, of_delta, of_weights = dense(*parts)
    vector = torch.linalg.solve((torch.eye(len(of_delta), dtype=torch.float64) - by_delta).T, of_delta)
    torch.testing.assert_close(ours(*parts, 200), of_weights + by_weights.T @ vector, atol=1e-11, rtol=1e-8)


@pytest.mark.slow  # fifteen seconds of small steps
def test_at_the_fixed_point_it_is_the_derivative_of_the_whole_problem():
    """Against finite differences of the outer loss, the inner problem solved anew for each."""
    module, delta, inner, outer = problem()

    def solved(start: Tensor) -> Tensor:
        live, found = dict(module.named_parameters()), start
        for _ in range(120):
            found = found.detach().requires_grad_()
            found = found - RATE * torch.autograd.grad(inner(live, found), found)[0]
        return found.detach()

    best = solved(delta)
    found = ours(module, best, inner, outer, 200)
    slow = []
    for parameter in module.parameters():
        values = parameter.data.view(-1)
        for index in range(len(values)):
            keep, losses = values[index].item(), []
            for away in (1e-4, -1e-4):
                values[index] = keep + away
                losses.append(outer(dict(module.named_parameters()), solved(best)).item())
            values[index] = keep
            slow.append((losses[0] - losses[1]) / 2e-4)
    torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64), atol=1e-7, rtol=1e-4)


# the student's update


def net(seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)
    ).to(dtype)


def unlearning(module: nn.Module, **changes: Any) -> Unlearning:
    teacher = FrozenTeacher(Network(net(1).eval(), tiny_card()), DOUBLE).__enter__()
    student = LiveStudent(module, DOUBLE)
    settings = UnlearnSettings(**{"share": 0.5, "rounds": 4, "affected": 0.4, **changes})
    return Unlearning(PlainUpdate(KL, student), student, teacher, settings, Streams(0))


def learnt(teacher: FrozenTeacher, step: int = 9) -> Batch:
    images = torch.rand(6, 1, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        answer = teacher.respond(images)
    clock = Clock(update=40, step=step, steps=10)
    return Batch(images, torch.ones(6), {"train": images}, {"train": {"teacher": answer}}, clock=clock)


def test_unlearning_adds_the_hyper_gradient_to_the_hosts_own():
    module, other = net(0), net(0)
    update = unlearning(module)
    batch = learnt(update.teacher)
    losses = update(batch)
    PlainUpdate(KL, LiveStudent(other, DOUBLE))(learnt(update.teacher))
    assert set(losses) == {"student", "unlearn", "perturbation"}
    delta, _ = update.perturbation(batch)
    order = torch.randperm(6, generator=Streams(0).generator("perturbed-images", 40))
    chosen = (order < 2).double().view(-1, 1, 1, 1)
    buffers = {name: b.clone() for name, b in other.named_buffers()}
    live = dict(other.named_parameters())

    def answer(inputs: Tensor) -> Tensor:
        return torch.func.functional_call(other, live | {n: b.clone() for n, b in buffers.items()}, inputs)

    plain = answer(batch.images).detach()

    def inner(d: Tensor) -> Tensor:
        return 1e-3 * d.square().sum() - kl_divergence(plain, answer(batch.images + d)).mean() / 4

    def outer(d: Tensor) -> Tensor:
        return kl_divergence(plain, answer(batch.images + chosen * d)).mean() / 4

    value, slow = hyper_gradient(inner, outer, delta, list(live.values()), 0.1, 5)
    assert value.item() == pytest.approx(losses["unlearn"].item())
    assert any(g is not None and g.abs().max() > 1e-6 for g in slow)
    for parameter, twin, more in zip(module.parameters(), other.parameters(), slow, strict=True):
        torch.testing.assert_close(parameter.grad, twin.grad + (0 if more is None else more), atol=1e-12, rtol=1e-9)


def test_the_live_batch_norms_see_the_hosts_images_only():
    module, other = net(0), net(0)
    update = unlearning(module)
    update(learnt(update.teacher))
    other(learnt(update.teacher).images)
    for one, twin in zip(module.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(one, twin)


def test_before_its_share_of_the_run_nothing_is_unlearnt():
    module, other = net(0), net(0)
    update = unlearning(module)
    assert set(update(learnt(update.teacher, step=4))) == {"student"}
    PlainUpdate(KL, LiveStudent(other, DOUBLE))(learnt(update.teacher))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(module.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("perturbed", ["teacher", "student"])
def test_the_perturbation_changes_the_answers_of_whom_it_is_to_fool_more_and_more(perturbed):
    update = unlearning(net(0).train(), perturbed=perturbed, norm_weight=0.0)
    batch = learnt(update.teacher)
    found = []
    for rounds in (1, 10, 60):
        update.settings = update.settings.model_copy(update={"rounds": rounds})
        delta, divergence = update.perturbation(batch)
        found.append(divergence.item())
        assert delta.shape == (1, 1, 6, 5)
    assert found[0] < found[1] < found[2]


def test_a_perturbation_that_starts_at_zero_has_no_gradient():
    """Released code starts there, and follows what rounding leaves."""
    update = unlearning(net(0))
    batch = learnt(update.teacher)
    delta = torch.zeros(1, 1, 6, 5, dtype=torch.float64, requires_grad=True)
    answer = update.teacher.respond(batch.images + delta).logits
    loss = kl_divergence(batch.logits("train", "teacher"), answer).mean() + delta.square().sum()
    assert torch.autograd.grad(loss, delta)[0].abs().max() < 1e-15
    assert update.perturbation(batch)[0].abs().max() > 0.05


def test_settings_of_unlearning_change_the_gradient():
    def total(**changes: Any) -> Tensor:
        module = net(0)
        update = unlearning(module, **changes)
        update(learnt(update.teacher))
        return flat(p.grad for p in module.parameters())

    base = total()
    assert torch.equal(base, total())
    for key, value in {
        "perturbed": "student", "rounds": 7, "perturbation_lr": 0.3, "start": 0.5, "norm_weight": 1.0, "affected": 1.0,
        "iterations": 0, "over_classes": False, "attached": True,
    }.items():  # fmt: skip
        assert not torch.allclose(base, total(**{key: value})), key


# the phase


def test_the_last_share_of_the_steps_unlearns_one_at_least():
    first = [UnlearnSettings(share=share).first(Clock(steps=100)) for share in (0, 1e-6, 0.02, 0.5, 1)]
    assert first == [100, 99, 98, 50, 0]
    settings = UnlearnSettings(share=0.5)
    factors = [settings.factor(Clock(step=step, steps=8)) for step in range(4, 8)]
    assert factors == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_optimizer_starts_anew_with_a_rate_of_its_own(optimizer):
    method = {**BASE["zskt"], "student_optimizer": optimizer, "student_schedule": "constant", "student_steps": 1}
    defense = {"name": "abd", "shuffle": {"weight": 0}, "unlearn": {"share": 0.5, "lr": 0.004}}
    run = distillation(method=method, defense=defense, steps=8)
    while run.step < 4:
        run.take_update()
    own = run.algorithm.updates[STUDENT].optimizer
    assert own.param_groups[0]["lr"] == pytest.approx(0.05)
    gathered = [value for kept in own.state.values() for value in kept.values()]
    assert gathered
    assert not any(value.any() for value in gathered)
    rates = []
    while run.step < 8:
        name, output = run.take_update()
        if name == STUDENT:
            rates.append(own.param_groups[0]["lr"])
            assert "unlearn" in output.losses
    assert rates == pytest.approx([0.004, 0.004 * 0.853553, 0.002, 0.004 * 0.146447], abs=1e-8)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_an_optimizer_that_is_restarted_goes_on_as_a_new_one(kind):
    more = {"momentum": 0.9} if kind in (torch.optim.SGD, torch.optim.RMSprop) else {}
    values = [nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2)]
    used, fresh = (kind([value], lr=0.1, **more) for value in values)

    def step(which: int, optimizer: torch.optim.Optimizer) -> None:
        values[which].grad = values[which].detach().square()
        optimizer.step()

    for _ in range(3):
        step(0, used)
    restart(used)
    values[1].data.copy_(values[0].data)
    for _ in range(3):
        step(0, used)
        step(1, fresh)
        torch.testing.assert_close(values[0], values[1])


# around methods


@pytest.mark.parametrize("name", ["ta-dfkd", "deepinversion", "zskt"])
def test_the_penalty_joins_the_terms_of_whoever_makes_the_images(name):
    runs = [distillation(method=BASE[name], **more) for more in ({}, {"defense": {"name": "abd", "shuffle": ALWAYS}})]
    maker = "pixels" if name == "deepinversion" else "generator"
    names = [set(run.algorithm.objective.terms) for run in runs]
    assert names[1] - names[0] == {"shuffled"}
    seen, moments = set(), []
    for run in runs:
        for _ in range(3):
            whose, output = run.take_update()
            seen |= {whose} if "shuffled" in output.losses else set()
        moments.append(run.algorithm.updates[maker].optimizer.state_dict()["state"][0]["exp_avg"])
    assert seen == {maker}
    assert not torch.equal(*moments)


def test_a_defence_of_no_weight_is_no_defence_to_the_bit():
    off = {"name": "abd", "shuffle": {"weight": 0}, "unlearn": {"share": 0}}
    for name in ("ta-dfkd", "meta-dfkd"):
        runs = [take(distillation(method=BASE[name], **more), 6) for more in ({}, {"defense": off})]
        assert same(*map(weights, runs))


def test_until_the_phase_begins_the_student_is_the_methods():
    only = {"name": "abd", "shuffle": {"weight": 0}, "unlearn": {"share": 0.5}}
    runs = [distillation(method=BASE["ta-dfkd"], **more) for more in ({}, {"defense": only})]
    for run in runs:
        while run.step < 2:
            run.take_update()
    assert same(*map(weights, runs))
    for run in runs:
        while run.step < 6:
            run.take_update()
    assert not same(*map(weights, runs))


def test_without_an_objective_the_student_only_unlearns_and_a_line_says_so(caplog):
    run = distillation(method=BASE["noise"], defense={"name": "abd"})
    with caplog.at_level(logging.WARNING, "lenient"):
        run.run()
    assert [record.getMessage() for record in caplog.records if "abd" in record.getMessage()] == [
        "defense abd: this method makes no images by an objective, so the student only unlearns"
    ]
    assert run.algorithm.state == {}


def test_what_shuffling_cannot_move_is_said():
    teacher = tiny_teacher()
    notes = distillation(teacher, method=BASE["ta-dfkd"], defense={"name": "abd"}).algorithm.notes
    assert notes == ("defense abd: shuffling leaves conv1 as it is: convolutions of one input channel each",)
    flatly = nn.Sequential(nn.Flatten(), nn.Linear(30, 4)).eval()
    run = distillation(Network(flatly, tiny_card()), method={"name": "dfad"}, defense={"name": "abd"})
    assert "the teacher has no convolution whose channels can be shuffled: no penalty" in run.algorithm.notes[0]
    assert "shuffled" not in run.algorithm.objective.terms


def test_steps_that_hold_nothing_are_refused_in_words():
    algorithm = distillation(method=BASE["ta-dfkd"]).algorithm
    hidden = {name: replace(own, step=lambda clock, s=own.step: s(clock)) for name, own in algorithm.updates.items()}
    closed = replace(algorithm, updates=hidden)
    with pytest.raises(UsageError, match="take no other objective"):
        closed.minimising(Objective({}), lambda *_: None)
    with pytest.raises(UsageError, match="takes no other update"):
        closed.learning(lambda update: update)


def test_defences_know_no_data():
    """Released code: hands test loaders to the object that shuffles."""
    table = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = {contract["id"]: contract for contract in table["tool"]["importlinter"]["contracts"]}
    assert "defenses" in contracts["no-real-data"]["layers"][1].split(" : ")
