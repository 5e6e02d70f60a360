"""Settings: strict pydantic models, YAML recipes, dotted overrides. An unknown key is an error with the nearest key."""

from __future__ import annotations

import importlib
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, ValidationInfo, field_validator
from pydantic_core import core_schema

from lenient.core.errors import UsageError
from lenient.core.files import read_text
from lenient.core.text import VALUE, nearest, shown, visible

YAML_CHARACTERS, YAML_BYTES = 2**20, 4 * 2**20
"""Of the longest YAML that is read; it takes a few seconds."""
YAML_DEPTH = 20
NUMBER_CHARACTERS = 100

_CONSTANTS = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_WHOLE = re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+")
_BROKEN = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys, defaults checked too; numbers are finite, text can be a path."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        str_max_length=4096,
    )
    not_below: ClassVar[Mapping[str, str]] = {}
    """Settings that may not be below another one, and which; that one stands before."""

    @field_validator("*", mode="before")
    @classmethod
    def _sound(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and kind in (int, float, int | None, float | None):
            raise ValueError("write a number")
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str) and not _can_be_path(text):
                raise ValueError("holds characters that no file name can have; leave them out")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _part(cls, value: Any, info: ValidationInfo) -> Any:
        """A part's name stands for its defaults, and keys without a name belong to the part that is the default."""
        default = cls.model_fields[info.field_name or ""].default
        if not isinstance(default, Part) or isinstance(value, Part):
            return value
        if not isinstance(value, str | Mapping):
            raise ValueError("write a name, or settings as key: value")
        return _merged(default.model_dump(), value)

    @field_validator("*")
    @classmethod
    def _ordered(cls, value: Any, info: ValidationInfo) -> Any:
        name = cls.not_below.get(info.field_name or "", "")
        least = info.data.get(name)  # not there where it is wrong itself
        if least is not None and value is not None and value < least:
            raise ValueError(f"is below {name}, which is {shown(least)}")
        return value

    @classmethod
    def known(cls, values: Mapping[str, Any]) -> Iterable[str]:
        """Yield the dotted keys that there are beside such values, of which an error names the nearest."""
        return keys_of(cls)


class Part(Settings):
    """One of several ways to do a thing: `selection: {name: mixture, tau: 0.6}`. `name` tells which, and the other keys
    are its own. Settings hold a union of parts, told apart by `name`, with one of them as the default."""

    name: str


class _ByName:
    """Tells the parts of a union apart: `Annotated[Nothing | MixtureSettings, BY_NAME]`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        choices = {name: handler.generate_schema(part) for name, part in parts_of(source).items()}
        return core_schema.tagged_union_schema(choices, discriminator=_name_of)


def _name_of(value: Any) -> str | None:
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    return None if name is None else str(name)


BY_NAME = _ByName()


class Nothing(Part):
    """The neutral part: nothing is done."""

    name: Literal["none"] = "none"


def _can_be_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def parse(model: type[S], values: Mapping[str, Any], where: str = "-s ") -> S:
    """Build settings from plain values.

    Raises:
        UsageError: one line with the dotted key, the bad value, what is allowed, and the nearest valid key.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UsageError(_explain(model, values, error, where)) from None


def _explain(model: type[Settings], values: Mapping[str, Any], error: ValidationError, where: str) -> str:
    errors = error.errors()
    # a key that is mistyped is often another that is missing
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    key, kind = _place(model, first["loc"])
    if first["type"] == "extra_forbidden":
        return _unknown(model, values, kind, ".".join(filter(None, (key, str(first["loc"][-1])))), where)
    if first["type"] == "union_tag_invalid":
        return f"{where}{key}={shown(first['ctx']['tag'])}: write one of {', '.join(parts_of(kind))}"
    if first["type"] == "missing" and key:
        return f"{where}{visible(key, VALUE)}: is missing"
    text = "write a list, as in [1, 2]" if first["type"] == "tuple_type" else first["msg"].removeprefix("Value error, ")
    text = visible(text[:1].lower() + text[1:], 2 * VALUE)
    if not key:  # of the settings as a whole
        value = "" if isinstance(first["input"], Mapping) else f"{shown(first['input'])}: "
        return f"{where.rstrip('. ')}: {value}{text}".removeprefix(": ")
    return f"{where}{visible(key, VALUE)}={shown(first['input'])}: {text}"


def _unknown(model: type[Settings], values: Mapping[str, Any], kind: Any, key: str, where: str) -> str:
    """Explain a key that is no setting: of another part than the one chosen, or the nearest one is meant."""
    place, _, name = key.rpartition(".")
    if isinstance(kind, type) and issubclass(kind, Part):
        union = _place(model, place.split("."))[1]
        others = [other for other, part in parts_of(union).items() if name in part.model_fields]
        if others:
            chosen, parent = kind.model_fields["name"].default, f"{where}{place}"
            return f"{parent}.{name}: {place} is {chosen}; give {parent}={' or '.join(others)} too, or leave it out"
    known = list(model.known(values))
    texts = {text: whole for whole in reversed(known) for text in (whole.rpartition(".")[2], whole)}
    hint = f"; the nearest is {where.removeprefix('-s ')}{texts[nearest(key[:100], texts)]}" if known else ""
    return f"{where}{visible(key, VALUE)}: no such setting{hint}"


def _place(model: type[BaseModel], place: Iterable[int | str]) -> tuple[str, Any]:
    """The dotted key of a place that pydantic names, and the type there; names of parts, and what it says of unions
    behind the key, are left out."""
    keys: list[str] = []
    kind: Any = model
    for part in place:
        if isinstance(part, str):
            parts = parts_of(kind)
            if part in parts:
                kind = parts[part]
                continue
            if not (isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields):
                break
            kind = kind.model_fields[part].annotation
        keys.append(str(part))
    return ".".join(keys), kind


def parts_of(kind: Any) -> dict[str, type[Part]]:
    """The parts that a union takes, by name."""
    members = [member for member in get_args(kind) if isinstance(member, type) and issubclass(member, Part)]
    return {member.model_fields["name"].default: member for member in members}


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterable[str]:
    """Yield every dotted key of a settings model, depth first; of a union of parts, those of all of them."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys_of(kind, f"{prefix}{name}.")
        elif parts := parts_of(kind).values():
            yield from dict.fromkeys(key for part in parts for key in keys_of(part, f"{prefix}{name}."))
        else:
            yield prefix + name


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings, later ones win key by key.

    Where one names another part (`name`) than the one before, nothing of that one is kept; a name alone stands for
    `{name: ...}`.
    """
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            result[key] = _merged(result.get(key), value)
    return result


def _merged(old: Any, value: Any) -> Any:
    if isinstance(old, Mapping) and isinstance(value, str):
        value = {"name": value}
    elif isinstance(old, str) and isinstance(value, Mapping):
        old = {"name": old}
    if not (isinstance(old, Mapping) and isinstance(value, Mapping)):
        return merge(value) if isinstance(value, Mapping) else value
    if old.get("name", value.get("name")) != value.get("name", old.get("name")):
        return merge(value)
    return merge(old, value)


def nested(values: Any) -> Any:
    """Turn dotted keys (`method.student_lr: 0.1`) into nested ones, where both may be mixed.

    What is no mapping is left alone.

    Raises:
        UsageError: a key has an empty part, or too many; or one setting is written twice, nested and by dots.
    """
    if not isinstance(values, Mapping):
        return values
    result: dict[str, Any] = {}
    settings: dict[str, str] = {}  # dotted -> the key here that it is written under
    sections: dict[str, str] = {}
    for key, value in values.items():
        inner, parts = nested(value), str(key).split(".")
        if not all(parts) or len(parts) > YAML_DEPTH:
            raise UsageError(f"{shown(key)}: no such setting; write a key as words with single dots between")
        for part in reversed(parts):
            inner = {part: inner}
        for place in _places(inner):
            above = [place[:end] for end, sign in enumerate(place) if sign == "."]
            other = next((settings[name] for name in (place, *above) if name in settings), sections.get(place))
            if other not in (None, key):
                both = " and ".join(visible(repr(name), VALUE) for name in (other, str(key)))
                raise UsageError(f"{visible(place, VALUE)}: is written twice, under the keys {both}; drop one of them")
            settings[place] = str(key)
            sections |= dict.fromkeys(above, str(key))
        result = merge(result, inner)
    return result


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _places(values: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    """Yield the dotted place of every setting in nested ones."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _places(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def load_yaml(text: str, where: str) -> Any:
    """Read the plain part of YAML: null, booleans, numbers, text, lists, and mappings with text as keys.

    Scalars are those of YAML's core schema, so that `1e-3` is a number, and a date or `yes` is text. A key is text as
    it is written. What names, repeats or converts other values (tags, anchors, aliases, merge keys) is refused.

    Args:
        where: begins the message of an error: the flag, and the file or the text.

    Raises:
        UsageError: it is not that, names a key twice, or is too long, too deep, or a number too large.
    """
    if len(text) > YAML_CHARACTERS:
        raise UsageError(f"{where}: holds {len(text):,} characters; at most {YAML_CHARACTERS:,} are read")
    try:
        return _built(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except _RefusedError as refused:
        raise UsageError(f"{where}: line {refused.line}: {refused}") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        raise UsageError(f"{where}: not valid YAML at line {line}: {visible(problem, VALUE)}") from None
    except (ValueError, OverflowError):  # code points that are none, in an escape or as half a character
        raise UsageError(f"{where}: not valid YAML: it holds characters that are none") from None


class _RefusedError(Exception):
    """Valid YAML that settings do not take."""

    def __init__(self, problem: str, event: yaml.Event) -> None:
        super().__init__(problem)
        self.line = getattr(event.start_mark, "line", 0) + 1


def _built(events: Iterable[yaml.Event]) -> Any:
    """Put values together from the parser's events, without recursion."""
    documents: list[Any] = []
    open_nodes: list[_Node] = []
    for event in events:
        if isinstance(event, yaml.NodeEvent):
            _check_plain(event)
        if isinstance(event, yaml.CollectionStartEvent):
            if len(open_nodes) == YAML_DEPTH:
                raise _RefusedError(f"more than {YAML_DEPTH} levels deep", event)
            open_nodes.append(_Node(event))
            continue
        if isinstance(event, yaml.ScalarEvent):
            value: Any = event
        elif isinstance(event, yaml.CollectionEndEvent):
            value = open_nodes.pop().value
        else:
            continue
        if open_nodes:
            open_nodes[-1].add(value, event)
        elif documents:
            raise _RefusedError("a second document begins; write one", event)
        else:
            documents.append(_scalar(event) if isinstance(event, yaml.ScalarEvent) else value)
    return documents[0] if documents else None


class _Node:
    """A list or a mapping that is being read."""

    def __init__(self, start: yaml.CollectionStartEvent) -> None:
        self.value: Any = {} if isinstance(start, yaml.MappingStartEvent) else []
        self._key: str | None = None

    def add(self, value: Any, event: yaml.Event) -> None:
        """Take the next item, key, or value of a key; a scalar is still its event."""
        if isinstance(self.value, dict) and self._key is None:
            self._key = self._new_key(event)
            return
        item = _scalar(event) if isinstance(event, yaml.ScalarEvent) else value
        if self._key is None:
            self.value.append(item)
        else:
            self.value[self._key], self._key = item, None

    def _new_key(self, event: yaml.Event) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise _RefusedError("a key is a list or a mapping; keys are text", event)
        key: str = event.value
        if not key or (key == "<<" and event.implicit[0]):
            raise _RefusedError("merge keys are not read; write the values out" if key else "a key is empty", event)
        if key in self.value:
            raise _RefusedError(f"the key {shown(key)} is there twice; drop one", event)
        return key


def _check_plain(event: yaml.NodeEvent) -> None:
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise _RefusedError(
            "anchors (&) and aliases (*) are not read; write the value out, or put text in quotes", event
        )
    if getattr(event, "tag", None) is not None:
        raise _RefusedError("tags (!) are not read; leave it out, or put text in quotes", event)


def _scalar(event: yaml.ScalarEvent) -> Any:
    text: str = event.value
    if not event.implicit[0]:  # quoted, or a block
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    whole, broken = _WHOLE.fullmatch(text), _BROKEN.fullmatch(text)
    if whole is None and broken is None:
        return text
    if len(text) > NUMBER_CHARACTERS:
        raise _RefusedError(f"{shown(text)} has too many digits; write a number of at most {NUMBER_CHARACTERS}", event)
    number = (
        float(text.lower().replace(".inf", "inf").replace(".nan", "nan")) if whole is None else int(text, _base(text))
    )
    if not math.isfinite(number):
        raise _RefusedError(f"{text}: write a finite number", event)
    return number


def _base(text: str) -> int:
    return {"0x": 16, "0o": 8}.get(text[:2], 10)


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Write values so that `load_yaml`, and any other reader of YAML, gets them back.

    Surrogates, which no file can hold, are written out as text.
    """
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """PyYAML's, which also quotes text that the core schema takes for a number, and repeats what appears twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, data: str) -> yaml.Node:
        return self.represent_str(data.encode(errors="backslashreplace").decode())


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", _WHOLE, list("-+0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _BROKEN, list("-+.0123456789"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping from a regular file.

    Raises:
        UsageError: the file is missing, is not YAML as `load_yaml` takes it, or does not hold a mapping.
    """
    where = f"-c {visible(path, 2 * VALUE)}"
    try:
        values = load_yaml(read_text(path, YAML_BYTES), where)
    except OSError as error:
        raise UsageError(f"{where}: cannot be read ({error.strerror})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{where}: must hold settings as key: value")
    return values


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Turn `key.path=value` pairs into nested values; values are read as YAML (`0.5`, `true`, `[1, 2]`, `text`).

    Raises:
        UsageError: a pair is not of that form, or its value is not one that `load_yaml` takes.
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key.strip():
            raise UsageError(f"-s {shown(pair)}: write it as -s key=value, for example -s method.student_lr=0.1")
        value = load_yaml(text, f"-s {visible(pair, 2 * VALUE)}")
        result = merge(result, nested({key.strip(): value}))
    return result


def resolve_dotted(target: str) -> Any:
    """Import `package.module:Name` lazily: tables of names hold strings, so that help texts need no heavy import."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
