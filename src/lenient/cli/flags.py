"""Flags that several commands share, and how their text becomes values. Nothing heavy is imported here."""

from __future__ import annotations

import math
from typing import Annotated, Any

from lenient.cli import options
from lenient.core.errors import UsageError
from lenient.core.text import VALUE, visible

MOST_CLASSES = 10**6
MOST_VALUES = 2**26
"""Of one image: channels x height x width."""

# of commands that no function has

DataRoot = Annotated[str, options.DATA_ROOT.annotation("data_root")]
Device = Annotated[str, options.DEVICE.annotation("device")]
TrustCode = Annotated[bool, options.TRUST_CODE.annotation("trust_code")]
AsJson = Annotated[bool, options.AS_JSON.annotation("as_json")]
Overwrite = Annotated[bool, options.OVERWRITE.annotation("overwrite")]


def facts(
    arch: str | None,
    input_size: str | None,
    num_classes: int | None,
    mean: str | None,
    std: str | None,
    checkpoint_key: str | None,
    classes: str | None,
) -> dict[str, Any]:
    """Turn the teacher's flags into the arguments of `load_teacher`; what was not said is left out."""
    if not 0 <= (num_classes or 0) <= MOST_CLASSES:
        raise UsageError(f"--num-classes {visible(num_classes, VALUE)}: write a number up to {MOST_CLASSES}")
    values: dict[str, Any] = {
        "arch": arch or None,
        "input_size": size(input_size),
        "num_classes": num_classes or None,
        "mean": numbers("--mean", mean),
        "std": numbers("--std", std),
        "checkpoint_key": checkpoint_key or None,
        "classes": classes or None,
    }
    if mean or std:
        from lenient.models.loading import check_constants

        check_constants(values["mean"], values["std"])
    return {name: value for name, value in values.items() if value is not None}


def size(text: str | None) -> tuple[int, ...] | None:
    """Parse the C,H,W of `--input-size`; none, or an empty one, is None."""
    found = whole_numbers("--input-size", text)
    if found and (len(found) != 3 or min(found) < 1 or math.prod(found) > MOST_VALUES):
        raise UsageError(f"--input-size {visible(text, VALUE)}: write three numbers C,H,W such as 3,32,32, whose "
                         f"product is at most {MOST_VALUES}")  # fmt: skip
    return found


def numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    """Parse `0.1,0.2,0.3`; none, or an empty one, is None."""
    if not text:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
        if all(map(math.isfinite, found)):
            return found
        raise ValueError
    except ValueError:
        raise UsageError(
            f"{flag} {visible(text, VALUE)}: write numbers with commas between, e.g. 0.49,0.48,0.45"
        ) from None


def number(flag: str, text: str | None) -> float | None:
    """Parse one number; none, or an empty text, is None."""
    found = numbers(flag, text)
    if found is not None and len(found) != 1:
        raise UsageError(f"{flag} {visible(text, VALUE)}: write one number")
    return None if found is None else found[0]


def whole_numbers(flag: str, text: str | None) -> tuple[int, ...] | None:
    """Parse `3,32,32`; none, or an empty one, is None."""
    if not text:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{flag} {visible(text, VALUE)}: write whole numbers with commas between, e.g. 3,32,32"
        ) from None


def whole_number(flag: str, text: str | None) -> int | None:
    """Parse one number; none, or an empty one, is None."""
    found = whole_numbers(flag, text)
    if found is not None and len(found) != 1:
        raise UsageError(f"{flag} {visible(text, VALUE)}: write one number")
    return None if found is None else found[0]
