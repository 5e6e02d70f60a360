"""The methods: one file each. This table of strings feeds help texts without importing torch."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from lenient.config import resolve_dotted
from lenient.errors import UsageError

if TYPE_CHECKING:
    from lenient.methods.contract import Method

METHODS: dict[str, str] = {
    "ta-dfkd": "lenient.methods.ta_dfkd:TADFKD",
    "noise": "lenient.methods.noise:Noise",
}

DEFAULT = "ta-dfkd"


def method_class(name: str) -> type[Method]:
    """Return the class of a method by name, imported now.

    Raises:
        UsageError: no such method.
    """
    if name not in METHODS:
        raise UsageError(f"--method {name}: no such method; there are {', '.join(METHODS)}")
    found: type[Method] = resolve_dotted(METHODS[name])
    return found


def recipes(name: str) -> dict[str, Path]:
    """Return the recipes that come with a method, by name."""
    folder = Path(str(resources.files("lenient.methods"))) / "recipes" / name
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
