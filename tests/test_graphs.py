"""What is recorded for CUDA, tried with a recorder that plays on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lenient.core import graphs
from lenient.core.graphs import PLAIN_CALLS, Graphs, Recorded
from lenient.synthesis.selection import MixtureSelection


class OnCuda(Tensor):
    """A tensor of the CPU that says it lies on a GPU."""

    device = torch.device("cuda", 0)


def as_on_cuda(values: Tensor) -> Tensor:
    return values.clone().as_subclass(OnCuda)


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """Those made, by a recorder that computes into the same tensors at each replay, as a graph does."""
    found: list[Recorded] = []

    def recorded(function: Callable[[Tensor], Any], values: Tensor) -> Recorded:
        given = values.as_subclass(Tensor).clone()
        made = function(given)

        def replay() -> None:
            tree_map(lambda old, new: old.copy_(new), made, function(given))

        found.append(Recorded(given, made, replay))
        return found[-1]

    monkeypatch.setattr(graphs, "_recorded", recorded)
    return found


def test_a_shape_is_recorded_once_it_has_come_often_and_answers_are_nobody_elses(recordings: list[Recorded]) -> None:
    graph, calls = Graphs(), []

    def function(values: Tensor) -> dict[str, Tensor]:
        calls.append(len(values))
        return {"double": 2 * values.as_subclass(Tensor)}

    inputs = [torch.randn(5) for _ in range(PLAIN_CALLS + 3)]
    answers = [graph(function, as_on_cuda(values))["double"] for values in inputs]
    assert len(recordings) == 1
    for values, answer in zip(inputs, answers, strict=True):
        assert torch.equal(answer, 2 * values)
    graph(function, as_on_cuda(torch.randn(7)))
    assert len(recordings) == 1


def test_where_nothing_can_be_recorded_the_function_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def __enter__(self) -> None:
            raise RuntimeError("operation not permitted when stream is capturing")

        def __exit__(self, *_: Any) -> None: ...

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", Broken)
    graph, values = Graphs(), torch.randn(4)
    for _ in range(PLAIN_CALLS + 2):
        assert torch.equal(graph(lambda given: (given.as_subclass(Tensor) + 1,), as_on_cuda(values))[0], values + 1)


def test_a_recorded_mixture_selects_as_a_plain_one(recordings: list[Recorded]) -> None:
    recording, plain = MixtureSelection(), MixtureSelection()

    def decided(scores: Tensor) -> Any:
        return recording._decided(scores.as_subclass(Tensor))

    for number in range(PLAIN_CALLS + 3):
        scores = torch.randn(40, generator=torch.Generator().manual_seed(number)).abs()
        mine, theirs = recording.graphs(decided, as_on_cuda(scores)), plain(scores)
        assert torch.equal(mine[0], theirs.weight)
        assert all(torch.equal(one, other) for one, other in zip(mine[1], theirs.mixture, strict=True))
    assert len(recordings) == 1
    assert plain == recording


def test_on_the_cpu_nothing_is_recorded_and_a_selection_can_be_copied(recordings: list[Recorded]) -> None:
    selection = copy.deepcopy(MixtureSelection())
    for _ in range(PLAIN_CALLS + 2):
        selection(torch.rand(8))
    assert recordings == []
