"""What is kept of the past, and what comes back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lenient.core.seeding import Streams
from lenient.generators.conditional import ConditionalGenerator
from lenient.generators.encoder import Encoder
from lenient.generators.upsampling import GeneratorSettings, UpsamplingGenerator
from lenient.replay import NoReplay
from lenient.replay.bank import BankSettings, MemoryBank
from lenient.replay.generative import MemoryGenerator, MemorySettings
from lenient.replay.momentum import MomentumGenerator, MomentumSettings
from lenient.synthesis.sampler import Sampler
from lenient.teacher.batch import Batch, Clock
from lenient.teacher.frozen import FrozenTeacher
from toys import CPU, batch_of, tiny_teacher

GOOD, BAD = torch.zeros(()), torch.ones(())


def images(value: float, count: int = 2) -> torch.Tensor:
    """`count` images of one pixel each, all different."""
    return value + torch.arange(count).view(-1, 1, 1, 1) / 10


def bank(size: int = 2, **settings) -> MemoryBank:
    return MemoryBank(size, (1, 1, 1), BankSettings(**settings), Streams(0))


def held(memory: MemoryBank) -> list[float]:
    return [round(float(value), 4) for value in memory.images[: len(memory)].flatten()]


# memory bank


def test_a_ring_keeps_the_newest_writes_in_order():
    memory = bank(slots=2)
    assert memory.draw(Clock(0)) is None
    for value in (1, 2, 3):
        memory.push(images(value), GOOD)
    assert held(memory) == [3, 3.1, 2, 2.1]


def test_it_writes_at_the_end_of_every_few_epochs_only():
    memory = bank(every=5)
    for epoch in range(12):
        batch = batch_of(images=images(epoch, count=4))
        memory.after_student(Clock(), batch, GOOD)
        memory.after_generator(Clock(), batch, GOOD)
        memory.after_student(Clock(ends_epoch=True), batch, GOOD)
    assert held(memory) == [0, 0.1, 5, 5.1, 10, 10.1]


def test_every_image_comes_back_and_none_twice_in_a_draw():
    memory = bank(size=3, slots=4)
    for value in range(4):
        memory.push(images(value, 3), GOOD)
    draws = [memory.draw(Clock(update)).images.flatten().tolist() for update in range(60)]
    assert all(len({*draw}) == 3 for draw in draws)
    assert {round(v, 4) for draw in draws for v in draw} == {*held(memory)}
    assert memory.draw(Clock(7)).images.tolist() == memory.draw(Clock(7)).images.tolist()


def test_a_slot_is_one_whole_write():
    memory = bank(size=3, slots=4, granularity="slot")
    for value in range(4):
        memory.push(images(value, 3), GOOD)
    draws = [memory.draw(Clock(update)).images.flatten() for update in range(60)]
    assert all(draw.floor().unique().numel() == 1 for draw in draws)
    assert {int(draw[0]) for draw in draws} == {0, 1, 2, 3}


def test_a_reservoir_keeps_an_even_sample_of_the_whole_past():
    kept: list[float] = []
    for seed in range(60):
        memory = MemoryBank(4, (1, 1, 1), BankSettings(slots=2, policy="reservoir"), Streams(seed))
        for value in range(20):
            memory.push(value * torch.ones(4, 1, 1, 1), GOOD)
        assert len(memory) == 8
        kept += memory.images.flatten().tolist()
    early = sum(value < 10 for value in kept) / len(kept)
    assert 0.4 < early < 0.6


@pytest.mark.parametrize("policy", ["ring", "reservoir"])
def test_a_bad_update_overwrites_nothing(policy):
    memory = bank(slots=1, policy=policy)
    memory.push(images(1), GOOD)
    before = held(memory)
    for _ in range(5):
        memory.push(torch.full((2, 1, 1, 1), float("nan")), BAD)
    assert held(memory) == before


def test_a_bad_first_update_leaves_no_black_images():
    memory = bank(slots=2)
    memory.push(torch.tensor([0.3, float("nan")]).view(2, 1, 1, 1), BAD)
    assert held(memory) == [0.3, 0.5]
    memory.push(images(1), GOOD)
    assert held(memory) == [0.3, 0.5, 1, 1.1]


def test_stored_images_have_no_graph_and_alias_nothing():
    memory, drawn = bank(), images(1).requires_grad_()
    memory.push(drawn * 1, GOOD)
    drawn.data.fill_(9)
    assert held(memory) == [1, 1.1]
    assert not memory.draw(Clock(0)).images.requires_grad


def test_a_bank_goes_on_from_its_state():
    memory, again = bank(slots=2), bank(slots=2)
    memory.push(images(1), GOOD)
    again.load_state_dict(memory.state_dict())
    for each in (memory, again):
        each.push(images(2), GOOD)
        each.push(images(3), GOOD)
    assert held(memory) == held(again)
    assert torch.equal(memory.draw(Clock(5)).images, again.draw(Clock(5)).images)


# averaged generators


class One(nn.Module):
    """A generator of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents * 0 + self.weight).view(-1, 1, 1, 1)


def test_the_average_moves_as_the_formula_says():
    generator = One()
    momentum = MomentumGenerator(Sampler(generator, 1, Streams(0), CPU), 2, MomentumSettings(warm_up=False))
    generator.weight.data.fill_(1)
    for expected in (0.05, 0.0975):
        momentum.after_generator(Clock(), batch_of(), GOOD)
        assert momentum.module.weight.item() == pytest.approx(expected)
    momentum.after_student(Clock(), batch_of(), GOOD)
    momentum.after_generator(Clock(), batch_of(), BAD)
    assert momentum.module.weight.item() == pytest.approx(0.0975)
    assert momentum.draw(Clock(0)).images.flatten().tolist() == pytest.approx([0.0975] * 2)


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_the_average_shares_nothing_and_drawing_leaves_it_alone(spectral_norm):
    shape = GeneratorSettings(latent_dim=3, width=4, spectral_norm=spectral_norm)
    source = Sampler(UpsamplingGenerator((1, 8, 8), shape).train(), 3, Streams(0), CPU)
    momentum = MomentumGenerator(source, 4, MomentumSettings())
    live = {p.data_ptr() for p in source.generator.state_dict().values()}
    assert not live & {p.data_ptr() for p in momentum.module.state_dict().values()}
    before = {name: value.clone() for name, value in momentum.module.state_dict().items()}
    first, again, other = momentum.draw(Clock(0)).images, momentum.draw(Clock(0)).images, momentum.draw(Clock(1)).images
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not first.requires_grad
    assert all(torch.equal(before[name], value) for name, value in momentum.module.state_dict().items())
    fresh = source.sample(4, "momentum-latents", 0).images
    torch.testing.assert_close(first, fresh, msg="it starts as a copy, and draws with statistics of the batch")


def test_the_average_uses_the_live_embeddings():
    generator = ConditionalGenerator((1, 8, 8), GeneratorSettings(latent_dim=3, width=4), 5, "sum").train()
    source = Sampler(generator, 3, Streams(0), CPU, num_classes=5)
    momentum = MomentumGenerator(source, 4, MomentumSettings())
    before = momentum.draw(Clock(0)).images
    generator.embedding.weight.data.add_(1)
    assert not torch.equal(before, momentum.draw(Clock(0)).images)


# memory generator


@pytest.fixture
def memory():
    with FrozenTeacher(tiny_teacher(), CPU) as teacher:
        shape = GeneratorSettings(latent_dim=5, width=4, output="tanh-bn", spectral_norm=True)
        torch.manual_seed(0)
        yield MemoryGenerator(4, teacher, shape, MemorySettings(), Streams(0), CPU)


def stream(count: int = 8, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return batch_of(images=torch.rand(count, 1, 6, 5, generator=generator))


def test_recalling_gives_the_memory_no_gradient_and_moves_no_buffer(memory):
    before = {name: value.clone() for name, value in memory.learner.state_dict().items()}
    recalled = memory.recall("x", 0)
    assert recalled.shape == (4, 1, 6, 5)
    assert not recalled.requires_grad
    assert all(parameter.grad is None for parameter in memory.learner.parameters())
    assert all(torch.equal(before[name], value) for name, value in memory.learner.state_dict().items())
    assert memory.decoder.training


def test_a_step_on_the_latents_lowers_their_objective(memory):
    latents = Streams(0).normal("x", 0, (4, 5)).requires_grad_()
    memory.decoder.eval()
    before = memory.match(latents)
    (gradient,) = torch.autograd.grad(before, [latents])
    after = memory.match((latents - 0.02 * gradient.sign()).detach())
    assert after < before
    memory.settings = MemorySettings(latent_steps=1)
    stepped = memory.recall("x", 0)
    memory.settings = MemorySettings(latent_steps=0)
    assert not torch.equal(stepped, memory.recall("x", 0))


def test_its_step_is_the_autoencoders_loss(memory):
    memory.after_student(Clock(), stream(), GOOD)
    losses, batch, _ = memory.learn(Clock(0))
    assert len(batch.images) == 4, "half of the batch, nothing recalled yet"
    found = [p.grad.clone() for p in memory.learner.parameters()]
    memory.learner.zero_grad()
    teacher = memory.teacher
    targets = teacher.normalize(stream().images[:4])
    mean, log_variance = memory.encoder(targets)
    noise = memory.streams.normal("memory-code", 0, (4, 5))
    rebuilt = teacher.normalize(memory.decode(mean + (log_variance / 2).exp() * noise))
    pixels = (rebuilt - targets).abs().mean()
    logits = (teacher.module(rebuilt) - teacher.module(targets)).abs().mean()
    kl = (-0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)).mean()
    (pixels + logits + 1e-5 * kl).backward()
    assert losses["memory_pixels"].item() == pytest.approx(pixels.item())
    for ours, slow in zip(found, memory.learner.parameters(), strict=True):
        torch.testing.assert_close(ours, slow.grad, atol=1e-5, rtol=1e-3)
    _, later, recalled = memory.learn(Clock(1))
    assert (len(later.images), recalled) == (8, 4), "what it recalls joins from the second update on"


def test_it_is_asked_only_after_the_warm_up(memory):
    assert memory.draw(Clock(0)) is None
    memory.after_student(Clock(), stream(), GOOD)
    memory.learn(Clock(0))
    assert memory.draw(Clock(1)).images.shape == (4, 1, 6, 5)


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 9, 7), (3, 32, 32), (2, 4, 4)])
def test_the_encoder_takes_any_size(size):
    mean, log_variance = Encoder(size, 6, 8)(torch.rand(3, *size))
    assert mean.shape == log_variance.shape == (3, 6)
    assert torch.isfinite(Encoder(size, 6, 8)(torch.zeros(3, *size))[0]).all()


def test_the_neutral_replay_keeps_nothing():
    nothing = NoReplay()
    nothing.after_student(Clock(ends_epoch=True), stream(), GOOD)
    assert nothing.draw(Clock(0)) is None
    assert nothing.state_dict() == {}
