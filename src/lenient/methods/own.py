"""Methods of a user's own that are named where they lie: `py:package.module:Class` and `py:path/file.py:Class`."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from pydantic import create_model

from lenient.core.errors import TeacherError, UsageError
from lenient.core.text import VALUE, visible
from lenient.methods import lacking
from lenient.methods.contract import Method, MethodSettings
from lenient.models.factories import named
from lenient.models.names import parse_spec

FLAG = "--method"


@cache
def own_method(name: str) -> type[Method]:
    """Import a method by its name, as `lenient.models.names.with_whole_path` returns it; its settings have that name.

    Raises:
        UsageError: it is not there, cannot be imported, or is no method.
    """
    try:
        with named(parse_spec(name, FLAG), FLAG) as (found, _):
            kind: Any = found
    except TeacherError as error:
        raise UsageError(str(error)) from error
    settings_type = getattr(kind, "settings_type", None)
    if not (isinstance(kind, type) and isinstance(settings_type, type) and issubclass(settings_type, MethodSettings)):
        raise UsageError(
            f"{FLAG} {visible(name, 2 * VALUE)}: is no method: give a class with settings_type, a MethodSettings, and "
            "build(context)"
        )
    if lacks := lacking(kind):
        raise UsageError(f"{FLAG} {visible(name, 2 * VALUE)}: has no {lacks}; docs/own-method.md shows what has to be")
    field: Any = (Literal[name], name)
    settings = create_model(settings_type.__name__, __base__=settings_type, name=field)
    return type(
        kind.__name__, (kind,), {"settings_type": settings, "__doc__": kind.__doc__, "__module__": kind.__module__}
    )
