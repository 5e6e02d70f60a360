"""Distil a trained image classifier into a smaller one without any training data.

The names below load lazily, so that `import lenient` and `--help` do not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lenient.api import distill, inspect, load, train_teacher
    from lenient.training.trainer import Result

__version__ = "0.1.0"
__all__ = ["Result", "__version__", "distill", "inspect", "load", "train_teacher"]

_HOMES = {
    "distill": "lenient.api",
    "inspect": "lenient.api",
    "load": "lenient.api",
    "train_teacher": "lenient.api",
    "Result": "lenient.training.trainer",
}


def __getattr__(name: str) -> Any:
    """Import the module a public name lives in when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lenient' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
