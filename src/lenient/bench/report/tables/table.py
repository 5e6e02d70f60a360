"""A table as plain values with marks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

Better = Literal["high", "low", ""]
Mark = Literal["best", "second", ""]
FOREIGN = "‡"
"""Of a row that is not data-free in the strict sense."""


@dataclass(frozen=True)
class Value:
    """What stands in one place of a table.

    `text` is what people read; `numbers` are the column's parts for programs, in the table's units (a name where a part
    is one); `rank` is what the column is ranked by, rounded as printed so that what looks equal is equal; None is never
    marked.
    """

    text: str
    numbers: tuple[float | str, ...] = ()
    rank: float | None = None
    mark: Mark = ""


@dataclass(frozen=True)
class Column:
    """A column: its heading, the `group` heading that it shares with neighbours, its `parts` in CSV, which way is
    better, and whether it holds `words` instead of numbers."""

    name: str
    group: str = ""
    parts: tuple[str, ...] = ()
    better: Better = ""
    words: bool = False

    @property
    def title(self) -> str:
        """Both headings in one line."""
        return f"{self.group} {self.name}".strip()


@dataclass(frozen=True)
class Row:
    """A named row. One that stands `apart` (a baseline) is neither ranked nor marked; one whose images are `foreign` is
    called so wherever people read it."""

    name: str
    values: tuple[Value, ...]
    apart: bool = False
    foreign: bool = False

    @property
    def label(self) -> str:
        """The name as people read it."""
        return f"{self.name}{FOREIGN}" if self.foreign else self.name


@dataclass(frozen=True)
class Table:
    """A table with what is to be said about it. `context`: data, student, budget, machine, commit."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    context: Mapping[str, str] | None = None
    head: str = "row"

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Shared headings and how many columns each spans; a single empty one where none is shared."""
        return [(name, len(list(columns))) for name, columns in groupby(column.group for column in self.columns)]

    @property
    def caption(self) -> str:
        """Title and notes as one paragraph."""
        return " ".join([f"{self.title}.", *self.notes, in_words(self.context)]).strip()


def marked(table: Table) -> Table:
    """The table with the best and the second best value of each column marked, equals alike."""
    columns = [
        marks([None if row.apart else row.values[place].rank for row in table.rows], column.better)
        for place, column in enumerate(table.columns)
    ]
    rows = [
        replace(row, values=tuple(replace(value, mark=mark) for value, mark in zip(row.values, own, strict=True)))
        for row, own in zip(table.rows, zip(*columns, strict=True), strict=True)
    ]
    return replace(table, rows=tuple(rows))


def marks(ranks: Sequence[float | None], better: Better) -> list[Mark]:
    """The mark of each value: equal ones share it, and the next one after all best is second.

    A single value is no best one; where all are equal, nothing is marked.
    """
    known = sorted({rank for rank in ranks if rank is not None and math.isfinite(rank)}, reverse=better == "high")
    if not better or len(known) < 2:
        return ["" for _ in ranks]
    words: dict[float | None, Mark] = {known[0]: "best", known[1]: "second"}
    return [words.get(rank, "") for rank in ranks]


def in_words(context: Mapping[str, str] | None) -> str:
    """The context as a sentence."""
    return "; ".join(f"{key}: {value}" for key, value in context.items()) + "." if context else ""
