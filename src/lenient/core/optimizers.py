"""torch's optimizers: which skip a step by themselves, and whether what one has kept fits."""

from __future__ import annotations

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


def fits_optimizer(saved: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Check that the tensors that an optimizer kept are as large as its parameters, and its rates numbers; raises
    ValueError."""
    fresh = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for group, own in zip(saved["param_groups"], fresh["param_groups"], strict=True):
        for key, value in own.items():
            if key != "params" and type(group[key]) is not type(value) and not isinstance(group[key], (int, float)):
                raise ValueError(f"optimizer: {key} is of another kind")
    for number, kept in saved["state"].items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameters[number].shape:
                raise ValueError(f"optimizer: {name} has the shape {tuple(value.shape)}")
