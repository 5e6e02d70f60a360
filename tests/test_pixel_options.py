"""What DeepInversion takes besides its paper's: statistics over all images, borders, crops, ranges and rates."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from lenient.bench.cells import SINCE, SINCE_OF, without_later
from lenient.core.errors import UsageError
from lenient.core.seeding import Streams
from lenient.losses.gaps import NORMS, Gap
from lenient.losses.representation import BatchNormStatistics
from lenient.losses.together import JointStatistics
from lenient.methods.deepinversion import DeepInversionSettings
from lenient.runs.request import Request, resolve
from lenient.synthesis.pixel_views import PixelView, ResizedCrop, ViewSettings, smoothed
from lenient.synthesis.views import mirrored, resized_crop
from lenient.teacher.batch import Batch, Response
from lenient.teacher.probes import BatchNorms, LayerStatistics
from test_losses import RAMP, statistics_of
from test_methods import QUICK_PIXELS, same, take, weights
from toys import distillation

GOOD, BAD = torch.zeros(()), torch.ones(())
TOOLKIT = Gap("squares", "deviation", "mean")
"""Sony's: mean over layers of the mean over channels of (mean - stored)^2 + (deviation - stored)^2."""


def layer(values: torch.Tensor, seed: int = 3) -> LayerStatistics:
    stored = torch.rand(2, values.shape[1], generator=torch.Generator().manual_seed(seed), dtype=values.dtype)
    return statistics_of(values, stored[0], stored[1] + 0.5)


def probed(*layers: LayerStatistics, piece: int = 0) -> Batch:
    batch = Batch(torch.zeros(2, 1, 1, 1), torch.ones(2), piece=piece)
    batch.answers = {"clean": {"teacher": Response(torch.zeros(2, 2), {BatchNorms: layers})}}
    return batch


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# how far statistics are from the stored ones


@pytest.mark.parametrize(("values", "norms", "toolkit"), [
    (RAMP, 1.156353, 0.990806),
    (torch.cat([RAMP, 2 * RAMP + 1], dim=1), 5.490873, 5.288260),
], ids=["one channel", "two"])  # fmt: skip
def test_gaps_have_their_golden_values(values, norms, toolkit):
    channels = values.shape[1]
    own = statistics_of(values.double(), torch.zeros(channels), torch.ones(channels))
    assert NORMS([own]).item() == pytest.approx(norms, abs=1e-6)
    assert TOOLKIT([own]).item() == pytest.approx(toolkit, abs=1e-6)


@pytest.mark.parametrize("form", ["norms", "squares"])
@pytest.mark.parametrize("spread", ["variance", "deviation"])
@pytest.mark.parametrize("layers", ["sum", "mean"])
def test_a_gap_equals_its_loop(form, spread, layers):
    given = [layer(draw(4, channels, 2, 3, seed=channels), seed=channels) for channels in (2, 5)]
    expected = []
    for factor, own in zip((10, 1), given, strict=True):
        total = 0.0
        for power, found, stored in ((1, own.mean, own.running_mean), (0.5, own.variance, own.running_variance)):
            pairs = zip(found.tolist(), stored.tolist(), strict=True)
            if power == 0.5 and spread == "deviation":
                pairs = [(math.sqrt(a + 1e-6), math.sqrt(b)) for a, b in pairs]
            squares = [(a - b) ** 2 for a, b in pairs]
            total += math.sqrt(sum(squares)) if form == "norms" else sum(squares) / len(squares)
        expected.append(factor * total)
    wanted = sum(expected) if layers == "sum" else sum(expected) / 2
    assert Gap(form, spread, layers, 10)(given).item() == pytest.approx(wanted)


def test_a_gap_at_zero_and_of_a_constant_channel_has_a_gradient():
    values = torch.zeros(4, 2, 2, 2, requires_grad=True)
    own = statistics_of(values, torch.zeros(2), torch.zeros(2))
    for gap in (NORMS, TOOLKIT):
        (gradient,) = torch.autograd.grad(gap([own]), [values], retain_graph=True)
        assert torch.isfinite(gradient).all()


# statistics over all images


def test_pieces_have_the_statistics_of_all_images_together():
    values = draw(12, 3, 2, 2) * torch.tensor([1.0, 5.0, 0.1]).view(3, 1, 1) + 7
    pieces = [layer(piece) for piece in values.chunk(3)]
    term = JointStatistics(3)
    assert torch.equal(term(probed(pieces[0])), NORMS([pieces[0]])), "the others are not known yet"
    for number, own in enumerate(pieces):
        term.follow(probed(own, piece=number), GOOD)
    for number, own in enumerate(pieces):
        torch.testing.assert_close(term(probed(own, piece=number)), NORMS([layer(values)]))


def test_the_gradient_to_a_pieces_mean_is_a_share_of_the_plain_one():
    def one(mean: torch.Tensor) -> LayerStatistics:
        return LayerStatistics(mean, torch.ones(3), torch.zeros(3), torch.ones(3))

    term = JointStatistics(4, replace(NORMS, spread="variance"))
    for number in range(4):
        term.follow(probed(one(torch.ones(3)), piece=number), GOOD)
    mean = torch.ones(3, requires_grad=True)
    term(probed(one(mean), piece=2)).backward()
    assert mean.grad.norm().item() == pytest.approx(1 / 4)
    assert not any(moments.requires_grad for moments in term.moments)


def test_a_single_piece_is_the_plain_term():
    term = JointStatistics(1)
    for seed in range(3):
        batch = probed(layer(draw(4, 3, 2, 2, seed=seed)))
        torch.testing.assert_close(term(batch), BatchNormStatistics()(batch), rtol=1e-12, atol=0)
        term.follow(batch, GOOD)


def test_a_skipped_step_leaves_no_statistics_and_a_finished_batch_none():
    term, own, other = JointStatistics(2), layer(draw(4, 3, 2, 2)), layer(draw(4, 3, 2, 2, seed=1))
    broken = replace(own, mean=own.mean * math.nan)
    term.follow(probed(broken, piece=1), BAD)
    assert torch.equal(term(probed(own)), NORMS([own]))
    term.follow(probed(other, piece=1), GOOD)
    joint = term(probed(own))
    assert not torch.equal(joint, NORMS([own]))
    term.follow(probed(broken, piece=1), BAD)
    assert torch.equal(term(probed(own)), joint)
    state = term.state_dict()
    term.remember(probed(own), BAD)
    assert torch.equal(term(probed(own)), joint), "the batch goes on"
    term.remember(probed(own), GOOD)
    assert torch.equal(term(probed(own)), NORMS([own]))
    again = JointStatistics(2)
    again.load_state_dict(state)
    assert torch.equal(again(probed(own)), joint)


# views


def test_the_least_part_of_an_image_falls_along_the_curriculum():
    cosine = ResizedCrop(curriculum="cosine")
    found = [cosine.least(done) for done in (0, 0.25, 0.5, 0.75, 1)]
    assert found == pytest.approx([1, 0.865, 0.54, 0.215, 0.08], abs=5e-4)
    for curriculum in ("cosine", "linear", "step"):
        ways = [ResizedCrop(curriculum=curriculum, milestone=0.5).least(step / 40) for step in range(41)]
        assert ways == sorted(ways, reverse=True)
        assert ways[0] == 1
        assert ways[20:] == pytest.approx([0.08] * 21)
    assert ResizedCrop(curriculum="linear").least(0.5) == pytest.approx(0.54)
    assert ResizedCrop(curriculum="step", milestone=0.5).least(0.49) == 1
    assert ResizedCrop().least(0) == 0.08


def covered(shown: torch.Tensor) -> torch.Tensor:
    """Share of the area that is seen of images whose channels hold the place of each pixel."""
    rows, columns = (shown[:, channel].flatten(1) for channel in range(2))
    size = shown.shape[-1]
    return ((rows.amax(1) - rows.amin(1)) * (columns.amax(1) - columns.amin(1))) / (size - 1) ** 2


@pytest.mark.parametrize("least", [0.2, 0.6, 0.95])
def test_a_part_that_fits_covers_at_least_its_share(least):
    size = 64
    place = torch.arange(size, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(place, place, indexing="ij")).expand(300, -1, -1, -1)
    fitting, cut = (covered(resized_crop(grid, least, False, Streams(0), "x", 3, fits=fits)) for fits in (True, False))
    assert fitting.amin() >= least - 0.02
    assert fitting.amin() < least + 0.1 * (1 - least) + 0.02
    assert cut.amin() < least - 0.02 or least < 0.75, "a side that is too long is cut"


def test_all_of_an_image_is_the_image():
    images = torch.rand(3, 2, 5, 7)
    torch.testing.assert_close(resized_crop(images, 1.0, False, Streams(0), "x", 3, fits=True), images)


def test_crops_and_flips_are_drawn_for_each_image_or_for_all():
    images = torch.rand(1, 2, 6, 6).expand(8, -1, -1, -1)
    for change in (
        lambda one: resized_crop(images, 0.1, False, Streams(0), "x", 1, fits=True, one=one),
        lambda one: mirrored(images, Streams(0), "x", 1, one=one),
    ):
        alone, together = change(False), change(True)
        assert all(torch.equal(together[0], image) for image in together)
        assert not all(torch.equal(alone[0], image) for image in alone)
    turned = [torch.equal(mirrored(images, Streams(0), "x", n, one=True), images) for n in range(40)]
    assert 10 < sum(turned) < 30


def test_smoothing_has_its_golden_values_and_equals_its_loop():
    dot = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    dot[0, 0, 2, 2] = 1
    kernel = smoothed(dot, 1.25)[0, 0, 1:4, 1:4]
    assert kernel[1, 1].item() == pytest.approx(0.1663, abs=5e-5)
    assert kernel[0, 1].item() == pytest.approx(0.1207, abs=5e-5)
    assert kernel[0, 0].item() == pytest.approx(0.0877, abs=5e-5)
    images, found = draw(2, 3, 4, 5), torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            for row in range(4):
                for column in range(5):
                    seen = images[:, :, min(max(row + down, 0), 3), min(max(column + across, 0), 4)]
                    found[:, :, row, column] += kernel[1 + down, 1 + across] * seen
    torch.testing.assert_close(smoothed(images, 1.25), found)
    assert smoothed(images, 0.0) is images
    flat = torch.full((1, 2, 4, 4), 0.7, dtype=torch.float64)
    torch.testing.assert_close(smoothed(flat, 1.25), flat, msg="constant up to the rim")


def view(jitter: int = 0, **settings: Any) -> PixelView:
    return PixelView(
        ViewSettings(**settings), jitter, torch.full((1, 2, 1, 1), -1.0), torch.ones(1, 2, 1, 1), Streams(0)
    )


def test_a_border_shows_windows_and_keeps_the_middle():
    own = view(border={"name": "extra", "pixels": 3, "smoothing": 0}, jitter=2)
    pixels = torch.rand(2, 2, 8, 7)
    windows = {(d, a): pixels[:, :, d : d + 5, a : a + 4] for d in range(4) for a in range(4)}
    found = set()
    for update in range(120):
        shown = own(pixels, 0, update)
        found.add(next(place for place, window in windows.items() if torch.equal(window, shown)))
    assert found == windows.keys()
    assert torch.equal(own.finished(pixels), windows[1, 1])
    soft = view(border={"name": "extra", "pixels": 2})
    assert torch.equal(soft.finished(pixels), smoothed(pixels, 1.25)[:, :, 1:7, 1:6])


@pytest.mark.parametrize("kind", ["free", "clip", "straight-through"])
def test_what_keeps_pixels_between_black_and_white(kind):
    own, pixels = view(range=kind), (3 * torch.randn(2, 2, 5, 4)).requires_grad_()
    cut = pixels.detach().clamp(-1, 1)
    shown = own(pixels, 0, 0)
    (gradient,) = torch.autograd.grad((shown * 2).sum(), [pixels])
    assert (gradient == 2).all()
    torch.testing.assert_close(shown.detach(), cut if kind == "straight-through" else pixels.detach())
    assert torch.equal(own.finished(pixels), pixels if kind == "free" else cut)
    own.clip_(pixels)
    assert torch.equal(pixels, cut) == (kind == "clip")


# runs


def run_of(**method: Any):
    return distillation(method={"name": "deepinversion", **QUICK_PIXELS, **method})


def test_pieces_take_turns_and_join_the_pool_together():
    run = run_of(statistics={"over": {"name": "all", "pieces": 4}}, iterations=3)
    pixels, order = run.algorithm.updates["pixels"].module, []
    for _ in range(11):
        before = [piece.images.detach().clone() for piece in pixels]
        run.take_update()
        moved = [not torch.equal(a, b.images) for a, b in zip(before, pixels, strict=True)]
        assert sum(moved) == 1
        order.append(moved.index(True))
    rounds = [order[:4], order[4:8], [*order[8:], ({*range(4)} - {*order[8:]}).pop()]]
    assert [sorted(turns) for turns in rounds] == [[0, 1, 2, 3]] * 3
    assert rounds[0] != rounds[1] or rounds[1] != rounds[2], "the order changes from round to round"
    assert len(run.algorithm.source) == 0
    run.take_update()
    assert len(run.algorithm.source) == run.images == 8


def test_one_piece_makes_the_same_run():
    plain, joint = (take(run_of(statistics={"over": over}), 8) for over in ("batch", {"name": "all", "pieces": 1}))
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(joint)[name], value)


def test_a_piece_is_optimised_as_a_batch_of_its_own_where_no_statistics_join_them():
    """Without the statistics nothing ties pieces together, so each goes the way of its rows in one batch."""
    options = {"bn_weight": 0, "tv_weight": 0, "l2_weight": 0, "jitter": 0, "iterations": 3, "keep": "last"}
    whole, pieces = run_of(**options), run_of(**options, statistics={"over": {"name": "all", "pieces": 2}})
    whole, pieces = take(whole, 2), take(pieces, 4)
    found = torch.cat([piece.images for piece in pieces.algorithm.updates["pixels"].module])
    # Adam does not feel that the mean is over half as many images, but for its epsilon
    torch.testing.assert_close(found, whole.algorithm.updates["pixels"].module.images, atol=1e-3, rtol=0)


def test_the_rate_falls_in_each_batch():
    update = run_of(iterations=4, pixels_schedule="cosine").algorithm.updates["pixels"]
    run = run_of(iterations=4, pixels_schedule="cosine")
    rates = [update.rate(run.context.clock(run.algorithm.schedule, number)) for number in range(8)]
    assert rates == pytest.approx([1, 0.853553, 0.5, 0.146447] * 2, abs=1e-6)


def test_the_last_iterate_is_kept_where_it_is_to_be():
    run = run_of(keep="last", iterations=3, view={"range": "clip"})
    pixels = run.algorithm.updates["pixels"].module
    pushed: list[torch.Tensor] = []
    run.algorithm.source.push = pushed.append
    restart, ended = pixels.restart, []
    pixels.restart = lambda *given: (ended.append(pixels.images.detach().clone()), restart(*given))
    take(run, 3)
    torch.testing.assert_close(run.teacher.normalize(pushed[0]), ended[0])
    assert not torch.equal(ended[0], pixels.best)


def test_clipped_pixels_lie_between_black_and_white_from_the_start():
    run = run_of(view={"range": "clip"}, pixels_lr=5.0)
    for _ in range(3):
        images = run.teacher.denormalize(run.algorithm.updates["pixels"].module.images.detach())
        assert images.amin() >= -1e-6
        assert images.amax() <= 1 + 1e-6
        run.take_update()


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UsageError, match=r"^-s method.statistics.over.pieces=3: a batch of 8 images does not divide"):
        run_of(statistics={"over": {"name": "all", "pieces": 3}})


@pytest.mark.parametrize(("recipe", "crop", "images"), [("sre2l", "none", 5000), ("cda", "resized", 20_000)])
def test_the_recipes_hold_the_constants_of_the_released_code(recipe, crop, images):
    found = resolve(Request(method="deepinversion", recipes=[recipe])).method
    assert isinstance(found, DeepInversionSettings)
    rates = {"sre2l": (0.25, 0.01, 1000, False), "cda": (0.4, 0.05, 4000, True)}[recipe]
    assert (found.pixels_lr, found.bn_weight, found.iterations, found.view.flip) == rates
    assert (found.view.crop.name, found.view.range, found.keep) == (crop, "clip", "last")
    assert (found.pixels_betas, found.pixels_schedule, found.statistics.first_layer) == ((0.5, 0.9), "cosine", 10)
    assert (found.tv_weight, found.l2_weight, found.adversarial_weight, found.label_weight) == (0, 0, 0, 1)
    assert (found.batch_images, found.first_batches * 100, found.student_steps) == (100, images, None)


def test_the_plain_settings_are_those_of_before():
    """Nothing of the options is on by default: a run is to the bit what it was with the plain term and whole images."""
    run = run_of()
    term = run.algorithm.objective.terms["bn"][1]
    assert type(term) is BatchNormStatistics
    assert term.gap == NORMS
    assert same(weights(take(run, 4)), weights(take(run_of(statistics={"over": "batch"}), 4)))


@pytest.mark.parametrize("name", ["deepinversion", "adi"])
def test_cells_of_before_the_options_keep_their_ids(name):
    settings = resolve(Request(method=name)).model_dump(mode="json")
    since = {**SINCE, **SINCE_OF[name]}
    left = without_later({"method": settings["method"]}, since)["method"]
    assert not {"view", "statistics", "keep", "pixels_betas", "pixels_schedule", "student_optimizer"} & left.keys()
    changed = resolve(Request(method=name, settings={"method": {"view": {"flip": True}}})).model_dump(mode="json")
    assert "view" in without_later({"method": changed["method"]}, since)["method"]
