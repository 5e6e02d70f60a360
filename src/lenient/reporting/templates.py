"""Templates of pages."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2


@cache
def template(name: str, *folders: Path) -> jinja2.Template:
    """Return a template of the first of the folders that holds it; compiling it takes longer than filling it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
