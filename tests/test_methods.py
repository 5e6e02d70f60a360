"""What must hold for every method, by the table; and TA-DFKD's own equations."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lenient.core.config import Nothing, keys_of, merge
from lenient.core.errors import TeacherError, UsageError
from lenient.losses.distances import logit_l1
from lenient.losses.imitation import Imitation
from lenient.losses.objective import Objective
from lenient.methods import METHODS, method_class, recipes
from lenient.methods.contract import Phase, Schedule, learning_rate
from lenient.methods.single import SingleStudentSettings, single_student
from lenient.models.card import Network
from lenient.runs import segments
from lenient.runs.request import Request, resolve
from lenient.teacher.batch import Batch, Clock, Response
from lenient.teacher.frozen import FrozenTeacher
from lenient.teacher.probes import BatchNorms
from lenient.training.settings import method_settings
from lenient.training.trainer import Distillation
from toys import (
    CPU,
    QUICK,
    TA_QUICK,
    digits_like,
    distillation,
    pictures_folder,
    quick,
    settings,
    stored,
    tiny_card,
    tiny_student,
    tiny_teacher,
)

QUICK_STREAM = {"student_steps": 2, "student_lr": 0.05, "generator_lr": 0.01}
QUICK_BANK = {"name": "bank", "share": 0.25, "every": 1}
QUICK_MEMORY = {"name": "generative", "share": 0.25, "updates": 1, "lr": 0.01}
QUICK_MOMENTUM = {"name": "momentum", "share": 0.25}
QUICK_PIXELS = {"iterations": 2, "first_batches": 1, "student_steps": 2, "student_lr": 0.05}
QUICK_FIXED = {"iterations": 2, "first_batches": 2, "pixels_lr": 0.05, "student_lr": 0.01}
QUICK_KEGNET = {"generators": 2, "iterations": 2, "images": 5, "generator_lr": 0.01, "student_lr": 0.01}
QUICK_LATENTS = {**QUICK_PIXELS, "reset_after": 1}
QUICK_LABELS = {**QUICK_PIXELS, "round_batches": 1, "generator_life": 2}
QUICK_CONTRAST = {"contrastive_weight": 5.0, "bank_size": 24, "bank_drawn": 3}
QUICK_CROPS = {
    "view": {"crop": {"name": "resized", "curriculum": "linear"}, "flip": True, "range": "clip"},
    "statistics": {"over": "momentum", "first_layer": 10},
    **{"pixels_schedule": "cosine", "keep": "last"},
}
QUICK_JOINT = {
    "iterations": 1,  # of both pieces
    "view": {"border": {"name": "extra", "pixels": 3}, "range": "straight-through"},
    "statistics": {"over": {"name": "all", "pieces": 2}, "form": "squares", "spread": "deviation", "layers": "mean"},
}
STABLE: dict[str, Any] = {"name": "stable", "grow": 6, "views": 2, "shift": 0.2, "student_shift": 0.2}
BASE: dict[str, dict[str, Any]] = {
    "ta-dfkd": TA_QUICK,
    "dafl": {"name": "dafl", "student_lr": 0.05, "generator_lr": 0.01},
    "bn-adv": {"name": "bn-adv", **QUICK_STREAM},
    "dafl-adv": {"name": "dafl-adv", **QUICK_STREAM},
    "dfad": {"name": "dfad", **QUICK_STREAM},
    "zskt": {"name": "zskt", **QUICK_STREAM},
    "mb-dfkd": {"name": "mb-dfkd", **QUICK_STREAM, "replay": QUICK_BANK},
    "pre-dfkd": {"name": "pre-dfkd", **QUICK_STREAM, "replay": QUICK_MEMORY},
    "mad": {"name": "mad", **QUICK_STREAM, "replay": QUICK_MOMENTUM},
    "meta-dfkd": {"name": "meta-dfkd", **QUICK_STREAM, "replay": QUICK_BANK},
    "cudfkd": {"name": "cudfkd", **QUICK_STREAM, "adversarial_start": 0.5},
    "noise": {"name": "noise", "student_lr": 0.05},
    "noise, batch statistics": {"name": "noise", "student_lr": 0.05, "statistics": "batch"},
    "stable": STABLE,
    "photo": {"name": "photo", "cutmix": 1.0},
    "proxy": {"name": "proxy", "cutmix": 1.0},
    "proxy, selecting": {"name": "proxy", "cutmix": 1.0, "selection": {"name": "mixture", "quota": 1.0}},
    "deepinversion": {"name": "deepinversion", **QUICK_PIXELS},
    "deepinversion, crops": {"name": "deepinversion", **QUICK_PIXELS, **QUICK_CROPS},
    "deepinversion, joint": {"name": "deepinversion", **QUICK_PIXELS, **QUICK_JOINT},
    "adi": {"name": "adi", **QUICK_PIXELS},
    "fastdfkd": {"name": "fastdfkd", **QUICK_LATENTS},
    "fastdfkd, reptile": {"name": "fastdfkd", **QUICK_LATENTS, "meta": "reptile"},
    "zskd": {"name": "zskd", **QUICK_FIXED},
    "kegnet": {"name": "kegnet", **QUICK_KEGNET},
    "adadfq": {"name": "adadfq", "student_lr": 0.05, "generator_lr": 0.01, "warm_up": 1},
    "fastdfkd, no common start": {"name": "fastdfkd", **QUICK_LATENTS, "meta": "none"},
    "nayer": {"name": "nayer", **QUICK_LABELS},
    "cmi": {"name": "cmi", **QUICK_PIXELS, **QUICK_CONTRAST},
    "cpnet": {"name": "cpnet", **QUICK_LABELS},
    "mad, conditional": {"name": "mad", **QUICK_STREAM, "replay": QUICK_MOMENTUM, "conditional": "sum"},
    "meta-dfkd, generative": {"name": "meta-dfkd", **QUICK_STREAM, "replay": QUICK_MEMORY},
    "meta-dfkd, second order, selecting": {
        "name": "meta-dfkd", **QUICK_STREAM, "replay": QUICK_BANK, "selection": "mixture",
        "update": {"order": "second"},
    },
    "ta-dfkd, bank": {**TA_QUICK, "replay": {**QUICK_BANK, "policy": "reservoir"}},
}  # fmt: skip
ABD = {"name": "abd", "shuffle": {"trials": 0, "layers": 1}, "unlearn": {"share": 0.7, "rounds": 2}}
TRYING = {"name": "abd", "unlearn": {"share": 0}, "shuffle": {"trials": 2, "warm_up": 0, "batches": 2, "layers": 1}}
DEFENDED: dict[str, tuple[str, dict[str, Any]]] = {
    "ta-dfkd, abd": ("ta-dfkd", ABD),
    "ta-dfkd, abd, trying": ("ta-dfkd", TRYING),
    "deepinversion, abd": ("deepinversion", ABD),
    "meta-dfkd, abd": ("meta-dfkd", ABD),
    "noise, abd": ("noise", ABD),
    "stable, abd": ("stable", ABD),
}
MIXED = {"ta-dfkd, mixed": "ta-dfkd", "fastdfkd, mixed": "fastdfkd"}
ALL = sorted(METHODS)
FORMS = sorted([*BASE, *DEFENDED, *MIXED])


def form(name: str) -> dict[str, Any]:
    """Settings of a form: a method's, a defence's where it has one, and pictures where it is mixed with them."""
    if name in MIXED:
        return {"method": BASE[MIXED[name]], "source": {"proxy_images": pictures_folder(), "proxy_share": 0.25}}
    method, defense = DEFENDED.get(name, (name, None))
    if defense is None:
        return {"method": BASE[method]}
    return {"method": BASE[method], **method_settings({"name": method}).taken({"defense": defense})}


def weights(run: Distillation) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, update in run.algorithm.updates.items()
        for key, value in update.module.state_dict().items()
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def take(run: Distillation, updates: int) -> Distillation:
    for _ in range(updates):
        run.take_update()
    return run


class Course:
    """A run as it is after each of its updates, made as far as anybody has asked."""

    def __init__(self, run: Distillation) -> None:
        self.run = run
        self.places: list[tuple[int, dict[str, torch.Tensor]]] = []

    def after(self, updates: int) -> tuple[int, dict[str, torch.Tensor]]:
        """The steps and weights after so many updates."""
        while len(self.places) < updates:
            self.run.take_update()
            self.places.append((self.run.step, weights(self.run)))
        return self.places[updates - 1]


@pytest.fixture(scope="module")
def course():
    """`course(...)` is the course of `distillation(...)`, made once for all that hold another run against it."""
    known: dict[str, Course] = {}

    def find(**changes: Any) -> Course:
        key = json.dumps(changes, sort_keys=True)
        if key not in known:
            known[key] = Course(distillation(**changes))
        return known[key]

    return find


# promises of every method


@pytest.mark.parametrize(
    "name", [*ALL, "meta-dfkd, second order, selecting", "ta-dfkd, abd", "noise, batch statistics"]
)
def test_maps_that_are_computed_anew_change_no_bit(name):
    found = []
    for runtime in (CPU, replace(CPU, recompute=True)):
        frozen = FrozenTeacher(digits_like(), runtime).__enter__()
        run = take(Distillation(frozen, digits_like(1), settings(**form(name)), runtime), 6)
        found.append(weights(run))
    assert same(*found)


@pytest.mark.parametrize("name", FORMS)
def test_the_same_seed_gives_the_same_run_and_another_seed_another(name, course):
    _, first = course(**form(name), log_every=1).after(6)
    again, other = (take(distillation(**form(name), log_every=1, **seed), 6) for seed in ({}, {"seed": 4}))
    assert same(first, weights(again))
    assert not same(first, weights(other))


@pytest.mark.parametrize("name", FORMS)
def test_a_checkpoint_between_any_two_updates_goes_on_as_if_nothing_had_happened(name, course, tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "LEAST", 1)  # bytes: what can lie beside the checkpoint does
    straight = course(**form(name), log_every=1)
    stopped = distillation(**form(name), log_every=1)
    for cut in range(7):
        state = stored(stopped, tmp_path / str(cut))
        torch.rand(7)  # other people's randomness must not matter
        resumed = distillation(**form(name), student=tiny_student(seed=99), log_every=1)
        resumed.load_state_dict(state)
        updates = 9 if cut == 2 else cut + 3
        take(resumed, updates - cut)
        step, expected = straight.after(updates)
        assert same(expected, weights(resumed)), f"cut after {cut}"
        assert step == resumed.step
        stopped.take_update()


@pytest.mark.parametrize("name", FORMS)
def test_networks_move_in_their_own_updates_only(name):
    run = distillation(**form(name))
    moved: set[str] = set()
    for _ in range(6):
        modules = {own: update.module for own, update in run.algorithm.updates.items()}
        before = {own: [p.detach().clone() for p in module.parameters()] for own, module in modules.items()}
        whose, _ = run.take_update()
        for own, module in modules.items():
            changed = any(not torch.equal(a, b) for a, b in zip(before[own], module.parameters(), strict=True))
            assert changed == (own == whose), f"{own} in an update of {whose}"
        moved.add(whose)
    assert moved == set(run.algorithm.updates)


@pytest.mark.parametrize("name", FORMS)
def test_the_teacher_comes_back_untouched(name):
    teacher = tiny_teacher()
    before = {key: value.clone() for key, value in teacher.module.state_dict().items()}
    with FrozenTeacher(teacher, CPU) as frozen:
        take(Distillation(frozen, tiny_student(), settings(**form(name)), CPU), 4)
    assert same(before, teacher.module.state_dict())
    assert all(p.requires_grad for p in teacher.module.parameters())
    assert not any(m._forward_pre_hooks for m in teacher.module.modules())


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("size", "classes"), [((1, 9, 7), 2), ((3, 26, 30), 11), ((5, 4, 4), 2)])
def test_any_size_channels_and_classes(name, size, classes):
    channels, height, width = size
    shape = {"channels": channels, "size": (height, width), "classes": classes}
    run = take(distillation(tiny_teacher(**shape), tiny_student(**shape), **form(name)), 3)
    images = run.algorithm.source.sample(3, "x", 0)
    assert images.shape == (3, *size)
    assert not images.requires_grad


@pytest.mark.parametrize("name", FORMS)
def test_the_methods_sample_leaves_no_trace(name):
    run = take(distillation(**form(name)), 2)
    before = weights(run)
    first = run.algorithm.source.sample(4, "x", 0)
    assert same(before, weights(run))
    assert torch.equal(first, run.algorithm.source.sample(4, "x", 0))
    assert all(update.module.training for update in run.algorithm.updates.values())


@pytest.mark.parametrize("name", FORMS)
def test_no_name_of_a_term_means_anything(name, monkeypatch):
    named = take(distillation(**form(name)), 6)
    own = Objective.__init__
    monkeypatch.setattr(Objective, "__init__", lambda self, terms: own(self, {f"my {k}": v for k, v in terms.items()}))
    renamed = take(distillation(**form(name)), 6)
    assert same(weights(named), weights(renamed))
    lines = [run.health.line()["values"] for run in (named, renamed)]
    assert {key.replace("my ", "") for key in lines[1]} == set(lines[0])
    assert any(key.startswith("loss/my ") for key in lines[1])
    assert lines[0].get("health/bn_distance") == lines[1].get("health/bn_distance")


class RefuseHost(TorchDispatchMode):
    """Fails where the host would wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        waits = any(asks in name for asks in ("_local_scalar_dense", "nonzero", "masked_select"))
        if "aten.index.Tensor" in name:
            waits = any(index is not None and index.dtype == torch.bool for index in args[1])
        assert not waits, f"{name} asks the device for a number"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "select"), [*((name, "last") for name in FORMS), ("ta-dfkd", "ema")])
def test_updates_never_wait_for_the_device(name, select):
    run = take(distillation(**form(name), select=select), 4)
    with RefuseHost():
        take(run, 6)


@pytest.mark.parametrize("name", FORMS)
def test_an_update_with_nan_changes_nothing_but_the_count(name, monkeypatch):
    run = take(distillation(**form(name), select="ema"), 4)
    before, step, kept = weights(run), run.step, copy.deepcopy(run.delivery.state_dict()["kept"])
    state = copy.deepcopy([update.optimizer.state_dict()["state"] for update in run.algorithm.updates.values()])
    true = FrozenTeacher.respond

    def lost(*args, **kwargs):
        answer = true(*args, **kwargs)
        return replace(answer, logits=answer.logits * float("nan"))

    monkeypatch.setattr(FrozenTeacher, "respond", lost)
    run.algorithm.source.moved()
    take(run, 3)
    assert same(before, weights(run))
    assert same(kept, run.delivery.state_dict()["kept"])
    now = [update.optimizer.state_dict()["state"] for update in run.algorithm.updates.values()]
    for old, new in zip(state, now, strict=True):
        for index in old:
            assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(new[index][k])) for k, v in old[index].items())
    assert run.step > step
    monkeypatch.undo()
    run.algorithm.source.moved()
    take(run, 3)
    assert not same(before, weights(run))


@pytest.mark.parametrize("name", ALL)
def test_recipes_are_valid_and_each_setting_has_words(name):
    for recipe in recipes(name):
        assert resolve(Request(method=name, recipes=[recipe])).method.name == name
    assert method_class(name).__doc__
    assert sys.modules[method_class(name).__module__].__doc__


def test_an_unknown_method_lists_the_known():
    with pytest.raises(UsageError, match=r"--method tadfkd: no such method; there are bn-adv, ta-dfkd, dafl, dafl-adv"):
        method_class("tadfkd")


NO_DATA = """
    import builtins, os, sys
    import torch
    from lenient.api import distill
    sys.path.append({tests!r})
    from toys import pictures_folder, quick, tiny_teacher, tiny_student, QUICK
    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.startswith(("lenient.data", "sklearn.datasets", "torchvision.datasets")):
                raise ImportError("no real data here: " + name)
    for name in list(sys.modules):
        assert not name.startswith("lenient.data"), name
    sys.meta_path.insert(0, Block())
    mine, others = os.path.realpath(os.environ["TMPDIR"]), []
    allowed = (sys.prefix, sys.base_prefix, mine, {src!r}, {tests!r}, "/proc", "/sys", "/dev", "/usr", "/etc")
    def audit(event, args):
        if event == "open" and isinstance(args[0], str):
            path = os.path.realpath(args[0])
            if not path.startswith(allowed):
                others.append(path)  # an error could be taken for a report that cannot be made
    sys.addaudithook(audit)
    for name in {names!r}:
        output = os.path.join(mine, name) if name in {written!r} else None
        plan = quick(name) | {{"method": {plans!r}[name]}}
        pictures = pictures_folder() if name in ("proxy", "noise") else None
        result = distill(tiny_teacher(), tiny_student(), method=name, output=output, settings=plan,
                         proxy_images=pictures)
        assert result.summary.steps == QUICK["steps"]
    assert not others, others
"""


@pytest.mark.parametrize("written", [["ta-dfkd"], pytest.param(ALL, marks=pytest.mark.slow)], ids=["one", "all"])
def test_a_process_that_can_open_no_data_still_distils(written, tmp_path):
    """By every method; how a run folder is written, with student and report, does not hang on the method.

    It takes over ten seconds where a core is shared: a python of its own, for what is imported counts.
    """
    import lenient

    tests, source = Path(__file__).parent, str(Path(lenient.__file__).parents[1])
    code = textwrap.dedent(NO_DATA).format(names=ALL, plans=BASE, written=written, tests=str(tests), src=source)
    places = {name: str(tmp_path) for name in ("TMPDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME")}
    environment = os.environ | places
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tests, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.parent.name for path in tmp_path.glob("*/done")} == {*written}


# schedules and rates


PHASES = {
    "one": ("sssggsssgg", (Phase((("student", 3), ("generator", 2))),)),
    "warm-up": ("gggsgsgs", (Phase((("generator", 3),), 1), Phase((("student", 1), ("generator", 1))))),
    "two that learn": ("gsgsgggsssggg", (Phase((("generator", 1), ("student", 1)), 2),
                                        Phase((("generator", 3), ("student", 3))))),
}  # fmt: skip


@pytest.mark.parametrize("name", PHASES)
def test_a_schedule_is_the_sequence_that_it_spells(name):
    order, phases = PHASES[name]
    schedule = Schedule(*phases)
    assert [schedule.name(update)[0] for update in range(len(order))] == list(order)
    whose = [schedule.name(update) for update in range(60)]
    for update in range(60):
        assert schedule.steps_before(update) == whose[:update].count("student")
        assert schedule.before("generator", update) == whose[:update].count("generator")
        assert schedule.name(schedule.round_start(update)) in ("student", "generator")
    for steps in range(1, 12):
        updates = schedule.updates_for(steps)
        assert whose[:updates].count("student") == steps
        assert whose[updates - 1] == "student"
    assert [schedule.at(start)[0] for start in schedule.starts()] == list(phases)
    rounds = [schedule.at(update)[1] for update in range(60)]
    starts = [update for update in range(60) if schedule.round_start(update) == update]
    assert [rounds[start] for start in starts] == list(range(len(starts)))


@pytest.mark.parametrize("phases", [
    (Phase((("student", 1),), 3),),
    (Phase((("generator", 1),)),),
    (Phase((("generator", 1),)), Phase((("student", 1),))),
])  # fmt: skip
def test_a_schedule_that_never_ends_or_never_learns_is_refused(phases):
    with pytest.raises(ValueError, match="in the last the student learns"):
        Schedule(*phases)


def test_a_clock_counts_from_the_start_of_the_run():
    run = distillation(steps=7, steps_per_epoch=2, method={**TA_QUICK, "student_steps": 3})
    clocks = [run.context.clock(run.algorithm.schedule, update) for update in range(9)]  # sssgsssgs
    assert [clock.step for clock in clocks] == [0, 1, 2, 3, 3, 4, 5, 6, 6]
    assert [clock.round for clock in clocks] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert [clock.epoch for clock in clocks] == [0, 0, 1, 1, 1, 2, 2, 3, 3]
    assert [clock.ends_epoch for clock in clocks] == [False, True, False, False, True, False, True, False, False]
    assert {(clock.steps, clock.epochs) for clock in clocks} == {(7, 4)}


def test_learning_rates():
    clocks = [Clock(epoch=epoch, epochs=4) for epoch in range(4)]
    assert [learning_rate("constant")(clock) for clock in clocks] == [1] * 4
    cosine = [learning_rate("cosine")(clock) for clock in clocks]
    early = [learning_rate("cosine-early")(clock) for clock in clocks]
    assert cosine == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert early == pytest.approx([0.853553, 0.5, 0.146447, 0], abs=1e-6)
    ended = [learning_rate("cosine", end=0.2)(clock) for clock in clocks]
    assert ended == pytest.approx([0.2 + 0.8 * factor for factor in cosine])


@pytest.mark.parametrize("epochs", [1, 7, 60, 100, 220])
def test_a_rate_drops_in_the_epoch_that_the_share_names(epochs):
    """0.55 * 100 is more than 55 in floating point, 55 / 100 is 0.55."""
    for epoch in range(epochs):
        factor = learning_rate("drops", (epoch / epochs,))
        assert [factor(Clock(epoch=own, epochs=epochs)) for own in (epoch - 1, epoch)] == [1.0, 0.1]


# TA-DFKD


def last_output(name: str, **changes: Any):
    """A fresh run up to and with the first update of a network, without the optimizer's step."""
    run = distillation(**changes)
    while run.algorithm.schedule.name(run.updates) != name:
        run.take_update()
    for other, update in run.algorithm.updates.items():
        update.module.requires_grad_(other == name).zero_grad()
    return run, run.algorithm.updates[name].step(run.clock)


def test_the_generator_minimises_the_papers_sum():
    weights_ = {"beta": 0.7, "gamma": 3.0, "bn_weight": 0.5, "tv_weight": 1e-3, "l2_weight": 1e-2, "entropy_weight": 0}
    run, output = last_output("generator", method=weights_)
    generator = run.algorithm.updates["generator"].module
    found = [p.grad.clone() for p in generator.parameters()]
    generator.zero_grad()
    batch, source = output.batch, run.algorithm.updates["generator"].step.sampler
    images = source.sample(8, "generator-latents", run.updates).images
    clean = run.teacher.normalize(images)
    answer = run.teacher.respond(clean, (BatchNorms(),))
    weight = (
        run.algorithm.updates["generator"].step.selection(-torch.log_softmax(answer.logits.detach(), 1).amax(1)).weight
    )
    assert torch.equal(weight, batch.weight)
    p, q = (torch.softmax(logits / 3, 1) for logits in (answer.logits, run.student(clean)))
    middle = (p + q) / 2
    jsd = (0.5 * p * (p / middle).log() + 0.5 * q * (q / middle).log()).sum(1)
    adversarial = ((1 - jsd) * weight).sum() / weight.sum()
    r = sum((s.mean - s.running_mean).norm() + (s.variance - s.running_variance).norm() for s in answer.of(BatchNorms))
    tv = 32 * sum(d.flatten(1).norm(dim=1).mean() for d in (
        clean[..., 1:] - clean[..., :-1], clean[..., 1:, :] - clean[..., :-1, :],
        clean[..., 1:, 1:] - clean[..., :-1, :-1], clean[..., 1:, :-1] - clean[..., :-1, 1:],
    ))  # fmt: skip
    l2 = 32 * clean.flatten(1).norm(dim=1).mean()
    (0.7 * adversarial + 3 * (0.5 * r + 1e-3 * tv + 1e-2 * l2)).backward()
    for ours, theirs in zip(found, generator.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("name", "changes"), [
    ("bn-adv", {"beta": 300.0, "entropy_weight": 100.0}),
    ("dafl-adv", {"beta": 300.0, "entropy_weight": 100.0, "bn_weight": 0.0, "class_prior_weight": 1.0}),
])  # fmt: skip
def test_our_own_are_ta_dfkd_with_other_weights_and_no_selection(name, changes):
    rates = {"student_steps": 2, "student_lr": 0.05, "generator_lr": 0.01}
    own = take(distillation(method={"name": name, **rates}), 9)
    other = take(distillation(method={"name": "ta-dfkd", "selection": "none", **rates, **changes}), 9)
    assert same(weights(own), weights(other))


def test_the_student_minimises_l1_on_accepted_images():
    run, output = last_output("student")
    found = [p.grad.clone() for p in run.student.parameters()]
    run.student.zero_grad()
    inputs = output.batch.inputs["train"]
    (run.student(inputs) - run.teacher.module(inputs).detach()).abs().mean().backward()
    for ours, theirs in zip(found, run.student.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad, atol=1e-6, rtol=1e-4)
    assert output.batch.images.shape[0] == 8


def test_one_teacher_forward_per_generator_update_without_augmentation():
    run, _ = last_output("student")
    before = run.teacher.forwards
    run.algorithm.updates["generator"].step(Clock(99))
    assert run.teacher.forwards - before == 8


def test_weights_of_the_image_terms_equal_the_released_ones():
    for recipe in ("paper-losses", "published"):
        s = resolve(Request(method="ta-dfkd", recipes=[recipe])).method
        assert s.gamma * s.tv_weight == pytest.approx(1.5e-5)
        assert s.gamma * s.l2_weight == pytest.approx(6e-3)
        assert (s.beta, s.gamma, s.selection.tau, s.temperature, s.class_prior_weight) == (1, 10, 0.5, 3, 0)
        assert (s.entropy_weight, s.selection.name) == (0, "mixture")


MIXTURE = {"selection": "mixture"}
BANK = {"replay": {**QUICK_BANK, "slots": 4}}
RECALL = {"replay": QUICK_MEMORY}
RETAIN = {**BANK, "update": "retain"}
# how a setting is flipped, and what else must be set for it to be active
STREAM_CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "student_steps": (3, {}),
    "generator_steps": (2, {}),
    "student_optimizer": ("adam", {"student_optimizer": "sgd"}),
    "student_lr": (0.3, {}),
    "student_momentum": (0.0, {"student_optimizer": "sgd"}),
    "student_weight_decay": (0.1, {}),
    "student_schedule": ("cosine-early", {}),
    "generator_lr": (1e-4, {}),
    "generator_schedule": ("cosine-early", {}),
    "drops": ((0.0,), {"student_schedule": "drops"}),
    "student_clip_norm": (1e-3, {}),
    "generator_clip_norm": (1e-9, {}),
    "augmentation": ("crop-flip", {}),
    "selection": ("mixture", {"selection": "none"}),
    "selection.tau": (0.99, MIXTURE),
    "selection.max_iterations": (1, MIXTURE),
    "selection.variance_floor": (0.5, MIXTURE),
    "selection.tolerance": (10.0, MIXTURE),
    "selection.acceptance": ("posterior", {"selection": {"name": "mixture", "variance_floor": 0.2}}),
    "selection.carry_leftovers": (False, MIXTURE),
    "selection.min_rounds": (3, MIXTURE),
    "selection.max_rounds": (1, MIXTURE),
    "replay": (QUICK_BANK, {"replay": "none"}),
    "replay.share": (0.5, BANK),
    "replay.weight": (3.0, BANK),
    "replay.slots": (1, BANK),
    "replay.every": (2, BANK),
    "replay.policy": ("reservoir", {"replay": {**QUICK_BANK, "slots": 1}}),
    "replay.granularity": ("slot", BANK),
    "replay.updates": (2, {**RECALL, "student_steps": 2}),
    "replay.lr": (0.1, RECALL),
    "replay.pixel_weight": (0.0, RECALL),
    "replay.logit_weight": (0.0, RECALL),
    "replay.feature_weight": (1.0, RECALL),
    "replay.kl_weight": (1.0, RECALL),
    "replay.match_weight": (1.0, RECALL),
    "replay.latent_steps": (2, RECALL),
    "replay.latent_lr": (0.5, RECALL),
    "replay.prior_weight": (100.0, {"replay": {**QUICK_MEMORY, "latent_steps": 3}}),
    "replay.entropy_weight": (100.0, {"replay": {**QUICK_MEMORY, "latent_steps": 3}}),
    "replay.warm_up": (3, RECALL),
    "replay.decay": (0.01, {"replay": {**QUICK_MOMENTUM, "warm_up": False}}),
    "update": ("retain", {**BANK, "update": "plain"}),
    "update.order": ("second", {**BANK, "update": {"name": "retain", "alpha": 0.5}}),
    "update.alpha": (0.5, RETAIN),
    "update.joint": (True, RETAIN),
}
OWN_CHANGES: dict[str, dict[str, tuple[Any, dict[str, Any]]]] = {
    "ta-dfkd": {
        "beta": (0.0, {}),
        "gamma": (1.0, {}),
        "bn_weight": (0.1, {}),
        "tv_weight": (1e-2, {}),
        "l2_weight": (1e-1, {}),
        "class_prior_weight": (1.0, {}),
        "entropy_weight": (1.0, {}),
        "adversarial": ("js-coded", {}),
        "temperature": (1.0, {}),
        "image_norm": ("whole-batch", {}),
        "bn_images": ("selected", {}),
        "detach_teacher": (True, {}),
    },
    "dafl": {
        "class_prior_weight": (1.0, {}),
        "entropy_weight": (0.0, {}),
        "activation_weight": (1.0, {}),
        "temperature": (4.0, {}),
        "batch": ("fresh", {}),
    },
    "dfad": {"adversarial": ("kl", {}), "temperature": (4.0, {"adversarial": "kl"})},
    "zskt": {
        "adversarial": ("js", {}),
        "temperature": (4.0, {}),
        "attention_weight": (0.0, {}),
        "batch": ("same", {}),
    },
    "mad": {
        "adversarial": ("l1", {}),
        "adversarial_weight": (0.0, {}),
        "bound": (0.01, {}),
        "temperature": (4.0, {}),
        "bn_weight": (0.0, {}),
        "conditional": ("cat", {"conditional": "sum"}),
        "label_weight": (0.0, {"conditional": "sum"}),
        "norm_weight": (50.0, {"conditional": "sum"}),
    },
    "cudfkd": {
        "class_prior_weight": (0.0, {}),
        "entropy_weight": (0.0, {}),
        "entropy_temperature": (1.0, {}),
        "bn_weight": (0.0, {}),
        "adversarial": ("js-coded", {"adversarial_start": 0.5}),
        "temperature": (1.0, {"adversarial_start": 0.5}),
        "adversarial_start": (5.0, {}),
        "adversarial_end": (5.0, {"climb_begin": 0.0, "climb_end": 1.0}),
        "climb_begin": (0.0, {}),
        "climb_end": (0.6, {"climb_begin": 0.1}),
        "imitation": ("kl", {}),
        "imitation_temperature": (2.0, {"imitation": "kl"}),
        "pace_form": ("hard", {}),
        "pace_start": (0.2, {}),
        "pace_end": (0.2, {}),
        "generator_beta2": (0.5, {}),
        "draw_mode": ("train", {}),
        "student_mode": ("train", {"adversarial_start": 0.5}),
    },
}
WITH_ADVERSARY: dict[str, tuple[Any, dict[str, Any]]] = {
    "bn_weight": (3.0, {}),
    "class_prior_weight": (100.0, {}),
    "entropy_weight": (7.0, {}),
    "adversarial_weight": (30.0, {}),
    "adversarial": ("js-coded", {}),
    "temperature": (1.0, {}),
    "tv_weight": (1e-1, {}),
    "l2_weight": (1.0, {}),
    "prior_view": ("train", {"augmentation": "shaken"}),
}
OWN_CHANGES |= dict.fromkeys(("bn-adv", "dafl-adv"), WITH_ADVERSARY)
OWN_CHANGES["adadfq"] = {
    "lower": (0.7, {}),
    "upper": (0.2, {}),
    "entropy_scale": ("fixed", {}),
    "band_weight": (0.0, {}),
    "difference_weight": (0.0, {}),
    "sum_weight": (0.0, {}),
    "bn_weight": (0.0, {}),
    "temperature": (0.5, {}),
    "warm_up": (3, {}),
    "batch": ("fresh", {}),
}
FAMILY_CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "class_prior_weight": (0.0, {}),
    "entropy_weight": (0.0, {}),
    "activation_weight": (3.0, {}),
    "adversarial_weight": (0.0, {}),
    "adversarial": ("js-coded", {}),
    "temperature": (1.0, {}),
    "detach_teacher": (False, {}),
}
OWN_CHANGES |= dict.fromkeys(("mb-dfkd", "pre-dfkd", "meta-dfkd"), FAMILY_CHANGES)
PIXELS = ("deepinversion", "adi")
INVERTING = (*PIXELS, "fastdfkd", "zskd", "nayer", "cmi", "cpnet")
CROPPING = {"keep": "last", "view": {"crop": {"name": "resized", "curriculum": "linear"}}}
BORDERED = {"view": {"border": {"name": "extra", "pixels": 2}}}
JOINT = {"statistics": {"over": {"name": "all", "pieces": 2}}}
PIXELS_ALONE: dict[str, tuple[Any, dict[str, Any]]] = {
    "pixels_betas": ((0.5, 0.9), {}),
    "pixels_schedule": ("cosine", {"keep": "last"}),
    "keep": ("last", {}),
    "view.crop": ("resized", {}),
    "view.crop.least_area": (0.9, CROPPING),
    "view.crop.curriculum": ("step", CROPPING),
    "view.crop.milestone": (0.5, CROPPING),
    "view.flip": (True, {}),
    "view.draws": ("batch", {"view": {"flip": True}}),
    "view.border": ("extra", {}),
    "view.border.pixels": (5, BORDERED),
    "view.border.smoothing": (0.0, BORDERED),
    "view.range": ("clip", {}),
    "statistics.over": ({"name": "all", "pieces": 2}, {}),
    "statistics.over.pieces": (4, JOINT),
    "statistics.over.momentum": (0.1, {"statistics": {"over": "momentum"}}),
    "statistics.form": ("squares", {}),
    "statistics.spread": ("deviation", {}),
    "statistics.layers": ("mean", {}),
    "statistics.first_layer": (10.0, {}),
}
PIXELS_CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "iterations": (3, {}),
    "pixels_lr": (0.5, {}),
    "jitter": (0, {}),
    "label_weight": (0.0, {}),
    "bn_weight": (0.1, {}),
    "tv_weight": (1.0, {}),
    "l2_weight": (1.0, {}),
    "adversarial_weight": (5.0, {"bn_weight": 0.1}),
    "adversarial": ("l1", {"adversarial_weight": 5.0}),
    "temperature": (1.0, {"adversarial_weight": 5.0}),
    "first_batches": (2, {}),
    "batch_images": (6, {}),
    "round_batches": (2, {}),
    "student_steps": (3, {}),
    "pool_size": (16, {}),
    "student_temperature": (1.0, {}),
    "student_lr": (0.3, {}),
    "student_lr_end": (0.01, {}),
    "student_optimizer": ("adam", {}),
    "student_momentum": (0.0, {}),
    "student_weight_decay": (0.1, {}),
    "student_schedule": ("cosine-early", {}),
    "augmentation": ("crop-flip", {}),
}
OWN_CHANGES |= dict.fromkeys(PIXELS, PIXELS_CHANGES | PIXELS_ALONE)
OWN_CHANGES["fastdfkd"] = {
    **{key: how for key, how in PIXELS_CHANGES.items() if key not in ("pixels_lr", "jitter", "tv_weight", "l2_weight")},
    "generator_lr": (0.5, {}),
    "codes_lr": (0.5, {}),
    "meta": ("reptile", {}),
    "meta_lr": (0.5, {}),
    "reset_after": (None, {}),
    "bn_momentum": (0.1, {}),
    "temperature": (3.0, {}),
    "augmentation": ("none", {}),
}
POOLED = (
    "pool_size",
    "student_temperature",
    "student_lr",
    "student_lr_end",
    "student_weight_decay",
    "student_schedule",
)
OWN_CHANGES["zskd"] = {
    **{key: PIXELS_CHANGES[key] for key in (*POOLED, "iterations", "pixels_lr", "student_steps")},
    "first_batches": (1, {}),
    "student_optimizer": ("sgd", {}),
    "student_momentum": (0.0, {"student_optimizer": "sgd"}),
    "augmentation": ("none", {}),
    "batch_images": (6, {}),
    "round_batches": (2, {"student_steps": 2}),
    "concentrations": ((1.0,), {}),
    "temperature": (1.0, {}),
    "pool_size": (9, {}),
}
OWN_CHANGES["kegnet"] = {
    **{key: PIXELS_CHANGES[key] for key in POOLED},
    "student_optimizer": ("sgd", {}),
    "student_momentum": (0.0, {"student_optimizer": "sgd"}),
    "augmentation": ("distorted", {}),
    "student_temperature": (5.0, {}),
    "pool_size": (9, {}),
    "generators": (3, {}),
    "iterations": (3, {}),
    "generator_batch": (4, {}),
    "generator_lr": (0.1, {}),
    "decoder_weight": (0.0, {}),
    "decoder_layers": (2, {}),
    "diversity_weight": (0.0, {}),
    "images": (9, {}),
}
NOT_LABELS = ("codes_lr", "meta", "meta_lr", "reset_after")
OWN_CHANGES["nayer"] = {
    **{key: how for key, how in OWN_CHANGES["fastdfkd"].items() if key not in NOT_LABELS},
    "embeddings": ("one-hot", {}),
    "first_life": (1, {"first_batches": 2}),
    "generator_life": (1, {}),
}
OWN_CHANGES["cmi"] = {
    **{key: how for key, how in OWN_CHANGES["fastdfkd"].items() if key not in (*NOT_LABELS, "bn_momentum")},
    "projection_lr": (0.1, {}),
    "contrastive_weight": (0.0, {}),
    "contrastive_temperature": (1.0, {}),
    "features": ("batch-norms", {}),
    "bank_size": (2, {}),
    "bank_drawn": (0, {}),
    "local_area": (1.0, {}),
}
OWN_CHANGES["cpnet"] = {
    **OWN_CHANGES["nayer"],
    "cuts": (("norm1", "norm2"), {}),
    "coupling_weight": (0.0, {}),
    "coupling_view": ("shown", {}),
    "align_weight": (0.0, {}),
    "align_mixed": (True, {"align_weight": 5.0}),
    "cutmix": (0.0, {}),
}
OWN_CHANGES["stable"] = {
    "grow": (12, {}),
    "quota": (1, {}),
    "pool_size": (4, {}),
    "photos": (1.0, {}),
    "mutated": (0.0, {}),
    "views": (9, {}),
    "shift": (0.0, {}),
    "gain": (1.0, {}),
    "student_shift": (0.0, {}),
    "student_gain": (0.0, {}),
    "imitation": ("kl", {}),
    "student_lr": (0.1, {}),
    "student_weight_decay": (0.5, {}),
    "student_schedule": ("constant", {}),
}
OWN_CHANGES["stable"]["pictures"] = (1.0, {})
OWN_CHANGES["photo"] = {
    "cutmix": (0.0, {}),
    "augmentation": ("none", {}),
    "student_temperature": (1.0, {}),
    "student_lr": (0.1, {}),
    "student_weight_decay": (0.5, {}),
    "student_schedule": ("one-cycle", {}),
}
OWN_CHANGES["proxy"] = {
    **OWN_CHANGES["photo"],
    "selection": ({"name": "mixture", "quota": 1.0}, {}),
    "selection.tau": (0.999, {"selection": "mixture"}),
    "selection.quota": (1.0, {"selection": {"name": "mixture", "quota": None}}),
}
FLIPS = [
    ("ta-dfkd", "replay.warm_up", False, {"replay": QUICK_MOMENTUM}),
    *(("ta-dfkd", key, *how) for key, how in STREAM_CHANGES.items()),
    *((name, key, *how) for name, changes in OWN_CHANGES.items() for key, how in changes.items()),
]


def test_every_setting_of_every_method_is_listed_here():
    common = {key.split(".")[0] for key in STREAM_CHANGES}
    for name, changes in OWN_CHANGES.items():
        shared = set() if name in (*INVERTING, "kegnet", "stable", "photo", "proxy") else common
        assert {*shared, *(key.split(".")[0] for key in changes), "name"} == set(
            method_class(name).settings_type.model_fields
        ), name
    assert {*OWN_CHANGES, "noise"} == set(METHODS)
    listed = {key for key in STREAM_CHANGES if "." in key}
    assert listed == {key for key in keys_of(method_class("ta-dfkd").settings_type) if "." in key} - {
        f"{part}.name" for part in ("selection", "replay", "update")
    }


@pytest.mark.parametrize(("name", "key", "value", "active"), FLIPS, ids=[f"{name}-{key}" for name, key, *_ in FLIPS])
def test_every_setting_changes_the_run(name, key, value, active, course):
    """By one of its first updates, or by the last one where a setting is of what happens late."""
    base = merge({"batch_size": 16, "steps": 16, "steps_per_epoch": 2}, {"method": merge(BASE[name], active)})
    flipped: dict[str, Any] = {}
    for part in reversed(key.split(".")):
        flipped = {part: flipped or value} if part != key.split(".")[-1] else {part: value}
    default, changed = course(**base), distillation(**merge(base, {"method": flipped}))
    assert any(not same(default.after(update + 1)[1], weights(take(changed, 1))) for update in range(24))


@pytest.mark.parametrize("recipe", sorted(recipes("ta-dfkd")))
def test_every_recipe_of_ta_dfkd_makes_updates(recipe):
    plan = resolve(
        Request(method="ta-dfkd", recipes=[recipe], settings={k: v for k, v in QUICK.items() if k != "steps_per_epoch"})
    )
    with FrozenTeacher(tiny_teacher(), CPU) as frozen:
        run = take(Distillation(frozen, tiny_student(), plan, CPU), 12)
    assert all(torch.isfinite(p).all() for p in run.student.parameters())


def test_the_ablation_is_three_recipes():
    def method(recipe: str) -> Any:
        return resolve(Request(method="ta-dfkd", recipes=[recipe])).method

    full, without, whole = method("all-three-losses"), method("without-class-prior"), method("paper-losses")
    assert (full.class_prior_weight, full.selection.name) == (1, "none")
    assert (without.class_prior_weight, without.selection.name) == (0, "none")
    assert whole.model_copy(update={"selection": Nothing()}) == without
    assert full.model_copy(update={"class_prior_weight": 0}) == without


def test_a_teacher_without_batch_norm_is_refused_with_the_way_out():
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(30, 4))
    network = Network(module, tiny_card())
    with pytest.raises(TeacherError, match=r"no batch-norm layers.*-s method\.bn_weight=0"):
        distillation(network)
    take(distillation(network, method={"bn_weight": 0.0}), 4)


@pytest.mark.parametrize("name", [name for name in ALL if name != "noise"])
def test_a_method_given_as_an_object_is_the_one_given_by_name(name):
    kind = method_class(name)
    plan = {key: value for key, value in quick(name).items() if key != "generator"}
    own, named = (
        resolve(request)
        for request in (Request(settings=plan, own=kind.settings_type()), Request(settings=plan, method=name))
    )
    assert own == named, "the method's wishes beyond its own settings, such as its generator's output, count"


def test_an_objects_run_is_that_of_its_name(tmp_path):
    from lenient.api import distill

    kind = method_class("cudfkd")
    plan = {key: value for key, value in QUICK.items() if key != "generator"}
    students = [
        distill(tiny_teacher(), tiny_student(), method=method, epochs=1, settings=plan).student.state_dict()
        for method in (kind(kind.settings_type()), "cudfkd")
    ]
    assert same(*students)


@pytest.mark.parametrize("how", [{"settings": {"method.pace_start": 3}}, {"recipe": "digits"}])
def test_settings_beside_a_method_object_are_refused(how):
    from lenient.api import distill

    kind = method_class("cudfkd")
    with pytest.raises(UsageError, match=r"method\..*: the method was given as an object; give its settings to that"):
        distill(tiny_teacher(), tiny_student(), method=kind(kind.settings_type()), steps=2, **how)


class GreySettings(SingleStudentSettings):
    name: str = "grey"


class Grey:
    """A method of one's own: the student imitates the teacher on grey images."""

    settings_type = GreySettings
    needs_batch_norm = False

    def __init__(self, settings: GreySettings) -> None:
        self.settings, self.drawn = settings, 0

    def build(self, context):
        def draw(count, name, update):
            self.drawn += count
            return context.runtime.images(torch.full((count, *context.teacher.card.input_size), 0.5))

        return single_student(context, self.settings, draw)


def test_a_method_object_of_ones_own(tmp_path):
    from lenient.api import distill

    method = Grey(GreySettings())
    result = distill(tiny_teacher(), tiny_student(), method=method, settings=quick("noise"), output=tmp_path / "r")
    assert result.summary.method == "grey"
    assert method.drawn >= QUICK["steps"] * QUICK["batch_size"]
    images = torch.full((1, 1, 6, 5), (0.5 - 0.4) / 0.3)
    teacher = tiny_teacher().module.eval()
    with torch.no_grad():
        nets = (result.student.eval(), tiny_student().module.eval())
        distance = [float((net(images) - teacher(images)).abs().mean()) for net in nets]
    assert distance[0] < distance[1]
    again = Grey(GreySettings())
    plan = quick("noise") | {"steps": 8}
    longer = distill(tiny_teacher(), tiny_student(), method=again, settings=plan, output=tmp_path / "r", resume=True)
    assert longer.summary.steps == 8


def test_imitation_term_is_what_the_update_minimises():
    batch = Batch(torch.zeros(2, 1, 1, 1), torch.ones(2))
    batch.answers["train"] = {"teacher": Response(torch.ones(2, 3)), "student": Response(torch.zeros(2, 3))}
    assert Imitation(logit_l1, "L1")(batch) == 1
