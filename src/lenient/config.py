"""Settings: strict pydantic models, YAML recipes, dotted overrides. An unknown key is an error with the nearest key."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from lenient.errors import UsageError

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys, defaults checked too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


def parse(model: type[S], values: Mapping[str, Any], where: str = "-s ") -> S:
    """Build settings from plain values.

    Raises:
        UsageError: one line with the dotted key, the bad value, what is allowed, and the nearest valid key.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UsageError(_explain(model, error, where)) from None


def _explain(model: type[BaseModel], error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(key, list(keys_of(model)), n=1, cutoff=0.0)
        hint = f"; the nearest is {nearest[0]}" if nearest else ""
        return f"{where}{key}: no such setting{hint}"
    return f"{where}{key}={first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterable[str]:
    """Yield every dotted key of a settings model, depth first."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys_of(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings, later ones win key by key."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            old = result.get(key)
            both = isinstance(value, Mapping) and isinstance(old, Mapping)
            result[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return result


def nested(values: Any) -> Any:
    """Turn dotted keys (`method.tau: 0.6`) into nested ones; the two may be mixed. What is no mapping is left alone."""
    if not isinstance(values, Mapping):
        return values
    result: dict[str, Any] = {}
    for key, value in values.items():
        inner = nested(value)
        for part in reversed(str(key).split(".")):
            inner = {part: inner}
        result = merge(result, inner)
    return result


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UsageError: the file is missing, is not YAML, or does not hold a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"-c {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"-c {path}: is no text in UTF-8") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise UsageError(f"-c {path}: not valid YAML at line {line}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"-c {path}: must hold settings as key: value")
    return values


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Turn `key.path=value` pairs into nested values; values are read as YAML (`0.5`, `true`, `[1, 2]`, `text`)."""
    result: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key.strip():
            raise UsageError(f"-s {pair}: write it as -s key=value, for example -s method.tau=0.6")
        try:
            value: Any = _number_or(yaml.safe_load(text))
        except yaml.YAMLError:
            value = text
        result = merge(result, nested({key.strip(): value}))
    return result


def _number_or(value: Any) -> Any:
    """YAML 1.1 reads `1e-3` as text; a person means a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def resolve_dotted(target: str) -> Any:
    """Import `package.module:Name` lazily: tables of names hold strings, so that help texts need no heavy import."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
