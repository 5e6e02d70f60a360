"""Paragraphs, tables and figures of the pages on speed."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any


def wrapped(text: str, bullet: str = "") -> list[str]:
    """Return a paragraph in lines of 120 characters at most."""
    wrapper = textwrap.TextWrapper(120, bullet, " " * len(bullet), break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(text)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return [lines[0], "|" + "---|" * len(heads), *lines[1:]]


def spread(values: Sequence[float]) -> str:
    """Median (least to most)."""
    middle, least, most = (figures(value) for value in (statistics.median(values), min(values), max(values)))
    return middle if least == most else f"{middle} ({least} to {most})"


def figures(value: float) -> str:
    """Three significant figures at least, never in powers of ten."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}" if abs(value) >= 1e-4 else f"{value:.6f}"


def duration(seconds: float) -> str:
    """Return a time in the unit in which it is 2 or more."""
    for unit, length in (("years", 365 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{figures(seconds / length)} {unit}"
    return f"{figures(seconds)} seconds"


def machine(facts: Mapping[str, Any]) -> str:
    """Return what it was measured on."""
    threads = facts["threads"]
    return f"Machine: {facts['device_name']}, {threads} thread{'' if threads == 1 else 's'}; torch {facts['torch']}"
