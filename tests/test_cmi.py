"""CMI: the paper's sum, the bank of features and its projection, and a generator that starts anew for each batch."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from lenient.core.errors import TeacherError, UsageError
from lenient.core.seeding import Streams
from lenient.losses.contrastive import ContrastiveBank, info_nce
from lenient.models.card import Network
from lenient.synthesis.latents import Latents
from lenient.synthesis.views import augment, resized_crop
from lenient.teacher.batch import Batch, Response
from lenient.teacher.probes import BatchNorms, Pooled
from lenient.training.trainer import Distillation
from test_methods import QUICK_CONTRAST, QUICK_PIXELS, take
from toys import CPU, distillation, tiny_card

QUICK = {"name": "cmi", **QUICK_PIXELS, **QUICK_CONTRAST}


def run_of(**method: Any) -> Distillation:
    return distillation(method={**QUICK, **method})


def latents_of(run: Distillation) -> Latents:
    module = run.algorithm.updates["latents"].module[0]
    assert isinstance(module, Latents)
    return module


def bank_of(run: Distillation) -> ContrastiveBank:
    bank = run.algorithm.objective.terms["contrastive"][1]
    assert isinstance(bank, ContrastiveBank)
    return bank


def small(capacity: int, drawn: int = 100) -> ContrastiveBank:
    torch.manual_seed(0)
    return ContrastiveBank(Pooled(()), 3, Streams(0), CPU, temperature=0.1, capacity=capacity, drawn=drawn, projected=4)


def seen(local: torch.Tensor, whole: torch.Tensor) -> Batch:
    """A batch of which the teacher's features are known in both views."""
    count = len(local)
    logits = torch.zeros(count, 2)
    answers = {
        "local": {"teacher": Response(logits, {Pooled: local})},
        "train": {"teacher": Response(logits, {Pooled: whole})},
    }
    return Batch(torch.zeros(count, 1, 2, 2), torch.ones(count), answers=answers)


GOOD, BAD = torch.zeros(()), torch.ones(())


# the contrast


def test_the_contrast_of_known_rows():
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    b = torch.tensor([[1.0, 0.2], [0.0, 1.0]])
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    found = info_nce(a, b, torch.tensor([0, 1]), 0.1)
    assert found.tolist() == pytest.approx([5.5e-5, 1.50149], rel=1e-2, abs=1e-6)
    assert found[1].item() == pytest.approx(1.50149, rel=1e-5)


def test_old_images_are_negatives_and_have_a_mean_of_their_own():
    bank, first, second = small(10), *(torch.randn(2, 4, 3) for _ in range(2))
    bank.keep(seen(*first), BAD)
    bank.keep(seen(*second), GOOD)  # no better: the first one stays
    bank.remember(seen(*second), GOOD)
    assert len(bank) == 4
    order = torch.randperm(4, generator=Streams(0).host("bank", 0))
    local, whole = torch.cat([second[0], first[0][order]]), torch.cat([second[1], first[1][order]])
    with torch.no_grad():
        a, b = bank.module(local), bank.module(whole)
    e = [[math.exp(a[i] @ b[j] / 0.1) for j in range(8)] for i in range(8)]
    losses = [-math.log(e[i][i] / sum(e[i])) for i in range(8)]
    expected = sum(losses[:4]) / 4 + sum(losses[4:]) / 4
    assert bank(seen(*second)).item() == pytest.approx(expected, rel=1e-5)


def test_a_bank_that_is_exactly_full_holds_all_its_rows():
    """The released code takes it for empty in the round after, and gets a mean of nothing, which is no number."""
    bank = small(8)
    for number in range(1, 5):
        batch = seen(*torch.randn(2, 4, 3))
        bank.keep(batch, BAD)
        bank.remember(batch, GOOD)
        assert len(bank) == min(4 * number, 8)
        assert torch.isfinite(bank(batch))
    empty = small(8)
    assert torch.isfinite(empty(batch)), "nothing is stored yet: only the new images count"
    empty.drawn = 0
    assert torch.isfinite(empty(batch))


def test_only_the_local_view_and_the_projection_have_a_gradient():
    bank = small(8)
    local, whole = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    bank(seen(local, whole)).backward()
    assert local.grad.abs().max() > 0
    assert whole.grad is None
    assert all(p.grad.abs().max() > 0 for p in bank.module.layers[2].parameters())


def test_old_images_train_the_projection():
    bank = small(8)
    batch = seen(*torch.randn(2, 4, 3))
    bank.keep(batch, BAD)
    bank.remember(batch, GOOD)
    new = seen(*torch.randn(2, 4, 3))

    def gradient() -> torch.Tensor:
        bank.module.zero_grad()
        bank(new).backward()
        return bank.module.layers[0].weight.grad.clone()

    whole = gradient()
    bank.drawn = 0
    assert not torch.allclose(whole, gradient())


# the objective


def test_codes_generator_and_projection_minimise_the_papers_sum():
    weights = {"label_weight": 0.7, "bn_weight": 3.0, "adversarial_weight": 5.0, "contrastive_weight": 2.0}
    run = take(run_of(**weights, augmentation="crop-flip", generator_lr=0.1), 2)  # the bank holds a batch
    latents, bank = latents_of(run), bank_of(run)
    rows = copy.deepcopy(bank.state_dict()["bank"])
    (stored,) = rows.parts(0)
    assert len(bank) == 8
    module = run.algorithm.updates["latents"].module
    module.requires_grad_().zero_grad()
    output = run.algorithm.updates["latents"].step(run.clock)
    found = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    images = latents.generator(latents.codes)
    x = (augment(images, "crop-flip", Streams(3), "inversion-view", run.updates) - 0.4) / 0.3
    part = (resized_crop(images, 0.25, True, Streams(3), "local-view", run.updates) - 0.4) / 0.3
    layer = run.teacher.module.norm2
    maps: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda own, args, out: maps.append(out.mean(dim=(2, 3))))
    answer = run.teacher.respond(x, (BatchNorms(),))
    run.teacher.respond(part)
    handle.remove()
    run.student.eval()
    logits = run.student(x)
    run.student.train()
    labels = Streams(3).integers("labels", 1, (8,), 4)
    label = -torch.log_softmax(answer.logits, 1)[torch.arange(8), labels].mean()
    bn = sum((s.running_mean - s.mean).norm() + (s.running_variance - s.variance).norm() for s in answer.of(BatchNorms))
    p, q = (torch.softmax(values, 1) for values in (answer.logits, logits))
    kl = ((p * (p / q).log()).sum(1) * (answer.logits.argmax(1) == logits.argmax(1))).sum() / 8
    order = torch.randperm(8, generator=Streams(3).host("bank", run.updates))[:3]
    a = bank.module(torch.cat([maps[1], stored["local"][order]]))
    b = bank.module(torch.cat([maps[0], stored["whole"][order]])).detach()
    contrast = -torch.log_softmax(a @ b.T / 0.1, 1).diagonal()
    total = 0.7 * label + 3 * bn - 5 * kl + 2 * (contrast[:8].mean() + contrast[8:].mean())
    torch.testing.assert_close(output.kept["total"], total.detach(), rtol=1e-5, atol=1e-5)
    total.backward()
    for ours, theirs in zip(found, module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad, atol=1e-5, rtol=1e-3)


# batches


def test_the_generator_starts_anew_and_the_projection_goes_on():
    run = run_of(generator_lr=0.01, projection_lr=0.01)
    latents, bank = latents_of(run), bank_of(run)
    weight, norm = latents.generator.get_parameter("project.weight"), latents.generator.get_parameter("stem.weight")
    assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert (norm.mean().item(), norm.std().item() < 0.06) == (pytest.approx(1, abs=0.03), True)
    start, before = weight.detach().clone(), bank.module.layers[0].weight.detach().clone()
    take(run, 2)
    assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not torch.equal(start, weight)
    assert torch.equal(latents.codes, Streams(3).normal("codes", 1, (8, 7)))
    assert not torch.equal(before, bank.module.layers[0].weight)
    optimizer = run.algorithm.updates["latents"].optimizer
    assert all(not value.any() for p in latents.parameters() for value in optimizer.state[p].values())
    assert all(optimizer.state[p]["step"] == 2 for p in bank.module.parameters())
    assert [group["betas"] for group in optimizer.param_groups] == [(0.5, 0.999), (0.9, 0.999)]


def test_the_bank_takes_the_features_of_the_best_iterate():
    run = run_of(iterations=6, generator_lr=0.5, contrastive_weight=0.1)
    outputs = [run.take_update()[1] for _ in range(6)]
    best = min(range(6), key=lambda number: float(outputs[number].kept["total"]))
    assert best not in (0, 5), "neither the first nor the last, or the test says nothing"
    (stored,) = bank_of(run).state_dict()["bank"].parts(0)
    for view, name in (("local", "local"), ("train", "whole")):
        assert torch.equal(stored[name], outputs[best].batch.answers[view]["teacher"].of(Pooled))


def test_two_views_have_statistics_of_their_own():
    """In released code the hooks of the second forward overwrite what those of the first have found."""
    output = run_of().take_update()[1]
    assert BatchNorms in output.batch.answers["clean"]["teacher"].probed
    assert BatchNorms not in output.batch.answers["local"]["teacher"].probed


def test_a_teacher_whose_features_cannot_be_compared_is_refused_with_the_way_out():
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(30, 4))
    network = Network(module, tiny_card())
    changes = {**QUICK, "bn_weight": 0.0}
    with pytest.raises(TeacherError, match=r"no blocks .*-s method\.contrastive_weight=0"):
        distillation(network, method=changes)
    take(distillation(network, method={**changes, "contrastive_weight": 0.0}), 2)


def test_a_term_with_weights_is_not_added_to_a_method_that_does_not_train_them():
    run = distillation(method={"name": "adi", **QUICK_PIXELS})
    changed = run.algorithm.objective.plus("contrast", 1.0, small(8))
    with pytest.raises(UsageError, match="nothing trains them"):
        run.algorithm.minimising(changed, lambda clock, output, bad: None)


# the local view


def test_parts_of_images_are_enlarged():
    across, down = torch.meshgrid(torch.arange(20.0), torch.arange(16.0), indexing="xy")
    images = torch.stack([across, down]).expand(200, 2, 16, 20).clone().requires_grad_()
    parts = resized_crop(images, 0.25, False, Streams(0), "x", 0)
    assert parts.shape == images.shape
    width = (parts[:, 0, 0, -1] - parts[:, 0, 0, 0]) / 19
    height = (parts[:, 1, -1, 0] - parts[:, 1, 0, 0]) / 15
    area = width * height
    assert area.min() > 0.22
    assert 0.9 < area.max() < 1.01
    assert (width / height).min() > 0.7
    parts.sum().backward()
    assert images.grad.abs().sum() > 0
    turned = resized_crop(images, 0.25, True, Streams(0), "x", 0).detach()
    mirrored = (turned[:, 0, 0, 0] > turned[:, 0, 0, -1]).float().mean().item()
    assert 0.3 < mirrored < 0.7


def test_a_skipped_batch_leaves_the_bank_with_what_it_had():
    bank = small(8)
    batch = seen(*torch.randn(2, 4, 3))
    bank.keep(replace(batch), GOOD)
    bank.remember(batch, BAD)
    (stored,) = bank.state_dict()["bank"].parts(0)
    assert not stored["local"].any()
    assert torch.isfinite(bank(batch))
