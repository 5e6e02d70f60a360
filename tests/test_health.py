"""The verdict: each sabotage ends in its own reason, and a sound run in none."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from lenient.api import distill
from lenient.core.config import merge
from lenient.core.errors import HealthError, TeacherError
from lenient.data import load_data
from lenient.methods.contract import StepOutput
from lenient.methods.ta_dfkd import TADFKD, TADFKDSettings
from lenient.models import build_student
from lenient.models.card import Network
from lenient.synthesis.selection import KeepAll
from lenient.teacher.batch import Clock, Response
from lenient.teacher.frozen import FrozenTeacher
from lenient.teacher.probes import BatchNorms, LayerStatistics
from lenient.training.health import HealthMonitor
from lenient.training.metrics import class_counts, spread
from lenient.training.model_selection import Delivery
from lenient.training.probe import ProbeSet, bn_shift, duplicate_rate, pixel_span
from lenient.training.trainer import Distillation
from lenient.training.verdict import DISCLAIMER, Health, HealthSettings
from toys import CPU, batch_of, quick, settings, tiny_teacher

pytestmark = pytest.mark.usefixtures("bare_module")

SHORT: dict[str, Any] = {
    "steps": 150,
    "batch_size": 64,
    "device": "cpu",
    "precision": "32",
    "log_every": 15,
    "steps_per_epoch": 50,
    "method": {"student_steps": 2, "student_lr": 0.05, "generator_lr": 0.005},
    "generator": {"latent_dim": 32, "width": 16, "bn_eps": 1e-5},
}


BRIEF = pytest.mark.parametrize("steps", [60, pytest.param(150, marks=pytest.mark.slow)])
"""Four log lines, and ten in the slow tests: for what shows without learning."""


def run(teacher: Network, own: Any = None, student: str = "lenient:lenet5-half", **changes: Any) -> Any:
    plan = merge(SHORT, changes)
    if own is not None:
        plan.pop("method")
    return distill(teacher, student, method=own, settings=plan)


def failing(health: Health) -> set[str]:
    return {check.name for check in health.checks if check.status != "ok"}


def settings_of(**changes: Any) -> TADFKDSettings:
    return TADFKDSettings(**(SHORT["method"] | changes))


# a sound run, and sabotage


@pytest.fixture(scope="module")
def sound(digits_file) -> Health:
    """Over ten seconds: it is about learning, and the shortest run that learns enough for every threshold."""
    from lenient.models import load_network

    return run(load_network(digits_file), student="lenient:resnet8", steps=400).health


def test_a_sound_run_is_ok(sound):
    assert sound.verdict == "ok", sound
    assert sound.reasons == ["every check passed"]
    assert sound.note == DISCLAIMER


@BRIEF
def test_a_frozen_generator_is_named(digits_teacher, steps):
    health = run(digits_teacher, steps=steps, method={"generator_lr": 0.0}).health
    assert health.verdict == "failed"
    assert any("the weights of the generator do not move" in reason for reason in health.reasons)


@BRIEF
def test_a_student_that_cannot_learn_is_named(digits_teacher, steps):
    health = run(digits_teacher, steps=steps, method={"student_lr": 0.0}).health
    assert health.verdict == "failed"
    assert any("the weights of the student do not move" in reason for reason in health.reasons)
    assert "probe agreement" in failing(health)


class OneClass(TADFKD):
    """A generator that has collapsed: whatever the latents, nearly the same image."""

    def build(self, context: Any) -> Any:
        algorithm = super().build(context)

        def stuck(module: Any, args: Any, images: torch.Tensor) -> torch.Tensor:
            template = torch.linspace(0, 1, images[0].numel()).view(1, *images.shape[1:])
            return template + 0.001 * images

        algorithm.updates["generator"].module.register_forward_hook(stuck)
        return algorithm


@BRIEF
def test_a_generator_stuck_on_one_class_is_named(digits_teacher, steps):
    health = run(digits_teacher, OneClass(settings_of()), steps=steps).health
    assert health.verdict == "failed"
    assert any("of the classes appear among the accepted samples" in reason for reason in health.reasons)
    assert {"coverage", "class entropy", "duplicates"} <= failing(health)


@pytest.mark.parametrize("steps", [150, pytest.param(300, marks=pytest.mark.slow)])
def test_a_wrong_mean_shows_in_the_batch_norm_distance(digits_teacher, steps):
    wrong = Network(digits_teacher.module, replace(digits_teacher.card, mean=(-0.5,)))
    health = run(wrong, steps=steps).health
    assert health.verdict != "ok"
    assert any("check the teacher's --mean and --std first" in reason for reason in health.reasons)


@pytest.mark.parametrize(
    ("facts", "name"), [({"std": (0.07,)}, "contrast"), ({"std": (1.2,)}, "overshoot"), ({"mean": (0.8,)}, "overshoot")]
)
def test_constants_that_are_wrong_show_in_the_pixels(facts, name, digits_teacher):
    """The student then copies the teacher where no real image lies, and agrees with it very well there."""
    wrong = Network(digits_teacher.module, replace(digits_teacher.card, **facts))
    health = run(wrong, steps=60).health
    assert name in failing(health)
    assert any("check --mean and --std" in reason for reason in health.reasons)


def test_the_span_of_pixels_is_that_of_their_middle_nine_tenths():
    one = torch.linspace(-0.5, 1.5, 400_000).view(1, 1, 400, 1000)
    span = pixel_span(torch.cat([one, one / 4], dim=1))
    torch.testing.assert_close(span, torch.tensor([[-0.4, -0.1], [1.4, 0.35]]), atol=1e-3, rtol=0)
    assert pixel_span(torch.full((1, 1, 1, 1), 0.25)).tolist() == [[0.25], [0.25]]


@pytest.mark.parametrize(
    ("low", "high", "seen"),  # of all pixels; the middle nine tenths are judged
    [
        (0, 1, set()),
        (0, 0.5, {"contrast"}),
        (0, 0.7, {"contrast"}),
        (0, 0.8, set()),
        (-0.6, 0.4, {"overshoot"}),
        (-0.3, 1.3, set()),
        (0, 1.4, set()),
        (0, 1.45, {"overshoot"}),
        (0, 1.5, {"overshoot"}),
    ],
)
def test_a_channel_of_little_contrast_is_no_reason_and_one_beyond_white_is(low, high, seen):
    monitor = HealthMonitor(4, HealthSettings(), torch.device("cpu"))
    channel = torch.linspace(low, high, 8 * 100).view(8, 1, 10, 10)
    images = torch.cat([channel, torch.full_like(channel, 0.4)], dim=1)
    monitor.inspect(images, Response(torch.eye(4).repeat(2, 1)), lambda _: torch.arange(8) % 4)
    assert failing(monitor.verdict()) & {"contrast", "overshoot"} == seen


def test_probe_images_of_one_class_are_said_to_be():
    monitor = HealthMonitor(4, HealthSettings(), torch.device("cpu"))
    monitor.seen = [2.0] * 4
    alike = Response(torch.tensor([[9.0, 0, 0, 0]]).repeat(8, 1))
    monitor.inspect(torch.rand(8, 1, 6, 5), alike, lambda images: torch.zeros(len(images), dtype=torch.long))
    assert "all probe images are of one class" in " ".join(monitor.verdict().reasons)


def test_nan_weights_of_the_teacher_are_refused(digits_teacher):
    next(digits_teacher.module.parameters()).data.fill_(math.nan)
    with pytest.raises(TeacherError, match=r"NaN|finite"):
        run(digits_teacher)


class Breaks(TADFKD):
    """A method after whose start the student's weights are lost."""

    def build(self, context: Any) -> Any:
        next(context.student.parameters()).data.fill_(math.nan)
        return super().build(context)


def test_nan_weights_of_the_student_stop_the_run_with_the_terms_name(digits_teacher, tmp_path):
    with pytest.raises(HealthError, match="non-finite numbers in the term 'student'") as caught:
        distill(
            digits_teacher,
            "lenient:lenet5",
            method=Breaks(settings_of()),
            settings={k: v for k, v in SHORT.items() if k != "method"},
            output=tmp_path / "r",
        )
    assert caught.value.exit_code == 4
    assert json.loads((tmp_path / "r" / "report.json").read_text())["health"]["verdict"] == "failed"


class Bursts(TADFKD):
    """A method whose generator works alone for most of a cycle, on nothing but NaN."""

    def build(self, context: Any) -> Any:
        algorithm = super().build(context)
        own, self.made = algorithm.updates["generator"], 0

        def burst(clock: Clock) -> StepOutput:
            self.made += 1
            found = own.step(clock)
            return found._replace(losses=dict.fromkeys(found.losses, torch.tensor(math.nan)))

        return replace(algorithm, updates={**algorithm.updates, "generator": replace(own, step=burst)})


def test_a_phase_without_the_student_stops_by_its_own_updates():
    method = Bursts(settings_of(generator_steps=400, student_steps=4))
    with pytest.raises(HealthError, match="non-finite numbers in the term"):
        run(tiny_teacher(), method, log_every=15, steps=30)
    assert 20 <= method.made <= 45


def test_a_phase_without_the_student_logs_by_its_own_updates(tmp_path):
    method = {"generator_steps": 130, "student_steps": 20, "student_lr": 0.05, "generator_lr": 0.01}
    plan = merge(SHORT, {"method": method, "steps": 40, "log_every": 20})
    distill(tiny_teacher(), "lenient:lenet5-half", settings=plan, output=tmp_path / "r")
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    places = [(line["step"], line["update"]) for line in lines if line["event"] == "log"]
    # the student's 20 steps come first in a cycle of 150 updates
    assert places == [(20, 20), *((20, update) for update in range(40, 141, 20)), (40, 170)]
    alone = [line for line in lines if line["event"] == "log" and line["update"] not in (20, 170)]
    assert all("health/coverage" not in line and "health/kept_by_generator" in line for line in alone)
    assert not [line for line in lines if line["event"] == "alarm" and line["name"] in ("coverage", "class entropy")]


class Poisoned(TADFKD):
    """At every seventh update the teacher's answers are NaN."""

    def build(self, context: Any) -> Any:
        algorithm = super().build(context)
        own, source, true = algorithm.updates["student"], algorithm.source, context.teacher.normalize

        def poisoned(clock: Clock) -> StepOutput:
            if clock.update % 7:
                return own.step(clock)
            context.teacher.normalize = lambda images: true(images) * math.nan
            source.moved()
            try:
                return own.step(clock)
            finally:
                context.teacher.normalize = true
                source.moved()

        return replace(algorithm, updates={**algorithm.updates, "student": replace(own, step=poisoned)})


@BRIEF
def test_single_bad_updates_are_skipped_counted_and_warned_of(digits_teacher, steps):
    result = run(digits_teacher, Poisoned(settings_of()), steps=steps)
    assert all(torch.isfinite(p).all() for p in result.student.parameters())
    assert any("of updates were skipped for non-finite numbers" in reason for reason in result.health.reasons)


@BRIEF
def test_alarms_sound_once_while_it_runs(digits_teacher, steps):
    names: list[str] = []

    class Alarms:
        def start(self, total_steps: int, step: int) -> None: ...
        def step(self, step: int, images: int) -> None: ...
        def stop(self) -> None: ...
        def line(self, event: str, values: Any) -> None:
            if event == "alarm":
                names.append(values["name"])

    distill(
        digits_teacher,
        "lenient:lenet5",
        settings=merge(SHORT, {"steps": steps, "method": {"student_lr": 0.0}}),
        observers=[Alarms()],
    )
    assert names.count("networks move") == 1


def test_pixels_and_agreement_ring_from_a_quarter_of_a_run_and_what_collapses_sooner():
    monitor = HealthMonitor(2, HealthSettings(), CPU.device)
    monitor.seen = [10.0, 0.0]
    monitor.latest = {"health/dark": -0.5, "health/bright": 1.2, "health/contrast": 1.7}
    monitor.latest |= {"health/probe_agreement": 0.5, "health/probe_chance": 0.5, "health/entropy": 0.0}
    rung = [sorted(monitor.raise_alarms(progress)) for progress in (0.1, 0.2, 0.24, 0.25, 0.3)]
    assert rung == [[], ["class entropy"], [], ["overshoot", "probe agreement"], []]
    assert "check --mean and --std" in monitor.alarms["overshoot"]


def test_a_teacher_of_a_wrong_std_is_told_while_its_run_goes_on(tmp_path):
    teacher = tiny_teacher()
    teacher.card = replace(teacher.card, std=tuple(4.0 for _ in teacher.card.std))
    plan = merge(SHORT, {"steps": 20, "log_every": 1})
    distill(teacher, "lenient:lenet5-half", settings=plan, output=tmp_path / "r")
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    (alarm,) = [line for line in lines if line["event"] == "alarm" and line["name"] == "overshoot"]
    assert 5 <= alarm["step"] <= 6


# pieces


def test_thresholds_are_settings():
    assert settings(health={"coverage": 0.3}).health.coverage == 0.3


def test_spread():
    assert spread([10, 10, 10, 10]) == (1.0, pytest.approx(1.0))
    assert spread([40, 0, 0, 0]) == (0.25, 0.0)
    assert spread([0, 0]) == (0.0, 0.0)
    assert spread([1000, 1, 1000, 1000])[0] == 0.75, "a class with under a tenth of its even share is not covered"


def test_class_counts():
    labels = torch.tensor([0, 2, 2, 1, 2])
    assert class_counts(labels, 4).tolist() == [1, 1, 3, 0]


def test_duplicates():
    images = torch.rand(6, 1, 8, 8)
    assert duplicate_rate(images) == 0
    assert duplicate_rate(torch.cat([images, images + 0.001])) == 1
    assert duplicate_rate(torch.cat([images[:1], images])).item() == pytest.approx(2 / 7)
    assert duplicate_rate(images[:1]) == 0


def test_the_probe_set_is_pooled_evenly_over_the_run():
    probe = ProbeSet(groups=8)
    for step in range(100):
        probe.offer(torch.full((2, 1, 1, 1), float(step)), torch.zeros(2, dtype=torch.int64))
    steps = [int(image.item()) for image in probe.pooled()[0][::2]]
    gaps = {b - a for a, b in pairwise(steps)}
    assert len(probe.images) <= 9
    assert len(gaps) == 1
    assert steps[-1] > 80
    again = ProbeSet(groups=8)
    again.load_state_dict(probe.state_dict())
    probe.offer(torch.rand(2, 1, 1, 1), torch.zeros(2))
    again.offer(torch.rand(2, 1, 1, 1), torch.zeros(2))
    assert len(again.images) == len(probe.images)


def test_the_probe_set_keeps_images_beyond_pixel_range():
    probe = ProbeSet()
    images = torch.linspace(-2, 3, 2 * 3 * 4 * 4).view(2, 3, 4, 4)
    probe.offer(images, torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(probe.pooled()[0], images, atol=5 / 255, rtol=0)


def test_the_shift_is_in_deviations_of_the_training_data():
    def layer(mean, variance):
        return LayerStatistics(torch.tensor(mean), torch.ones(2), torch.zeros(2), torch.tensor(variance))

    assert bn_shift([layer([0.0, 0.0], [1.0, 4.0])]) == 0
    assert bn_shift([layer([3.0, 8.0], [1.0, 4.0])]).item() == pytest.approx(math.sqrt((9 + 16) / 2))
    assert bn_shift([layer([1.0, 1.0], [1.0, 1.0]), layer([3.0, 3.0], [1.0, 1.0])]).item() == pytest.approx(2)


def test_real_images_are_not_shifted_and_noise_is(digits_teacher):
    images = load_data("digits", split="test", input_size=digits_teacher.card.input_size)
    with FrozenTeacher(digits_teacher, CPU) as teacher, torch.no_grad():
        real = next(iter(images.batches(64)))[0].float()
        noise = torch.rand(real.shape, generator=torch.Generator().manual_seed(0))
        answers = [teacher.respond(teacher.normalize(batch), (BatchNorms(),)) for batch in (real, noise)]
        seen, other = (bn_shift(answer.of(BatchNorms)) for answer in answers)
    assert seen < HealthSettings().bn_shift
    assert other > 2 * HealthSettings().bn_shift


def test_images_unlike_the_training_data_are_a_warning_whatever_the_method(digits_teacher):
    health = distill(
        digits_teacher,
        "lenient:resnet8",
        method="noise",
        settings={k: v for k, v in quick("noise", SHORT).items() if k != "method"},
    ).health
    assert "batch-norm shift" in failing(health)
    assert any("standard deviations away from the training data's" in reason for reason in health.reasons)


def test_a_teacher_without_batch_norm_gets_no_clean_bill(digits_teacher):
    plain = build_student("lenient:lenet5", digits_teacher.card, seed=0, role="teacher")
    health = run(plain, steps=30, method={"bn_weight": 0}).health
    assert health.verdict != "ok"
    assert any("no batch norm" in reason for reason in health.reasons)


def test_agreement_is_measured_against_chance():
    monitor = HealthMonitor(10, HealthSettings(), torch.device("cpu"))
    monitor.seen = [2.0] * 10
    labels = torch.tensor([3] * 6 + [1, 2])
    answers = Response(torch.nn.functional.one_hot(labels, 10).float())
    found = monitor.inspect(torch.rand(8, 1, 4, 4), answers, lambda images: torch.full((len(images),), 3))
    assert found["health/probe_chance"] == 0.75
    assert found["health/probe_agreement"] == 0.75
    monitor.latest.update({"health/coverage": 1.0, "health/entropy": 1.0})
    check = next(check for check in monitor.checks(0.5) if check.name == "probe agreement")
    assert check.value == 0
    assert check.status == "failed"
    monitor.seen = [0.0] * 10
    assert "probe agreement" not in {check.name for check in monitor.checks(0.5)}, "before the student's first step"


def test_the_verdict_is_plain_data():
    monitor = HealthMonitor(4, HealthSettings(), torch.device("cpu"))
    monitor.seen = [5.0, 5.0, 5.0, 5.0]
    verdict = asdict(monitor.verdict())
    assert json.loads(json.dumps(verdict)) == verdict
    assert tiny_teacher().card.num_classes == 4


def line_of(monitor: HealthMonitor, *outputs: StepOutput) -> dict[str, Any]:
    for output in outputs:
        monitor.observe("student", output, (~torch.isfinite(output.losses["bn"])).float())
    return monitor.line()["values"]


def output_of(bn: float, label: int = 0, classes: int = 4) -> StepOutput:
    logits = torch.nn.functional.one_hot(torch.full((8,), label), classes).float()
    scores = torch.zeros(8)
    facts = {"statistics": torch.tensor(bn)}
    return StepOutput({"bn": torch.tensor(bn)}, batch_of(logits, logits), 8, KeepAll()(scores), facts)


def test_a_skipped_update_does_not_hide_the_numbers_of_the_others():
    monitor = HealthMonitor(4, HealthSettings(), torch.device("cpu"))
    values = line_of(monitor, output_of(8.0), output_of(math.nan), output_of(4.0))
    assert values["loss/bn"] == pytest.approx(6.0)
    assert values["health/bn_distance"] == pytest.approx(6 / 8), "over the first update's, not the first line's"
    assert values["health/nonfinite"] == 1


def test_a_late_collapse_is_a_warning():
    monitor = HealthMonitor(4, HealthSettings(), torch.device("cpu"))
    line_of(monitor, *(output_of(1.0, label) for label in range(4)))
    assert "coverage" not in failing(monitor.verdict())
    line_of(monitor, output_of(1.0, 2))  # too few images to say so
    assert "coverage" not in failing(monitor.verdict())
    assert not any("at the end" in reason for reason in monitor.verdict().reasons)
    line_of(monitor, *(output_of(1.0, 2) for _ in range(3)))
    found = {check.name: check for check in monitor.verdict().checks}
    assert found["coverage"].status == "warning"
    assert found["coverage"].text.startswith("at the end of the run 25%")


@pytest.mark.parametrize(("steps", "epoch", "every"), [(60, 20, 4), pytest.param(150, 50, 10, marks=pytest.mark.slow)])
def test_a_schedule_that_ends_at_zero_is_not_a_student_that_stands_still(digits_teacher, steps, epoch, every):
    plan = {"steps": steps, "log_every": every, "steps_per_epoch": epoch}
    health = run(digits_teacher, **plan, method={"student_schedule": "cosine-early"}).health
    assert not any("do not move" in reason for reason in health.reasons)


def test_the_verdict_is_about_the_student_delivered(digits_teacher):
    class Forgetful(Delivery):
        def install(self, student: torch.nn.Module) -> bool:
            for parameter in student.parameters():
                parameter.data.zero_()
            return True

    plan = settings(**merge(SHORT, {"steps": 30}))
    with FrozenTeacher(digits_teacher, CPU) as frozen:
        made = Distillation(frozen, build_student("lenient:resnet8", digits_teacher.card, seed=0), plan, CPU)
        made.delivery = Forgetful("ema", 0.9, made.student)
        said = {check.name: check.value for check in made.run().health.checks}
    assert said["probe agreement"] < 0.2


def test_a_network_without_an_update_does_not_stand_still():
    """Close log lines: the generator is updated once in many of them."""
    monitor, module = HealthMonitor(4, HealthSettings(), torch.device("cpu")), torch.nn.Linear(2, 2)
    for _ in range(5):
        line_of(monitor, output_of(1.0))  # the student's
        monitor.moved({"generator": module})
    assert monitor.checks()[0].status == "ok"
    for _ in range(3):
        line_of(monitor, output_of(1.0))
        monitor.moved({"student": module})
    assert "student do not move" in monitor.checks()[0].text
