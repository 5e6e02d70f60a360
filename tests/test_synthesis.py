"""The generator, views and the supply that deals out accepted samples."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from lenient.core.seeding import Streams
from lenient.data import load_data
from lenient.generators.upsampling import GeneratorSettings, UpsamplingGenerator
from lenient.methods.baselines import RealImages, RealSettings
from lenient.runs.request import Request, resolve
from lenient.synthesis.accepted import AcceptedImages, Round
from lenient.synthesis.sampler import Sampler
from lenient.synthesis.selection import MOST_ROUNDS, KeepAll, MixtureSelection, Selected
from lenient.synthesis.views import Augmentation, augment
from lenient.teacher.batch import Clock
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.trainer import Distillation
from toys import CPU, settings, tiny_student, tiny_teacher

# generator


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 26, 30), (1, 28, 28), (4, 33, 7), (3, 224, 224), (2, 3, 3)])
def test_the_generator_draws_any_size(size):
    generator = UpsamplingGenerator(size, GeneratorSettings(latent_dim=5, width=4))
    images = generator(torch.randn(3, 5))
    assert images.shape == (3, *size)
    assert images.min() > 0
    assert images.max() < 1


def test_the_generator_has_the_published_size_and_epsilon():
    generator = UpsamplingGenerator((3, 32, 32), resolve(Request(method="ta-dfkd", recipes=["published"])).generator)
    assert sum(p.numel() for p in generator.parameters()) == 8_423_939
    assert [norm.eps for norm in generator.norms] == [0.8, 0.8]
    assert generator.stem.eps == 1e-5


def test_latents_are_keyed_by_name_and_update():
    source = Sampler(UpsamplingGenerator((1, 4, 4), GeneratorSettings(latent_dim=3, width=2)), 3, Streams(0), CPU)
    with torch.no_grad():
        first, again, other = (source.sample(2, "a", update).images for update in (0, 0, 1))
    torch.testing.assert_close(first, again)
    assert not torch.equal(first, other)


# views


def test_no_augmentation_is_the_same_object():
    images = torch.rand(2, 3, 8, 8)
    assert augment(images, "none", Streams(0), "x", 0) is images


@pytest.mark.parametrize(("kind", "draws"), [("crop-flip", 40), ("crop-flip-batch", 1)])
def test_crops_are_windows_of_the_padded_image(kind, draws):
    images = torch.rand(40, 2, 32, 24)
    shown = augment(images, kind, Streams(1), "x", 0)
    padded = torch.nn.functional.pad(images, (3, 3, 3, 3))
    found = set()
    for image, view in zip(padded, shown, strict=True):
        places = [
            (down, right, flipped)
            for down in range(7)
            for right in range(7)
            for flipped in (False, True)
            if torch.equal(_window(image, down, right, flipped), view)
        ]
        assert len(places) == 1
        found.add(places[0])
    assert (len(found) > 20) if draws > 1 else (len(found) == 1)


def _window(image: Tensor, down: int, right: int, flipped: bool) -> Tensor:
    window = image[:, down : down + 32, right : right + 24]
    return window.flip(2) if flipped else window


@pytest.mark.parametrize("kind", [kind for kind in get_args(Augmentation) if kind != "none"])
def test_views_keep_the_gradient(kind):
    images = torch.rand(3, 1, 8, 8, requires_grad=True)
    augment(images, kind, Streams(0), "x", 0).sum().backward()
    assert images.grad.abs().sum() > 0


# accepted images


class Drawer:
    """Rounds of numbered images: image value = update * 1000 + round * 100 + place; accepted by a rule on the place."""

    def __init__(self, batch: int, accept) -> None:
        self.batch, self.accept, self.rounds = batch, accept, 0

    def __call__(self, clock: Clock, number: int) -> Round:
        self.rounds += 1
        values = torch.arange(self.batch).float() + 100 * number + 1000 * clock.update
        scores = (torch.arange(self.batch) * 7 % self.batch).float() / self.batch
        weight = self.accept(torch.arange(self.batch), scores).float()
        return Round(values.view(-1, 1, 1, 1), values.view(-1, 1), Selected(scores, weight))


def test_a_batch_is_full_in_order_and_leftovers_come_next():
    drawer = Drawer(10, lambda place, score: place % 2 == 0)
    supply = AcceptedImages(drawer, 10)
    images, logits, _, shortfall, drawn = supply.deal(Clock(0))
    assert drawn == 10 * drawer.rounds
    assert images.flatten().tolist() == [0, 2, 4, 6, 8, 100, 102, 104, 106, 108][: len(images)]
    assert torch.equal(images.flatten(), logits.flatten())
    assert shortfall == 0
    images = supply.deal(Clock(1))[0]
    assert len(images) == 10


def test_a_shortfall_is_filled_with_the_surest_rejects_and_counted():
    drawer = Drawer(10, lambda place, score: place == 3)
    images, _, _, shortfall, _ = AcceptedImages(drawer, 10, max_rounds=1).deal(Clock(0))
    scores = {place: place * 7 % 10 for place in range(10)}
    rejects = sorted((place for place in range(10) if place != 3), key=scores.get)
    assert images.flatten().tolist() == [3, *rejects]
    assert shortfall.item() == pytest.approx(0.9)


def test_a_batch_without_a_bound_is_drawn_until_it_is_full_or_a_hundred_times():
    for kept, rounds in ((1, 10), (0, MOST_ROUNDS)):
        drawer = Drawer(10, lambda place, score, kept=kept: place < kept)
        supply = AcceptedImages(drawer, 10, max_rounds=MOST_ROUNDS, allow_sync=True)
        supply.deal(Clock(0))
        assert drawer.rounds == rounds


def test_rounds_are_planned_from_the_kept_fraction_of_the_iteration_before():
    drawer = Drawer(20, lambda place, score: place < 18)
    supply = AcceptedImages(drawer, 20)
    supply.deal(Clock(0))
    assert drawer.rounds == 3  # nothing known yet: half is assumed, less a margin
    supply.moved()
    drawer.rounds = 0
    for update in range(5):
        supply.deal(Clock(update))
    assert drawer.rounds <= 7
    supply.moved()
    drawer.accept = lambda place, score: place < 2
    drawer.rounds = 0
    supply.deal(Clock(6))
    assert drawer.rounds <= 2
    supply.moved()
    drawer.rounds = 0
    supply.deal(Clock(7))
    assert drawer.rounds == 4, "the cap"


def test_leftovers_are_forgotten_when_the_generator_moves():
    supply = AcceptedImages(Drawer(10, lambda place, score: place >= 0), 10)
    supply.deal(Clock(0))
    supply.moved()
    assert supply.deal(Clock(1))[0].min() >= 1000


def test_no_carry_draws_fresh_for_each_batch():
    supply = AcceptedImages(Drawer(10, lambda place, score: place >= 0), 10, carry=False, min_rounds=2)
    supply.deal(Clock(0))
    assert supply.deal(Clock(1))[0].min() >= 1000


@given(st.lists(st.integers(0, 10), min_size=12, max_size=12), st.integers(1, 3), st.booleans())
@hypothesis_settings(max_examples=50, deadline=None)
def test_who_waits_makes_as_many_rounds_as_it_takes(kept, least, carry):
    """Against the plain count: `kept` images of ten are accepted in each round, five rounds at most."""
    accepted = [0]  # since the last batch, leftovers included

    def make_round(clock: Clock, number: int) -> Round:
        count = kept[(3 * clock.update + number) % len(kept)]
        accepted[0] += count
        weight = (torch.arange(10) < count).float()
        scores = torch.arange(10.0)
        return Round(scores.view(-1, 1, 1, 1), scores.view(-1, 1), Selected(scores, weight))

    supply = AcceptedImages(make_round, 10, carry=carry, min_rounds=least, max_rounds=5, allow_sync=True)
    for update in range(6):
        before = accepted[0]
        batch = supply.deal(Clock(update))
        rounds = batch.drawn // 10
        assert least <= rounds <= 5
        assert batch.shortfall.item() == pytest.approx(max(0, 10 - accepted[0]) / 10)
        if least < rounds:  # the last one was needed
            assert accepted[0] - kept[(3 * update + rounds - 1) % len(kept)] < 10
        if rounds < 5:
            assert accepted[0] >= 10 > before - 10
        accepted[0] = min(max(accepted[0] - 10, 0), 10) if carry else 0


@given(st.integers(0, 1000), st.integers(1, 5), st.booleans(), st.booleans())
@hypothesis_settings(max_examples=25, deadline=None)
def test_a_supply_goes_on_from_its_state(seed, deals, moved, sync):
    def make_round(clock: Clock, number: int) -> Round:
        scores = torch.rand(16, generator=Streams(seed).generator(str(number), clock.update))
        return Round(scores.view(-1, 1, 1, 1), scores.view(-1, 1), MixtureSelection()(scores))

    straight, stopped = AcceptedImages(make_round, 16, allow_sync=sync), AcceptedImages(make_round, 16, allow_sync=sync)
    for update in range(deals):
        straight.deal(Clock(update))
        stopped.deal(Clock(update))
    if moved:
        straight.moved()
        stopped.moved()
    resumed = AcceptedImages(make_round, 16, allow_sync=sync)
    resumed.load_state_dict(stopped.state_dict())
    for update in range(deals, deals + 4):
        assert torch.equal(straight.deal(Clock(update))[0], resumed.deal(Clock(update))[0])
    straight.moved()
    resumed.moved()
    assert torch.equal(straight.deal(Clock(99))[0], resumed.deal(Clock(99))[0])


def test_keep_all_makes_one_round_a_batch():
    def make_round(clock: Clock, number: int) -> Round:
        scores = torch.rand(12)
        return Round(scores.view(-1, 1, 1, 1), scores.view(-1, 1), KeepAll()(scores))

    supply = AcceptedImages(make_round, 12)
    supply.deal(Clock(0))
    supply.moved()
    assert supply._plan() == 1


@pytest.mark.parametrize("kind", ["none", "crop-flip"])
def test_both_networks_see_real_images_as_the_row_says(kind: Augmentation) -> None:
    """So that a grid's row of real images has the augmentation of the rows beside it."""
    images = load_data("digits", split="train")
    sizes = {"size": images.input_size[1:], "classes": len(images.classes)}
    method = RealImages(images, RealSettings(augmentation=kind))
    teacher = FrozenTeacher(tiny_teacher(**sizes), CPU)
    with teacher:
        run = Distillation(teacher, tiny_student(**sizes), settings(), CPU, method=method)
        _, output = run.take_update()
        batch = output.batch
        wanted = augment(batch.images, kind, run.streams, "student-view", 0)
        assert torch.equal(wanted, batch.images) == (kind == "none")
        shown = batch.inputs["train"]
        torch.testing.assert_close(shown, teacher.normalize(wanted))
        torch.testing.assert_close(batch.logits("train", "teacher"), teacher.respond(shown).logits)
