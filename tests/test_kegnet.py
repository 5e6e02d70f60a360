"""KegNet: its networks, its terms, and generators that learn ahead and then draw a fixed set."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import lenient
from lenient.core.errors import UsageError
from lenient.evaluation import parameters
from lenient.generators.transposed import Decoder, TransposedGenerator
from lenient.generators.upsampling import GeneratorSettings
from lenient.losses.variety import LatentReconstruction, PairwiseDiversity
from lenient.teacher.batch import Batch
from test_methods import QUICK_KEGNET, last_output, take, weights
from toys import distillation, tiny_card, tiny_teacher

METHOD = {"name": "kegnet", **QUICK_KEGNET}
PUBLISHED = GeneratorSettings(latent_dim=10, width=64)


def test_the_generator_is_the_papers_at_32_pixels():
    generator = TransposedGenerator(tiny_card(size=(32, 32), classes=10), PUBLISHED)
    assert parameters(generator) == 187_752
    kernels = [tuple(layer.weight.shape[:2]) for layer in generator.body if hasattr(layer, "kernel_size")]
    assert kernels == [(128, 64), (64, 16), (16, 4), (4, 1)]


def test_the_decoder_has_a_first_layer_and_so_many_more():
    decoder = Decoder((1, 32, 32), 10, 3)
    linear = [tuple(layer.weight.shape) for layer in decoder.modules() if isinstance(layer, torch.nn.Linear)]
    assert linear == [(120, 1024), (120, 120), (120, 120), (120, 120), (10, 120)]
    assert decoder(torch.randn(3, 1, 32, 32)).shape == (3, 10)


@pytest.mark.parametrize("size", [(32, 32), (4, 4), (28, 28), (9, 30)])
def test_each_channel_of_an_image_is_standardised(size):
    """One of a single colour is divided by zero in the released code."""
    generator = TransposedGenerator(tiny_card(channels=3, size=size), GeneratorSettings(latent_dim=4, width=8))
    images = generator(torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1]))
    assert images.shape == (6, 3, *size)
    torch.testing.assert_close(images.mean(dim=(2, 3)), torch.zeros(6, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.std(dim=(2, 3)), torch.ones(6, 3), atol=0.02, rtol=0)
    for own in generator.body:
        if isinstance(own, torch.nn.ConvTranspose2d):
            own.weight.data.zero_()
    flat = generator(torch.randn(6, 4), torch.zeros(6, dtype=torch.int64))
    flat.sum().backward()
    assert torch.isfinite(flat).all()
    assert all(torch.isfinite(own.grad).all() for own in generator.parameters() if own.grad is not None)


def test_a_class_is_a_one_among_zeros():
    generator = TransposedGenerator(tiny_card(classes=3), GeneratorSettings(latent_dim=2, width=8))
    seen: list[torch.Tensor] = []
    generator.project.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    generator(torch.tensor([[7.0, 8.0], [5.0, 6.0]]), torch.tensor([2, 0]))
    assert seen[0].tolist() == [[7, 8, 0, 0, 1], [5, 6, 1, 0, 0]]


def of(latents: torch.Tensor, images: torch.Tensor, decoded: torch.Tensor | None = None) -> Batch:
    return Batch(images, torch.ones(len(images)), {"clean": images}, latents=latents, decoded=decoded)


def test_diversity():
    """By hand: the first case's six distances, and 1 where all images are one."""
    latents = torch.tensor([[0.0, 0], [1, 0], [0, 2]], dtype=torch.float64)
    images = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]], dtype=torch.float64).view(3, 1, 2, 2)
    assert PairwiseDiversity()(of(latents, images)).item() == pytest.approx(0.459426, abs=1e-6)
    assert PairwiseDiversity()(of(latents, torch.ones(3, 1, 2, 2))).item() == 1
    noise = of(torch.randn(256, 10, generator=torch.Generator().manual_seed(0)),
               torch.randn(256, 1, 9, 9, generator=torch.Generator().manual_seed(1)))  # fmt: skip
    assert PairwiseDiversity()(noise).item() == pytest.approx(0.10, abs=0.01)


def test_diversitys_gradient_is_that_of_the_plain_double_loop():
    latents = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images = torch.randn(5, 2, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    pairs = [((a - b).square().mean() * (x - y).abs().mean())
             for a, x in zip(latents, images, strict=True) for b, y in zip(latents, images, strict=True)]  # fmt: skip
    slow = (-sum(pairs) / 25).exp()
    (wanted,) = torch.autograd.grad(slow, [images])
    found = PairwiseDiversity()(of(latents, images))
    torch.testing.assert_close(found, slow)
    torch.testing.assert_close(torch.autograd.grad(found, [images])[0], wanted)


def test_latents_read_back():
    latents = torch.tensor([[0.0, 2], [1, 1]])
    term = LatentReconstruction()
    assert term(of(latents, torch.zeros(2, 1, 1, 1), torch.zeros(2, 2))).item() == pytest.approx(6 / 4)
    with pytest.raises(ValueError, match="by a decoder"):
        term(of(latents, torch.zeros(2, 1, 1, 1)))


def test_a_generator_and_its_decoder_minimise_the_papers_sum():
    run, output = last_output("generator-1", method={**METHOD, "decoder_weight": 0.7, "diversity_weight": 2.0})
    pair = run.algorithm.updates["generator-1"].module
    found = [None if p.grad is None else p.grad.clone() for p in pair.parameters()]
    pair.zero_grad()
    latents, labels = output.batch.latents, output.batch.labels
    x = pair["generator"](latents, labels)
    answer = run.teacher.module(x)
    label = F.cross_entropy(answer, labels)
    read = (pair["decoder"](x) - latents).square().mean()
    apart = torch.stack([(a - b).abs().mean() for a in x for b in x]).view(8, 8)
    far = torch.stack([(a - b).square().mean() for a in latents for b in latents]).view(8, 8)
    (label + 0.7 * read + 2 * (-(far * apart).mean()).exp()).backward()
    for ours, theirs in zip(found, pair.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad, atol=1e-4, rtol=1e-3)
    assert len(output.batch.images) == 8


def test_generators_learn_first_and_their_images_are_a_fixed_set():
    run = distillation(method=METHOD)
    names = [run.algorithm.schedule.name(update) for update in range(8)]
    assert names == ["generator-0", "generator-1"] * 2 + ["student"] * 4
    held = []
    for _ in range(6):
        run.take_update()
        held.append(len(run.algorithm.source))
    assert held == [0, 0, 5, 10, 10, 10]
    (rows,) = run.algorithm.source.state_dict()["images"].parts(0)
    images = run.algorithm.source.at(torch.arange(10))
    for number in range(2):
        generator = run.algorithm.updates[f"generator-{number}"].module["generator"].eval()
        mine = run.teacher.normalize(images[5 * number : 5 * number + 5])
        latents = run.streams.normal(f"set/{number}", 0, (5, 7))
        labels = run.streams.integers(f"set/{number}/labels", 0, (5,), 4)
        torch.testing.assert_close(mine, generator(latents, labels), atol=0.02, rtol=0)
    assert len(rows["pixels"]) == 10


def test_generators_differ_and_the_student_is_not_asked():
    run = distillation(method={**METHOD, "images": 30})
    moved = weights(run)
    first, second = (moved[f"generator-{number}.generator.project.0.weight"] for number in range(2))
    assert not torch.equal(first, second)
    run.student.forward = None  # type: ignore[assignment]
    take(run, 4)
    assert len(run.algorithm.source) == 60, "in more than one part"


def test_what_is_shown_before_the_set_is_there_comes_of_all_generators():
    run = distillation(method=METHOD)
    images = run.algorithm.source.sample(5, "x", 0)
    each = [update.module["generator"] for name, update in run.algorithm.updates.items() if name != "student"]
    assert images.shape == (5, 1, 6, 5)
    for number, generator in enumerate(each):
        latents = run.streams.normal(f"x/{number}", 0, (3, 7))
        labels = run.streams.integers(f"x/{number}/labels", 0, (3,), 4)
        with torch.no_grad():
            drawn = run.teacher.denormalize(generator.eval()(latents, labels))
        torch.testing.assert_close(images[number::2], drawn[: len(images[number::2])])


def test_the_set_is_a_data_set():
    """Made before the student's first step, and no more of it than the generators draw."""
    given = {"input_size": (1, 6, 5), "num_classes": 4, "mean": (0.4,), "std": (0.3,), "method": "kegnet"}
    plan = {"batch_size": 8, "method": QUICK_KEGNET, "generator": {"latent_dim": 3, "width": 4}}
    made = lenient.synthesize(tiny_teacher().module, 7, settings=plan, **given)
    assert (len(made), made.steps) == (7, 0)
    with pytest.raises(UsageError, match=r"^-n 11: the pool of kegnet holds 10 images .*; raise method\.images$"):
        lenient.synthesize(tiny_teacher().module, 11, settings=plan, **given)


def test_a_generators_batch_may_be_another_than_the_students():
    run, output = last_output("generator-0", method={**METHOD, "generator_batch": 12})
    assert len(output.batch.images) == output.images == 12
    take(run, 4)
    _, drawn = run.take_update()
    assert len(drawn.batch.images) == 8
