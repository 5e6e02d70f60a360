"""How a table is written: Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable

from lenient.bench.report.tables.table import Table, Value, in_words
from lenient.core.text import cell

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
