"""`lenient methods`: list the methods, or describe one."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from lenient.cli import flags


def methods(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="One method, in full.", show_default=False)] = "",
    as_json: flags.AsJson = False,
) -> None:
    """List the methods, or say of one: paper, settings with their defaults, recipes."""
    import inspect as python_inspect

    from lenient.core.config import keys_of
    from lenient.methods import METHODS, method_class, recipes
    from lenient.methods.anatomy import anatomy

    if not name:
        pieces = {key: anatomy(key) for key in METHODS}
        texts = {key: _first_line(python_inspect.getmodule(method_class(key))) for key in METHODS}
        if as_json:
            print(json.dumps({key: {"text": texts[key], "anatomy": pieces[key]} for key in METHODS}, indent=2))
            return
        for key, text in texts.items():
            print(f"{key:10} {text}")
        print("\nWhat each is made of (defaults; numbers are weights):\n")
        _table(pieces)
        return
    found = method_class(name)
    module = python_inspect.getmodule(found)
    paper = ((module.__doc__ if module else None) or name).strip()
    settings = {key: _field(found.settings_type, key) for key in keys_of(found.settings_type) if key != "name"}
    if as_json:
        fields = {key: {"default": str(default), "text": text} for key, (default, text) in settings.items()}
        row = {"name": name, "paper": paper, "anatomy": anatomy(name), "settings": fields}
        print(json.dumps(row | {"recipes": list(recipes(name))}, indent=2))
        return
    print(paper)
    print("\nMade of:")
    for column, text in anatomy(name).items():
        print(f"  {column:12} {text or 'none'}")
    print("\nSettings (-s method.NAME=VALUE):")
    for key, (default, text) in settings.items():
        print(f"  {key:25} {str(default)[:40]:10} {text}")
    print("\nRecipes (-c NAME):", ", ".join(recipes(name)) or "none")


def _field(model: Any, key: str) -> tuple[Any, str]:
    """Return default and text of a dotted key of a settings model."""
    head, _, rest = key.partition(".")
    field = model.model_fields[head]
    if rest:
        return _field(field.annotation, rest)
    return field.get_default(call_default_factory=True), field.description or ""


def _table(pieces: dict[str, dict[str, str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    columns = [column for column in next(iter(pieces.values())) if any(row[column] for row in pieces.values())]
    table = Table("", *columns, box=SIMPLE_HEAD, pad_edge=False)
    for name, row in pieces.items():
        table.add_row(name, *(row[column] or "-" for column in columns))
    console = Console()
    if not console.is_terminal:
        console.width = 180  # a file has no edge to wrap at
    console.print(table)


def _first_line(module: Any) -> str:
    return str((module.__doc__ or "").strip().splitlines()[0])
