"""DeepInversion and ADI: the paper's sum, the iterate that is kept, and the pool."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from lenient.core.seeding import Streams
from lenient.methods.contract import adam
from lenient.synthesis.pixels import Pixels, balanced
from lenient.synthesis.pool import Pool
from lenient.synthesis.views import Viewer, rolled
from lenient.teacher.batch import Clock
from lenient.teacher.frozen import FrozenTeacher
from lenient.teacher.probes import BatchNorms
from test_methods import QUICK_PIXELS, last_output, take
from toys import CPU, distillation, tiny_teacher

GOOD, BAD = torch.zeros(()), torch.ones(())
WEIGHTS = {"label_weight": 0.7, "bn_weight": 2.0, "tv_weight": 1e-3, "l2_weight": 1e-2, "adversarial_weight": 3.0}


def test_the_pixels_minimise_the_papers_sum():
    run, output = last_output("pixels", method={"name": "adi", **QUICK_PIXELS, **WEIGHTS, "jitter": 0})
    pixels = run.algorithm.updates["pixels"].module
    found = pixels.images.grad.clone()
    x = pixels.images.detach().clone().requires_grad_()
    answer = run.teacher.respond(x, (BatchNorms(),))
    with torch.no_grad():
        run.student.eval()
    p, q = (torch.softmax(logits / 3, 1) for logits in (answer.logits, run.student(x)))
    run.student.train()
    m = (p + q) / 2
    js = (0.5 * p * (p / m).log() + 0.5 * q * (q / m).log()).sum(1)
    labels = torch.arange(8) % 4
    label = -torch.log_softmax(answer.logits, 1)[torch.arange(8), labels].mean()
    bn = sum((s.mean - s.running_mean).norm() + (s.variance - s.running_variance).norm() for s in answer.of(BatchNorms))
    tv = 32 * sum(d.flatten(1).norm(dim=1).mean() for d in (
        x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, 1:],
    ))  # fmt: skip
    l2 = 32 * x.flatten(1).norm(dim=1).mean()
    total = 0.7 * label + 2 * bn + 1e-3 * tv + 1e-2 * l2 + 3 * (1 - js).mean()
    (gradient,) = torch.autograd.grad(total, [x])
    torch.testing.assert_close(found, gradient, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(output.kept["total"], total.detach())
    assert torch.equal(output.batch.labels, labels)


def test_the_student_answers_the_pixels_in_eval_mode_and_moves_no_buffer():
    run = distillation(method={"name": "adi", **QUICK_PIXELS})
    before = copy.deepcopy(dict(run.student.named_buffers()))
    assert run.take_update()[0] == "pixels"
    assert all(torch.equal(before[name], buffer) for name, buffer in run.student.named_buffers())
    assert run.student.training


def test_the_best_iterate_is_kept_not_the_last():
    pixels = Pixels(lambda number: torch.full((2, 1, 3, 3), float(number)))
    for value, loss, bad in ((1.0, 5.0, GOOD), (2.0, 3.0, GOOD), (3.0, 1.0, BAD), (4.0, 4.0, GOOD)):
        pixels.images.data.fill_(value)
        pixels.keep(pixels.images.detach().clone(), torch.tensor(loss), bad)
    assert pixels.best.unique().tolist() == [2.0]
    assert pixels.least == 3


def test_a_batch_begins_with_a_fresh_optimizer():
    pixels = Pixels(lambda number: torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(number)))
    again = Pixels(lambda number: torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(1)))
    optimizers = [adam(module, 0.1) for module in (pixels, again)]

    def step(module: Pixels, optimizer: torch.optim.Optimizer) -> None:
        module.images.grad = 2 * module.images.detach()
        optimizer.step()

    for _ in range(3):
        step(pixels, optimizers[0])
    held = pixels.images.detach().clone()
    pixels.restart(1, optimizers[0], BAD)
    assert torch.equal(pixels.images, held), "a skipped update changes nothing"
    pixels.restart(1, optimizers[0], GOOD)
    for module, optimizer in zip((pixels, again), optimizers, strict=True):
        step(module, optimizer)
        step(module, optimizer)
    assert torch.equal(pixels.images, again.images)
    assert pixels.least == torch.inf


def test_labels_are_balanced_over_batches():
    assert balanced(256, 10, 0).bincount().tolist() == [26] * 6 + [25] * 4
    three = torch.cat([balanced(4, 10, number) for number in range(5)])
    assert three.bincount().tolist() == [2] * 10


def test_a_roll_moves_the_batch_in_a_circle():
    images = torch.rand(3, 2, 5, 6)
    places = set()
    for update in range(60):
        shown = rolled(images, 2, Streams(0), "x", update)
        place = next(
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(shown, images.roll((down, right), (2, 3)))
        )
        places.add(place)
    assert len(places) > 15
    assert rolled(images, 0, Streams(0), "x", 0) is images


@pytest.fixture
def pool():
    with FrozenTeacher(tiny_teacher(), CPU) as teacher:
        start = lambda count, name, update: torch.full((count, 1, 6, 5), 0.5)  # noqa: E731
        yield Pool(teacher, Viewer(Streams(0)), CPU, Streams(0), 4, capacity=6, start=start)


def test_a_pool_holds_eight_bits_over_each_images_own_range(pool):
    assert pool.sample(2, "x", 0).unique().tolist() == [0.5], "nothing is there yet"
    images = torch.randn(3, 1, 6, 5) * torch.tensor([0.1, 1.0, 10.0]).view(-1, 1, 1, 1)
    pool.push(images)
    drawn = pool.draw(40, "x", 0)
    spans = images.flatten(1).amax(1) - images.flatten(1).amin(1)
    for image in drawn:
        errors = (images - image).flatten(1).abs().amax(1)
        assert (errors <= spans / 255 / 2 * 1.01).any()
    assert torch.equal(pool.draw(5, "y", 3), pool.draw(5, "y", 3))


def test_the_oldest_go_beyond_the_capacity(pool):
    for value in range(5):
        pool.push(torch.full((4, 1, 6, 5), float(value)))
        held = {float(max(0, number)) for number in range(value - 1, value + 1)}
        assert set(pool.draw(80, "x", 0).unique().tolist()) == held
    assert len(pool) == 6
    pool.push(torch.arange(9.0).view(9, 1, 1, 1).expand(9, 1, 6, 5))
    assert set(pool.draw(90, "x", 0).unique().tolist()) == {3.0, 4.0, 5.0, 6.0, 7.0, 8.0}


def test_a_pool_goes_on_from_its_state(pool):
    pool.push(torch.rand(5, 1, 6, 5))
    state = copy.deepcopy(pool.state_dict())
    seen = pool.draw(9, "x", 0)
    pool.push(torch.rand(5, 1, 6, 5))
    assert not torch.equal(pool.draw(9, "x", 0), seen)
    pool.load_state_dict(state)
    assert torch.equal(pool.draw(9, "x", 0), seen)


def test_a_batch_of_the_pool_has_the_teachers_answer_and_makes_no_image(pool):
    pool.push(torch.rand(3, 1, 6, 5))
    drawn = pool.batch(Clock(7))
    assert (drawn.images, drawn.selected) == (0, None)
    wanted = pool.teacher.respond(pool.teacher.normalize(drawn.batch.images)).logits
    torch.testing.assert_close(drawn.batch.logits("train", "teacher"), wanted)


def test_images_without_a_range_are_no_state(pool):
    pool.push(torch.rand(3, 1, 6, 5))
    images = pool.state_dict()["images"]
    (rows,) = images.parts(0)
    for wrong in (
        {**rows, "ranges": rows["ranges"][:2]},
        {"pixels": rows["pixels"]},
        {**rows, "pixels": rows["ranges"]},
    ):
        with pytest.raises(ValueError, match="its rows are of other tensors"):
            pool.load_state_dict({"images": replace(images, parts=lambda start, wrong=wrong: iter([wrong]))})


def test_batches_come_first_and_their_best_iterates_make_the_pool():
    run = distillation(method={"name": "deepinversion", **QUICK_PIXELS, "first_batches": 2})
    assert [run.algorithm.schedule.name(update)[0] for update in range(12)] == list("ppppppssppss")
    take(run, 4)
    assert len(run.algorithm.source) == 16
    assert (run.step, run.images) == (0, 16)
    take(run, 4)
    assert (run.step, run.images, len(run.algorithm.source)) == (2, 24, 24)
