"""NAYER: the paper's sum, noisy layers drawn anew, generators that live for some batches, and codes of the classes."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lenient.core.errors import TeacherError, UsageError
from lenient.core.seeding import Streams
from lenient.generators.label_embedding import LabelGenerator
from lenient.generators.upsampling import GeneratorSettings, UpsamplingGenerator
from lenient.models.card import Network
from lenient.synthesis.latents import Adapted
from lenient.synthesis.pixels import balanced
from lenient.synthesis.views import augment
from lenient.teacher.probes import BatchNorms
from lenient.training.trainer import Distillation
from test_methods import QUICK_LABELS, same, take
from toys import distillation, tiny_card, tiny_teacher


def run_of(**method: Any) -> Distillation:
    return distillation(method={"name": "nayer", **QUICK_LABELS, **method})


def generator_of(run: Distillation) -> LabelGenerator:
    module = run.algorithm.updates["generator"].module
    assert isinstance(module, Adapted)
    assert isinstance(module.generator, LabelGenerator)
    return module.generator


def small(images: int = 7, classes: int = 3) -> LabelGenerator:
    torch.manual_seed(0)
    return LabelGenerator(torch.randn(classes, 5), nn.Linear(4, 2), 4, images)


# the generator


def slowly(generator: LabelGenerator, labels: torch.Tensor) -> torch.Tensor:
    """The same images, chunk by chunk through one linear layer each."""
    rows = generator.codes[labels]
    rows = (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt()
    rows = rows * generator.norm.weight + generator.norm.bias
    chunks = rows.split(len(generator.codes))
    latents = [chunk @ generator.noise[i] + generator.shift[i] for i, chunk in enumerate(chunks)]
    images: torch.Tensor = generator.body(torch.cat(latents))
    return images


@pytest.mark.parametrize("images", [3, 6, 7])
def test_each_chunk_of_the_classes_goes_through_a_layer_of_its_own(images):
    generator = small(images)
    nn.init.normal_(generator.shift)
    labels = balanced(images, 3, 1)
    assert len(generator.noise) == -(-images // 3)
    torch.testing.assert_close(generator(labels), slowly(generator, labels))


def test_rows_of_a_batch_go_through_the_layers_of_their_places():
    generator = small().eval()
    labels = balanced(7, 3, 0)
    torch.testing.assert_close(generator(labels[2:6], 2), generator(labels)[2:6])


def test_noise_alone_makes_images_of_a_class_differ():
    generator = small()
    labels = balanced(7, 3, 0)
    before = generator(labels)
    assert torch.equal(labels[0], labels[3])
    assert not torch.allclose(before[0], before[3]), "one class in two chunks"
    generator.load_state_dict(generator.layers_anew(Streams(0), "x", 1), strict=False)
    changed = (generator(labels) - before).abs().amax(dim=1)
    assert (changed > 0.01).all()


def test_it_has_the_published_parameters():
    settings = GeneratorSettings(latent_dim=1000, width=128, conv_bias=False, stem_activation=False)
    body = UpsamplingGenerator((3, 32, 32), settings)
    generator = LabelGenerator(torch.zeros(100, 512), body, 1000, 400)
    assert sum(p.numel() for p in body.parameters()) == 8_423_747
    assert sum(p.numel() for p in generator.norm.parameters()) == 1024
    assert generator.noise.shape == (4, 512, 1000)
    assert generator.noise[0].numel() + generator.shift[0].numel() == 513_000
    assert generator.noise.std().item() == pytest.approx(1, abs=0.01)
    assert not generator.shift.any()


# the objective


def test_the_generator_minimises_the_papers_sum():
    weights = {"label_weight": 0.7, "bn_weight": 3.0, "adversarial_weight": 5.0, "augmentation": "crop-flip"}
    run = take(run_of(**weights, generator_lr=0.1), 2)  # the second batch: there are averages
    averages = copy.deepcopy(run.algorithm.objective.state_dict()["bn"]["averages"])
    generator = generator_of(run)
    generator.requires_grad_().zero_grad()
    output = run.algorithm.updates["generator"].step(run.clock)
    found = [p.grad.clone() for p in generator.parameters()]
    generator.zero_grad()
    labels = balanced(8, 4, 1)
    images = slowly(generator, labels)
    torch.testing.assert_close(output.kept["whole"], images.detach())
    x = (augment(images, "crop-flip", Streams(3), "inversion-view", run.updates) - 0.4) / 0.3
    answer = run.teacher.respond(x, (BatchNorms(),))
    run.student.eval()
    logits = run.student(x)
    run.student.train()
    label = -torch.log_softmax(answer.logits, 1)[torch.arange(8), labels].mean()
    bn = sum(
        (s.running_mean - 0.1 * s.mean - 0.9 * old[0]).norm()
        + (s.running_variance - 0.1 * s.variance - 0.9 * old[1]).norm()
        for s, old in zip(answer.of(BatchNorms), averages, strict=True)
    )
    p, q = (torch.softmax(values, 1) for values in (answer.logits, logits))
    kl = ((p * (p / q).log()).sum(1) * (answer.logits.argmax(1) == logits.argmax(1))).sum() / 8
    total = 0.7 * label + 3 * bn - 5 * kl
    torch.testing.assert_close(output.kept["total"], total.detach(), rtol=1e-5, atol=1e-5)
    total.backward()
    for ours, theirs in zip(found, generator.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad, atol=1e-5, rtol=1e-3)


def test_the_adversary_begins_after_the_first_batches():
    run = run_of(first_batches=2, augmentation="none")
    names = [set(run.take_update()[1].losses) for _ in range(5)]
    assert names[:4] == [{"class_prior", "bn"}] * 4
    assert names[4] == {"class_prior", "bn", "adversarial"}


# batches


def held(generator: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in generator.named_parameters()}


def test_each_batch_has_layers_and_an_optimizer_of_its_own_and_goes_on_with_the_rest():
    run = run_of(first_batches=3)
    generator, before = generator_of(run), held(generator_of(run))
    take(run, 1)
    assert not torch.equal(before["noise"], generator.noise), "they learn"
    body = held(generator.body)
    take(run, 1)
    assert torch.equal(generator.noise, Streams(3).normal("noisy-layers", 1, (2, 6, 7)))
    assert not generator.shift.any()
    state = run.algorithm.updates["generator"].optimizer.state
    assert all(not value.any() for kept in state.values() for value in kept.values())
    assert not same(body, held(generator.body)), "by a step of the first batch"
    began = held(generator.body)
    take(run, 1)
    moved = held(generator.body)
    assert all((began[name] - moved[name]).abs().max() < 0.01 for name in began), "not drawn again"


def test_generators_live_for_so_many_batches():
    settings = run_of(first_batches=200, first_life=100, generator_life=20).settings.method
    assert [n for n in range(300) if settings.begins(n)] == [100, 200, 220, 240, 260, 280]
    settings = settings.model_copy(update={"first_batches": 2, "first_life": None, "generator_life": None})
    assert [n for n in range(300) if settings.begins(n)] == [2], "the student begins with a new one"
    run = run_of(first_batches=3, first_life=2)
    generator, seen = generator_of(run), []
    for _ in range(3):
        seen.append(held(generator.body)["convs.0.weight"])
        take(run, 2)
    apart = [(a - b).abs().max().item() for a, b in pairwise(seen)]
    assert apart[0] < 0.02 < 0.1 < apart[1]


def test_a_row_of_batches_comes_before_the_student_learns():
    run = run_of(first_batches=1, round_batches=2, batch_images=6)
    assert [run.algorithm.schedule.name(update)[0] for update in range(12)] == list("ggggggssgggg")
    take(run, 6)
    assert (run.images, len(run.algorithm.source), run.step) == (18, 18, 0)
    pool = run.algorithm.source
    assert [pool.rounds_for(count) for count in (1, 6, 7, 18, 19, 30)] == [1, 1, 2, 2, 3, 3]
    assert pool.batch(run.clock).batch.images.shape[0] == 8


def test_until_the_pool_holds_images_others_are_shown_without_a_trace():
    run = run_of()
    before = copy.deepcopy(run.algorithm.updates["generator"].module.state_dict())
    images = run.algorithm.source.sample(9, "x", 0)
    assert images.shape == (9, 1, 6, 5)
    assert torch.equal(images, run.algorithm.source.sample(9, "x", 0))
    assert not torch.equal(images, run.algorithm.source.sample(9, "x", 1))
    assert run.algorithm.source.sample(1, "x", 0).shape == (1, 1, 6, 5)
    assert same(before, run.algorithm.updates["generator"].module.state_dict())


# codes


def test_codes_are_what_was_asked_for_and_that_is_said(tmp_path: Path):
    codes = np.arange(12, dtype=np.float16).reshape(4, 3) / 7
    np.save(tmp_path / "e.npy", codes)
    save_file({"e": torch.from_numpy(codes)}, tmp_path / "e.safetensors")
    for kind in ("npy", "safetensors"):
        run = run_of(embeddings=str(tmp_path / f"e.{kind}"))
        assert torch.equal(generator_of(run).codes, torch.from_numpy(codes).float())
        assert f"given classes as the rows of e.{kind};" in run.algorithm.notes[0]
    run = run_of()
    assert torch.equal(generator_of(run).codes, run.teacher.module.head.weight)
    assert "given classes as the rows of the teacher's last layer" in run.algorithm.notes[0]
    assert torch.equal(generator_of(run_of(embeddings="one-hot")).codes, torch.eye(4))
    assert generator_of(run_of(embeddings="random")).codes.shape == (4, 512)


class Runs:
    """A pickle that would write a file."""

    def __reduce__(self):
        return (Path.touch, (Path("run"),))


BAD = {
    "object": (lambda path: np.save(path, np.array([Runs()], dtype=object), allow_pickle=True), "no array of numbers"),
    "words": (lambda path: np.save(path, np.array(["a", "b", "c", "d"])), "it holds no array of numbers"),
    "nonsense": (lambda path: path.write_bytes(b"nonsense"), "no array of numbers; give a .npy or .safetensors file"),
    "classes": (lambda path: np.save(path, np.zeros((3, 2))), r"\(3, 2\) of torch.float32; the teacher has 4 classes"),
    "row": (lambda path: np.save(path, np.zeros(4)), r"holds \(4,\) of"),
    "equal": (lambda path: np.save(path, np.ones((4, 2))), "not finite, or all equal; give a code"),
    "nan": (lambda path: np.save(path, np.array([[0.0], [1], [2], [np.nan]])), "its rows are not finite"),
}


@pytest.mark.parametrize("what", BAD)
def test_files_that_hold_no_codes_are_refused_in_a_line(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write, message = BAD[what]
    write(tmp_path / "e.npy")
    with pytest.raises(UsageError, match=rf"^-s method\.embeddings=.*e\.npy: .*{message}") as caught:
        run_of(embeddings="e.npy")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists(), "nothing in a file is run"


def test_other_wrong_codes_are_refused(tmp_path: Path):
    save_file({"a": torch.zeros(4, 2), "b": torch.zeros(4, 2)}, tmp_path / "two.safetensors")
    with pytest.raises(UsageError, match="holds 2 tensors; give a file with one"):
        run_of(embeddings=str(tmp_path / "two.safetensors"))
    with pytest.raises(UsageError, match=r"-s method\.embeddings=.*none\.npy: No such file"):
        run_of(embeddings=str(tmp_path / "none.npy"))
    with pytest.raises(UsageError, match=r"embeddings='glove': write classifier, one-hot, random, or a file"):
        run_of(embeddings="glove")


def test_a_teacher_without_a_last_linear_layer_is_refused_with_the_way_out():
    teacher = tiny_teacher()
    teacher.module.head = nn.Sequential(nn.Linear(6, 4), nn.Tanh())
    network = Network(teacher.module, tiny_card())
    changes = {"name": "nayer", **QUICK_LABELS}
    with pytest.raises(TeacherError, match=r"-s method\.embeddings=classifier: .* give one-hot"):
        distillation(network, method=changes)
    take(distillation(network, method={**changes, "embeddings": "one-hot"}), 1)
