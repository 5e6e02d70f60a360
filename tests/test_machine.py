"""What the machine is asked for: compiled forwards, batches that fit, memory that stays flat."""

from __future__ import annotations

import gc
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from lenient.bench.cell import Meter, read_costs
from lenient.cli.distill import _dry_run
from lenient.core import memory
from lenient.core.errors import MachineError, UsageError
from lenient.core.runtime import Runtime, check_compiler
from lenient.runs import autotune
from lenient.runs.job import Job
from lenient.runs.request import Request, decide, resolve
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.trainer import Distillation
from ranks_worker import FORMS
from toys import CPU, QUICK, settings, tiny_student, tiny_teacher

COMPILED = Runtime(CPU.device, compile=True)
METHODS: dict[str, dict[str, object]] = {
    "ta-dfkd": {},
    "zskt": {"student_optimizer": "sgd"},  # Adam blows rounding noise up
    "meta-dfkd": {},
    "mad": {},
}


def answers_after(steps: int, runtime: Runtime, method: str) -> torch.Tensor:
    """What the student says of fixed images."""
    torch._dynamo.reset()
    student = tiny_student()
    with FrozenTeacher(tiny_teacher(), runtime) as teacher:
        run = Distillation(teacher, student, settings(steps=steps, method={"name": method, **METHODS[method]}), runtime)
        while run.step < steps:
            run.take_update()
    with torch.no_grad():
        return student.module.eval()(torch.linspace(-2, 2, 16 * 30).view(16, 1, 6, 5).sin())


@pytest.mark.parametrize("method", METHODS)
def test_traced_forwards_are_those_of_the_modules(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Everything but the code generator: hooks are armed, modes change, gradients reach where they should."""
    calls = []

    def traced(module: torch.nn.Module, **options: object) -> object:
        calls.append(options.pop("options", None))  # of the code generator
        return compiler(module, backend="aot_eager", **options)

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    torch.testing.assert_close(answers_after(4, COMPILED, method), answers_after(4, CPU, method), atol=1e-4, rtol=0)
    assert len(calls) >= 2
    assert calls.count({"freezing": True}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_compiled_forwards_are_those_of_the_modules(method: str) -> None:
    torch.testing.assert_close(answers_after(4, COMPILED, method), answers_after(4, CPU, method), atol=1e-4, rtol=0)


def test_a_machine_that_cannot_compile_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no C++ compiler\nmany more lines")

    monkeypatch.setattr(torch, "compile", lambda _: broken)
    with pytest.raises(UsageError, match=r"^--compile: torch cannot compile here \(no C\+\+ compiler\); leave it out$"):
        check_compiler(CPU.device)


def test_what_is_compiled_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lenient.runs.request.check_compiler", lambda _: None)
    request = Request(settings=QUICK, compile=True)
    decided = decide(resolve(request), request, tiny_teacher(), tiny_student())
    assert decided.compile
    assert decided.runtime() == COMPILED


@pytest.mark.parametrize("form", FORMS)
def test_every_form_runs_in_bfloat16(form: str) -> None:
    runtime = Runtime(CPU.device, "bf16")
    method = {"name": form.split(",")[0], **FORMS[form]}
    with FrozenTeacher(tiny_teacher(), runtime) as teacher:
        result = Distillation(teacher, tiny_student(), settings(method=method), runtime).run()
    assert result.summary.steps == QUICK["steps"]


# memory


def test_the_largest_batch_is_worked_out_from_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte an image: 16 and 64 images are tried, and 100 MB are left."""
    tried = []

    def trial(settings: object, *_: object) -> dict[str, float]:
        tried.append(settings.batch_size)  # type: ignore[attr-defined]
        return {"peak_bytes": 5e8 + settings.batch_size * 1e6}  # type: ignore[attr-defined]

    monkeypatch.setattr(autotune, "trial", trial)
    for left, size in ((100e6, 64), (1e12, autotune.LARGEST), (1e6, 16)):
        monkeypatch.setattr(memory, "left", lambda _, left=left: left)
        assert autotune.largest_batch(settings(), tiny_teacher(), tiny_student()) == size
    assert set(tried) == {16, 64}


def test_on_an_accelerator_the_batch_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def trial(settings: object, *_: object) -> dict[str, float]:
        if settings.batch_size > 200:  # type: ignore[attr-defined]
            raise MachineError("does not fit")
        return {"peak_bytes": 1.0}

    monkeypatch.setattr(autotune, "trial", trial)
    monkeypatch.setattr(memory, "left", lambda _: 1e12)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert autotune.largest_batch(settings(device="cuda"), tiny_teacher(), tiny_student()) == 128


def test_a_batch_that_fits_is_found_here() -> None:
    request = Request(settings={**QUICK, "batch_size": 8}, batch_size="auto")
    found = decide(resolve(request), request, tiny_teacher(), tiny_student())
    assert found.batch_size >= autotune.SMALL[0]


def test_a_system_that_does_not_say_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "left", lambda _: None)
    with pytest.raises(UsageError, match="--batch-size auto"):
        autotune.largest_batch(settings(), tiny_teacher(), tiny_student())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux measures a peak anew")
def test_the_peak_is_that_since_the_last_reset() -> None:
    held = torch.ones(30_000_000)
    memory.reset_peak(CPU.device)
    before = memory.peak(CPU.device)
    assert before > held.nbytes
    more = torch.ones(30_000_000)
    assert memory.peak(CPU.device) > before + 0.9 * more.nbytes
    del more
    memory.reset_peak(CPU.device)
    assert memory.peak(CPU.device) < before + 0.1 * held.nbytes


@pytest.fixture
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that has neither /proc nor what only Unix has, as Windows."""
    for name in ("fcntl", "resource"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(memory, "_proc", lambda *_: None)


@pytest.mark.usefixtures("unsaid")
def test_where_the_system_does_not_say_it_memory_is_unknown(tmp_path: Path) -> None:
    assert memory.peak(CPU.device) is None
    job = Job(tiny_teacher(), tiny_student(), Request(settings=QUICK))
    said: list[str] = []
    _dry_run(job, "none", said.append, said.append)
    assert "memory    unknown" in said
    with pytest.raises(UsageError, match="--batch-size auto: this system does not say"):
        autotune.largest_batch(settings(), tiny_teacher(), tiny_student())
    meter = Meter(tmp_path / "cost.jsonl", CPU.device)
    meter.start(1, 0)
    meter.stop()
    assert [line["peak_bytes"] for line in read_costs(tmp_path / "cost.jsonl")] == [None]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says what is resident")
@pytest.mark.parametrize("steps", [150, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", ["ta-dfkd", "meta-dfkd"])
def test_memory_stays_flat(method: str, steps: int) -> None:
    """Ten kilobytes a step would show: a fifth of the steps is for what a run allocates once."""
    resident = partial(memory._proc, "/proc/self/status", "VmRSS")
    sizes = []

    class Watch:
        def start(self, *_: object) -> None: ...
        def line(self, *_: object) -> None: ...
        def stop(self) -> None: ...
        def step(self, step: int, images: int) -> None:
            if step % (steps // 5) == 0:
                gc.collect()
                sizes.append(resident())

    changes = {"log_every": steps // 10, "steps_per_epoch": steps // 5, "steps": steps}
    with FrozenTeacher(tiny_teacher(), CPU) as teacher:
        run = Distillation(
            teacher, tiny_student(), settings(method={"name": method}, **changes), CPU, observers=(Watch(),)
        )
        run.run()
    assert sizes[-1] - sizes[1] < 10_000 * (steps - 2 * steps // 5), sizes
