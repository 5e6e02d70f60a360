"""Distil a trained image classifier into a smaller one without any training data.

The names below load lazily, so that `import lenient` and `--help` do not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lenient.api import distill, evaluate, export, inspect, list_methods, load, report, sample, synthesize
    from lenient.losses.objective import Term
    from lenient.methods import register_method
    from lenient.methods.contract import Algorithm, Method, Schedule, Update
    from lenient.runs.images import SyntheticImages
    from lenient.supervised import train_classifier as train_teacher
    from lenient.synthesis.source import Source
    from lenient.training.result import Result

__version__ = "0.1.0"
__all__ = [
    "Algorithm",
    "Method",
    "Result",
    "Schedule",
    "Source",
    "SyntheticImages",
    "Term",
    "Update",
    "__version__",
    "distill",
    "evaluate",
    "export",
    "inspect",
    "list_methods",
    "load",
    "register_method",
    "report",
    "sample",
    "synthesize",
    "train_teacher",
]

_HOMES = {
    **dict.fromkeys(
        ("distill", "evaluate", "export", "inspect", "list_methods", "load", "report", "sample", "synthesize"),
        "lenient.api",
    ),
    **dict.fromkeys(("Algorithm", "Method", "Schedule", "Update"), "lenient.methods.contract"),
    "Result": "lenient.training.result",
    "Source": "lenient.synthesis.source",
    "SyntheticImages": "lenient.runs.images",
    "Term": "lenient.losses.objective",
    "register_method": "lenient.methods",
    "train_teacher": "lenient.supervised:train_classifier",
}
"""Where each name lives; after a colon, under which name there."""


def __getattr__(name: str) -> Any:
    """Import the module a public name lives in when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lenient' has no attribute {name!r}")
    module, _, own = _HOMES[name].partition(":")
    return getattr(import_module(module), own or name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
