"""ZSKD: targets drawn from the last layer's weights, pixels that come to them, a fixed set, and its distortions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lenient
from lenient.core.errors import TeacherError, UsageError
from lenient.core.seeding import Streams
from lenient.losses.prior import LabelPrior
from lenient.models.card import Network
from lenient.synthesis.distortions import ANGLES, SCALES, SHIFT, distorted, kinds
from lenient.synthesis.targets import FLOOR, LEAST, SimilarClasses, dirichlet, similarity
from lenient.synthesis.views import augment
from lenient.teacher.batch import Batch, Response
from lenient.teacher.frozen import FrozenTeacher
from test_methods import QUICK_FIXED, last_output, take
from toys import CPU, distillation, tiny_card, tiny_student, tiny_teacher

ROW = np.array([1, 0.3, 0.2, 0.5, 0.1, 0, 0.4, 0.25, 0.15, 0.35])
"""How alike a class is to each of ten, itself first."""
METHOD = {"name": "zskd", **QUICK_FIXED}


def test_similarities_are_stretched_class_by_class():
    """Computed by hand from cosines of three rows."""
    found = similarity(torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.5]]))
    wanted = [[1, 0.845392, 0], [0.777475, 1, 0], [0, 0.305211, 1]]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    stretched = similarity(3 * torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.5]]))
    np.testing.assert_allclose(stretched, found, atol=1e-7)
    assert np.isfinite(similarity(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))).all()


@pytest.mark.parametrize(("factor", "top", "own"), [(1.0, 0.50, 0.40), (0.1, 0.85, 0.31)])
def test_small_factors_make_sure_targets(factor, top, own):
    """The released code stretches each row again when it draws, which undoes the factor: both of its files are of 1."""
    drawn = dirichlet(np.tile(factor * ROW + FLOOR, (20_000, 1)), np.random.default_rng(0))
    assert drawn.max(axis=1).mean() == pytest.approx(top, abs=0.01)
    assert (drawn.argmax(axis=1) == 0).mean() == pytest.approx(own, abs=0.012)
    np.testing.assert_allclose(drawn.mean(axis=0), (factor * ROW + FLOOR) / (factor * ROW + FLOOR).sum(), atol=0.012)


def test_draws_that_underflow_are_distributions_all_the_same():
    """All of a row's gamma draws are zeros in float32 at these concentrations."""
    drawn = dirichlet(np.full((500, 4), 1e-4), np.random.default_rng(0))
    assert (drawn >= LEAST / 2).all()
    np.testing.assert_allclose(drawn.sum(axis=1), 1, atol=1e-12)
    assert drawn.argmax(axis=1).tolist() != [0] * 500


def test_all_classes_come_with_one_factor_and_then_with_the_next():
    weights = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.5]])
    targets = SimilarClasses(weights, (1e7, 1e-3), Streams(0))
    drawn = torch.cat([targets(4, number) for number in range(3)])
    assert drawn.dtype == torch.float32
    assert drawn.shape == (12, 3)
    rows = similarity(weights)
    wanted = (rows / rows.sum(axis=1, keepdims=True))[[0, 1, 2] * 2]
    np.testing.assert_allclose(drawn[[0, 1, 2, 6, 7, 8]].numpy(), wanted, atol=5e-3)
    assert (drawn[[3, 4, 5, 9, 10, 11]].amax(dim=1) > 0.9).all()
    assert torch.equal(drawn[:4], targets(4, 0))


def test_the_pixels_minimise_the_softened_cross_entropy():
    run, output = last_output("pixels", method=METHOD)
    images = run.algorithm.updates["pixels"].module.images
    found = images.grad.clone()
    x = images.detach().clone().requires_grad_()
    wanted = SimilarClasses(run.teacher.module.head.weight, (1.0, 0.1), run.streams)(8, 0)
    log = F.log_softmax(run.teacher.module((x - 0.4) / 0.3) / 20, dim=1)
    loss = sum(-(y * row).sum() for y, row in zip(wanted, log, strict=True)) / 8
    (gradient,) = torch.autograd.grad(loss, [x])
    torch.testing.assert_close(found, gradient, atol=1e-7, rtol=1e-3)
    assert output.losses["class_prior"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert images.min() >= 0
    assert images.max() <= 1


def test_a_softened_prior_of_distributions_and_of_classes():
    logits = torch.tensor([[3.0, 2.0, 1.0], [0.0, 4.0, 1.0]], dtype=torch.float64)
    batch = Batch(torch.zeros(2, 1, 1, 1), torch.ones(2), answers={"clean": {"teacher": Response(logits)}})
    batch.labels = torch.tensor([2, 1])
    hard = LabelPrior(2.0)(batch)
    batch.labels = F.one_hot(batch.labels, 3).double()
    torch.testing.assert_close(LabelPrior(2.0)(batch), hard)
    assert hard.item() == pytest.approx(-(logits / 2).log_softmax(1)[[0, 1], [2, 1]].mean().item())


def test_pixels_stay_within_black_and_white_and_every_batch_starts_from_noise():
    """In the released code pixels end up to a step outside, and each batch of a class goes on from the one before."""
    run = distillation(method={**METHOD, "pixels_lr": 0.7, "first_batches": 3})
    pixels = run.algorithm.updates["pixels"].module
    starts = [pixels.images.detach().clone()]
    for _ in range(2):
        take(run, 1)
        assert pixels.images.min() == 0
        assert pixels.images.max() == 1
        take(run, 1)
        starts.append(pixels.images.detach().clone())
    for start in starts:
        assert 0.4 < start.mean() < 0.6
        assert 0.25 < start.std() < 0.33, "uniform"
    assert not torch.equal(starts[0], starts[1])


def test_the_set_is_fixed_once_the_student_begins():
    run = distillation(method=METHOD)
    assert [run.algorithm.schedule.name(update)[0] for update in range(8)] == list("ppppssss")
    take(run, 4)
    state = [part["pixels"].clone() for part in run.algorithm.source.state_dict()["images"].parts(0)]
    take(run, 4)
    now = [part["pixels"] for part in run.algorithm.source.state_dict()["images"].parts(0)]
    assert torch.equal(torch.cat(state), torch.cat(now))
    assert (len(run.algorithm.source), run.images, run.step) == (16, 16, 4)
    assert run.algorithm.parts["replay"] == "fixed set"


def test_a_fixed_set_without_images_is_refused():
    with pytest.raises(UsageError, match=r"^-s method\.first_batches=0: no other images come into a fixed set"):
        distillation(method={**METHOD, "first_batches": 0})


def test_more_images_than_come_into_a_fixed_set_are_refused():
    with pytest.raises(UsageError, match=r"^-n 17: the pool of zskd holds 16 images .*; raise method\.first_batches$"):
        lenient.synthesize(tiny_teacher().module, 17, method="zskd", input_size=(1, 6, 5), num_classes=4, mean=(0.4,),
                           std=(0.3,), settings={"batch_size": 8, "method": QUICK_FIXED})  # fmt: skip


class Cosine(nn.Module):
    """Its logits are cosines: no linear layer puts them out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 9 * F.normalize(self.conv(images).mean(dim=(2, 3)), dim=1) @ F.normalize(self.weight, dim=1).T


def test_a_teacher_without_a_linear_head_is_refused_in_one_line():
    with pytest.raises(TeacherError) as error:
        distillation(Network(Cosine().eval(), tiny_card()), method=METHOD)
    text = str(error.value)
    assert "come from no linear layer, whose weights zskd draws its targets from; take another --method" in text
    assert "\n" not in text


def test_a_head_may_be_a_convolution():
    head = nn.Conv2d(2, 4, 1)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), head, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with FrozenTeacher(Network(module.eval(), tiny_card()), CPU) as teacher:
        assert teacher.head is not None
        assert torch.equal(teacher.head[0], head.weight.detach().flatten(1))
    run = distillation(Network(module, tiny_card()), tiny_student(), method=METHOD)
    take(run, 5)


# distortions


def named(name: str, aspect: float = 1.0) -> torch.Tensor:
    return {key: matrix for key, matrix in zip(NAMES, kinds(aspect)[0], strict=True)}[name]


NAMES = [
    "as it is", *(f"scale {s}" for s in SCALES), "left", "right", "up", "down", *(f"turn {a}" for a in ANGLES),
    "mirrored", "head over", "diagonal", *(f"pair {number}" for number in range(82)), "pixels", "noise", "both",
]  # fmt: skip


def shown(name: str, image: torch.Tensor) -> torch.Tensor:
    grid = F.affine_grid(named(name, image.shape[2] / image.shape[3])[None].to(image.dtype), list(image.shape), False)
    return F.grid_sample(image, grid, align_corners=False)


def test_there_are_106_distortions():
    matrices, peppered, noisy = kinds(1.0)
    assert len(matrices) == len(NAMES) == 106
    assert peppered.nonzero().flatten().tolist() == [103, 105]
    assert noisy.nonzero().flatten().tolist() == [104, 105]
    assert len({tuple(row.flatten().tolist()) for row in matrices.round(decimals=6)}) == 103


def test_distortions_are_what_they_are_called():
    x = torch.rand(1, 2, 10, 10, dtype=torch.float64)
    torch.testing.assert_close(shown("as it is", x), x)
    torch.testing.assert_close(shown("mirrored", x), x.flip(3))
    torch.testing.assert_close(shown("head over", x), x.flip(2))
    torch.testing.assert_close(shown("diagonal", x), x.transpose(2, 3))
    torch.testing.assert_close(shown("turn 90.0", x), torch.rot90(x, 1, (2, 3)))
    torch.testing.assert_close(shown("turn -90.0", x), torch.rot90(x, -1, (2, 3)))
    moved = torch.zeros_like(x)
    step = round(SHIFT * 10)
    moved[..., :-step] = x[..., step:]
    torch.testing.assert_close(shown("left", x), moved)
    small = shown("scale 0.6", torch.ones_like(x))
    assert small.sum().item() == pytest.approx(2 * 36, rel=0.05), "0.6 times 0.6 of 100 pixels in each channel"
    tall = torch.zeros(1, 1, 20, 10, dtype=torch.float64)
    tall[..., 5:15, :] = 1
    torch.testing.assert_close(shown("turn 90.0", tall), tall), "a square stays one"


def test_each_image_has_a_distortion_of_its_own_and_keeps_its_gradient():
    x = torch.rand(400, 1, 6, 5, requires_grad=True)
    seen = distorted(x, Streams(0), "x", 3)
    same = (seen - x).flatten(1).abs().amax(1) < 1e-4
    assert 0 < same.sum() < 20
    assert torch.equal(seen, distorted(x, Streams(0), "x", 3))
    assert torch.equal(seen, augment(x, "distorted", Streams(0), "x", 3))
    seen.sum().backward()
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()
    assert seen.dtype == x.dtype
