"""Distil a trained image classifier into a smaller one without any training data.

The names below load lazily, so that `import lenient` and `--help` do not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lenient.api import (
        compare,
        distill,
        evaluate,
        export,
        inspect,
        list_methods,
        load,
        report,
        sample,
        synthesize,
        train_teacher,
    )
    from lenient.losses.objective import Term
    from lenient.methods import register_method
    from lenient.methods.contract import Algorithm, Method, Schedule, Update
    from lenient.runs.images import SyntheticImages
    from lenient.runs.inspection import Inspection
    from lenient.runs.student import Student
    from lenient.synthesis.source import Source
    from lenient.training.result import Result, Summary
    from lenient.training.verdict import Health

__version__ = "0.1.0"
__all__ = [
    "Algorithm",
    "Health",
    "Inspection",
    "Method",
    "Result",
    "Schedule",
    "Source",
    "Student",
    "Summary",
    "SyntheticImages",
    "Term",
    "Update",
    "__version__",
    "compare",
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
        (
            *(
                "compare",
                "distill",
                "evaluate",
                "export",
                "inspect",
                "list_methods",
                "load",
                "report",
                "sample",
                "synthesize",
            ),
            "train_teacher",
        ),
        "lenient.api",
    ),
    **dict.fromkeys(("Algorithm", "Method", "Schedule", "Update"), "lenient.methods.contract"),
    "Health": "lenient.training.verdict",
    "Inspection": "lenient.runs.inspection",
    "Result": "lenient.training.result",
    "Source": "lenient.synthesis.source",
    "Student": "lenient.runs.student",
    "Summary": "lenient.training.result",
    "SyntheticImages": "lenient.runs.images",
    "Term": "lenient.losses.objective",
    "register_method": "lenient.methods",
}
"""Where each name lives."""


def __getattr__(name: str) -> Any:
    """Import the module a public name lives in when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lenient' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
