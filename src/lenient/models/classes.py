"""Names of classes as a user gives them: a list, a text file, or a folder in which each class has its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from lenient.core import files
from lenient.core.errors import UsageError
from lenient.core.text import VALUE, shown, visible

FLAG = "--classes"
LONGEST = 200
"""Characters of a name: what has more is another kind of file."""
LARGEST = 2**26
"""Bytes of a file."""

Names: TypeAlias = str | os.PathLike[str] | Sequence[str]


def class_names(given: Names) -> tuple[str, ...]:
    """Return names in the order of a network's outputs.

    Args:
        given: the names; or a text file with one on each line; or a folder, whose folders' names are taken in sorted
            order, as torchvision's ImageFolder counts classes.

    Raises:
        UsageError: there is no such file or folder, it holds no names, or one is empty or too long.
    """
    if not isinstance(given, str | os.PathLike):
        return _checked(given, FLAG, "name")
    path = Path(given).expanduser()
    said = f"{FLAG} {visible(given, VALUE)}"
    try:
        if path.is_dir():
            names = sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not files.hidden(entry.name))
        else:
            names = files.read_text(path, LARGEST).removeprefix("\ufeff").rstrip().splitlines()
    except OSError as error:
        raise UsageError(f"{said}: cannot be read ({error.strerror}); name a text file or a folder") from error
    if not names:
        raise UsageError(f"{said}: holds no names; write one on each line, or name a folder with one for each class")
    return _checked([name.strip() for name in names], said, "line")


def _checked(names: Sequence[str], said: str, what: str) -> tuple[str, ...]:
    for number, name in enumerate(names, 1):
        if not isinstance(name, str):
            raise UsageError(f"{said}: {what} {number} is {shown(name)}, and no text")
        if not 0 < len(name) <= LONGEST:
            raise UsageError(f"{said}: {what} {number} has {len(name)} characters; give 1 to {LONGEST}")
    return tuple(names)
