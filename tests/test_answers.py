"""The finished student beside its teacher on several kinds of images, and the crops of photographs among them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from lenient.api import distill
from lenient.core.seeding import Streams
from lenient.models import Network
from lenient.synthesis import photo
from lenient.synthesis.photo import crops
from lenient.synthesis.pixels import balanced
from lenient.teacher.probes import BatchNorms
from lenient.training.answers import LEAST, MOST, answers, compared
from lenient.training.inverted import IMAGES, inverted
from lenient.training.probe import bn_shift
from toys import QUICK, distillation, tiny_card, tiny_student, tiny_teacher

KINDS = {"fresh", "accepted", "augmented", "interpolated", "photo"}


def test_equal_networks_agree_in_all_but_chance():
    logits = torch.tensor([[3.0, 2, 1], [0, 4, 1], [1, 1, 5]])
    found = compared(logits, logits + 7)
    assert (found["images"], found["agreement"], found["coverage"]) == (3, 1, 1)
    assert found["entropy"] == pytest.approx(1)
    assert found["chance"] == pytest.approx(1 / 3)
    assert (found["distance"], found["divergence"]) == pytest.approx((0, 0), abs=1e-12)
    assert found["confidence"] == found["student_confidence"]


def test_numbers_are_those_of_the_formulas():
    teacher = torch.tensor([[3.0, 2, 1], [0, 4, 1], [1, 1, 5]])
    student = torch.tensor([[1.0, 2, 3], [0, 3, 1], [2, 0, 4]])
    found = compared(teacher, student)
    assert found["agreement"] == pytest.approx(2 / 3)
    assert found["divergence"] == pytest.approx(0.420747, abs=1e-6)
    assert found["confidence"] == pytest.approx(teacher.softmax(1).amax(1).mean().item())
    wide = teacher.double().std(dim=1, correction=0).mean().item()
    assert found["dispersion"] == pytest.approx(wide)
    apart = (teacher - teacher.mean(1, keepdim=True)) - (student - student.mean(1, keepdim=True))
    assert found["distance"] == pytest.approx(apart.abs().mean().item() / wide, rel=1e-6)
    assert all(math.isfinite(value) for value in compared(torch.ones(4, 3), student[:1].expand(4, 3)).values())


@pytest.mark.parametrize("method", ["ta-dfkd", "dafl", "noise", "deepinversion"])
def test_every_kind_of_images_is_asked_about_without_a_trace(method):
    run = distillation(method={"name": method})
    for _ in range(3):
        run.take_update()
    twin = distillation(method={"name": method})
    for _ in range(3):
        twin.take_update()
    found = answers(run)
    selecting = run.algorithm.selection is not None
    assert set(found) == (KINDS if selecting else KINDS - {"accepted"})
    assert found["fresh"]["images"] == LEAST
    assert found == answers(run), "asked twice, it says the same"
    for _ in range(3):
        run.take_update()
        twin.take_update()
    assert all(torch.equal(a, b) for a, b in zip(run.student.parameters(), twin.student.parameters(), strict=True))


def long(run):
    """The same run, as if its teacher had been asked for long."""
    run.teacher.forwards = 10**6
    return run


def test_inverted_images_show_each_class_and_what_batch_norms_saw():
    run = long(distillation())
    streams, teacher = run.streams, run.teacher
    few, many = (inverted(teacher, run.runtime, streams, 30, steps) for steps in (0, 40))
    assert many.shape == (30, *teacher.card.input_size)
    assert torch.equal(many, inverted(teacher, run.runtime, streams, 30, 40))
    shifts = [
        bn_shift(teacher.respond(teacher.normalize(images), (BatchNorms(),)).of(BatchNorms)) for images in (few, many)
    ]
    assert shifts[1] < shifts[0] / 2
    right = [
        (run.teacher_logits(images).argmax(1) == balanced(30, teacher.card.num_classes, 0)).float().mean()
        for images in (few, many)
    ]
    assert right[1] > right[0] + 0.1


def test_they_are_asked_about_where_they_cost_little_and_the_teacher_has_statistics(monkeypatch):
    assert "inverted" not in answers(distillation())
    run = long(distillation())
    for _ in range(2):
        run.take_update()
    before = [parameter.clone() for parameter in run.student.parameters()]
    found = answers(long(run))
    assert found["inverted"]["images"] == IMAGES
    assert found == answers(long(run)), "asked twice, it says the same"
    assert all(torch.equal(a, b) for a, b in zip(before, run.student.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in run.teacher.module.parameters())
    blocked = replace(run.teacher.network.behaviour, blocked="it rounds")
    monkeypatch.setattr(run.teacher.network, "behaviour", blocked)
    assert "inverted" not in answers(long(run))
    module = nn.Sequential(nn.Flatten(), nn.Linear(30, 4))
    plain = distillation(Network(module, tiny_card()), method={"name": "noise"})
    assert "inverted" not in answers(long(plain))


def test_more_images_are_asked_about_after_longer_runs():
    run = distillation()
    run.images = 10**6
    assert answers(run)["photo"]["images"] == MOST


def test_the_summary_and_the_report_have_them(tmp_path):
    result = distill(tiny_teacher(), tiny_student(), output=tmp_path / "r", settings=QUICK)
    stored = json.loads((tmp_path / "r" / "report.json").read_text())["answers"]
    assert stored.keys() >= KINDS - {"accepted"}
    assert stored.keys() == result.summary.answers.keys()
    page = (tmp_path / "r" / "report.html").read_text()
    assert "Agreement by kind of image" in page
    assert '<th scope="row">interpolated</th>' in page


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 32, 32), (3, 24, 40), (2, 9, 7), (13, 16, 16), (3, 700, 700)])
def test_crops_have_the_networks_size_and_lie_in_black_and_white(size):
    images = crops(6, size, Streams(0), "photo", 0)
    assert images.shape == (6, *size)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    assert len({round(float(image.mean()), 6) for image in images}) == 6
    torch.testing.assert_close(images, crops(6, size, Streams(0), "photo", 0))
    assert not torch.equal(images, crops(6, size, Streams(0), "photo", 1))


@pytest.mark.parametrize("size", [(3, 16, 16), (3, 12, 30)])
def test_a_crop_is_a_part_of_a_picture_and_nothing_is_stretched(size, monkeypatch):
    across, down = torch.meshgrid(torch.linspace(0, 1, 400), torch.linspace(0, 1, 400), indexing="xy")
    picture = torch.stack([across, down, torch.zeros_like(across)])  # says of each pixel where it is
    monkeypatch.setattr(photo, "photographs", lambda: (picture, picture))
    _, height, width = size
    for image in crops(8, size, Streams(0), "photo", 0):
        steps = [float(image[channel].amax() - image[channel].amin()) for channel in (0, 1)]
        assert steps[0] / (width - 1) == pytest.approx(steps[1] / (height - 1), rel=0.1)
        assert float(image[1].std(dim=1).max()) < 1e-3, "rows stay rows"
