"""Functions of many small operators, recorded as CUDA graphs: on an accelerator to launch them takes longer than they
do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

log = logging.getLogger("lenient")
T = TypeVar("T")
PLAIN_CALLS = 2
"""Calls with a shape before it is recorded: what a function needs is loaded by then, and rare shapes never are."""


class Graphs:
    """Calls a function of one tensor without gradient; on CUDA replays what it has recorded of it, for each shape.

    The function asks the host nothing, and is the same at each call. Where nothing can be recorded it is called.
    """

    def __init__(self) -> None:
        self._calls: dict[object, int] = {}
        self._recorded: dict[object, Recorded | None] = {}

    def __call__(self, function: Callable[[Tensor], T], values: Tensor) -> T:
        """Return what `function` makes of `values`: tensors of their own, in tuples or dictionaries."""
        if values.device.type != "cuda":
            return function(values)
        key = (values.shape, values.dtype, values.device)
        self._calls[key] = self._calls.get(key, 0) + 1
        if self._calls[key] <= PLAIN_CALLS:
            return function(values)
        if key not in self._recorded:
            self._recorded[key] = _recorded(function, values)
        recorded = self._recorded[key]
        if recorded is None:
            return function(values)
        made: T = recorded(values)
        return made


class Recorded:
    """A recording: `given` is what it reads, `made` what it writes, both of which the next replay overwrites."""

    def __init__(self, given: Tensor, made: Any, replay: Callable[[], None]) -> None:
        self.given, self.made, self.replay = given, made, replay

    def __call__(self, values: Tensor) -> Any:
        """Replay it with other values and return copies of what it makes."""
        self.given.copy_(values)
        self.replay()
        return tree_map(torch.clone, self.made)


def _recorded(function: Callable[[Tensor], Any], values: Tensor) -> Recorded | None:
    given, graph = values.detach().clone(), torch.cuda.CUDAGraph()
    try:
        with torch.cuda.device(values.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            made = function(given)
    except RuntimeError as error:
        log.info("no CUDA graph: %s", (str(error).splitlines() or [""])[0])
        return None
    return Recorded(given, made, graph.replay)
