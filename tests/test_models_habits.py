"""Networks with random combinations of habits: the run is that of the plain network, or one line names the cause.

`LENIENT_HABITS=2000` asks for more combinations than the 200 that run by default.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lenient
from lenient.core.errors import LenientError
from lenient.models.card import Network
from lenient.runs.folder import fingerprint
from toys import tiny_card, tiny_student, tiny_teacher

EXAMPLES = int(os.environ.get("LENIENT_HABITS", "200"))

QUICK: dict[str, Any] = {"preset": "smoke", "steps": 2, "batch_size": 4, "device": "cpu", "precision": "64"}

HARMLESS = (
    "writes", "views", "counts", "assigns", "list buffer", "double", "mapping", "grad mode", "rng", "compiled", "hooked"
)  # fmt: skip
"""Habits after which a run has to come to the plain network's student."""
HARMFUL = {
    "no grad": "no gradient",
    "detached": "no gradient",
    "rounded": "no gradient",
    "dropout": "differently each time",
    "across": "other images",
    "one batch": "batch",
    "arguments": "batch of images alone",
    "tuple": "returns a tuple",
    "nan": "NaN or infinite",
}
"""Habits that are refused, and words of the line that says so."""


class Habits(nn.Module):
    """A network whose forward does what `habits` name, around or after the inner one's."""

    def __init__(self, net: nn.Module, habits: frozenset[str]) -> None:
        super().__init__()
        self.net, self.habits = net, habits
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor, *more: Any) -> Any:
        habits = self.habits
        if "arguments" in habits and not more:
            raise TypeError("forward() missing 1 required positional argument: 'features'")
        if "counts" in habits:
            self.calls += 1
        if "assigns" in habits:
            self.calls = self.calls + 1
        if "list buffer" in habits:
            self.net.norm1.num_batches_tracked += 1
        if "rng" in habits:
            torch.rand(3)
        inputs = images
        if "writes" in habits:
            inputs = images.mul_(2.0).div_(2.0)
        inputs = self._taken(inputs)
        with torch.set_grad_enabled(torch.is_grad_enabled() and "no grad" not in habits):
            logits = self.net(inputs)
        if "views" in habits:
            maps = self.net.conv1(inputs)
            logits = logits + 0 * maps.view(len(maps), -1).sum(dim=1, keepdim=True)
        return self._said(logits)

    def _taken(self, inputs: Tensor) -> Tensor:
        if "detached" in self.habits:
            inputs = inputs.detach()
        if "rounded" in self.habits:
            inputs = (inputs * 255).to(torch.int32).to(inputs.dtype) / 255
        return inputs.reshape(4, *inputs.shape[1:]) if "one batch" in self.habits else inputs

    def _said(self, logits: Tensor) -> Any:
        habits = self.habits
        if "dropout" in habits:
            logits = F.dropout(logits, 0.5)
        if "across" in habits:
            logits = logits.softmax(dim=0)
        if "nan" in habits:
            logits = logits / 0 * 0
        if "double" in habits:
            logits = logits.double()
        if "grad mode" in habits:
            torch.set_grad_enabled(False)
        if "tuple" in habits:
            return logits, logits
        return {"logits": logits} if "mapping" in habits else logits


def wrapped(net: nn.Module, habits: frozenset[str]) -> nn.Module:
    module: nn.Module = Habits(net, habits)
    if "hooked" in habits:
        net.register_forward_hook(lambda *_: None)
    return torch.compile(module, backend="eager") if "compiled" in habits else module


def student_of(teacher: nn.Module, method: str, student: nn.Module) -> nn.Module:
    return lenient.distill(Network(teacher, tiny_card()), student, method=method, **QUICK).student


PLAIN: dict[str, dict[str, Tensor]] = {}


def expected(method: str) -> dict[str, Tensor]:
    if method not in PLAIN:
        made = student_of(tiny_teacher().module, method, tiny_student().module)
        PLAIN[method] = {name: value.clone() for name, value in made.state_dict().items()}
    return PLAIN[method]


def check(habits: frozenset[str], method: str, as_student: bool) -> None:
    """One combination: the plain run's student, or one line with the cause."""
    habitual = wrapped(tiny_student().module if as_student else tiny_teacher().module, habits)
    before = fingerprint(habitual)
    teacher, student = (tiny_teacher().module, habitual) if as_student else (habitual, tiny_student().module)
    harmful = [HARMFUL[habit] for habit in sorted(habits) if habit in HARMFUL]
    try:
        made = student_of(teacher, method, student)
    except LenientError as error:
        text = str(error)
        assert "\n" not in text
        assert len(text) <= 300, text
        allowed = [*harmful, *(["with logits in it"] if as_student and "mapping" in habits else [])]
        assert any(words in text for words in allowed), (text, allowed)
    else:
        assert not harmful, f"ran without a word: {harmful}"
        inner = made.net if isinstance(made, Habits) else made
        for name, value in inner.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                torch.testing.assert_close(value, expected(method)[name], rtol=1e-4, atol=1e-6)
    assert torch.is_grad_enabled()
    if not as_student:
        assert fingerprint(habitual) == before


habits = st.frozensets(st.sampled_from(HARMLESS), max_size=4)
faults = st.frozensets(st.sampled_from(sorted(HARMFUL)), max_size=1)


@pytest.mark.slow
@pytest.mark.parametrize("as_student", [False, True])
@pytest.mark.parametrize("habit", [*HARMLESS, *HARMFUL])
def test_each_habit_alone(habit: str, as_student: bool) -> None:
    check(frozenset([habit]), "dfad", as_student)


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(habits, faults, st.sampled_from(("ta-dfkd", "dfad", "zskt", "dafl", "mad", "cudfkd")), st.booleans())
def test_combinations_of_habits(
    harmless: frozenset[str], harmful: frozenset[str], method: str, as_student: bool
) -> None:
    check(harmless | harmful, method, as_student)
