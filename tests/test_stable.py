"""Stable answers: procedural images, how far an answer lasts, what the pool keeps, and what it grows by."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lenient.api import distill, export, synthesize
from lenient.core.errors import UsageError
from lenient.core.rates import one_cycle
from lenient.core.seeding import Streams
from lenient.losses.distances import deviation, standardised_kl, standardised_l1
from lenient.models import build_student
from lenient.models.card import Network
from lenient.synthesis.figures import drawings
from lenient.synthesis.mutation import SIDES, boxes, mutated
from lenient.synthesis.quota import Quota
from lenient.synthesis.stability import Lasting, lasting, margin
from lenient.synthesis.views import Shaken
from lenient.teacher.frozen import FrozenTeacher
from test_methods import STABLE, take
from toys import CPU, digits_like, distillation, quick, tiny_card, tiny_student, tiny_teacher

pytestmark = pytest.mark.usefixtures("bare_module")

STREAMS = Streams(0)


# how far an answer lasts


def test_a_view_moves_an_image_and_repeats_its_edges() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4)
    seen = {tuple(Shaken(0.4, 0)(image, STREAMS, "x", update).flatten().tolist()) for update in range(200)}
    # up to one row and two columns, 0.4 of 3 and of 4
    padded = F.pad(image, (2, 2, 1, 1), mode="replicate")
    wanted = {tuple(padded[0, 0, d : d + 3, a : a + 4].flatten().tolist()) for d in range(3) for a in range(5)}
    assert seen == wanted


def test_a_view_has_its_light_times_one_factor_for_each_image() -> None:
    images = torch.rand(500, 2, 3, 3) + 0.1
    factors = Shaken(0, 0.15)(images, STREAMS, "x", 0) / images
    gains = factors.flatten(1)
    torch.testing.assert_close(gains, gains[:, :1].expand_as(gains))
    assert 0.85 <= gains.min() < 0.86
    assert 1.14 < gains.max() <= 1.15
    assert torch.equal(Shaken(0, 0)(images, STREAMS, "x", 0), images)


def test_the_margin_is_the_gap_to_the_largest_other() -> None:
    logits = torch.tensor([[1.0, 5.0, 3.0], [4.0, 0.0, 4.5], [0.0, 0.0, 0.0]])
    assert margin(logits, torch.tensor([1, 0, 2])).tolist() == [2.0, -0.5, 0.0]


class Brightest(nn.Module):
    """Names the third of an image that is brightest in its middle row, by the sums of three pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, 2].view(-1, 3, 3).sum(dim=2)


def bars(*columns: slice) -> Tensor:
    images = torch.zeros(len(columns), 1, 5, 9)
    for image, own in zip(images, columns, strict=True):
        image[:, :, own] = 1
    return images


def test_an_answer_lasts_where_every_view_has_it() -> None:
    card = tiny_card(size=(5, 9), classes=3, mean=(0.0,), std=(1.0,))
    images = bars(slice(3, 6), slice(2, 5), slice(0, 3))
    with FrozenTeacher(Network(Brightest(), card), CPU) as teacher:
        assert teacher.forwards == 0
        found = lasting(teacher, images, 40, Shaken(0.2, 0.0), STREAMS, "x", 0)
        assert teacher.forwards == 41 * 3
    assert found.classes.tolist() == [1, 1, 0]
    # moved by two of nine, the bar in the middle has one pixel left there; the one at its edge has moved out
    assert found.margins.tolist() == [-1.0, -3.0, 0.0 + 3.0 - 2.0 * 0 - 2.0]
    assert torch.equal(found.logits, Brightest()(images))


def test_the_margin_is_the_least_of_all_views() -> None:
    with FrozenTeacher(tiny_teacher(), CPU) as teacher:
        images, shaken = torch.rand(9, 1, 6, 5), Shaken(0.2, 0.15)
        found = lasting(teacher, images, 3, shaken, STREAMS, "x", 7)
        views = [images, *(shaken(images, STREAMS, f"x/{number}", 7) for number in range(3))]
        gaps = [margin(teacher.respond(teacher.normalize(view)).logits, found.classes) for view in views]
    torch.testing.assert_close(found.margins, torch.stack(gaps).amin(0))


# what the pool keeps


def kept(quota: Quota) -> dict[int, list[float]]:
    there = quota.scores > 0
    return {
        number: sorted(quota.scores[there & (quota.classes == number)].tolist()) for number in range(quota.num_classes)
    }


def offer(quota: Quota, classes: list[int], scores: list[float]) -> None:
    pixels = (torch.tensor(scores).nan_to_num().clamp_min(0) * 10).byte().view(-1, 1, 1, 1)
    quota.offer(pixels, torch.tensor(classes), torch.tensor(scores))


def test_a_quota_keeps_the_largest_scores_of_each_class() -> None:
    quota = Quota((1, 1, 1), 3, 2, torch.device("cpu"))
    offer(quota, [0, 0, 0, 1, 2], [1.0, 3.0, 2.0, 5.0, -1.0])
    assert kept(quota) == {0: [2.0, 3.0], 1: [5.0], 2: []}
    assert (quota.counts.tolist(), quota.short.tolist()) == ([2, 1, 0], [0, 1, 2])
    offer(quota, [0, 0, 1, 1, 2], [2.5, 1.0, 4.0, 6.0, math.nan])
    assert kept(quota) == {0: [2.5, 3.0], 1: [5.0, 6.0], 2: []}
    there = quota.scores > 0
    assert quota.pixels[there].flatten().tolist() == (quota.scores[there] * 10).tolist(), "each score with its image"


def test_a_quota_holds_what_sorting_all_would_hold() -> None:
    draws = torch.Generator().manual_seed(0)
    quota = Quota((1, 1, 1), 4, 7, torch.device("cpu"))
    offered: dict[int, list[float]] = {number: [] for number in range(4)}
    for size in (1, 40, 3, 12, 25, 2, 30):
        classes = torch.randint(4, (size,), generator=draws).tolist()
        scores = [round(value, 3) for value in torch.randn(size, generator=draws).tolist()]
        offer(quota, classes, scores)
        for number, score in zip(classes, scores, strict=True):
            offered[number].append(score)
        wanted = {number: sorted(s for s in own if s > 0)[-7:] for number, own in offered.items()}
        assert kept(quota) == {number: pytest.approx(own) for number, own in wanted.items()}
        assert quota.counts.tolist() == [len(own) for own in wanted.values()]
        assert len(quota.pixels) <= 28


def test_classes_are_drawn_by_weight_and_images_evenly() -> None:
    quota = Quota((1, 1, 1), 4, 9, torch.device("cpu"))
    offer(quota, [0, 0, 0, 2, 3], [1.0, 2.0, 3.0, 4.0, 5.0])
    draws = STREAMS.uniform("x", 0, (6000, 2))
    scores = quota.scores[quota.draw(draws, torch.tensor([1.0, 1.0, 2.0, 0.0]))]
    shares = [float((scores == value).float().mean()) for value in (1.0, 2.0, 3.0, 4.0, 5.0)]
    assert shares == pytest.approx([1 / 9, 1 / 9, 1 / 9, 2 / 3, 0], abs=0.02)
    edges = torch.tensor([[0.0, 0.0], [0.999999940395, 0.999999940395]])
    assert quota.scores[quota.draw(edges, torch.ones(4))].tolist() == [1.0, 5.0]


def test_a_quota_goes_on_from_its_state() -> None:
    quota, again = (Quota((1, 1, 1), 2, 3, torch.device("cpu")) for _ in range(2))
    offer(quota, [0, 1, 1], [1.0, 2.0, 3.0])
    state = copy.deepcopy(quota.state_dict())
    again.load_state_dict(state)
    for each in (quota, again):
        offer(each, [0, 1, 1, 0], [4.0, 1.0, 9.0, 0.5])
    assert kept(quota) == kept(again)
    assert torch.equal(quota.pixels, again.pixels)
    with pytest.raises(ValueError, match="without class or score"):
        again.load_state_dict({**state, "scores": state["scores"][:1]})
    with pytest.raises(ValueError, match="classes that there are not"):
        again.load_state_dict({**state, "classes": state["classes"] + 2})


# new images out of kept ones


def test_a_mutant_is_one_of_four_kinds() -> None:
    images, partners, grounds = (torch.full((400, 2, 8, 8), value) for value in (0.5, 0.0, 1.0))
    made = mutated(images, partners, grounds, STREAMS, "x", 0)
    assert made.shape == images.shape
    whole = (made.flatten(1) * 1e5).round() / 1e5
    same = (whole == 0.5).all(1)  # a part of an even image
    crossed, pasted = (((whole == 0.5) | (whole == other)).all(1) & ~same for other in (0.0, 1.0))
    colours = ~(same | crossed | pasted)
    assert [float(kind.float().mean()) for kind in (same, crossed, pasted, colours)] == pytest.approx(
        [1 / 4] * 4, abs=0.06
    )
    assert all(len(image.flatten(1).unique(dim=1)[0]) == 1 for image in made[colours]), "one factor for each channel"


def test_boxes_lie_inside_and_have_their_sides() -> None:
    inside = boxes(STREAMS.uniform("x", 0, (300, 4)), 40, 20).float()
    rows, columns = inside.amax(3).sum(2)[:, 0] / 40, inside.amax(2).sum(2)[:, 0] / 20
    torch.testing.assert_close(inside.sum((1, 2, 3)) / 800, rows * columns)
    for sides, pixel in ((rows, 1 / 40), (columns, 1 / 20)):
        assert SIDES[0] - pixel <= sides.min()
        assert sides.max() <= SIDES[1] + pixel
        assert sides.mean() == pytest.approx(sum(SIDES) / 2, abs=0.03)


def test_a_part_that_is_not_moved_nor_turned_is_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    from lenient.synthesis import mutation

    monkeypatch.setattr(mutation, "ZOOM", (1.0, 1.0))
    images = torch.rand(3, 2, 7, 10)
    torch.testing.assert_close(mutation._cut(images, torch.full((3, 4), 0.5)), images, atol=1e-5, rtol=0)
    monkeypatch.setattr(mutation, "TURN", 90.0)
    square = torch.rand(1, 1, 6, 6)
    turned = mutation._cut(square, torch.tensor([[0.5, 1.0, 0.5, 0.5]]))
    torch.testing.assert_close(turned, square.rot90(1, (2, 3)), atol=1e-5, rtol=0)


# the student's loss, and its rate


def test_both_losses_in_numbers() -> None:
    teacher, student = torch.tensor([[1.0, -1.0], [6.0, 4.0]]), torch.tensor([[1.0, -1.0], [0.0, 5.0]])
    assert float(deviation(teacher)) == 1.0
    # centred: (1, -1), (1, -1) and (1, -1), (-2.5, 2.5): 3.5 off in both classes
    assert standardised_l1(teacher, student).tolist() == [0.0, 3.0]
    p = 1 / (1 + math.exp(-4))
    q = 1 / (1 + math.exp(10))
    wanted = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert standardised_kl(teacher, student).tolist() == pytest.approx([0.0, wanted], abs=1e-5)


@pytest.mark.parametrize("distance", [standardised_l1, standardised_kl])
def test_the_scale_of_logits_and_what_is_added_to_them_make_no_difference(distance: Any) -> None:
    teacher, student = torch.randn(8, 5), torch.randn(8, 5)
    scaled = distance(200 * teacher + 7, 200 * student - torch.arange(8.0)[:, None])
    torch.testing.assert_close(scaled, distance(teacher, student), atol=1e-4, rtol=1e-4)
    assert float(distance(torch.ones(3, 2), torch.ones(3, 2)).sum()) == 0, "a teacher that says the same of all"


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 97])
def test_one_cycle_is_torchs(steps: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    found = []
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=max(steps, 4), cycle_momentum=False)
    for _ in range(max(steps, 4)):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step() if len(found) < max(steps, 4) else None
    if steps >= 4:  # torch divides by zero below
        assert [one_cycle(step, steps) for step in range(steps)] == pytest.approx(found, abs=1e-6)
    assert all(0 < one_cycle(step, steps) <= 1 for step in range(steps))


# the run


def test_the_pool_grows_until_its_quotas_are_full() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = Network(nn.Sequential(nn.Flatten(), nn.Linear(30, 4, bias=False)), tiny_card())
    run = distillation(teacher, steps=60, method={**STABLE, "quota": 3, "grow": 8})
    pool = run.algorithm.source
    made = [run.take_update()[1].images for _ in range(60)]
    assert bool((pool.quota.counts_above(1.0) == 3).all()), pool.quota.counts
    full = made.index(0)
    assert set(made) == {0, 8}
    assert made == [8] * full + [0] * (60 - full)
    assert pool.quota.offered == 8 * full == run.images


def test_what_is_made_of_kept_images_gives_way_to_fresh_ones() -> None:
    run = distillation(method={**STABLE, "grow": 4, "mutated": 0.5, "quota": 2})
    pool = run.algorithm.source

    def held(*margins: float) -> Any:
        pool.judge = lambda images, update: judged(torch.tensor(margins))
        pool._look(run.clock)
        return pytest.approx(sorted(pool.quota.scores[pool.quota.scores > 0].tolist()))

    assert held(-1.0, -1.0, -1.0, 0.1) == [1.1], "there is nothing yet that they could be made of"
    assert held(9.0, 3.0, -1.0, -1.0) == [0.9, 1.1], "the first half of those looked at"
    assert held(99.0, 3.0, 0.05, -1.0) == [1.05, 1.1]
    assert held(99.0, 3.0, 0.07, math.nan) == [1.07, 1.1]


def test_none_is_made_of_kept_ones_where_no_class_is_short() -> None:
    run = distillation(method={**STABLE, "grow": 4, "mutated": 1.0, "quota": 1})
    pool, seen = run.algorithm.source, []
    pool.judge = lambda images, update: seen.append(images) or judged(-torch.ones(4))
    pixels = torch.zeros(4, 1, 6, 5, dtype=torch.uint8)
    fresh = (drawings(range(4), (1, 6, 5), run.streams, "fresh", 0.4) * 255).round() / 255
    for number in range(4):
        pool.quota.offer(pixels[:1], torch.tensor([number]), torch.tensor([0.5]))
        pool._look(run.clock)
        assert torch.allclose(seen[-1], fresh) == (number == 3)


def judged(margins: Tensor) -> Lasting:
    return Lasting(torch.zeros(len(margins), 4), torch.zeros(len(margins), dtype=torch.int64), margins.clone())


def test_a_batch_is_of_even_classes_and_of_images_that_last() -> None:
    run = take(distillation(batch_size=400, method={**STABLE, "grow": 60, "mutated": 0.0}), 3)
    pool = run.algorithm.source
    drawn = pool.batch(run.clock)
    there = pool.quota.counts > 0
    held = pool.at(pool.distinct(10**6, "x", 0))
    assert len(held) == len(pool) == int(pool.quota.counts.sum())
    shown = drawn.batch.images.flatten(1)
    assert ((shown[:, None] - held.flatten(1)).abs().amax(2).amin(1) < 1e-6).all()
    counts = torch.stack([(run.teacher.respond(run.teacher.normalize(drawn.batch.images)).logits.argmax(1) == n).sum()
                          for n in range(4)])  # fmt: skip
    even = 400 / int(there.sum())
    assert (counts[there] - even).abs().max() < 5 * even**0.5


def test_where_nothing_lasts_the_student_learns_from_what_was_looked_at() -> None:
    run = distillation(method=STABLE)
    pool = run.algorithm.source
    judge = pool.judge
    pool.judge = lambda images, update: judge(images, update)._replace(margins=-torch.ones(len(images)))
    drawn = pool.batch(run.clock)
    assert (float(drawn.shortfall), len(pool)) == (1.0, 0)
    fresh = (drawings(range(6), (1, 6, 5), run.streams, "fresh", 0.4) * 255).round() / 255
    torch.testing.assert_close(drawn.batch.images, fresh[torch.arange(8) % 6])
    assert float(drawn.selected.weight.sum()) == 0
    pool.judge = judge
    assert float(pool.batch(run.clock).shortfall) == float(len(pool) == 0)


def test_mutants_are_of_the_classes_that_are_short() -> None:
    run = distillation(method={**STABLE, "grow": 40, "mutated": 1.0, "quota": 4})
    pool = run.algorithm.source
    offer_ = torch.arange(4).repeat_interleave(4)[:13]  # classes 0 to 2 are full, 3 has one
    pixels = (offer_ * 60).byte().view(-1, 1, 1, 1).expand(-1, 1, 6, 5)
    pool.quota.offer(pixels, offer_, torch.ones(13))
    seen = []
    pool.judge = lambda images, update: seen.append(images) or judged(-torch.ones(40))
    grounds = drawings(range(40), (1, 6, 5), run.streams, "fresh", 0.4)
    wanted = mutated(*[torch.full((40, 1, 6, 5), 180 / 255)] * 2, grounds, run.streams, "mutation", 0)
    pool._look(run.clock)
    torch.testing.assert_close(seen[0], wanted, atol=0.5 / 255 + 1e-6, rtol=0)


def test_a_share_of_those_looked_at_is_made_of_kept_ones() -> None:
    run = distillation(method={**STABLE, "grow": 8, "mutated": 0.25})
    pool = run.algorithm.source
    seen: list[Tensor] = []
    judge = pool.judge
    pool.judge = lambda images, update: (seen.append(images), judge(images, update))[1]
    take(run, 3)
    for step, images in enumerate(seen):
        fresh = (drawings(range(8 * step, 8 * step + 8), (1, 6, 5), run.streams, "fresh", 0.4) * 255).round() / 255
        same = ((images - fresh).abs() < 1e-6).flatten(1).all(1)
        assert same[2:].all()
        assert not same[:2].all() or step == 0


def test_a_teacher_without_batch_norm_and_without_gradient_will_do() -> None:
    class Rounding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(30, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(images.round().flatten(1)).detach() * 30

    run = take(distillation(Network(Rounding(), tiny_card()), method=STABLE), 6)
    assert run.result().summary.foreign == ("procedural", "photo china.jpg", "photo flower.jpg")


def test_its_data_set_holds_each_image_once() -> None:
    plan = {**quick("stable"), "steps": 12, "method": {**STABLE, "grow": 16}}
    made = synthesize(tiny_teacher(), 30, student=tiny_student(), method="stable", settings=plan)
    assert len(made) > 4
    assert len(made.images.flatten(1).unique(dim=0)) == len(made)


def test_ranks_have_to_divide_what_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    from lenient.core import ranks

    monkeypatch.setattr(ranks, "count", lambda: 4)
    with pytest.raises(UsageError, match=r"--devices 4: -s method\.grow=6 does not divide among them"):
        distillation(method=STABLE)


def test_a_student_of_foreign_images_is_not_called_data_free(tmp_path: Path) -> None:
    student = build_student("lenient:resnet8-half", tiny_card(size=(8, 8), classes=10), seed=0)
    distill(
        digits_like(), student, method="stable", settings={**quick("stable"), "method": STABLE}, output=tmp_path / "run"
    )
    export(tmp_path / "run", tmp_path / "hub", "hub")
    readme = (tmp_path / "hub" / "README.md").read_text()
    assert "on images of procedural, photo china.jpg, photo flower.jpg: not data-free in the strict sense" in readme
    assert "- data-free" not in readme
    assert '"foreign"' in (tmp_path / "run" / "report.json").read_text()
