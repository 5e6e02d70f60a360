"""A table as plain values with marks, and how it is written: Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from lenient.core.text import cell

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
    columns = []
    for position, column in enumerate(table.columns):
        ranks = [None if row.apart else row.values[position].rank for row in table.rows]
        columns.append(marks(ranks, column.better))
    rows = [
        replace(
            row,
            values=tuple(replace(v, mark=columns[place][number]) for place, v in enumerate(row.values)),
        )
        for number, row in enumerate(table.rows)
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
    return "; ".join(f"{key}: {value}" for key, value in (context or {}).items()) + "." if context else ""


# Markdown


def markdown(table: Table) -> str:
    """The table as a page in Markdown; best in bold, second best underlined."""
    lines = [f"### {_line(table.title)}", ""]
    lines += ["| " + " | ".join(map(_md, [table.head, *(c.title for c in table.columns)])) + " |"]
    lines += ["|---|" + "".join("---|" if column.words else "---:|" for column in table.columns)]
    for row in table.rows:
        name = f"*{_md(row.label)}*" if row.apart else _md(row.label)
        lines.append("| " + " | ".join([name, *(_md_value(value) for value in row.values)]) + " |")
    lines += ["", _line(" ".join(table.notes)), "", _line(in_words(table.context))]
    return "\n".join(lines).strip() + "\n"


def _md(text: str) -> str:
    return cell(text, "markdown")


def _line(text: str) -> str:
    """A line of ours that may quote names of others."""
    return text.replace("<", "&lt;")


def _md_value(value: Value) -> str:
    text = _md(value.text)
    return f"**{text}**" if value.mark == "best" else f"<u>{text}</u>" if value.mark == "second" else text


# CSV


def comma_separated(table: Table) -> str:
    """The table as CSV: unrounded numbers in the table's units, then the context; a word where there is no number."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    context = table.context or {}
    heads = [f"{c.title} {part}".strip() for c in table.columns for part in c.parts or ("",)]
    writer.writerow([cell(name, "csv") for name in (table.head, *heads, *context)])
    for row in table.rows:
        fields: list[str] = []
        for column, value in zip(table.columns, row.values, strict=True):
            width = max(len(column.parts), 1)
            shown = [_exact(number) for number in value.numbers] or [value.text]
            fields += [*shown, *[""] * width][:width]
        writer.writerow([cell(field, "csv") for field in (row.name, *fields, *context.values())])
    return buffer.getvalue()


def _exact(number: float | str) -> str:
    if isinstance(number, str):
        return number
    if math.isnan(number):
        return ""
    return f"{number:.0f}" if number == round(number) else f"{number:.10g}"


# LaTeX

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$",
    "−": "$-$", "\u202f": r"\,", "†": r"\dag{}", "‡": r"\ddag{}", "²": r"\textsuperscript{2}", "×": r"$\times$",
    "…": r"\ldots{}", '"': "''", "|": r"\textbar{}", "ﬁ": "fi",
}  # fmt: skip


def tex(text: str) -> str:
    """Any text for LaTeX, special characters escaped."""
    return "".join(_TEX.get(sign, sign) for sign in text)


def latex(table: Table) -> str:
    """The table for LaTeX with booktabs: `\\input` it; baselines stand below a rule."""
    sides = "".join("l" if column.words else "r" for column in table.columns)
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\caption{{{tex(table.caption)}}}"]
    lines += [rf"\label{{tab:{table.key}}}", rf"\begin{{tabular}}{{l{sides}}}", r"\toprule"]
    if any(name for name, _ in table.groups):
        heads = [rf"\multicolumn{{{span}}}{{c}}{{{tex(name)}}}" for name, span in table.groups]
        lines.append(" & ".join(["", *heads]) + r" \\")
    lines += [" & ".join([tex(table.head), *(tex(column.name) for column in table.columns)]) + r" \\", r"\midrule"]
    for position, row in enumerate(table.rows):
        if row.apart and position and not table.rows[position - 1].apart:
            lines.append(r"\midrule")
        lines.append(" & ".join([tex(row.label), *map(_tex_value, row.values)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _tex_value(value: Value) -> str:
    text = tex(value.text)
    command = {"best": r"\textbf", "second": r"\underline", "": ""}[value.mark]
    return f"{command}{{{text}}}" if command else text


WRITERS: dict[str, Callable[[Table], str]] = {"md": markdown, "csv": comma_separated, "tex": latex}
