"""The report of a run: one HTML page for people and one JSON file for programs, both made from the run folder alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lenient.core import files
from lenient.core.errors import MachineError, UsageError
from lenient.core.files import disk_errors
from lenient.core.manifest import MARKER, of_run
from lenient.core.numbers import plain
from lenient.reporting.collect import collect
from lenient.reporting.page import render

__all__ = ["write_report", "write_text"]


def write_report(run: Path) -> dict[str, Any]:
    """(Re)write `report.html` and `report.json` in the run folder and return what `report.json` holds.

    Also works on a run that has not ended: its verdict is then "unfinished". The same folder gives the same bytes.

    Raises:
        UsageError: it is no run folder, or has files of these names that no run wrote.
        DamagedError: its settings or metrics are damaged.
        MachineError: it cannot be written.
    """
    record = collect(Path(run))
    _claim(record.path)
    summary: dict[str, Any] = plain(record.summary)
    write_text(record.path / "report.html", render(record))
    write_text(record.path / "report.json", json.dumps(summary, indent=2, sort_keys=True, allow_nan=False) + "\n")
    return summary


def _claim(run: Path) -> None:
    """Enter the two files among those of the run; in a folder without a marker they are new, or somebody else's."""
    manifest, names = of_run(run), ("report.html", "report.json")
    word = "does not name it" if manifest.read() else "is missing"
    for name in manifest.strangers():
        if name in names:
            raise UsageError(f"{run / name}: may be a file of yours, because {run / MARKER} {word}; move it elsewhere")
    with disk_errors(run):
        manifest.claim(*names)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never half of it.

    Raises:
        UsageError: a folder, a link, a pipe or a device is there.
        MachineError: it cannot be written.
    """
    kind = files.kind_of(path)
    if kind not in (None, "a file"):
        raise UsageError(f"{path}: is {kind}, not a file to replace; move it elsewhere")
    try:
        files.write(path, text)
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror or error}") from error
