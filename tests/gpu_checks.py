"""What must hold on a GPU, with the device as an argument: on the CPU the same lines run, against itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lenient.core import processes
from lenient.core.runtime import Runtime, repeatable
from lenient.core.seeding import Streams
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.trainer import Distillation
from test_methods import RefuseHost, form
from toys import settings, stored, tiny_student, tiny_teacher

UPDATES = 3
FAR = 1e-6
"""How far float64 may part the weights of two devices after three updates: sums of a few hundred numbers about 1 differ
by 1e-13, which Adam, where a gradient ought to be 0, divides by 1e-8 and follows at a rate of 0.01. A fault shows above
1e-3."""
WORKER = Path(__file__).with_name("gpu_worker.py")


def distillation(name: str, runtime: Runtime, **changes: Any) -> Distillation:
    """A run of a form of a method on tiny networks, teacher entered and never left."""
    frozen = FrozenTeacher(tiny_teacher(), runtime).__enter__()
    own = form(name) | changes | {"device": str(runtime.device), "precision": runtime.precision}
    return Distillation(frozen, tiny_student(), settings(**own), runtime)


def take(run: Distillation, updates: int) -> list[dict[str, Tensor]]:
    """Make updates and return their losses."""
    return [run.take_update()[1].losses for _ in range(updates)]


def weights(run: Distillation) -> dict[str, Tensor]:
    """All parameters and buffers that the run moves, on the CPU."""
    return {
        f"{name}.{key}": value.detach().cpu().clone()
        for name, update in run.algorithm.updates.items()
        for key, value in update.module.state_dict().items()
    }


@contextmanager
def drawn_on_the_host() -> Iterator[None]:
    """Draw on the CPU whatever the device: each kind of device has random numbers of its own."""

    def on_host(draw: Any) -> Any:
        def drawn(self: Streams, name: str, update: int, *how: Any) -> Tensor:
            return draw(Streams(self.seed), name, update, *how).to(self.device)

        return drawn

    with pytest.MonkeyPatch.context() as patch:
        for name in ("normal", "uniform", "integers", "permutation"):
            patch.setattr(Streams, name, on_host(getattr(Streams, name)))
        yield


@contextmanager
def refusing(device: torch.device) -> Iterator[None]:
    """Fail where the host waits for the device."""
    if device.type != "cuda":
        with RefuseHost():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_alike(name: str, device: torch.device) -> None:
    """Three updates of a method on a device come to what they come to on the CPU."""
    with drawn_on_the_host():
        here, there = (distillation(name, Runtime(place, "64")) for place in (torch.device("cpu"), device))
        for run in (here, there):
            run.algorithm.source.sample(4, "first", 0)
            take(run, UPDATES)
    ours, theirs = weights(here), weights(there)
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key], value, rtol=FAR, atol=FAR, msg=lambda text, key=key: f"{key}: {text}")


def check_bf16(name: str, device: torch.device) -> None:
    """In bfloat16 the first losses are those of float32 to its eight bits, through a dozen layers."""
    with drawn_on_the_host():
        full, half = (distillation(name, Runtime(device, precision)) for precision in ("32", "bf16"))
        expected, found = take(full, 1)[0], take(half, 1)[0]
    for key, value in expected.items():
        torch.testing.assert_close(found[key].float(), value.float(), rtol=0.1, atol=0.05)
    assert all(torch.isfinite(value.float()).all() for value in weights(half).values())


def check_compiled(name: str, device: torch.device) -> None:
    """Compiled, three updates come to what they come to otherwise, as far as another order of sums lets them."""
    plain, compiled = (distillation(name, Runtime(device, "32", compile=compile)) for compile in (False, True))
    take(plain, UPDATES)
    take(compiled, UPDATES)
    ours, theirs = weights(plain), weights(compiled)
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key], value, rtol=0.02, atol=0.02)


def check_resumed(name: str, device: torch.device, folder: Path) -> None:
    """A run that goes on from a checkpoint is to the bit the run that was never stopped."""
    runtime = Runtime(device, "32")
    with repeatable(device):
        straight, stopped = distillation(name, runtime), distillation(name, runtime)
        take(straight, 8)
        take(stopped, 5)
        resumed = distillation(name, runtime)
        resumed.load_state_dict(stored(stopped, folder, device))
        take(resumed, 3)
    ours, theirs = weights(straight), weights(resumed)
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def check_never_waits(name: str, device: torch.device, precision: str = "32") -> None:
    """Updates are launched ahead of the device: nothing asks it for a number, nor waits for a copy to it."""
    run = distillation(name, Runtime(device, precision))
    take(run, 4)
    with refusing(device):
        take(run, 6)


def check_two_processes(name: str, device: torch.device, folder: Path) -> None:
    """Two processes that share a device, and a batch by gloo, come to what one comes to."""
    found = []
    for count in (1, 2):
        file = folder / f"{count}.pt"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        done = subprocess.run(
            [*command, str(WORKER), str(file), str(device), name],
            env=processes.safely({**processes.os.environ, "PYTHONPATH": ":".join([str(WORKER.parent), *sys.path])}),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(torch.load(file))
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=FAR, atol=FAR, msg=lambda text, key=key: f"{key}: {text}")
