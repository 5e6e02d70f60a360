"""Training and evaluation mode for a while: what was found is what is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Put a module and all within it back into the mode that each has now, whatever happens inside."""
    before = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


@contextmanager
def mode(module: nn.Module, wanted: Literal["train", "eval"]) -> Iterator[None]:
    """Put a module and all within it into a mode, and each of them back into its own."""
    with modes_kept(module):
        module.train(wanted == "train")
        yield
