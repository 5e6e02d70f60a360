"""`lenient methods`: list the methods, or describe one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Annotated

import typer

from lenient.cli import flags
from lenient.core.errors import UsageError


def methods(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="One method, in full.", show_default=False)] = "",
    as_json: flags.AsJson = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of all methods as Markdown, with links to their pages.")
    ] = False,
) -> None:
    """List the methods, or describe one: paper, settings with their defaults, recipes."""
    from lenient.methods import METHODS
    from lenient.methods.anatomy import joined, method_info
    from lenient.training.settings import general_settings

    if as_markdown:
        if name or as_json:
            raise UsageError("--markdown: prints the table of all methods; leave NAME and --json out")
        print(markdown(), end="")
        return
    if not name:
        known = {key: method_info(key) for key in METHODS}
        if as_json:
            rows = {key: {"text": _first_line(info.paper), "anatomy": info.anatomy} for key, info in known.items()}
            print(json.dumps(rows, indent=2))
            return
        for key, info in known.items():
            print(f"{key:10} {_first_line(info.paper)}")
        print("\nWhat each is made of (defaults; numbers are weights):\n")
        _table({key: joined(info.anatomy) for key, info in known.items()})
        print("next: lenient methods NAME describes one; lenient inspect TEACHER says which fit a teacher")
        return
    info, general = method_info(name), general_settings(name)
    if as_json:
        fields, others = (
            {key: {"default": str(default), "text": text} for key, (default, text) in settings.items()}
            for settings in (info.settings, general)
        )
        row = {"name": name, "paper": info.paper, "anatomy": info.anatomy, "settings": fields, "general": others}
        print(json.dumps(row | {"recipes": list(info.recipes)}, indent=2))
        return
    print(info.paper)
    print("\nMade of:")
    for column, text in info.anatomy.items():
        print(f"  {column:12} {text or 'none'}")
    for title, settings in (("Settings (-s method.NAME=VALUE)", info.settings), ("Around it (-s NAME=VALUE)", general)):
        print(f"\n{title}:")
        for key, (default, text) in settings.items():
            print(f"  {key:25} {str(default)[:40]:10} {text}")
    print("\nRecipes (-c NAME):", ", ".join(info.recipes) or "none")
    print(f"next: lenient distill TEACHER --method {shlex.quote(name)}")


def markdown() -> str:
    """Return the table of all methods as Markdown, its links as from the root of the project."""
    from lenient.methods import METHODS
    from lenient.methods.anatomy import anatomy, joined, page

    rows = {f"[`{name}`](docs/methods/{page(name)})": joined(anatomy(name)) for name in METHODS}
    columns = [*next(iter(rows.values()))]
    lines = [["`--method`", *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *(row[column] for column in columns)] for name, row in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _table(pieces: Mapping[str, Mapping[str, str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    columns = [column for column in next(iter(pieces.values())) if any(row[column] for row in pieces.values())]
    table = Table("", *columns, box=SIMPLE_HEAD, pad_edge=False)
    for name, row in pieces.items():
        table.add_row(name, *(row[column] or "-" for column in columns))
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a file has no edge to wrap at
    console.print(table)


def _first_line(text: str) -> str:
    return text.splitlines()[0]
