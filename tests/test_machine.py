"""What the machine is asked for: compiled forwards, batches that fit, memory that stays flat."""

from __future__ import annotations

import gc
import math
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import lenient
from lenient.bench.cell import Meter, read_costs
from lenient.cli.distill import _dry_run
from lenient.core import memory
from lenient.core.errors import MachineError, UsageError
from lenient.core.runtime import Runtime, check_compiler
from lenient.models.card import Network
from lenient.runs import autotune
from lenient.runs.job import Job
from lenient.runs.request import Request, _check_ways, decide, resolve
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.trainer import Distillation
from ranks_worker import FORMS
from toys import CPU, QUICK, digits_like, settings, tiny_card, tiny_student, tiny_teacher

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


def test_maps_are_computed_anew_where_memory_is_short(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request, teacher, student = Request(settings=QUICK), digits_like(), digits_like(1)
    before = {name: value.clone() for name, value in student.module.state_dict().items()}
    monkeypatch.setattr(memory, "left", lambda _: 1e5)
    with caplog.at_level("INFO"):
        assert decide(resolve(request), request, teacher, student).runtime().recompute
    assert re.search(r"recompute true: maps of 8 images would take 0\.0 GB, of which", caplog.text)
    assert all(torch.equal(value, before[name]) for name, value in student.module.state_dict().items())
    monkeypatch.setattr(autotune, "MOST_KEPT", 1e12)  # so that it is measured
    for left, short in ((1e9, False), (None, False)):
        monkeypatch.setattr(memory, "left", lambda _, left=left: left)
        assert decide(resolve(request), request, teacher, student).recompute is short


def test_what_is_kept_of_an_image_is_known_beforehand() -> None:
    """Of a convolution what goes into it, of a ReLU what comes out, and of the mean over a map nothing."""
    layers = [torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    network = Network(torch.nn.Sequential(*layers), tiny_card())
    pixels = math.prod(network.card.input_size)
    for learns in (False, True):
        assert autotune._kept(network, CPU, learns=learns) == 4 * (pixels + 4 * pixels)
    assert all(weight.requires_grad for weight in network.module.parameters())


def test_maps_cannot_be_computed_anew_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lenient.runs.request.check_compiler", lambda _: None)
    request = Request(settings={**QUICK, "recompute": True}, compile=True)
    with pytest.raises(UsageError, match=r"^-s recompute=true: works without --compile so far; leave one of them out$"):
        decide(resolve(request), request, tiny_teacher(), tiny_student())
    request = Request(settings={**QUICK, "recompute": True})
    with monkeypatch.context() as patched:
        patched.setattr("lenient.core.ranks.count", lambda: 2)
        with pytest.raises(
            UsageError,
            match=r"^-s recompute=true: works on one device so far; take recompute=false, or leave out --devices$",
        ):
            _check_ways(resolve(request), CPU.device)


def test_a_run_goes_on_the_same_with_maps_computed_anew(tmp_path: Path) -> None:
    found = []
    for name, ways in (("one", (False, False)), ("other", (False, True))):
        for steps, anew in zip((6, 9), ways, strict=True):
            told = {"settings": {**QUICK, "recompute": anew} if steps == 6 else {"recompute": anew}}
            lenient.distill(digits_like(), "lenient:resnet8-half", steps=steps, output=tmp_path / name,
                            resume=steps == 9, **told)  # fmt: skip
        found.append(load_file(tmp_path / name / "student" / "model.safetensors"))
    assert yaml.safe_load((tmp_path / "other" / "config.yaml").read_text())["recompute"] is True
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


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
