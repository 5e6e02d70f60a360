"""Loading, building, checking and saving any image classifier.

The names below load lazily: importing this package does not import torch, so that `--help` answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lenient.models.card import Card, Network, PixelClassifier, to_logits
    from lenient.models.checking import check_classifier
    from lenient.models.families import choose_student
    from lenient.models.files import read_card, save_network
    from lenient.models.loading import load_network, network_from_module
    from lenient.models.probing import batch_norm_layers
    from lenient.models.students import build_student

_HOMES = {
    "Card": "card",
    "Network": "card",
    "PixelClassifier": "card",
    "to_logits": "card",
    "batch_norm_layers": "probing",
    "check_classifier": "checking",
    "choose_student": "families",
    "read_card": "files",
    "save_network": "files",
    "load_network": "loading",
    "network_from_module": "loading",
    "build_student": "students",
}

__all__ = [
    "Card",
    "Network",
    "PixelClassifier",
    "batch_norm_layers",
    "build_student",
    "check_classifier",
    "choose_student",
    "load_network",
    "network_from_module",
    "read_card",
    "save_network",
    "to_logits",
]


def __getattr__(name: str) -> Any:
    """Import the file a public name lives in when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
