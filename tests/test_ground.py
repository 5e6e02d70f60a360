"""Settings, randomness, batch reductions, guards."""

from __future__ import annotations

import copy
import random
import re
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from lenient.core.averaging import WeightAverage
from lenient.core.config import (
    BY_NAME,
    Nothing,
    Part,
    Settings,
    keys_of,
    merge,
    nested,
    parse,
    parse_overrides,
    read_yaml,
    resolve_dotted,
)
from lenient.core.errors import HealthError, LenientError, MachineError, TeacherError, UsageError
from lenient.core.memory import memory_errors
from lenient.core.optimizers import load_optimizer
from lenient.core.reductions import batch_mean, batch_moments
from lenient.core.runtime import Readback, Runtime, resolve_device
from lenient.core.seeding import Streams, derive, untouched_global_rng
from lenient.training.guard import Guard, any_nonfinite, check_optimizer

# errors


def test_exit_codes():
    kinds = (LenientError, UsageError, TeacherError, HealthError, MachineError)
    assert [kind.exit_code for kind in kinds] == [1, 2, 3, 4, 5]


# settings


class Inner(Settings):
    tau: float = 0.5


class Outer(Settings):
    steps: int = 3
    inner: Inner = Inner()


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(UsageError, match=r"-s inner\.taw: no such setting; the nearest is inner\.tau"):
        parse(Outer, {"inner": {"taw": 1}})
    assert list(keys_of(Outer)) == ["steps", "inner.tau"]


class Little(Part):
    name: Literal["little"] = "little"
    size: float = 1.0
    shared: int = 1


class Much(Part):
    name: Literal["much"] = "much"
    size: float = 9.0
    more: bool = False


class Choosing(Settings):
    way: Annotated[Nothing | Little | Much, BY_NAME] = Little(size=2.0)


@pytest.mark.parametrize(
    ("given", "way"),
    [
        ({}, Little(size=2.0)),
        ({"way": "little"}, Little(size=2.0)),
        ({"way": {"shared": 3}}, Little(size=2.0, shared=3)),
        ({"way": "much"}, Much()),
        ({"way": {"name": "much", "more": True}}, Much(more=True)),
        ({"way": "none"}, Nothing()),
        ({"way": Much(size=1.0)}, Much(size=1.0)),
    ],
)
def test_a_part_is_chosen_by_name_and_has_the_default_parts_settings_where_it_names_none(given, way):
    found = parse(Choosing, given)
    assert found.way == way
    assert parse(Choosing, found.model_dump(mode="json")) == found, "what is stored is read back as it was"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"way": "litle"}, r"^-s way='litle': write one of none, little, much$"),
        ({"way": {"name": ["much"]}}, r"^-s way=.*: write one of none, little, much$"),
        ({"way": 3}, r"^-s way=3: write a name, or settings as key: value$"),
        ({"way": {"more": True}}, r"^-s way\.more: way is little; give -s way=much too, or leave it out$"),
        ({"way": {"name": "much", "sise": 1}}, r"^-s way\.sise: no such setting; the nearest is way\.size$"),
        ({"way": {"name": "much", "size": "x"}}, r"^-s way\.size='x': "),
        ({"size": 1}, r"^-s size: no such setting; the nearest is way\.size$"),
    ],
)
def test_what_is_no_part_is_one_line_with_the_key_and_the_cure(given, message):
    with pytest.raises(UsageError, match=message):
        parse(Choosing, given)


def test_layers_that_name_another_part_keep_nothing_of_the_one_before():
    recipe = {"way": {"name": "little", "size": 3.0, "shared": 2}}
    assert merge(recipe, {"way": {"shared": 4}}) == {"way": {"name": "little", "size": 3.0, "shared": 4}}
    assert merge(recipe, {"way": "little"}) == recipe
    assert merge(recipe, {"way": "much"}) == {"way": {"name": "much"}}
    assert merge({"way": "much"}, {"way": {"more": True}}) == {"way": {"name": "much", "more": True}}
    assert merge({"way": {"size": 3.0}}, {"way": "much"}) == {"way": {"size": 3.0, "name": "much"}}
    assert parse_overrides(["way=much", "way.more=true"]) == {"way": {"name": "much", "more": True}}


def test_a_bad_value_is_shown():
    with pytest.raises(UsageError, match=r"steps='many'.*integer"):
        parse(Outer, {"steps": "many"})


def test_overrides_are_typed_and_nested():
    found = parse_overrides(["a.b=1e-3", "a.c=true", "d=[1, 2]", "e=text", "f=0.5", "g=null"])
    assert found == {"a": {"b": 1e-3, "c": True}, "d": [1, 2], "e": "text", "f": 0.5, "g": None}
    with pytest.raises(UsageError, match="write it as -s key=value"):
        parse_overrides(["tau"])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"method": {"tau": 0.5}, "method.tau": 0.6}, "method.tau: is written twice, under the keys 'method' and"),
        ({"method.tau": 0.6, "method": {"tau": 0.6}}, "under the keys 'method.tau' and 'method'; drop one of them"),
        ({"a": 1, "a.b": 2}, "a.b: is written twice, under the keys 'a' and 'a.b'"),
        ({"a.b": 2, "a": 1}, "a: is written twice, under the keys 'a.b' and 'a'"),
        ({"x": {"a.b": 1, "a": {"b": {"c": 2}}}}, "a.b.c: is written twice, under the keys 'a.b' and 'a'"),
        ({"a.b.c": 1, "a.b": {"c": 2}}, "a.b.c: is written twice, under the keys 'a.b.c' and 'a.b'"),
    ],
)
def test_a_setting_is_written_once(values, words):
    with pytest.raises(UsageError, match=re.escape(words)) as said:
        nested(values)
    assert len(str(said.value)) <= 300


def test_a_section_may_be_written_in_parts():
    values = {"method.tau": 0.6, "method": {"bank.slots": 3, "bank": {"size": 2}}, "method.lr": 1, "a": {}, "a.b": 2}
    wanted = {"method": {"tau": 0.6, "bank": {"slots": 3, "size": 2}, "lr": 1}, "a": {"b": 2}}
    assert nested(values) == wanted


def test_merge_is_deep_and_later_wins():
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}) == {"a": {"b": 3, "c": 2}, "d": 4}


@pytest.mark.parametrize(("text", "words"), [("- a", "must hold settings"), ("a: [", "not valid YAML at line")])
def test_bad_recipes(tmp_path, text, words):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UsageError, match=words):
        read_yaml(tmp_path / "r.yaml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")


def test_dotted_names_resolve():
    assert resolve_dotted("lenient.core.errors:UsageError") is UsageError


# randomness


def test_streams_depend_on_seed_name_and_update_only():
    streams = Streams(5)
    first = streams.normal("latents", 3, (4,))
    streams.uniform("other", 3, (100,))
    torch.rand(10)
    torch.testing.assert_close(first, Streams(5).normal("latents", 3, (4,)))
    others = [Streams(6).normal("latents", 3, (4,)), streams.normal("latents", 4, (4,)), streams.normal("x", 3, (4,))]
    assert not any(torch.equal(first, other) for other in others)
    assert streams.integers("i", 0, (1000,), 7).unique().tolist() == list(range(7))


def test_derived_seeds_are_the_same_on_every_machine():
    assert derive(0, "latents", 0) == 8298849948460870582
    assert 0 <= derive(2**40, "x", 10**9) < 2**63


def test_the_global_stream_is_that_of_torch_seeded_by_name_and_update():
    streams = Streams(3)
    streams.seed_global("student", 4)
    drawn = torch.rand(3)
    torch.manual_seed(derive(3, "global/student", 4))
    assert torch.equal(drawn, torch.rand(3))
    streams.seed_global("student", 5)
    assert not torch.equal(drawn, torch.rand(3))


def test_global_streams_come_back():
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    expected = (torch.rand(1).item(), np.random.rand(), random.random())
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    with untouched_global_rng():
        torch.rand(5)
        np.random.rand(5)
        random.random()
        torch.manual_seed(9)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected


# reductions


@given(st.integers(2, 20), st.integers(1, 4), st.integers(0, 1000))
@hypothesis_settings(max_examples=30, deadline=None)
def test_batch_reductions_equal_plain_ones(count, channels, seed):
    values = torch.randn(count, channels, 3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(batch_mean(values), values.mean(dim=0))
    mean, variance = batch_moments(values.float())
    flat = values.float().transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean, flat.mean(dim=1))
    torch.testing.assert_close(variance, flat.var(dim=1, correction=0))


@given(st.integers(0, 1000), st.integers(2, 10))
@hypothesis_settings(max_examples=30, deadline=None)
def test_weights_are_like_leaving_samples_out(seed, kept):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(10, 3, 4, generator=generator)
    weight = torch.zeros(10)
    weight[torch.randperm(10, generator=generator)[:kept]] = 1
    chosen = values[weight > 0]
    torch.testing.assert_close(batch_mean(values, weight), chosen.mean(dim=0))
    for ours, plain in zip(batch_moments(values, weight), batch_moments(chosen), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


def test_reductions_are_twice_differentiable():
    values = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([1.0, 0, 1, 1, 1], dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda v: batch_mean(v.square(), weight), values)


def test_moments_have_the_gradients_that_autograd_derives():
    values = torch.randn(4, 3, 2, 2, requires_grad=True)
    coefficients = torch.randn(2, 3)

    def gradients(mean: torch.Tensor, variance: torch.Tensor) -> list[torch.Tensor]:
        loss = (coefficients * torch.stack([mean, variance])).sin().sum()
        (first,) = torch.autograd.grad(loss, values, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), values)
        return [first, second]

    variance, mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
    for ours, derived in zip(gradients(*batch_moments(values)), gradients(mean, variance), strict=True):
        torch.testing.assert_close(ours, derived)


def test_moments_of_bfloat16_are_taken_in_float32():
    values = (torch.randn(64, 2, 8, 8) + 5).bfloat16().requires_grad_()
    mean, variance = batch_moments(values)
    torch.testing.assert_close(variance, values.detach().float().var(dim=(0, 2, 3), correction=0))
    mean.sum().backward()
    assert values.grad.dtype == torch.bfloat16


# averages


@pytest.mark.parametrize(("first", "warm_up"), [(0, True), (1, True), (0, False)])
def test_an_average_of_weights_is_the_sum_over_all_before(first, warm_up):
    """Each state of the weights with its share: 1 - decay times the decays since; the start has what is left."""
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(module, 0.6, first=first, warm_up=warm_up)
    states, decays = [module[0].weight.detach().clone()], []
    for number in range(12):
        module[0].weight.data = torch.randn(2, 3)
        module(torch.randn(4, 3))
        average.update(module, torch.tensor(0.0))
        states.append(module[0].weight.detach().clone())
        decays.append(min(0.6, (1 + number + first) / (10 + number + first)) if warm_up else 0.6)
    shares = [float(np.prod(decays[number:])) for number in range(13)]
    weights = [shares[0], *(share * (1 - decay) / decay for share, decay in zip(shares, decays, strict=False))]
    expected = sum(share * state for share, state in zip(weights, states, strict=True))
    torch.testing.assert_close(average.module[0].weight.data, expected)
    assert average.updates == first + 12
    for ours, theirs in zip(average.module.buffers(), module.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    assert not any(parameter.requires_grad for parameter in average.module.parameters())


def test_an_average_stays_where_an_update_was_skipped():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(module, 0.6)
    before = copy.deepcopy(average.module.state_dict())
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            value.fill_(float("nan") if value.is_floating_point() else 7)
    average.update(module, torch.tensor(1.0))
    assert all(torch.equal(value, before[name]) for name, value in average.module.state_dict().items())


# guard, readback, device


def test_the_guard_puts_buffers_back_only_where_something_was_not_finite():
    norm = nn.BatchNorm1d(2)
    guard = Guard([norm])
    for poison, moves in ((0.0, True), (float("nan"), False), (float("inf"), False)):
        before = norm.running_mean.clone()
        with guard.watch() as settle:
            norm(torch.randn(8, 2) + 3)
            bad = settle([torch.tensor([1.0, poison])])
        assert bad.item() == (0.0 if moves else 1.0)
        assert torch.equal(before, norm.running_mean) != moves


def test_any_nonfinite_sees_every_tensor():
    fine = [torch.zeros(3), torch.ones(2, 2), torch.empty(0)]
    assert any_nonfinite(fine) == 0
    assert any_nonfinite([*fine, torch.tensor([1.0, float("nan")])]) == 1
    assert any_nonfinite([torch.tensor([float("-inf")]), *fine]) == 1


class Own(torch.optim.Optimizer):
    """A user's own: momentum in a tensor that the first step makes."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["velocity"] = 0.5 * state.get("velocity", 0) + parameter.grad
                parameter -= group["lr"] * state["velocity"]


def optimizers():
    from lenient.methods.contract import adam, sgd

    o = torch.optim
    return {
        "sgd": lambda m: sgd(m, 0.1, 0.9, 5e-4),
        "adam": lambda m: adam(m, 0.1),
        "plain SGD": lambda m: o.SGD(m.parameters(), 0.1, momentum=0.9),
        "plain Adam": lambda m: o.Adam(m.parameters(), 0.1),
        "AdamW, for each": lambda m: o.AdamW(m.parameters(), 0.1, foreach=True),
        "RMSprop": lambda m: o.RMSprop(m.parameters(), 0.1, momentum=0.9, centered=True),
        "Adagrad": lambda m: o.Adagrad(m.parameters(), 0.1),
        "Adadelta": lambda m: o.Adadelta(m.parameters()),
        "Rprop": lambda m: o.Rprop(m.parameters()),
        "own": lambda m: Own(m.parameters(), 0.1),
    }


@pytest.mark.parametrize("kind", list(optimizers()))
def test_optimizers_skip_a_bad_update_whole(kind):
    layer = nn.Linear(3, 2)
    optimizer = optimizers()[kind](layer)
    check_optimizer("student", optimizer)
    for step, bad in enumerate((1.0, 0.0, 1.0, 0.0)):
        before = [p.detach().clone() for p in layer.parameters()]
        state = {k: v.clone() for s in optimizer.state.values() for k, v in s.items() if torch.is_tensor(v)}
        for p in layer.parameters():
            p.grad = torch.full_like(p, float("nan") if bad else 0.5)
        Guard([layer]).step(optimizer, torch.tensor(bad))
        after = [p.detach() for p in layer.parameters()]
        assert all(torch.isfinite(p).all() for p in after), step
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)) == bool(bad)
        now = {k: v for s in optimizer.state.values() for k, v in s.items() if torch.is_tensor(v)}
        assert all(torch.isfinite(value).all() for value in now.values()), step
        if bad and step:
            assert all(torch.equal(value, now[key]) for key, value in state.items())


def test_an_optimizer_that_wants_the_loss_is_refused():
    layer = nn.Linear(3, 2)
    with pytest.raises(UsageError, match="the optimizer of the student: LBFGS computes losses in its own step"):
        check_optimizer("student", torch.optim.LBFGS(layer.parameters()))


def test_readback_returns_what_was_put_last():
    readback = Readback(0.5)
    assert readback.get() == 0.5
    readback.put(torch.tensor(0.25))
    assert readback.get() == 0.25


def test_devices():
    assert resolve_device("cpu").type == "cpu"
    for name, why in {"cuda:99": "not available here", "gpu": "unknown, or not available here"}.items():
        with pytest.raises(UsageError, match=f"^--device {name}: {why}; use --device auto or cpu$"):
            resolve_device(name)


def test_memory_errors_name_the_flag():
    with pytest.raises(MachineError, match="lower --batch-size"), memory_errors():
        torch.empty(2**50)
    with pytest.raises(RuntimeError, match="shape"), memory_errors():
        torch.zeros(2).view(3)


def test_autocast_only_where_asked_for():
    linear = nn.Linear(4, 4)
    with Runtime(torch.device("cpu"), "bf16").autocast():
        assert linear(torch.rand(2, 4)).dtype == torch.bfloat16
    with Runtime(torch.device("cpu")).autocast():
        assert linear(torch.rand(2, 4)).dtype == torch.float32


def stepped(kind: str, steps: int) -> torch.optim.Optimizer:
    """An optimizer of a new layer after so many steps."""
    layer = nn.Linear(3, 2)
    optimizer = optimizers()[kind](layer)
    for _ in range(steps):
        layer(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("kind", list(optimizers()))
def test_an_optimizer_goes_on_from_what_it_kept(kind, steps):
    kept, fresh = stepped(kind, steps).state_dict(), stepped(kind, 0)
    load_optimizer(fresh, kept)
    loaded = fresh.state_dict()
    assert loaded["state"].keys() == kept["state"].keys()
    for number, values in kept["state"].items():
        for name, value in values.items():
            assert loaded["state"][number][name] is value or torch.equal(loaded["state"][number][name], value)


@pytest.mark.parametrize(
    "damage", ["missing", "renamed", "None", "shape", "integers", "a text", "all of one", "beyond"]
)
@pytest.mark.parametrize("kind", ["sgd", "adam", "RMSprop", "own"])
def test_what_an_optimizer_did_not_keep_is_refused(kind, damage):
    kept = copy.deepcopy(stepped(kind, 2).state_dict())
    values = kept["state"][1]
    name = next(name for name, value in values.items() if torch.is_tensor(value) and value.dim())
    value = values.pop(name)
    others = {"None": None, "shape": torch.zeros(7), "integers": value.long(), "a text": "x"}
    if damage == "renamed":
        values[f"{name}x"] = value
    elif damage in others:
        values[name] = others[damage]
    elif damage == "all of one":
        kept["state"][1] = {}
    elif damage == "beyond":
        values[name] = value
        kept["state"][2] = values
    with pytest.raises(ValueError, match="optimizer: "):
        load_optimizer(stepped(kind, 0), kept)
