"""What an accelerator would meet, without one: tensors of torch's `meta` device have a place and no values, so that
whoever mixes devices, or asks one for a number, fails there too."""

from __future__ import annotations

from contextlib import nullcontext
from traceback import extract_stack
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lenient.core.averaging import WeightAverage
from lenient.core.runtime import Readback, Runtime
from lenient.core.seeding import Streams
from lenient.synthesis import meta, targets
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.guard import Guard
from lenient.training.trainer import Distillation
from test_methods import FORMS, form
from toys import settings, tiny_student, tiny_teacher

META = torch.device("meta")
pytestmark = pytest.mark.filterwarnings("ignore:.*which is a no-op:UserWarning")
READS = {"proxy, selecting": "which pictures the teacher vouches for is read once, before the first update"}
FAST = ("dfad", "deepinversion", "zskd")
"""torch makes up what such tensors hold in Python: the others take seconds each."""
LIVES = {"nayer", "cpnet"}
"""A generator of these lives for some batches; the next one's weights are drawn on the host, and sent."""


class NoMixing(TorchDispatchMode):
    """Fails where an operator is given tensors of two devices, or one is copied from the host in the foreground."""

    def __init__(self) -> None:
        super().__init__()
        self.copied: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        places = {tensor.device.type for tensor in tensors if tensor.dim() or "index" in str(func)}
        assert "copy" in str(func) or len(places) < 2, f"{func} mixes {places}"
        made = func(*args, **(kwargs or {}))
        crossed = "copy" in str(func) and isinstance(made, torch.Tensor) and {made.device.type} != places and places
        if crossed and "sent" not in {frame.name for frame in extract_stack()}:
            lines = [f"{frame.filename}:{frame.lineno}" for frame in extract_stack() if "lenient" in frame.filename]
            self.copied.append(f"{func} at {lines[-1]}")
        return made


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> NoMixing:
    """Numbers that need values are given: random ones have none here, nor have those that the host reads late."""
    mode = NoMixing()

    def drawn(make: Any) -> Any:
        return lambda _, name, update, shape, *high: make(*high, shape, device=META)

    for name, make in (("normal", torch.randn), ("uniform", torch.rand), ("integers", torch.randint)):
        monkeypatch.setattr(Streams, name, drawn(make))
    monkeypatch.setattr(Streams, "generator", lambda *_: None)
    for kind in ("SGD", "Adam", "AdamW"):  # the fused ones know no such device
        own = getattr(torch.optim, kind)
        plain = type(kind, (own,), {"__init__": lambda self, *a, fused=None, own=own, **k: own.__init__(self, *a, **k)})
        monkeypatch.setattr(torch.optim, kind, plain)
    monkeypatch.setattr(Guard, "step", lambda *_: None)
    monkeypatch.setattr(meta, "step_unless", lambda *_: None)
    monkeypatch.setattr(targets, "similarity", lambda weights: torch.eye(len(weights)).double().numpy())
    monkeypatch.setattr(Runtime, "place", lambda self, module: module.to(self.device))
    monkeypatch.setattr(Readback, "get", lambda _: 0.5)
    monkeypatch.setattr(Readback, "put", lambda *_: None)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "allclose", lambda *_, **__: True)
    return mode


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in FORMS if n not in READS]
)
def test_updates_stay_on_the_device_and_never_wait_for_a_copy_to_it(name: str, watched: NoMixing) -> None:
    teacher, student = tiny_teacher(), tiny_student()
    teacher.module.to(META)
    student.module.to(META)
    frozen, runtime = FrozenTeacher(teacher, Runtime(META)).__enter__(), Runtime(META)
    run = Distillation(frozen, student, settings(**form(name), device="cpu"), runtime)
    with watched:
        for _ in range(8):
            run.take_update()
    assert not watched.copied or name in LIVES, watched.copied


def test_an_average_of_weights_asks_no_device() -> None:
    layer = nn.Linear(2, 2, device="meta")
    with NoMixing() as mode:
        WeightAverage(layer, 0.9).update(layer, torch.zeros((), device=META))
    assert not mode.copied


def test_the_guard_costs_as_many_operators_for_many_buffers_as_for_few() -> None:
    def operators(layers: int) -> int:
        calls: list[str] = []

        class Count(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if not func.is_view:
                    calls.append(str(func))
                return func(*args, **(kwargs or {}))

        guard = Guard([nn.BatchNorm2d(3) for _ in range(layers)])
        with Count(), guard.watch() as settle:
            settle([torch.ones(3)])
        return len([name for name in calls if "view" not in name])

    assert operators(40) == operators(2)


def test_a_stream_seeds_the_device_that_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[tuple[str, int]] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(seeded.append(("device", device.index))))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: seeded.append(("seed", seed)))
    monkeypatch.setattr(torch, "manual_seed", lambda _: pytest.fail("seeds every kind of device, one by one"))
    streams = Streams(3)
    streams.device = torch.device("cuda", 1)
    with torch.random.fork_rng(devices=[]):
        streams.seed_global("student", 4)
        assert seeded == [("device", 1), ("seed", torch.initial_seed())]
