"""What is made ahead of its update, on a second thread, is what would be made in it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest
import torch

from lenient import distill
from lenient.core.config import merge
from lenient.core.runtime import Runtime
from lenient.runs import autotune
from lenient.runs.request import Request, decide, resolve
from lenient.synthesis.prefetch import Ahead, Prefetch
from lenient.teacher.batch import Clock
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.trainer import Distillation
from ranks_worker import FORMS
from toys import CPU, QUICK, quick, settings, tiny_student, tiny_teacher

POOLED = ("adi", "deepinversion", "fastdfkd", "nayer", "cmi", "cpnet", "zskd", "kegnet")
STREAMS = [form for form in FORMS if not form.startswith(("noise", "photo", "stable", *POOLED))]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So that sums are taken in one order, whoever takes them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with ExitStack() as stack:

        def make(form: str, threads_ahead: int) -> Distillation:
            monkeypatch.setattr(Runtime, "threads_ahead", threads_ahead)
            frozen = stack.enter_context(FrozenTeacher(tiny_teacher(), CPU))
            method = {"name": form.split(",")[0], **FORMS[form]}
            return Distillation(frozen, tiny_student(), settings(steps=40, method=method), CPU)

        yield make


def leaves(state: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from leaves(value, f"{path}/{key}")
    elif isinstance(state, list | tuple):
        for index, value in enumerate(state):
            yield from leaves(value, f"{path}/{index}")
    elif state is not None:
        yield path, torch.as_tensor(state)


def assert_same(first: Distillation, second: Distillation) -> None:
    ours, theirs = dict(leaves(first.state_dict())), dict(leaves(second.state_dict()))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=0, equal_nan=True, msg=name)


def begun(source: Prefetch) -> int | None:
    """The number of the update whose batch is being made."""
    return None if source._ahead.begun is None else source._ahead.begun.update


@pytest.mark.parametrize("form", STREAMS)
def test_after_every_update_the_run_is_as_it_would_be(opened: Any, form: str) -> None:
    """To the bit, also what is begun and not taken: buffers, leftovers, counts."""
    straight, ahead = opened(form, 0), opened(form, 1)
    for _ in range(2 * straight.algorithm.schedule.phases[-1].length + 3):
        straight.take_update()
        ahead.take_update()
        assert_same(straight, ahead)
    images = [run.algorithm.source.sample(4, "probe", 0) for run in (straight, ahead)]
    assert torch.equal(*images)


def test_the_next_batch_is_begun_unless_the_generator_moves_first(opened: Any) -> None:
    run = opened("ta-dfkd", 1)
    schedule, source = run.algorithm.schedule, run.algorithm.source
    for update, following in pairwise(range(2 * schedule.phases[-1].length)):
        run.take_update()
        goes_on = schedule.name(update) == schedule.name(following) == "student"
        assert begun(source) == (following if goes_on else None)


def test_what_is_dropped_can_be_made_again(opened: Any) -> None:
    straight, ahead = opened("ta-dfkd", 0), opened("ta-dfkd", 1)
    for _ in range(5):
        straight.take_update()
        ahead.take_update()
        ahead.algorithm.source.close()
        assert_same(straight, ahead)


def test_nothing_is_begun_after_the_last_step(opened: Any) -> None:
    run = opened("ta-dfkd", 1)
    run.run()
    assert begun(run.algorithm.source) is None


@pytest.mark.parametrize("form", ["ta-dfkd", "pre-dfkd", "mad"])
@pytest.mark.parametrize("updates", [1, 4])
def test_a_checkpoint_amid_a_cycle_goes_on_to_the_bit(opened: Any, form: str, updates: int) -> None:
    whole, resumed = opened(form, 1), opened(form, 1)
    for _ in range(updates):
        whole.take_update()
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for _ in range(8):
        whole.take_update()
        resumed.take_update()
        assert_same(whole, resumed)


def test_an_error_ahead_is_an_error_of_the_update(opened: Any) -> None:
    run = opened("ta-dfkd", 1)
    run.take_update()
    source: Prefetch = run.algorithm.source
    source.close()
    source.twin.teacher.module.conv1.weight.data = torch.zeros(1, 1, 1, 1)
    with pytest.raises(RuntimeError):
        run.take_update()


def test_a_run_leaves_torchs_threads_as_they_were() -> None:
    torch.set_num_threads(4)
    distill(tiny_teacher(), tiny_student(), settings=QUICK | {"overlap": True})
    assert torch.get_num_threads() == 4


def test_half_of_a_cpus_threads_are_for_work_ahead() -> None:
    torch.set_num_threads(4)
    assert [Runtime(torch.device(name), overlap=True).threads_ahead for name in ("cpu", "cuda")] == [2, 0]
    assert CPU.threads_ahead == 0
    torch.set_num_threads(1)
    assert Runtime(CPU.device, overlap=True).threads_ahead == 0


@pytest.mark.parametrize(("method", "threads", "faster", "taken"), [
    ("ta-dfkd", 2, True, True),
    ("ta-dfkd", 2, False, False),
    ("ta-dfkd", 1, True, False),
    ("dafl", 2, True, False),  # the generator moves before every step
    ("noise", 2, False, False),
])  # fmt: skip
def test_auto_overlaps_where_a_trial_shows_a_gain(
    monkeypatch: pytest.MonkeyPatch, method: str, threads: int, faster: bool, taken: bool
) -> None:
    torch.set_num_threads(threads)
    monkeypatch.setattr(autotune, "seconds_of", trial := Trial(2.0 if faster else 0.95))
    request = Request(method=method, settings=quick(method, QUICK | {"overlap": "auto"}))
    assert decide(resolve(request), request, tiny_teacher(), tiny_student()).overlap is taken
    assert torch.get_num_threads() == threads
    assert len(trial.threads) in (0, 2)
    written = resolve(Request(method=method, settings=quick(method)))
    assert decide(written, request, tiny_teacher(), tiny_student()).overlap is False


class Trial:
    """Stands for a clock that finds steps with overlap so many times as fast."""

    def __init__(self, gain: float) -> None:
        self.gain = gain
        self.threads: list[int] = []

    def __call__(self, work: Callable[[], object], device: torch.device, repeats: int, **_: object) -> float:
        work()
        self.threads.append(torch.get_num_threads())
        return 1.0 if len(self.threads) == 1 else self.gain


def test_a_long_stretch_of_one_network_is_never_tried_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator that makes 300 updates ahead of the student makes them once, in the run."""
    torch.set_num_threads(2)
    taken_by: list[str] = []
    take = Distillation.take_update
    monkeypatch.setattr(Distillation, "take_update", lambda run: taken_by.append((taken := take(run))[0]) or taken)
    plan = {"overlap": "auto", "method": {"generator_steps": 300, "student_steps": 6}}
    request = Request(budget="1s", settings=merge(QUICK, plan))
    decide(resolve(request), request, tiny_teacher(), tiny_student())
    assert 0 < taken_by.count("generator") <= 20
    assert taken_by.count("student") <= 30


def test_the_seconds_of_a_step_count_a_whole_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "seconds_of", lambda work, *_, **__: float(work.args[1]))  # a second an update
    plan = resolve(Request(settings=merge(QUICK, {"method": {"generator_steps": 300, "student_steps": 6}})))
    assert autotune.trial(plan, tiny_teacher(), tiny_student())["seconds_per_step"] == pytest.approx(306 / 6)


def test_threads_are_shared_while_something_is_made() -> None:
    torch.set_num_threads(5)
    ahead = Ahead(lambda clock: (clock.update, torch.get_num_threads()), 2)
    ahead.begin(Clock(7))
    assert (ahead.begun, torch.get_num_threads()) == (Clock(7), 3)
    assert ahead.take() == (7, 2)
    assert (ahead.begun, torch.get_num_threads()) == (None, 5)


def test_an_error_in_what_is_dropped_is_nobodys() -> None:
    torch.set_num_threads(5)
    ahead = Ahead(lambda clock: 1 // clock.update, 2)
    ahead.begin(Clock(0))
    ahead.drop()
    assert (ahead.begun, torch.get_num_threads()) == (None, 5)


def test_nothing_is_begun_beside_a_memorys_update(opened: Any) -> None:
    """Its update would have fewer threads than after a resume, and come to other bits."""
    run = opened("pre-dfkd", 1)
    schedule, source = run.algorithm.schedule, run.algorithm.source
    assert "memory" in {schedule.name(update) for update in range(schedule.phases[-1].length)}
    for update, following in pairwise(range(2 * schedule.phases[-1].length)):
        run.take_update()
        goes_on = schedule.name(update) == schedule.name(following) == "student"
        assert begun(source) == (following if goes_on else None)
