"""What a program of ours says of itself besides its shapes: that it takes pixels, and the names of its classes.

An ONNX file has it among its properties, a `torch.export` program among its further files; keys and values are text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from lenient.models.card import Card
from lenient.models.classes import LONGEST
from lenient.models.facts import Facts

CLASSES = "lenient.classes"
"""Names of the classes in the order of the outputs, a list in JSON; where they are not known, nothing."""
PIXELS = "lenient.pixels"
"""Of what pixels are given, so that whatever normalises them is inside."""
RANGE = "[0, 1]"


def stated(card: Card) -> dict[str, str]:
    """Return what a program that takes pixels in [0, 1] says of itself."""
    named = {} if card.classes is None else {CLASSES: json.dumps(card.classes)}
    return {PIXELS: RANGE, **named}


def facts_of_stated(said: Mapping[str, str]) -> Facts:
    """Return what a program says so; what is of no use there is as if it were not said."""
    pixels = said.get(PIXELS) == RANGE
    return Facts(
        "the file's own words, that it takes pixels in [0, 1]",
        mean=(0.0,) if pixels else None,
        std=(1.0,) if pixels else None,
        classes=_names(said.get(CLASSES, "")),
    )


def _names(text: str) -> tuple[str, ...] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    sound = isinstance(found, list) and all(isinstance(name, str) and 0 < len(name) <= LONGEST for name in found)
    return tuple(found) if sound and found else None
