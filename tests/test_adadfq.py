"""AdaDFQ: its terms on both networks' logits, and a generator that begins by itself."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from lenient.losses.adaptive import EntropyBand, JointLabelPrior, entropy
from lenient.losses.distances import uneven_difference
from lenient.losses.representation import SquaredStatistics
from lenient.teacher.batch import Batch
from lenient.teacher.probes import BatchNorms
from test_methods import BASE, last_output, take
from toys import batch_of, distillation, tiny_teacher

T = torch.tensor([[3.0, 2, 1], [0, 4, 1], [1, 1, 5]], dtype=torch.float64)
S = torch.tensor([[1.0, 2, 3], [0, 3, 1], [2, 0, 4]], dtype=torch.float64)


def both(teacher: torch.Tensor = T, student: torch.Tensor = S) -> Batch:
    batch = batch_of(teacher, student)
    batch.labels = torch.arange(len(teacher))
    return batch


def test_the_papers_terms_on_three_images():
    """Figures computed twice, apart from this code."""
    assert entropy(T - S).tolist() == pytest.approx([0.441057, 0.975328, 0.885382], abs=1e-6)
    band = EntropyBand(0.1, 0.8)
    assert band.stretched(both()).tolist() == pytest.approx([0, 0.812511, 0.675722], abs=1e-6)
    assert band(both()).item() == pytest.approx(0.037504, abs=1e-6)
    difference, joint = (JointLabelPrior(sign, "x")(both()).item() for sign in (-1, 1))
    assert difference == pytest.approx(0.484333, abs=1e-6)
    assert joint == pytest.approx(0.369681, abs=1e-6)
    assert 0.2 * difference + 0.1 * joint == pytest.approx(0.133835, abs=1e-6)


@pytest.mark.parametrize(("temperature", "released"), [(20, -438.819401), (5, -26.866069)])
def test_the_students_loss_is_the_released_one_above_its_minimum(temperature, released):
    found = uneven_difference(T, S, temperature).mean().item()
    assert found == pytest.approx(released + temperature**2 * math.log(3), abs=1e-5)
    assert found >= 0
    moved = uneven_difference(T, S + torch.tensor([[5.0], [-7], [2]]), temperature).mean()
    assert moved.item() == pytest.approx(found), "a constant per image is nothing"


def test_it_comes_to_the_centred_squares_as_the_temperature_grows():
    wanted = (T - S).var(dim=1, correction=0).mean().item() / 2
    assert wanted == pytest.approx(0.62963, abs=1e-5)
    assert uneven_difference(T, S, 1000.0).mean().item() == pytest.approx(wanted, rel=1e-3)
    assert uneven_difference(T, S, 20.0).mean().item() == pytest.approx(0.625, abs=1e-3)


def test_a_student_that_equals_the_teacher_divides_by_no_zero():
    """The released code does, at the start of a float copy."""
    teacher = torch.zeros(4, 4)
    student = teacher.clone().requires_grad_()
    value = EntropyBand(0.1, 0.8)(both(teacher, student))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


def test_any_batch_has_a_band():
    """The released code's has sixteen images, written out."""
    many = both(T.repeat(9, 1), S.repeat(9, 1))
    assert EntropyBand(0.1, 0.8)(many).item() == pytest.approx(0.037504, abs=1e-6)


def test_a_fixed_scale_needs_no_other_image():
    band = EntropyBand(0.1, 0.8, fixed=True)
    alone = [band.stretched(both(T[row : row + 1], S[row : row + 1])).item() for row in range(3)]
    assert band.stretched(both()).tolist() == pytest.approx(alone)
    assert alone == pytest.approx([h / math.log(3) for h in entropy(T - S).tolist()])


def test_the_generator_minimises_the_papers_sum():
    weights = {"band_weight": 0.5, "difference_weight": 0.7, "sum_weight": 0.3, "bn_weight": 2.0}
    run, output = last_output("generator", method={**BASE["adadfq"], **weights})
    generator = run.algorithm.updates["generator"].module
    found = [p.grad.clone() for p in generator.parameters()]
    generator.zero_grad()
    latents, labels = output.batch.latents, output.batch.labels
    torch.testing.assert_close(generator.body(latents * generator.embedding(labels)), generator(latents, labels))
    x = generator(latents, labels)
    answer = run.teacher.respond(x, (BatchNorms(),))
    p, q = answer.logits, run.student.eval()(x)
    h = -(torch.softmax(p - q, 1) * torch.log_softmax(p - q, 1)).sum(1)
    h = (h - h.min()) / (math.log(4) - h.min())
    band = (0.1 - h).clamp_min(0).mean() + (h - 0.8).clamp_min(0).mean()
    labelled = 0.7 * F.cross_entropy(p - q, labels) + 0.3 * F.cross_entropy(p + q, labels)
    bn = sum(
        F.mse_loss(s.mean, s.running_mean) + F.mse_loss(s.variance, s.running_variance) for s in answer.of(BatchNorms)
    )
    (0.5 * band + labelled + 2 * bn / 2).backward()
    for ours, theirs in zip(found, generator.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad, atol=1e-5, rtol=1e-3)


def test_squared_statistics_grow_with_neither_layers_nor_channels():
    _, output = last_output("generator", method=BASE["adadfq"])
    layers = output.batch.answers["clean"]["teacher"].of(BatchNorms)
    batch = batch_of(torch.zeros(2, 4), statistics=layers * 3)
    once = batch_of(torch.zeros(2, 4), statistics=layers)
    assert SquaredStatistics()(batch).item() == pytest.approx(SquaredStatistics()(once).item())
    assert output.losses["bn"].item() == pytest.approx(SquaredStatistics()(once).item())


def test_the_generator_begins_and_then_both_learn_from_the_same_images():
    run = distillation(tiny_teacher(), method={**BASE["adadfq"], "warm_up": 3})
    assert [run.algorithm.schedule.name(update)[0] for update in range(9)] == list("gggsgsgsg")
    take(run, 3)
    student, generator = run.take_update()[1], run.take_update()[1]
    torch.testing.assert_close(student.batch.images, generator.batch.images.detach())
    assert run.student.training, "its batch norms are its own: it is no copy of the teacher"
