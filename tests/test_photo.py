"""The student of photographs: how its patches are cut, turned and coloured, and how it is shown them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lenient.core.seeding import Streams
from lenient.losses.distances import kl_divergence, unscaled_kl
from lenient.synthesis import patches as made
from lenient.synthesis.patches import AREAS, LARGER, coloured, hue, patches, second_cut
from lenient.synthesis.views import CutMix, cut_box
from test_methods import take
from toys import distillation

STREAMS = Streams(0)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(8, 8), (9, 31), (64, 48)])
def test_patches_have_the_images_size_and_the_same_seed_gives_the_same(channels: int, size: tuple[int, int]) -> None:
    shape = (channels, *size)
    images = patches(7, shape, STREAMS, "x", 3)
    assert images.shape == (7, *shape)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(images, patches(7, shape, STREAMS, "x", 3))
    assert not torch.equal(images, patches(7, shape, STREAMS, "x", 4))


def test_the_second_cut_is_even_in_area_as_far_as_it_fits() -> None:
    cuts = np.array([second_cut(STREAMS.numpy("x", number)) for number in range(6000)])
    areas, shapes = cuts.prod(axis=1), cuts[:, 0] / cuts[:, 1]
    assert cuts.max() <= 1
    assert 3 / 4 <= shapes.min() < 0.76
    assert 1.31 < shapes.max() <= 4 / 3 + 1e-9
    # drawn evenly in [1/500, 1], mean .501; one of an area above 3/4 fits by the chance ln(1/area) / ln(4/3)
    grid = np.linspace(1 / 500, 1, 200_001)
    fits = np.clip(np.log(1 / grid) / math.log(4 / 3), 0, 1)
    assert sum(AREAS) / 2 == 0.501
    assert areas.mean() == pytest.approx((grid * fits).sum() / fits.sum(), abs=0.01)
    assert np.histogram(areas, 7, (0.0, 0.7))[0].std() < 60, "evenly where all fit"


@pytest.mark.parametrize(("side", "larger", "first"), [(32, 45, 213), (256, 362, 213)])
def test_sizes_on_the_way_are_the_released_ones(
    side: int, larger: int, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Picture:
        width, height = 640, 427

        def resize(self, size: tuple[int, int], how: Any, box: tuple[float, ...], reducing_gap: float) -> Image.Image:
            seen.append((size, box))
            return Image.new("RGB", size)

    monkeypatch.setattr(made, "second_cut", lambda rng: (1.0, 1.0))
    for number in range(50):
        assert made._patch(STREAMS.numpy("x", number), Picture(), side, side).shape == (side, side, 3)
    assert {size for size, _ in seen} == {(larger, larger)}
    assert {int(box[2] - box[0] + 1e-6) for _, box in seen} == {first}
    assert {int(box[3] - box[1] + 1e-6) for _, box in seen} == {first}
    assert min(min(box[:2]) for _, box in seen) >= 0
    assert max(box[2] for _, box in seen) <= 640


def turned(angle: float, shear: float) -> np.ndarray:
    """A patch of a picture that is white right of its middle, turned and sheared by given shares of 30 degrees."""

    class Draws:
        def uniform(self, low: float = 0, high: float = 1, size: Any = None) -> Any:
            return np.array([angle, shear]) if size else 0.0

    class Picture:
        width = height = 100

        def resize(self, size: tuple[int, int], *_: Any, **__: Any) -> Image.Image:
            pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
            pixels[:, size[0] // 2 :] = 255
            return Image.fromarray(pixels)

    return made._patch(Draws(), Picture(), 64, 64)[:, :, 0]


@pytest.mark.parametrize(("angle", "shear", "slope"), [
    (0.0, 0.0, 0.0),
    (1.0, 0.0, math.tan(math.radians(30))),
    (-0.5, 0.0, -math.tan(math.radians(15))),
    (0.0, 1.0, math.tan(math.radians(30))),
    (0.5, 0.5, math.tan(math.radians(15)) + math.tan(math.radians(15))),
])  # fmt: skip
def test_a_patch_is_turned_and_sheared_around_its_middle(
    angle: float, shear: float, slope: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The border between black and white leans by as much as it should, and goes through the middle."""
    monkeypatch.setattr(made, "second_cut", lambda rng: (1.0, 1.0))
    shown = turned(angle, shear)
    rows = np.arange(20, 44)
    border = np.array([(shown[row] < 128).sum() for row in rows])
    found, at_middle = np.polyfit(rows - 31.5, border, 1)
    assert abs(found) == pytest.approx(abs(slope), abs=0.1)
    assert at_middle == pytest.approx(32, abs=1)
    corner = LARGER / 2 - 0.5
    assert corner > 0, "what is scaled is larger than what is shown"


def test_other_colours_are_in_bounds_and_neutral_ones_none(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(200, 3, 4, 4)
    changed = coloured(images, STREAMS.numpy("x"))
    assert 0 <= changed.min() <= changed.max() <= 1
    assert not torch.allclose(changed, images, atol=0.05)
    for name in ("BRIGHT", "CONTRAST", "SATURATION", "HUE"):
        monkeypatch.setattr(made, name, 0.0)
    torch.testing.assert_close(coloured(images, STREAMS.numpy("x")), images, atol=1e-5, rtol=0)


def test_hue_leaves_greys_and_goes_round_the_colours() -> None:
    maps = hue(torch.tensor([0.7, 2 * math.pi / 3, 0.0]))
    torch.testing.assert_close(maps[0] @ torch.full((3,), 0.4), torch.full((3,), 0.4))
    torch.testing.assert_close(maps[1] @ torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(maps[2], torch.eye(3))


def test_half_of_the_patches_have_other_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "coloured", lambda images, rng: images * 0)
    images = patches(600, (3, 8, 8), STREAMS, "x", 0)
    assert float((images == 0).flatten(1).all(1).float().mean()) == pytest.approx(0.5, abs=0.06)


def test_a_box_leaves_the_share_that_is_drawn() -> None:
    assert cut_box(1.0, (0.5, 0.5), 32, 32) == (slice(16, 16), slice(16, 16))
    assert cut_box(0.75, (0.5, 0.5), 32, 32) == (slice(8, 24), slice(8, 24))  # sides of 16
    assert cut_box(0.0, (0.0, 0.999), 32, 20) == (slice(0, 16), slice(9, 20))  # cut off at two borders


def test_cutmix_shows_a_box_of_the_reversed_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 2, 16, 12).contiguous()
    mixed = CutMix(1.0)(images, STREAMS, "x", 0)
    inside = (mixed != images).any(1)[0]
    assert 0 < inside.sum() < inside.numel()
    for number, image in enumerate(mixed):
        assert (image[:, inside] == 4 - number).all()
        assert (image[:, ~inside] == number).all()
    assert torch.equal(images[1], torch.ones(2, 16, 12)), "what was given stays"
    monkeypatch.setattr("lenient.synthesis.views.cut_box", lambda own, *rest: cut_box(1.0, *rest))
    assert torch.equal(CutMix(1.0)(images, STREAMS, "x", 0), images)


def test_half_of_the_batches_are_nearly_pure() -> None:
    """With both parameters 0.25, in six of ten draws less than a tenth is the one's or the other's."""
    drawn = np.array([STREAMS.numpy("x", number).beta(0.25, 0.25) for number in range(4000)])
    assert float(((drawn < 0.09) | (drawn > 0.91)).mean()) == pytest.approx(0.6, abs=0.03)


def test_kl_without_the_square_has_a_sixty_fourth_of_the_gradient() -> None:
    teacher, student = torch.randn(6, 4), torch.randn(6, 4, requires_grad=True)
    (plain,) = torch.autograd.grad(unscaled_kl(teacher, student, 8.0).sum(), student)
    (scaled,) = torch.autograd.grad(kl_divergence(teacher, student, 8.0).sum(), student)
    torch.testing.assert_close(64 * plain, scaled)


def test_both_networks_see_the_mixed_images() -> None:
    run = distillation(method={"name": "photo", "cutmix": 1.0, "augmentation": "none"})
    _, output = run.take_update()
    batch = output.batch
    wanted = CutMix(1.0)(batch.images, run.streams, "student-view", 0)
    assert not torch.equal(wanted, batch.images)
    torch.testing.assert_close(batch.inputs["train"], run.teacher.normalize(wanted))
    torch.testing.assert_close(batch.logits("train", "teacher"), run.teacher.respond(batch.inputs["train"]).logits)
    assert take(run, 1).result().summary.foreign == ("photo china.jpg", "photo flower.jpg")
