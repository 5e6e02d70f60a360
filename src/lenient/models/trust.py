"""Who is trusted: the user. A name that he typed may run code and visit places; one found in a file may not.

Typed is what stands on the command line, in a Python argument, or in a recipe named by `-c`. Found is what run folders,
folders of the Hub, descriptions of weights and grids say. Needs no torch.
"""

from __future__ import annotations

import os
from pathlib import Path

from lenient.core.errors import LenientError, TeacherError, UsageError
from lenient.models.names import Spec, parse_spec

Trusted = bool | frozenset[str]
"""What of the names found in files may be used: all (`--trust-code`), none, or these."""

_SHOWN = 64
"""Characters of a name in a message: what it begins and ends with."""


class UntrustedError(TeacherError):
    """A file names code to run, or a place to visit, that the user did not type."""


class UntrustedSettingError(UsageError):
    """The same of settings that a file holds."""


def effect(name: str, *, weights: bool = False) -> str | None:
    """Return in words what building the network `name` does beyond that: code run, places visited; None for nothing.

    `weights`: published ones are fetched, too.
    """
    spec = _spec(name)
    if spec.bits is not None:
        return effect(spec.name, weights=weights)  # the same code and places as at full precision
    if spec.source == "py":
        home, _, function = spec.name.rpartition(":")
        is_file = Path(home).suffix == ".py" or os.path.isfile(home)
        place = str(Path(home).absolute()) if is_file else home
        return f"run {_shown(function)}() of {'' if is_file else 'the module '}{_shown(place)}"
    if spec.source == "hf-hub":
        return f"visit {_shown(spec.name)} on the Hub"
    if spec.source == "local-dir":
        return f"read the folder {_shown(spec.name)}"
    if weights and spec.source in ("timm", "torchvision"):
        return f"download {_shown(spec.name)}"
    return None


def untrusted(name: str, trust: Trusted, *, weights: bool = False) -> str | None:
    """Return what a name found in a file would do, as `effect` does; None where it may, or does nothing."""
    may = name in trust if isinstance(trust, frozenset) else trust
    return None if may else effect(name, weights=weights)


def require(
    name: str,
    trust: Trusted,
    *,
    where: object,
    what: str = "its network",
    again: str = "",
    weights: bool = False,
    kind: type[LenientError] = UntrustedError,
) -> None:
    """Refuse a name found in a file that may not be used.

    Args:
        name: SOURCE:NAME, or a path, which is only read.
        trust: what may be used.
        where: the file.
        what: what the name stands for there.
        again: how the user can type the name, which stands there as NAME, such as `--student NAME`; "": he cannot.
        weights: whether published weights would be fetched.
        kind: class of the error.

    Raises:
        UntrustedError: or `kind`; one line that says what would be run or visited, and how to allow it.
    """
    found = untrusted(name, trust, weights=weights)
    if found is None:
        return
    typed = f"give {again.replace('NAME', _shown(name))}, or " if again else "give "
    raise kind(f"{_shown(str(where))}: {what} would {found}: to allow that, {typed}--trust-code")


def _spec(name: str) -> Spec:
    try:
        return parse_spec(name)
    except UsageError:  # whoever builds it says what is wrong
        return Spec("path", name)


def _shown(text: str) -> str:
    """Return a name for a message: control characters as escapes, the middle left out where it is long."""
    return _cut("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in _cut(text)))


def _cut(text: str) -> str:
    half = _SHOWN // 2
    return text if len(text) <= _SHOWN else f"{text[: half - 3]}...{text[-half:]}"
