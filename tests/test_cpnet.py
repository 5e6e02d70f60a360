"""CPNet: a generator of the teacher's shapes, the coupling of maps, aligned features, and boxes of other images."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from lenient.core.errors import TeacherError, UsageError
from lenient.core.seeding import Streams
from lenient.generators.coupled import CoupledGenerator
from lenient.losses.adversarial import adversary
from lenient.losses.coupling import FeatureAlignment, FeatureCoupling, pseudo_inverse, target_gap
from lenient.losses.prior import LabelPrior
from lenient.models import build_student
from lenient.models.card import Network
from lenient.synthesis.latents import Adapted
from lenient.synthesis.pixels import balanced
from lenient.synthesis.views import augment, boxes_of_others
from lenient.teacher.batch import Batch, Partners, Response
from lenient.teacher.frozen import FrozenTeacher
from lenient.teacher.probes import BatchNormInputs, BatchNorms, Features
from lenient.training.trainer import Distillation
from test_methods import QUICK_LABELS, take
from toys import CPU, batch_of, distillation, tiny_card, tiny_teacher

QUICK = {"name": "cpnet", **QUICK_LABELS}


def run_of(**method: Any) -> Distillation:
    return distillation(method={**QUICK, **method})


# the generator


@pytest.mark.parametrize(
    ("cuts", "parameters"),
    [
        ([(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32)], 9_753_155),
        ([(128, 8, 8), (64, 16, 16), (32, 32, 32), (16, 32, 32)], 8_298_899),
    ],
    ids=["resnet34", "wrn-40-2"],
)
def test_it_has_the_published_parameters(cuts, parameters):
    generator = CoupledGenerator((3, 32, 32), cuts, 1000)
    of_codes = sum(p.numel() for p in nn.BatchNorm1d(512).parameters())
    assert sum(p.numel() for p in generator.parameters()) + of_codes == parameters


def test_it_goes_by_way_of_the_teachers_maps_whatever_their_sizes():
    generator = CoupledGenerator((3, 27, 30), [(8, 4, 5), (6, 7, 9), (4, 13, 15)], 5)
    shapes = []
    for layer in generator.taps:
        layer.register_forward_hook(lambda own, args, output: shapes.append(tuple(output.shape[1:])))
    assert generator(torch.randn(2, 5)).shape == (2, 3, 27, 30)
    assert shapes == [(8, 4, 5), (6, 7, 9), (4, 13, 15)]


@pytest.mark.parametrize(
    ("arch", "wanted"),
    [
        ("lenient:wrn-10-2", ["bn", "stages.2.0.bn1", "stages.1.0.bn1"]),
        ("lenient:resnet8", ["stages.2.0.shortcut.1", "stages.1.0.shortcut.1", "stages.0.0.bn2"]),
    ],
)
def test_the_teacher_is_cut_at_the_last_batch_norm_of_each_size(arch, wanted):
    network = build_student(arch, tiny_card(size=(8, 8)), seed=0, role="teacher")
    names = {part: name for name, part in network.module.named_modules()}
    with FrozenTeacher(network, CPU) as teacher:
        cuts = teacher.cuts()
        sizes = [maps.shape[2] for maps in teacher.probed(BatchNormInputs(cuts))]
        assert sizes == [2, 4, 8]
        assert [names[cut] for cut in cuts] == wanted
        assert teacher.cuts([names[cuts[1]]]) == (cuts[1],)


def test_cuts_that_there_are_not_are_refused():
    with pytest.raises(UsageError, match=r"^-s method\.cuts: bn9 is no batch norm .*; the teacher has norm1, norm2$"):
        run_of(cuts=("norm1", "bn9"))
    with pytest.raises(UsageError, match=r"^-s method\.cuts: nothing is no batch norm"):
        run_of(cuts=())
    module = nn.Sequential(nn.Flatten(), nn.Linear(30, 4))
    with pytest.raises(TeacherError, match="no batch norms over maps, at which its generator would be cut"):
        distillation(Network(module, tiny_card()), method={**QUICK, "bn_weight": 0.0})


def test_only_batch_norms_that_maps_go_into_are_offered_as_cuts():
    """One of vectors, as behind a flattening head, has no shape for a generator, and one that never runs has none."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps, self.idle = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
            self.vectors, self.head = nn.BatchNorm1d(30), nn.Linear(30, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(self.vectors(self.maps(images).flatten(1)))

    network = Network(Flat().eval(), tiny_card())
    for name in ("vectors", "idle"):
        with pytest.raises(
            UsageError, match=rf"^-s method\.cuts: {name} is no batch norm over maps; the teacher has maps$"
        ):
            distillation(network, method={**QUICK, "cuts": ("maps", name)})
    with FrozenTeacher(network, CPU) as teacher:
        assert teacher.cuts() == teacher.cuts(["maps"]) == (network.module.maps,)


# the coupling


def coupling(momentum: float = 0.0) -> tuple[FeatureCoupling, nn.BatchNorm2d]:
    layer = nn.BatchNorm2d(3)
    layer.running_mean, layer.running_var = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([4.0, 0.25, 1.0])
    return FeatureCoupling(BatchNormInputs((layer,)), momentum, "plain"), layer


def with_maps(maps: torch.Tensor, drawn: torch.Tensor) -> Batch:
    response = Response(torch.zeros(len(maps), 2), {BatchNormInputs: (maps,)})
    own = {"plain": {"teacher": response}}
    return Batch(torch.zeros(len(maps), 1, 2, 2), torch.ones(len(maps)), answers=own, drawn=(drawn,))


def test_the_teachers_maps_get_exactly_the_mean_and_variance_that_were_stored():
    term, layer = coupling()
    maps = (5 * torch.randn(7, 3, 4, 5, dtype=torch.float64) + 2).requires_grad_()
    drawn = torch.randn(7, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    batch = with_maps(maps, drawn)
    (wanted,) = term.targets(batch)
    flat = wanted.movedim(1, 0).flatten(1)
    torch.testing.assert_close(flat.mean(1), layer.running_mean.double())
    torch.testing.assert_close(flat.var(1), layer.running_var.double(), rtol=1e-5, atol=0)
    loss = term(batch)
    torch.testing.assert_close(loss, (drawn - wanted).square().mean())
    loss.backward()
    assert maps.grad is None, "only the generator learns by it"
    assert drawn.grad.abs().max() > 0


def test_a_channel_without_variance_leaves_it_finite():
    term, _ = coupling()
    assert torch.isfinite(term(with_maps(torch.ones(4, 3, 2, 2), torch.randn(4, 3, 2, 2))))


def test_statistics_are_averaged_over_batches():
    term, layer = coupling(0.9)
    first, second = torch.randn(4, 3, 2, 2), 3 * torch.randn(4, 3, 2, 2) + 1
    drawn = torch.zeros(4, 3, 2, 2)
    term.remember(with_maps(first, drawn), torch.ones(()))
    term.remember(with_maps(first, drawn), torch.zeros(()))
    moments = [(own.mean((0, 2, 3)), own.movedim(1, 0).flatten(1).var(1)) for own in (first, second)]
    mean, variance = (0.9 * old + 0.1 * new for old, new in zip(*moments, strict=True))
    shape = (1, 3, 1, 1)
    expected = (second - mean.view(shape)) / (variance + 1e-5).sqrt().view(shape)
    expected = expected * layer.running_var.sqrt().view(shape) + layer.running_mean.view(shape)
    torch.testing.assert_close(term.targets(with_maps(second, drawn))[0], expected)


# aligned features


def test_the_pseudo_inverse_of_a_last_layer():
    weight = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.5]], dtype=torch.float64)
    known = [[0.357143, -0.142857], [0.214286, 0.714286], [-0.428571, 0.571429]]
    torch.testing.assert_close(pseudo_inverse(weight), torch.tensor(known, dtype=torch.float64), atol=1e-6, rtol=0)
    assert torch.linalg.svdvals(weight).tolist() == pytest.approx([1.769967, 1.056985], abs=1e-6)
    small = torch.diag(torch.tensor([1.0, 1e-4]))
    torch.testing.assert_close(pseudo_inverse(small), torch.diag(torch.tensor([1.0, 10.0])))


def test_the_alignment_of_known_features():
    weight, bias = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.5]]), torch.tensor([0.1, -0.2, 0.0])
    term = FeatureAlignment(weight, bias)
    batch = batch_of(torch.zeros(1, 3))
    batch.answers["train"]["teacher"] = Response(torch.zeros(1, 3), {Features: torch.tensor([[0.5, 2.0]])})
    batch.labels = torch.tensor([1])
    assert target_gap(3) == pytest.approx(2.890372, abs=1e-6)
    assert [target_gap(n) for n in (10, 100, 200, 1000)] == pytest.approx([4.394, 6.792, 7.491, 9.104], abs=1e-3)
    residual = torch.tensor([0.5, 2.0]) - term.ideal[1]
    assert residual.tolist() == pytest.approx([-0.126508, -0.221694], abs=1e-6)
    assert term(batch).item() == pytest.approx(0.923305, abs=1e-5)
    batch.partners = Partners(torch.tensor([0]), torch.tensor([0.5]))
    assert term(batch) == 0
    term.mixed = True
    assert term(batch).item() == pytest.approx(0.923305, abs=1e-5)


# boxes of other images


def test_each_image_shows_a_box_of_another_one():
    images = torch.arange(400.0).view(400, 1, 1, 1).expand(400, 1, 12, 16).clone().requires_grad_()
    mixed, others, share = boxes_of_others(images, Streams(0), "x", 0)
    assert sorted(others.tolist()) == list(range(400))
    for own, other, part, image in zip(range(400), others.tolist(), share.tolist(), mixed, strict=True):
        assert set(image.unique().tolist()) <= {own, other}
        inside = (image[0] == other).nonzero()
        if own != other:
            assert len(inside) == pytest.approx(part * 12 * 16, abs=1e-3)
        if own != other and len(inside):
            height, width = (inside.max(0).values - inside.min(0).values + 1).tolist()
            assert height * width == len(inside), "a rectangle"
    assert 0.25 < share.mean() < 0.5, "half of it, less what the border cuts off"
    assert share.std() > 0.15, "not one box for all"
    mixed[0, 0].sum().backward()
    reached = images.grad.flatten(1).abs().sum(1).nonzero().flatten().tolist()
    assert set(reached) <= {0, others[0].item()}
    assert len(reached) == 1 + (0 < share[0] < 1)


def test_both_classes_count_by_their_shares():
    logits = torch.tensor([[3.0, 2, 1], [0, 4, 1]])
    batch = batch_of(logits)
    batch.labels = torch.tensor([0, 1])
    batch.partners = Partners(torch.tensor([1, 2]), torch.tensor([0.25, 0.0]))
    log = torch.log_softmax(logits, 1)
    expected = -(0.75 * log[0, 0] + 0.25 * log[0, 1] + log[1, 1]) / 2
    torch.testing.assert_close(LabelPrior()(batch), expected)


def test_divergence_with_its_arguments_swapped():
    teacher = torch.tensor([[3.0, 2, 1], [0, 4, 1], [1, 1, 5]])
    student = torch.tensor([[1.0, 2, 3], [0, 3, 1], [2, 0, 4]])
    p, q = teacher.softmax(1), student.softmax(1)
    expected = -(q * (q / p).log()).sum(1)[1:].sum() / 3
    torch.testing.assert_close(adversary("kl-swapped-agreeing", 1.0)(batch_of(teacher, student)), expected)
    known = adversary("kl-agreeing", 1.0)(batch_of(teacher, student))
    assert known.item() == pytest.approx(-0.037273, abs=1e-6)


# the objective


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_the_generator_minimises_the_papers_sum(cutmix):
    weights = {"label_weight": 0.7, "bn_weight": 3.0, "adversarial_weight": 5.0, "coupling_weight": 2.0}
    run = take(run_of(**weights, align_weight=4.0, cutmix=cutmix, augmentation="crop-flip"), 2)
    averages = copy.deepcopy(run.algorithm.objective.state_dict())
    module = run.algorithm.updates["generator"].module
    assert isinstance(module, Adapted)
    generator = module.generator
    assert isinstance(generator.body, CoupledGenerator)
    generator.requires_grad_().zero_grad()
    output = run.algorithm.updates["generator"].step(run.clock)
    found = [p.grad.clone() for p in generator.parameters()]
    generator.zero_grad()
    labels = balanced(8, 4, 1)
    images = generator(labels)
    body = generator.body
    rows = generator.norm(generator.codes[labels]).view(2, 4, -1)
    latents = (rows @ generator.noise + generator.shift).flatten(0, 1)
    drawn = body.start(body.project(latents).view(8, *body.first))
    torch.testing.assert_close(output.kept["whole"], images.detach())
    seen, teacher = augment(images, "crop-flip", Streams(3), "inversion-view", run.updates), run.teacher
    if cutmix:
        seen, others, share = boxes_of_others(seen, Streams(3), "cutmix", run.updates)
    x = (seen - 0.4) / 0.3
    answer = teacher.respond(x, (BatchNorms(), Features()))
    plain = teacher.respond((images - 0.4) / 0.3, (BatchNormInputs((teacher.module.norm2,)),))
    (maps,) = plain.of(BatchNormInputs)
    maps, layer, shape = maps.detach(), teacher.module.norm2, (1, -1, 1, 1)
    old = averages["coupling"]["averages"][0]
    mean = 0.9 * old[0] + 0.1 * maps.mean((0, 2, 3))
    variance = 0.9 * old[1] + 0.1 * maps.movedim(1, 0).flatten(1).var(1)
    wanted = (maps - mean.view(shape)) / (variance + 1e-5).sqrt().view(shape)
    wanted = wanted * layer.running_var.sqrt().view(shape) + layer.running_mean.view(shape)
    run.student.eval()
    logits = run.student(x)
    run.student.train()
    log = torch.log_softmax(answer.logits, 1)
    label = -log[torch.arange(8), labels]
    bn = sum(
        (s.running_mean - 0.1 * s.mean - 0.9 * before[0]).norm()
        + (s.running_variance - 0.1 * s.variance - 0.9 * before[1]).norm()
        for s, before in zip(answer.of(BatchNorms), averages["bn"]["averages"], strict=True)
    )
    p, q = (torch.softmax(values, 1) for values in (answer.logits, logits))
    kl = ((p * (p / q).log()).sum(1) * (answer.logits.argmax(1) == logits.argmax(1))).sum() / 8
    total = 3 * bn - 5 * kl + 2 * (drawn - wanted).square().mean()
    if cutmix:
        label = (1 - share) * label - share * log[torch.arange(8), labels[others]]
    else:
        weight, bias = teacher.module.head.weight, teacher.module.head.bias
        left, values, right = torch.linalg.svd(weight.T, full_matrices=False)
        inverse = right.T @ torch.diag(1 / values.clamp_min(0.1)) @ left.T
        gap = math.log(0.9 * 3 / 0.1)
        ideal = (gap * nn.functional.one_hot(labels, 4) - bias) @ inverse
        residual, lift = answer.of(Features) - ideal, torch.ones(4) @ inverse
        total = total + 4 * ((residual @ lift) / residual.norm(dim=1) / lift.norm()).abs().mean()
    total = total + 0.7 * label.mean()
    torch.testing.assert_close(output.kept["total"], total.detach(), rtol=1e-4, atol=1e-4)
    total.backward()
    for ours, theirs in zip(found, generator.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad, atol=1e-4, rtol=1e-3)


def test_a_teacher_without_a_last_linear_layer_is_refused_with_the_way_out():
    teacher = tiny_teacher()
    teacher.module.head = nn.Sequential(nn.Linear(6, 4), nn.Tanh())
    network = Network(teacher.module, tiny_card())
    changes = {**QUICK, "embeddings": "one-hot"}
    with pytest.raises(TeacherError, match=r"-s method\.align_weight=0"):
        distillation(network, method=changes)
    take(distillation(network, method={**changes, "align_weight": 0.0}), 1)
