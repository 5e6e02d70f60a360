"""Flags that several commands share, and how their text becomes values. Nothing heavy is imported here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from lenient.core.errors import UsageError
from lenient.core.text import VALUE, visible

MOST_CLASSES = 10**6
MOST_VALUES = 2**26
"""Of one image: channels x height x width."""

Teacher = Annotated[
    str,
    typer.Argument(
        metavar="TEACHER",
        help="A file, a run folder, or SOURCE:NAME with source timm, torchvision, hf-hub, local-dir, lenient or py.",
        show_default=False,
    ),
]
TeacherArch = Annotated[str, typer.Option("--teacher-arch", metavar="SPEC", help="Architecture of a bare state dict.")]
InputSize = Annotated[str, typer.Option("--input-size", metavar="C,H,W", help="What the network takes, e.g. 3,32,32.")]
NumClasses = Annotated[int, typer.Option("--num-classes", metavar="N", help="Number of classes (0: find out).")]
Mean = Annotated[str, typer.Option("--mean", metavar="A,B,C", help="Normalisation mean per channel, pixels in [0, 1].")]
Std = Annotated[str, typer.Option("--std", metavar="A,B,C", help="Normalisation standard deviation per channel.")]
CheckpointKey = Annotated[
    str,
    typer.Option(
        "--checkpoint-key", metavar="KEY", help="Which network of a checkpoint, by dots, e.g. state_dict or model_ema."
    ),
]
DataRoot = Annotated[
    str, typer.Option("--data-root", metavar="DIR", help="Where data sets lie (default: $LENIENT_DATA, else ./data).")
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps (untested).")]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Run code and visit places that files name; what you name needs no flag.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at the destination.")]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Where to write.", show_default=False)]


def facts(
    arch: str, input_size: str, num_classes: int, mean: str, std: str, checkpoint_key: str = ""
) -> dict[str, Any]:
    """Turn the teacher's flags into the arguments of `load_teacher`; what was not said is left out."""
    if not 0 <= num_classes <= MOST_CLASSES:
        raise UsageError(f"--num-classes {visible(num_classes, VALUE)}: write a number up to {MOST_CLASSES}")
    values: dict[str, Any] = {
        "arch": arch or None,
        "input_size": size(input_size),
        "num_classes": num_classes or None,
        "mean": numbers("--mean", mean),
        "std": numbers("--std", std),
        "checkpoint_key": checkpoint_key or None,
    }
    if mean or std:
        from lenient.models.loading import check_constants

        check_constants(values["mean"], values["std"])
    return {name: value for name, value in values.items() if value is not None}


def size(text: str) -> tuple[int, ...] | None:
    """Parse the C,H,W of `--input-size`; empty text is None."""
    found = whole_numbers("--input-size", text)
    if found and (len(found) != 3 or min(found) < 1 or math.prod(found) > MOST_VALUES):
        raise UsageError(f"--input-size {visible(text, VALUE)}: write three numbers C,H,W such as 3,32,32, whose "
                         f"product is at most {MOST_VALUES}")  # fmt: skip
    return found


def numbers(flag: str, text: str) -> tuple[float, ...] | None:
    """Parse `0.1,0.2,0.3`; empty text is None."""
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


def whole_numbers(flag: str, text: str) -> tuple[int, ...] | None:
    """Parse `3,32,32`; empty text is None."""
    if not text:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{flag} {visible(text, VALUE)}: write whole numbers with commas between, e.g. 3,32,32"
        ) from None


def whole_number(flag: str, text: str) -> int | None:
    """Parse one number; empty text is None."""
    numbers = whole_numbers(flag, text)
    if numbers is not None and len(numbers) != 1:
        raise UsageError(f"{flag} {visible(text, VALUE)}: write one number")
    return None if numbers is None else numbers[0]
