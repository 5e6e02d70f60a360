"""FastDFKD: the paper's sum, averages over batches, the common start, and the generator that is adapted."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from lenient.core.seeding import Streams
from lenient.generators.upsampling import UpsamplingGenerator, first_layers_anew
from lenient.methods.contract import adam
from lenient.runs.request import Request, resolve
from lenient.synthesis.latents import Latents
from lenient.synthesis.meta import MetaGenerator
from lenient.synthesis.views import augment
from lenient.teacher.batch import Clock
from lenient.teacher.probes import BatchNorms
from lenient.training.trainer import Distillation
from test_methods import QUICK_LATENTS, same, take
from toys import distillation

GOOD, BAD = torch.zeros(()), torch.ones(())
BETAS = (0.5, 0.999)


def fast(**method: Any) -> Distillation:
    return distillation(method={"name": "fastdfkd", **QUICK_LATENTS, "reset_after": None, **method})


def latents_of(run: Distillation) -> Latents:
    module = run.algorithm.updates["latents"].module
    assert isinstance(module, Latents)
    return module


def meta_of(run: Distillation) -> MetaGenerator:
    meta = run.algorithm.state["meta"]
    assert isinstance(meta, MetaGenerator)
    return meta


# the objective


WEIGHTS = {"label_weight": 0.7, "bn_weight": 3.0, "adversarial_weight": 5.0, "first_batches": 1, "generator_lr": 0.1}


@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
def test_codes_and_generator_minimise_the_papers_sum(augmentation):
    run = take(fast(**WEIGHTS, augmentation=augmentation), 2)  # the second batch: there are averages
    averages = copy.deepcopy(run.algorithm.objective.state_dict()["bn"]["averages"])
    latents = latents_of(run)
    latents.requires_grad_().zero_grad()
    output = run.algorithm.updates["latents"].step(run.clock)
    found = [p.grad.clone() for p in latents.parameters()]
    latents.zero_grad()
    images = latents.generator(latents.codes)
    torch.testing.assert_close(output.kept["whole"], images.detach())
    x = (augment(images, augmentation, Streams(3), "inversion-view", run.updates) - 0.4) / 0.3
    answer = run.teacher.respond(x, (BatchNorms(),))
    with torch.no_grad():
        run.student.eval()
    logits = run.student(x)
    run.student.train()
    labels = Streams(3).integers("labels", 1, (8,), 4)
    label = -torch.log_softmax(answer.logits, 1)[torch.arange(8), labels].mean()
    bn = sum(
        (s.running_mean - 0.1 * s.mean - 0.9 * old[0]).norm()
        + (s.running_variance - 0.1 * s.variance - 0.9 * old[1]).norm()
        for s, old in zip(answer.of(BatchNorms), averages, strict=True)
    )
    p, q = (torch.softmax(values, 1) for values in (answer.logits, logits))
    agree = answer.logits.argmax(1) == logits.argmax(1)
    kl = ((p * (p / q).log()).sum(1) * agree).sum() / 8
    assert 0 < agree.sum() < 8, "the teacher itself would agree with itself everywhere, by a divergence of 0"
    total = 0.7 * label + 3 * bn - 5 * kl
    torch.testing.assert_close(output.kept["total"], total.detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(output.batch.labels, labels)
    total.backward()
    for ours, theirs in zip(found, latents.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad, atol=1e-5, rtol=1e-3)


def test_averages_move_once_a_batch_by_its_last_step():
    run = fast(iterations=3)
    seen = []
    for update in range(3):
        assert run.algorithm.objective.state_dict()["bn"]["filled"] is None
        assert run.clock.update == update
        _, output = run.take_update()
        seen.append(output.batch.answers["clean"]["teacher"].of(BatchNorms))
    for now, *before in zip(run.algorithm.objective.state_dict()["bn"]["averages"], *reversed(seen), strict=True):
        assert torch.equal(now[0], before[0].mean)
        assert torch.equal(now[1], before[0].variance)
        assert not torch.equal(now[0], before[1].mean)


def test_the_adversary_begins_with_the_last_of_the_first_batches():
    run = fast(first_batches=3, augmentation="none")
    names = [set(run.take_update()[1].losses) for _ in range(6)]
    assert names[:4] == [{"class_prior", "bn"}] * 4
    assert names[4:] == [{"class_prior", "bn", "adversarial"}] * 2


# batches, and the common start


def held(generator: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in generator.state_dict().items()}


def parameters(generator: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in generator.named_parameters()}


@pytest.mark.parametrize("form", ["fomaml", "reptile"])
def test_the_common_start_moves_once_a_batch(form):
    run = fast(iterations=3, meta=form)
    meta, latents = meta_of(run), latents_of(run)
    start, first = held(meta.generator), parameters(meta.generator)
    adapted, gradients = copy.deepcopy(meta.generator), []
    rates = [group["lr"] for group in run.algorithm.updates["latents"].optimizer.param_groups]
    assert rates == [0.003, 0.01], "generator and codes"
    for step in range(3):
        assert same(held(meta.generator), start)
        if step == 2:  # what the last step leads to is gone with the next batch's start: made again
            own = adam(adapted, rates[0], BETAS)
            own.load_state_dict(_without_codes(run.algorithm.updates["latents"].optimizer.state_dict()))
            adapted.load_state_dict(latents.generator.state_dict())
        run.take_update()
        gradients.append([p.grad.clone() for p in latents.generator.parameters()])
    for parameter, gradient in zip(adapted.parameters(), gradients[-1], strict=True):
        parameter.grad = gradient
    own.step()
    wanted = copy.deepcopy(meta.generator)
    wanted.load_state_dict(start)
    for number, (parameter, there) in enumerate(zip(wanted.parameters(), adapted.parameters(), strict=True)):
        summed = sum(step[number] for step in gradients)
        parameter.grad = summed if form == "fomaml" else (parameter - there).detach()
    adam(wanted, 3 * rates[0], BETAS).step()
    moved = parameters(meta.generator)
    for name, value in wanted.named_parameters():
        torch.testing.assert_close(moved[name], value.detach(), msg=name)
    assert not same(moved, first)
    assert all(torch.equal(start[name], buffer) for name, buffer in meta.generator.named_buffers())


def _without_codes(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state without its second group."""
    group = state["param_groups"][0]
    return {"state": {key: copy.deepcopy(state["state"][key]) for key in group["params"]}, "param_groups": [group]}


def test_each_batch_starts_from_the_common_start_with_fresh_codes_and_optimizer():
    run = fast()
    latents = latents_of(run)
    codes = []
    for _ in range(3):
        assert same(held(latents.generator), held(meta_of(run).generator))
        state = run.algorithm.updates["latents"].optimizer.state
        assert all(not value.any() for kept in state.values() for value in kept.values())
        codes.append(latents.codes.detach().clone())
        assert latents.least == torch.inf
        while run.algorithm.schedule.name(run.updates) != "latents":
            run.take_update()
        take(run, 2)
    assert torch.equal(codes[1], Streams(3).normal("codes", 1, (8, 7)))
    assert not torch.equal(codes[1], codes[2])


def test_the_common_start_shares_no_tensor_with_what_is_adapted():
    run = fast()
    mine, theirs = (
        {tensor.data_ptr() for tensor in module.state_dict().values()}
        for module in (meta_of(run).generator, latents_of(run).generator)
    )
    assert not mine & theirs
    assert all(p.requires_grad for p in meta_of(run).generator.parameters())


def test_without_a_common_start_the_generator_goes_on():
    run = fast(meta="none")
    latents = latents_of(run)
    take(run, 1)
    before = parameters(latents.generator)
    take(run, 1)
    assert run.algorithm.state == {}
    moved = parameters(latents.generator)
    assert all(not torch.equal(before[name], moved[name]) for name in before if "stem.bias" not in name)
    assert torch.equal(latents.codes, Streams(3).normal("codes", 1, (8, 7)))


def test_a_batch_with_a_skipped_update_does_not_move_the_common_start():
    for form in ("fomaml", "reptile"):
        run = fast(iterations=3, meta=form)
        before, true = held(meta_of(run).generator), run.teacher.respond
        take(run, 1)

        def lost(*args: Any, true: Any = true, **kwargs: Any) -> Any:
            answer = true(*args, **kwargs)
            return replace(answer, logits=answer.logits * float("nan"))

        run.teacher.respond = lost
        take(run, 1)
        run.teacher.respond = true
        take(run, 1)
        assert same(before, held(meta_of(run).generator))
        assert all(not value.any() for kept in meta_of(run).optimizer.state.values() for value in kept.values())
        take(run, 5 if run.algorithm.schedule.name(run.updates) == "student" else 3)
        assert not same(before, held(meta_of(run).generator)), "the next batch counts again"
        assert all(torch.isfinite(p).all() for p in meta_of(run).generator.parameters())


def test_the_image_that_joins_the_pool_is_that_of_the_least_loss():
    run = fast(iterations=6, generator_lr=0.3, codes_lr=3.0)
    judged = [run.take_update()[1].kept for _ in range(6)]
    totals = [float(kept["total"]) for kept in judged]
    best = min(range(6), key=totals.__getitem__)
    assert best not in (0, 5), "neither the first nor the last, or the test says nothing"
    assert torch.equal(latents_of(run).best, judged[best]["whole"])
    pool = run.algorithm.source
    torch.testing.assert_close(pool.at(torch.arange(len(pool))), judged[best]["whole"], atol=1 / 255, rtol=0)


def test_the_best_iterate_is_a_copy():
    generator = torch.nn.Linear(2, 3)
    latents = Latents(generator, (2, 1, 1, 3), lambda number: torch.ones(2, 2), lambda number: {})
    assert latents.best.unique().tolist() == [0.5]
    judged = torch.zeros(2, 1, 1, 3)
    latents.keep(judged, torch.tensor(torch.nan), GOOD)
    assert latents.best.unique().tolist() == [0.5], "a loss that is no number freezes nothing"
    latents.keep(judged, torch.tensor(1.0), GOOD)
    judged.fill_(7)
    assert latents.best.unique().tolist() == [0.0]


def test_the_first_layers_start_anew_at_their_batch():
    run = fast(first_batches=1, reset_after=2)  # before the third batch of all
    generator, meta = latents_of(run).generator, meta_of(run).generator
    wide = UpsamplingGenerator((1, 32, 32))
    anew = first_layers_anew(wide, Streams(0), "reset", 0)
    assert set(anew) == {"project.weight", "project.bias", "stem.weight", "stem.bias"}
    assert anew["project.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert anew["stem.weight"].abs().max() < 0.1, "about 0, not about 1"
    assert not anew["project.bias"].any()
    wanted = first_layers_anew(generator, Streams(3), "reset", 2)
    take(run, 3)
    assert not torch.equal(generator.get_parameter("stem.weight"), wanted["stem.weight"])
    before = parameters(meta)
    take(run, 1)
    for name, value in wanted.items():
        assert torch.equal(generator.get_parameter(name), value)
        assert torch.equal(meta.get_parameter(name), value)
    assert not torch.equal(before["convs.0.weight"], meta.get_parameter("convs.0.weight"))


def test_without_a_common_start_only_the_first_layers_start_anew():
    run = take(fast(meta="none", first_batches=1, reset_after=1), 1)
    before = parameters(latents_of(run).generator)
    take(run, 1)
    generator = latents_of(run).generator
    for name, value in first_layers_anew(generator, Streams(3), "reset", 1).items():
        assert torch.equal(generator.get_parameter(name), value)
    assert not torch.equal(before["convs.0.weight"], generator.get_parameter("convs.0.weight"))


# a run


def test_a_checkpoint_holds_the_common_start_and_the_averages():
    run = take(fast(), 6)
    state = copy.deepcopy(run.state_dict())
    assert set(state["state"]) == {"meta", "objective"}
    other = fast()
    other.load_state_dict(state)
    assert same(held(meta_of(other).generator), held(meta_of(run).generator))
    averages = [own.algorithm.objective.state_dict()["bn"]["averages"] for own in (run, other)]
    assert all(torch.equal(a, b) for a, b in zip(*averages, strict=True))
    state["state"]["meta"]["optimizer"]["state"][0]["exp_avg"] = torch.zeros(2)
    with pytest.raises(ValueError, match="exp_avg is of another kind or shape"):
        fast().load_state_dict(state)


def test_the_first_batches_fill_the_pool_before_the_student_and_its_rate_move():
    run = fast(first_batches=2, student_schedule="cosine")
    assert [run.algorithm.schedule.name(update)[0] for update in range(12)] == list("llllllssllss")
    take(run, 6)
    assert (run.step, run.images, len(run.algorithm.source), run.clock.epoch) == (0, 24, 24, 0)
    assert run.algorithm.updates["student"].rate(run.clock) == 1


def test_the_published_recipe_is_the_released_script():
    plan = resolve(Request(method="fastdfkd", recipes=["published"]))
    s = plan.method
    assert (s.iterations, s.generator_lr, s.codes_lr, s.meta, s.meta_lr) == (5, 3e-3, 0.01, "fomaml", None)
    assert (s.label_weight, s.bn_weight, s.bn_momentum, s.adversarial_weight) == (0.5, 10, 0.9, 1.33)
    assert (s.first_batches, s.reset_after, s.student_steps, s.student_temperature) == (20, 120, 400, 20)
    assert (plan.batch_size, plan.steps, plan.steps_per_epoch) == (256, 200 * 400, 400)
    assert s.pool_size >= 256 * 220
    generator = UpsamplingGenerator((3, 32, 32), plan.generator)
    assert sum(p.numel() for p in generator.parameters()) == 2_328_899


def test_the_last_epoch_of_the_published_schedule_has_the_rate_that_the_script_names():
    run = distillation(method={"name": "fastdfkd", **QUICK_LATENTS, "student_lr": 0.2}, steps=600, steps_per_epoch=3)
    rate = run.algorithm.updates["student"].rate
    rates = [0.2 * rate(Clock(epoch=epoch, epochs=200)) for epoch in (0, 100, 199)]
    assert rates == pytest.approx([0.2, 0.1001, 2e-4 + 0.1998 * 6.168e-5], rel=1e-4)


def test_a_generator_without_biases_before_its_batch_norms():
    shape = resolve(Request(method="fastdfkd")).generator
    generator = UpsamplingGenerator((3, 8, 8), shape)
    assert [conv.bias is None for conv in generator.convs] == [True, True]
    assert generator.to_pixels.bias is not None
    assert shape.latent_dim == 256
    assert not shape.stem_activation
