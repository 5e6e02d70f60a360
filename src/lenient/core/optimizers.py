"""torch's optimizers: which skip a step by themselves, and how one goes on from what it kept."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def skips_itself(optimizer: Optimizer) -> bool:
    """Whether an optimizer is one of torch's that take `found_inf`: fused SGD, Adam, AdamW, Adagrad."""
    own = type(optimizer) in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad)
    return own and all(group.get("fused") for group in optimizer.param_groups)


def step_unless(optimizer: Optimizer, bad: Tensor) -> None:
    """Step an optimizer that skips by itself, unless `bad`, a scalar on the device, is 1."""
    optimizer.found_inf = bad  # type: ignore[attr-defined]
    optimizer.step()


def load_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Let an optimizer go on from a state, its own or another's of its kind.

    A state fits that holds of each parameter what a step leaves there: a step of a copy tells.

    Raises:
        ValueError: a rate is no number, or what is kept of a parameter has another name, kind or shape.
    """
    fresh = optimizer.state_dict()
    for group, own in zip(saved["param_groups"], fresh["param_groups"], strict=True):
        for key, value in own.items():
            if key != "params" and type(group[key]) is not type(value) and not isinstance(group[key], (int, float)):
                raise ValueError(f"optimizer: {key} is of another kind")
    stepped = _after_a_step(optimizer)
    if not fresh["state"].keys() <= saved["state"].keys() <= stepped.keys():
        raise ValueError("optimizer: what it keeps is not that of its parameters")
    for number, kept in saved["state"].items():
        if kept.keys() != stepped[number].keys():
            raise ValueError(f"optimizer: keeps {', '.join(map(str, kept))[:100]}")
        for name, wanted in stepped[number].items():
            if not _alike(kept[name], wanted):
                raise ValueError(f"optimizer: {name} is of another kind or shape")
    optimizer.load_state_dict(dict(saved))


def _after_a_step(optimizer: Optimizer) -> dict[Any, Any]:
    """Return what an optimizer keeps of its parameters after a step of a copy of it, along gradients of zero."""
    twin = copy.deepcopy(optimizer)
    for group in twin.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    twin.step()
    kept: dict[Any, Any] = twin.state_dict()["state"]
    return kept


def _alike(saved: object, wanted: object) -> bool:
    if isinstance(wanted, Tensor):
        same = isinstance(saved, Tensor) and saved.shape == wanted.shape
        return same and isinstance(saved, Tensor) and saved.is_floating_point() == wanted.is_floating_point()
    return type(saved) is type(wanted)
