"""Every term in threes: against slow loops written from the equation, by a property, and by a pinned number."""

from __future__ import annotations

import copy
import math
import re
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import lenient.losses as losses_package
from lenient.losses.adversarial import CodedJensenShannon, Disagreement, JensenShannon, adversary
from lenient.losses.distances import coded_js, js_divergence, kl_divergence, logit_l1
from lenient.losses.imitation import AttentionTransfer, Imitation, SelfPaced, attention_map, self_paced_weight
from lenient.losses.objective import Later, Needs, Objective, Ramp
from lenient.losses.prior import (
    Activation,
    ClassPrior,
    EmbeddingNorm,
    InformationEntropy,
    LabelPrior,
    confidence_score,
)
from lenient.losses.representation import AveragedStatistics, BatchNormStatistics, ImageNorm, differences, itself
from lenient.teacher.batch import Batch, Clock, Response
from lenient.teacher.probes import BatchNorms, Blocks, Features, LayerStatistics
from toys import batch_of

T = torch.tensor([[3.0, 2, 1], [0, 4, 1], [1, 1, 5]], dtype=torch.float64)
S = torch.tensor([[1.0, 2, 3], [0, 3, 1], [2, 0, 4]], dtype=torch.float64)
ROWS_T, ROWS_S = torch.tensor([[4.0, 0, 0], [0, 3, 0]]), torch.tensor([[0.0, 4, 0], [0, 3, 0]])
RAMP = (torch.arange(18, dtype=torch.float64) ** 2 / 100).view(2, 1, 3, 3)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def softened(row: torch.Tensor, temperature: float) -> list[float]:
    powers = [math.exp(float(value) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


# adversary


def slow_js(t: torch.Tensor, s: torch.Tensor, temperature: float) -> float:
    total = 0.0
    for p, q in zip(softened(s, temperature), softened(t, temperature), strict=True):
        m = (p + q) / 2
        total += 0.5 * p * math.log(p / m) + 0.5 * q * math.log(q / m)
    return total


def slow_coded(t: torch.Tensor, s: torch.Tensor, temperature: float) -> float:
    def clamp(value: float) -> float:
        return min(max(value, 0.01), 0.99)

    total = 0.0
    for p, q in zip(softened(s, temperature), softened(t, temperature), strict=True):
        m = clamp((p + q) / 2)
        total += 0.5 * m * math.log(m / clamp(p)) + 0.5 * m * math.log(m / clamp(q))
    return total


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize(("fast", "slow"), [(js_divergence, slow_js), (coded_js, slow_coded)])
def test_divergences_equal_their_loops(fast, slow, temperature):
    t, s = draw(9, 5), draw(9, 5, seed=1)
    expected = [slow(a, b, temperature) for a, b in zip(t, s, strict=True)]
    torch.testing.assert_close(fast(t, s, temperature), torch.tensor(expected, dtype=torch.float64))


@given(st.integers(0, 10_000), st.integers(2, 30), st.floats(0.5, 20))
@hypothesis_settings(max_examples=50, deadline=None)
def test_js_is_a_bounded_symmetric_divergence(seed, classes, temperature):
    t, s = draw(4, classes, seed=seed) * 5, draw(4, classes, seed=seed + 1) * 5
    value = js_divergence(t, s, temperature)
    assert (value >= -1e-12).all()
    assert (value <= math.log(2) + 1e-9).all()
    torch.testing.assert_close(value, js_divergence(s, t, temperature))
    torch.testing.assert_close(js_divergence(t, t, temperature), torch.zeros(4, dtype=torch.float64))


def test_divergences_have_their_golden_values():
    torch.testing.assert_close(js_divergence(ROWS_T, ROWS_S, 3.0), torch.tensor([0.1498, 0.0]), atol=1e-4, rtol=0)
    assert js_divergence(ROWS_T, ROWS_S, 3.0).mean().item() == pytest.approx(0.074896, abs=1e-6)
    assert coded_js(ROWS_T, ROWS_S, 3.0).mean().item() == pytest.approx(0.085835, abs=1e-6)
    shipped = 1 - CodedJensenShannon(3.0)(batch_of(ROWS_T, ROWS_S))
    assert shipped.item() == pytest.approx(0.028612, abs=1e-6)
    assert js_divergence(T, S, 1.0).mean().item() == pytest.approx(0.093577, abs=1e-6)
    assert js_divergence(T, S, 3.0).mean().item() == pytest.approx(0.016235, abs=1e-6)
    assert coded_js(T, S, 1.0).mean().item() == pytest.approx(0.122471, abs=1e-6)
    assert coded_js(T, S, 3.0).mean().item() == pytest.approx(0.016733, abs=1e-6)
    apart = torch.tensor([[1000.0, 0, 0], [0, 1000, 0]], dtype=torch.float64)
    assert coded_js(apart, apart.flip(0)).mean().item() == pytest.approx(1.614463, abs=1e-6)
    assert js_divergence(apart, apart.flip(0)).mean().item() == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("term", [JensenShannon(), CodedJensenShannon()])
def test_adversary_falls_as_teacher_and_student_part(term):
    student = draw(16, 4).float().requires_grad_()
    before = term(batch_of(draw(16, 4, seed=1).float(), student))
    before.backward()
    after = term(batch_of(draw(16, 4, seed=1).float(), student.detach() - 0.5 * student.grad))
    assert after < before


@pytest.mark.parametrize("term", [JensenShannon(), CodedJensenShannon()])
def test_adversary_counts_accepted_samples_only(term):
    t, s, weight = draw(8, 3).float(), draw(8, 3, seed=1).float(), torch.tensor([1.0, 0, 1, 1, 0, 0, 1, 0])
    kept = weight > 0
    torch.testing.assert_close(term(batch_of(t, s, weight=weight)), term(batch_of(t[kept], s[kept])))
    s[1] = math.nan
    assert torch.isfinite(term(batch_of(t, s, weight=weight)))


@pytest.mark.parametrize("accepted", [0, 1])
@pytest.mark.parametrize("term", [JensenShannon(), CodedJensenShannon()])
def test_adversary_is_silent_when_next_to_nothing_is_accepted(term, accepted):
    student = draw(5, 3).float().requires_grad_()
    weight = torch.zeros(5)
    weight[:accepted] = 1
    term(batch_of(draw(5, 3, seed=1).float(), student, weight=weight)).backward()
    assert student.grad.abs().max() == 0


# representation


def statistics_of(values: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> LayerStatistics:
    flat = values.transpose(0, 1).flatten(1)
    return LayerStatistics(flat.mean(dim=1), flat.var(dim=1, correction=0), mean, variance)


def test_batch_norm_term_equals_its_loop():
    layers, expected = [], 0.0
    for seed, channels in ((0, 3), (1, 5)):
        values, mean, variance = (
            draw(4, channels, 2, 3, seed=seed),
            draw(channels, seed=7),
            draw(channels, seed=8).abs(),
        )
        layers.append(statistics_of(values, mean, variance))
        of_mean = of_variance = 0.0
        for channel in range(channels):
            cells = [float(values[n, channel, h, w]) for n, h, w in product(range(4), range(2), range(3))]
            m = sum(cells) / len(cells)
            v = sum((cell - m) ** 2 for cell in cells) / len(cells)
            of_mean += (m - float(mean[channel])) ** 2
            of_variance += (v - float(variance[channel])) ** 2
        expected += math.sqrt(of_mean) + math.sqrt(of_variance)
    assert BatchNormStatistics()(batch_of(statistics=tuple(layers))).item() == pytest.approx(expected)


def test_batch_norm_term_has_its_golden_values():
    def distance(values: torch.Tensor) -> float:
        channels = values.shape[1]
        layer = statistics_of(values, torch.zeros(channels), torch.ones(channels))
        return BatchNormStatistics()(batch_of(statistics=(layer,))).item()

    assert distance(torch.tensor([[[[1.0]], [[2.0]]], [[[3.0]], [[6.0]]]])) == pytest.approx(7.4721, abs=1e-4)
    assert distance(RAMP) == pytest.approx(1.156353, abs=1e-6)
    assert distance(torch.cat([RAMP, 2 * RAMP + 1], dim=1)) == pytest.approx(5.490873, abs=1e-6)


def test_batch_norm_term_is_zero_with_finite_gradient_where_statistics_agree():
    values = draw(4, 3, 2, 2).requires_grad_()
    flat = values.detach().transpose(0, 1).flatten(1)
    layer = statistics_of(values, flat.mean(dim=1), flat.var(dim=1, correction=0))
    value = BatchNormStatistics()(batch_of(statistics=(layer,)))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(values.grad).all()


def slow_norms(image: torch.Tensor) -> float:
    """Total variation of one image (C, H, W): the four norms of neighbour differences."""
    channels, height, width = image.shape
    total = 0.0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        square = 0.0
        for c, h, w in product(range(channels), range(height), range(width)):
            if 0 <= h + down < height and 0 <= w + right < width:
                square += (float(image[c, h, w]) - float(image[c, h + down, w + right])) ** 2
        total += math.sqrt(square)
    return total


def test_image_norms_equal_their_loops():
    images = draw(3, 2, 4, 5)
    variation = sum(slow_norms(image) for image in images) / 3 * 32
    length = sum(math.sqrt(sum(float(v) ** 2 for v in image.flatten())) for image in images) / 3 * 32
    assert ImageNorm(differences, "TV", view="clean")(batch_of(images=images)).item() == pytest.approx(variation)
    assert ImageNorm(itself, "L2", view="clean")(batch_of(images=images)).item() == pytest.approx(length)


def test_image_norms_have_their_golden_values():
    batch = batch_of(images=RAMP)
    assert ImageNorm(differences, "TV", view="clean", whole_batch=True)(batch).item() == pytest.approx(
        6.026919, abs=1e-6
    )
    assert ImageNorm(itself, "L2", view="clean", whole_batch=True)(batch).item() == pytest.approx(5.721617, abs=1e-6)
    assert ImageNorm(itself, "L2", view="clean")(batch).item() / 32 == pytest.approx(3.290515, abs=1e-6)


@pytest.mark.parametrize("norms", [differences, itself])
def test_per_image_norm_equals_the_released_one_at_its_batch_size_and_ignores_the_batch_size(norms):
    image = draw(1, 3, 6, 6)
    per_image, released = ImageNorm(norms, "", view="clean"), ImageNorm(norms, "", view="clean", whole_batch=True)
    at_1024 = batch_of(images=image.expand(1024, -1, -1, -1))
    assert per_image(at_1024).item() == pytest.approx(released(at_1024).item())
    assert per_image(batch_of(images=image)).item() == pytest.approx(per_image(at_1024).item())


def test_image_norms_of_black_images_have_a_gradient():
    images = torch.zeros(2, 1, 3, 3, requires_grad=True)
    ImageNorm(differences, "TV", view="clean")(batch_of(images=images)).backward()
    assert torch.isfinite(images.grad).all()


# prior and imitation


def test_confidence_and_class_prior():
    expected = [-math.log(max(softened(row, 1))) for row in T]
    torch.testing.assert_close(confidence_score(T), torch.tensor(expected, dtype=T.dtype))
    assert ClassPrior()(batch_of(T)).item() == pytest.approx(0.169822, abs=1e-6)
    assert confidence_score(torch.tensor([[100.0, 0.0]])).item() == 0
    assert confidence_score(torch.zeros(1, 8)).item() == pytest.approx(math.log(8))


def test_information_entropy():
    rows = [softened(row, 1) for row in T]
    mean = [sum(row[k] for row in rows) / 3 for k in range(3)]
    term = InformationEntropy()
    assert term(batch_of(T)).item() == pytest.approx(sum(p * math.log(p) for p in mean))
    even, one = torch.eye(4) * 50, torch.eye(4)[[2, 2, 2, 2]] * 500
    assert term(batch_of(even)).item() == pytest.approx(-math.log(4)), "one class an image, none left out"
    one.requires_grad_()
    value = term(batch_of(one))
    assert value.item() == pytest.approx(0, abs=1e-6)
    value.backward()
    assert torch.isfinite(one.grad).all(), "a class with no probability at all"
    assert term(batch_of(T.repeat(2, 1))).item() == pytest.approx(term(batch_of(T)).item())


def test_logit_l1():
    t, s = draw(6, 4), draw(6, 4, seed=1)
    slow = sum(abs(float(a) - float(b)) for a, b in zip(t.flatten(), s.flatten(), strict=True)) / 24
    assert Imitation(logit_l1, "L1")(batch_of(t, s)).item() == pytest.approx(slow)
    assert Imitation(logit_l1, "L1")(batch_of(T, S)).item() == pytest.approx(0.888889, abs=1e-6)
    assert Imitation(logit_l1, "L1")(batch_of(t, t)).item() == 0
    assert Imitation(logit_l1, "L1")(batch_of(t.repeat(2, 1), s.repeat(2, 1))).item() == pytest.approx(slow)


def test_kl_divergence():
    rows = [
        [math.log(p / q) * p for p, q in zip(softened(t, 3), softened(s, 3), strict=True)]
        for t, s in zip(T, S, strict=True)
    ]
    slow = torch.tensor([9 * sum(row) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(kl_divergence(T, S, 3.0), slow)
    torch.testing.assert_close(
        kl_divergence(T, S), torch.tensor([1.150421, 0.040202, 0.071618], dtype=torch.float64), atol=1e-6, rtol=0
    )
    for temperature, golden in ((1.0, 0.420747), (3.0, 0.586079), (20.0, 0.627554)):
        assert kl_divergence(T, S, temperature).mean().item() == pytest.approx(golden, abs=1e-6)
    assert (kl_divergence(draw(9, 5), draw(9, 5, seed=1)) > 0).all()
    assert kl_divergence(T, T).abs().max().item() == pytest.approx(0, abs=1e-12)


def test_disagreement_in_its_forms():
    batch = batch_of(T, S)
    assert adversary("kl", 1.0)(batch).item() == pytest.approx(-0.420747, abs=1e-6)
    assert adversary("kl-agreeing", 1.0)(batch).item() == pytest.approx(-0.037273, abs=1e-6)
    assert adversary("kl-agreeing", 3.0)(batch).item() == pytest.approx(-0.149671, abs=1e-6)
    assert adversary("l1", 1.0)(batch).item() == pytest.approx(-0.888889, abs=1e-6)
    two = batch_of(torch.zeros(2, 2), torch.tensor([[1.0, 2], [3, 4]]))
    assert adversary("l1", 1.0)(two).item() == pytest.approx(-2.5)
    assert adversary("l1-log", 1.0)(two).item() == pytest.approx(-1.252763, abs=1e-6)


def test_a_bound_caps_each_image_alone():
    s = S.clone().requires_grad_()
    value = Disagreement(kl_divergence, "KL", bound=0.05)(batch_of(T, s))
    assert value.item() == pytest.approx(-(0.05 + 0.040202 + 0.05) / 3, abs=1e-6)
    value.backward()
    assert [bool(row.abs().sum() > 0) for row in s.grad] == [False, True, False]


@pytest.mark.parametrize("form", ["js", "js-coded", "js-coded-mean", "kl", "kl-agreeing", "l1", "l1-log"])
def test_adversaries_fall_as_the_student_departs_and_weigh_samples(form):
    near, far = T + 0.1 * (S - T), T + 0.5 * (S - T)
    term = adversary(form, 1.0)
    assert term(batch_of(T, far)) < term(batch_of(T, near))
    weight = torch.tensor([0.0, 1, 1])
    torch.testing.assert_close(term(batch_of(T, S, weight=weight)), term(batch_of(T[1:], S[1:])))
    teacher, student = T.clone().requires_grad_(), S.clone().requires_grad_()
    adversary(form, 1.0, detach_teacher=True)(batch_of(teacher, student)).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_softened_entropy_labels_activation_and_embedding_norm():
    mean = T.div(20).softmax(1).mean(0)
    assert InformationEntropy(20.0)(batch_of(T)).item() == pytest.approx(float((mean * mean.log()).sum()))
    assert InformationEntropy()(batch_of(T)).item() == pytest.approx(-1.074008, abs=1e-6)
    assert InformationEntropy()(batch_of(T)).item() / math.log(10) == pytest.approx(-0.466436, abs=1e-6)
    batch = batch_of(T)
    batch.labels = torch.tensor([2, 1, 0])
    slow = -sum(math.log(softened(row, 1)[label]) for row, label in zip(T, (2, 1, 0), strict=True)) / 3
    assert LabelPrior()(batch).item() == pytest.approx(slow)
    features = draw(3, 5)
    batch.answers["clean"]["teacher"] = Response(T, {Features: features})
    assert Activation()(batch).item() == pytest.approx(-float(features.abs().mean()), rel=1e-5)
    table = torch.nn.Embedding.from_pretrained(torch.tensor([[3.0, 4], [0, 1], [0, 0]]))
    assert EmbeddingNorm(table, 2.0)(batch).item() == pytest.approx((0 + 0 + 9) / 3)


def test_self_paced_weights():
    def weight(loss: float, pace: float, form: str = "log") -> float:
        return float(self_paced_weight(torch.tensor([loss], dtype=torch.float64), pace, form))

    assert weight(0.5, 2) == pytest.approx(0.928221, abs=1e-6)
    assert weight(3, 2) == pytest.approx(0.305339, abs=1e-6)
    assert weight(0, 7) == 1
    assert [weight(value, 2, "hard") for value in (1.9, 2.1)] == [1, 0]
    assert weight(0.5, 2, "soft") == 0.75
    assert weight(3, 2, "soft") == 0
    hardness = torch.linspace(0, 9, 50)
    for form in ("log", "soft", "hard"):
        falling = self_paced_weight(hardness, 3.0, form)
        assert (falling.diff() <= 0).all()
        assert 0 <= falling.min() <= falling.max() <= 1


def test_self_paced_imitation_weighs_each_sample_and_its_weight_has_no_gradient():
    student = S.clone().float().requires_grad_()
    batch = batch_of(T.float(), student)
    batch.clock = Clock(step=50, steps=100)
    term = SelfPaced(logit_l1, "L1", 1.0, 3.0)
    assert term.pace(batch.clock) == 2
    losses = (T - S).abs().mean(1).float()
    trust = torch.tensor([(1 + math.exp(-2)) / (1 + math.exp(loss - 2)) for loss in losses.tolist()])
    assert term(batch).item() == pytest.approx(float((trust * losses).mean()), rel=1e-5)
    term(batch).backward()
    expected = trust[:, None] * (S - T).sign().float() / 9
    torch.testing.assert_close(student.grad, expected)


def test_attention_transfer():
    image = torch.cat([RAMP.view(2, 1, 3, 3), 2 * RAMP.view(2, 1, 3, 3) + 1], dim=1)
    batch = batch_of(T[:2], S[:2])
    batch.answers["train"] = {
        "teacher": Response(T[:2], {Blocks: (image,)}),
        "student": Response(S[:2], {Blocks: (image.flip(3),)}),
    }
    assert AttentionTransfer()(batch).item() == pytest.approx(0.018189, abs=1e-6)
    slow = 0.0
    for sample in image:
        maps = []
        for view in (sample, sample.flip(2)):
            flat = [float((view[0, i, j] ** 2 + view[1, i, j] ** 2) / 2) for i in range(3) for j in range(3)]
            size = math.sqrt(sum(value**2 for value in flat))
            maps.append([value / size for value in flat])
        slow += sum((a - b) ** 2 for a, b in zip(*maps, strict=True)) / 9 / 2
    assert AttentionTransfer()(batch).item() == pytest.approx(slow, rel=1e-5)
    torch.testing.assert_close(
        attention_map(image), attention_map(7 * image), msg="the scale of activations is no matter"
    )


def test_a_ramp_climbs_between_its_ends():
    ramp = Ramp(0.0, 62.0, 0.25, 0.75)
    values = [ramp(Clock(epoch=epoch, epochs=250)) for epoch in range(250)]
    increments = [b - a for a, b in pairwise(values) if b != a]
    assert len(increments) == 124
    assert increments == pytest.approx([0.5] * 124)
    assert (values[63], values[64], values[-1]) == (0, 0.5, 62)


# objective


class Three:
    label, needs = "three", Needs()

    def __call__(self, batch):
        return torch.tensor(3.0, requires_grad=True)


def test_an_objective_follows_schedules():
    terms = {"a": (lambda clock: float(clock.step), Three())}
    batch = batch_of(T)
    assert Objective(terms)(batch)[1] == {}, "at weight 0 it is not computed"
    batch.clock = Clock(step=2, steps=4)
    assert Objective(terms)(batch)[0].item() == 6


def test_objective_weighs_reports_and_skips():
    class Fails(Three):
        def __call__(self, batch):
            raise AssertionError("a term of weight 0 must not be computed")

    terms = {"a": (2.0, Three()), "b": (0.0, Fails())}
    total, losses = Objective(terms)(batch_of(T))
    assert total.item() == 6
    assert losses == {"a": torch.tensor(3.0)}
    assert not losses["a"].requires_grad


def test_terms_reduce_over_the_batch_through_the_one_primitive():
    bare = re.compile(r"\.(mean|sum|var|std)\(\s*\)|dim=0|torch\.(mean|var|std|cdist)\(")
    allowed = {"square.().sum(", "vector.square().sum()", "torch.cdist(images, others, p=1)"}  # others: of all ranks
    for path in Path(losses_package.__file__).parent.glob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = None if line.lstrip().startswith((">>>", "...")) else bare.search(line)  # of an example
            fine = "torch.stack(" in line or "norms.sum()" in line or any(text in line for text in allowed)
            assert not found or fine, (
                f"{path.name}:{number}: reduce over the batch with lenient.core.runtime: {line.strip()}"
            )


# what terms remember


GOOD, BAD = torch.zeros(()), torch.ones(())


def one_layer(mean: torch.Tensor, variance: torch.Tensor) -> LayerStatistics:
    return LayerStatistics(mean, variance, torch.zeros(3), torch.ones(3))


def statistics(seed: int) -> Batch:
    mean, variance = torch.rand(2, 3, generator=torch.Generator().manual_seed(seed)) + 1
    return batch_of(images=torch.zeros(2, 1, 1, 1), statistics=(one_layer(mean, variance),))


def moments(batch: Batch) -> torch.Tensor:
    (own,) = batch.answers["clean"]["teacher"].of(BatchNorms)
    return torch.stack([own.mean, own.variance])


def test_the_first_batch_stands_for_itself_and_later_ones_join_an_average():
    term, plain = AveragedStatistics(0.9), BatchNormStatistics()
    first, second = statistics(0), statistics(1)
    assert torch.equal(term(first), plain(first))
    term.remember(first, GOOD)
    assert torch.equal(term.averages.moments[0], moments(first)), "the averages begin with the first batch's values"
    mean, variance = 0.1 * moments(second) + 0.9 * moments(first)
    torch.testing.assert_close(term(second), mean.norm() + (variance - 1).norm())
    term.remember(second, GOOD)
    torch.testing.assert_close(term.averages.moments[0], torch.stack([mean, variance]))
    assert not term.averages.moments[0].requires_grad


@pytest.mark.parametrize("momentum", [0.9, 0.0, 0.5])
def test_the_gradient_to_a_batchs_mean_is_one_minus_the_momentum_long(momentum):
    term = AveragedStatistics(momentum)
    term.remember(statistics(0), GOOD)
    mean = torch.rand(3, dtype=torch.float64, requires_grad=True)
    term(batch_of(images=torch.zeros(2, 1, 1, 1), statistics=(one_layer(mean, torch.ones(3)),))).backward()
    assert mean.grad.norm().item() == pytest.approx(1 - momentum, abs=1e-7)


def test_a_skipped_update_leaves_no_average():
    term, plain = AveragedStatistics(0.9), BatchNormStatistics()
    broken = batch_of(
        images=torch.zeros(2, 1, 1, 1), statistics=(one_layer(torch.full((3,), torch.nan), torch.ones(3)),)
    )
    term.remember(broken, BAD)
    assert torch.equal(term(statistics(1)), plain(statistics(1))), "there is no average yet"
    term.remember(statistics(1), GOOD)
    term.remember(broken, BAD)
    assert torch.equal(term.averages.moments[0], moments(statistics(1)))


def test_a_later_weight_is_none_before_its_round():
    weight = Later(2.0, 3)
    assert [weight(Clock(round=number)) for number in range(5)] == [0, 0, 0, 2, 2]


def test_an_objective_tells_only_terms_that_remember():
    term = AveragedStatistics(0.9)
    objective = Objective({"own": (1.0, term), "plain": (1.0, BatchNormStatistics())})
    objective.remember(statistics(0), GOOD)
    other = Objective({"own": (1.0, AveragedStatistics(0.9)), "plain": (1.0, BatchNormStatistics())})
    assert set(objective.state_dict()) == {"own"}
    other.load_state_dict(copy.deepcopy(objective.state_dict()))
    assert torch.equal(other(statistics(1))[0], objective(statistics(1))[0])
    assert not Objective({"plain": (1.0, BatchNormStatistics())}).remembering
    later = Objective({"own": (Later(1.0, 5), AveragedStatistics(0.9))})
    later.remember(batch_of(T), GOOD)
    assert later.state_dict() == {"own": {"averages": [], "filled": None}}, "what has no weight saw no statistics"
