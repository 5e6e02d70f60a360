"""The methods: one file each. This table of strings feeds help texts without importing torch."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lenient.core.config import resolve_dotted
from lenient.core.errors import UsageError
from lenient.core.text import VALUE, visible
from lenient.models.names import OWN, with_whole_path

if TYPE_CHECKING:
    from lenient.methods.contract import Method

METHODS: dict[str, str] = {
    "bn-adv": "lenient.methods.bn_adv:BNAdv",
    "ta-dfkd": "lenient.methods.ta_dfkd:TADFKD",
    "dafl": "lenient.methods.dafl:DAFL",
    "dafl-adv": "lenient.methods.dafl_adv:DAFLAdv",
    "dfad": "lenient.methods.dfad:DFAD",
    "zskt": "lenient.methods.zskt:ZSKT",
    "mb-dfkd": "lenient.methods.mb_dfkd:MBDFKD",
    "pre-dfkd": "lenient.methods.pre_dfkd:PREDFKD",
    "mad": "lenient.methods.mad:MAD",
    "meta-dfkd": "lenient.methods.meta_dfkd:METADFKD",
    "cudfkd": "lenient.methods.cudfkd:CuDFKD",
    "deepinversion": "lenient.methods.deepinversion:DeepInversion",
    "adi": "lenient.methods.deepinversion:ADI",
    "fastdfkd": "lenient.methods.fastdfkd:FastDFKD",
    "nayer": "lenient.methods.nayer:NAYER",
    "cpnet": "lenient.methods.cpnet:CPNet",
    "cmi": "lenient.methods.cmi:CMI",
    "zskd": "lenient.methods.zskd:ZSKD",
    "kegnet": "lenient.methods.kegnet:KegNet",
    "adadfq": "lenient.methods.adadfq:AdaDFQ",
    "stable": "lenient.methods.stable:Stable",
    "proxy": "lenient.methods.proxy:ProxyImages",
    "photo": "lenient.methods.photo:Photo",
    "noise": "lenient.methods.baselines:Noise",
}

DEFAULT = "bn-adv"

M = TypeVar("M", bound="type[Method]")
_REGISTERED: dict[str, type[Method]] = {}


def register_method(name: str) -> Callable[[M], M]:
    """Return a decorator that gives a method of one's own a name, for `method=NAME`, settings and `list_methods`.

    Raises:
        UsageError: the name is taken, or is not of small letters, digits and hyphens.

    Example:
        >>> from typing import Literal
        >>> from lenient.methods.dfad import DFAD, DFADSettings
        >>> class Settings(DFADSettings):
        ...     name: Literal["mine"] = "mine"
        >>> @lenient.register_method("mine")
        ... class Mine(DFAD):
        ...     settings_type = Settings
        >>> "mine" in lenient.list_methods()
        True
    """
    if re.fullmatch(r"[a-z][a-z0-9-]{0,40}", name) is None:
        raise UsageError(f"method {visible(name, VALUE)}: a name is of small letters, digits and hyphens")

    def register(kind: M) -> M:
        if lacks := lacking(kind):
            raise UsageError(f"method {name}: has no {lacks}; docs/own-method.md shows what has to be")
        before = _REGISTERED.get(name)
        if name in METHODS and (before is None or _place(before) != _place(kind)):
            raise UsageError(f"method {name}: there is one of this name; choose another")
        METHODS[name] = f"{kind.__module__}:{kind.__qualname__}"
        _REGISTERED[name] = kind
        return kind

    return register


def lacking(kind: type) -> str:
    """Return what a class would need to be a method and has not; nothing where all is there."""
    return next((name for name in ("settings_type", "needs_batch_norm", "build") if not hasattr(kind, name)), "")


def _place(kind: type) -> tuple[str, str]:
    """Where a class is written: a file may be imported under several names, by Python and by `py:`."""
    path = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return (os.path.realpath(path) if path else kind.__module__), kind.__qualname__


def registered() -> frozenset[str]:
    """Return the names that `register_method` has given."""
    return frozenset(_REGISTERED)


def method_class(name: str) -> type[Method]:
    """Return the class of a method by name, or by `py:` and where it lies; imported now.

    Raises:
        UsageError: no such method.
    """
    if name.startswith(OWN):
        from lenient.methods.own import own_method

        return own_method(with_whole_path(name))
    if name not in METHODS:
        names = ", ".join(METHODS)
        raise UsageError(
            f"--method {visible(name, VALUE // 2)}: no such method; there are {names}, and {OWN}FILE.py:CLASS"
        )
    found: type[Method] = _REGISTERED.get(name) or resolve_dotted(METHODS[name])
    return found


def recipes(name: str) -> dict[str, Path]:
    """Return the recipes that come with a method, by name."""
    folder = Path(str(resources.files("lenient.methods"))) / "recipes" / name
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
