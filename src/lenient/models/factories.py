"""Networks that a user's own function builds: `py:package.module:factory` and `py:path/file.py:factory`."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from lenient.core.errors import LenientError, TeacherError
from lenient.models.card import Network, PixelClassifier
from lenient.models.facts import Facts, Wanted, facts_of_attributes, facts_of_card, facts_of_config
from lenient.models.names import Spec, did_you_mean, one_line


def build_from_factory(spec: Spec, wanted: Wanted, label: str) -> tuple[nn.Module, list[Facts], list[Facts], bool]:
    """Call the factory; return its module, what attributes and what `pretrained_cfg` say about it, and whether it came
    with a card, which says all of them.

    Both are looked for on the module first, then in the Python file that the factory lives in.

    Raises TeacherError where the factory cannot be found or called, or returns something else than a module.
    """
    result, home = call_factory(spec, wanted, label)
    if isinstance(result, Network | PixelClassifier):
        return result.module, [facts_of_card(result.card, f"the card that {spec} returns")], [], True
    if not isinstance(result, nn.Module):
        hint = "; to use it as weights give --teacher-arch" if isinstance(result, Mapping) else ""
        raise TeacherError(
            f"{label} {spec}: the factory returned a {type(result).__name__}, not a torch.nn.Module{hint}"
        )
    attributes, configs = [], []
    for thing, words in ((result, "the module"), (home, "the file")):
        attributes.append(facts_of_attributes(thing, f"{words} of {spec}"))
        for name in ("pretrained_cfg", "default_cfg"):
            if isinstance(config := _mapping(getattr(thing, name, None)), Mapping):
                configs.append(facts_of_config(config, f"the {name} in {words} of {spec}"))
                break
    return result, attributes, configs, False


def call_factory(spec: Spec, wanted: Wanted, label: str) -> tuple[Any, ModuleType]:
    """Return what the factory gives, and the Python module it lives in.

    It is called with those of `num_classes` and `in_chans` that its signature names and that are known; for that call
    and its import the folder of the file can be imported from, and after all else the current folder, which is the
    root of the repository that the file is part of; of a package, the current folder comes first.

    Raises TeacherError where it cannot be found, or raises.
    """
    with named(spec, label) as (factory, home):
        try:
            return factory(**_arguments(factory, wanted, spec, label)), home
        except LenientError:
            raise
        except Exception as error:
            raise TeacherError(f"{label} {spec}: the factory raised {one_line(error)}") from error


@contextmanager
def named(spec: Spec, label: str) -> Iterator[tuple[Callable[..., Any], ModuleType]]:
    """Import what a spec names in a user's code; yield it with its module, while that code can import its neighbours.

    Raises TeacherError where it is not there, or cannot be called.
    """
    home_name, _, function = spec.name.rpartition(":")
    path = Path(home_name)
    is_file = path.suffix == ".py" or path.is_file()
    with _importable(path.resolve().parent if is_file else Path.cwd(), Path.cwd()):
        home = _load_file(path, spec, label) if is_file else _load_module(home_name, spec, label)
        found = getattr(home, function, None)
        if not callable(found):
            what = "is not callable" if hasattr(home, function) else "is not there"
            raise TeacherError(
                f"{label} {spec}: {function!r} {what} in {home_name}{did_you_mean(function, vars(home))}"
            )
        yield found, home


def _arguments(factory: Callable[..., Any], wanted: Wanted, spec: Spec, label: str) -> dict[str, int]:
    known = {"num_classes": wanted.num_classes, "in_chans": wanted.channels, "in_channels": wanted.channels}
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    given = {
        parameter.name: value
        for parameter in parameters
        if parameter.kind in kinds and (value := known.get(parameter.name)) is not None
    }
    for parameter in parameters:
        optional = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        if optional or parameter.name in given or parameter.default is not inspect.Parameter.empty:
            continue
        flags = {"num_classes": "--num-classes", "in_chans": "--input-size", "in_channels": "--input-size"}
        advice = f"give {flags[parameter.name]}" if parameter.name in flags else "give it a default value"
        raise TeacherError(f"{label} {spec}: the factory needs an argument {parameter.name!r}: {advice}")
    return given


def _load_file(path: Path, spec: Spec, label: str) -> ModuleType:
    if not path.is_file():
        raise TeacherError(f"{label} {spec}: no file {str(path)!r}")
    digest = hashlib.blake2b(str(path.resolve()).encode(), digest_size=4).hexdigest()
    name = f"lenient_factory_{path.stem}_{digest}"
    location = spec_from_file_location(name, path)
    if location is None or location.loader is None:
        raise TeacherError(f"{label} {spec}: {str(path)!r} is not a Python file")
    home = module_from_spec(location)
    sys.modules[name] = home
    try:
        location.loader.exec_module(home)
    except Exception as error:
        del sys.modules[name]
        raise TeacherError(f"{label} {spec}: importing {str(path)!r} raised {one_line(error)}") from error
    return home


def _load_module(name: str, spec: Spec, label: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise TeacherError(f"{label} {spec}: importing {name!r} raised {one_line(error)}") from error


@contextmanager
def _importable(first: Path, last: Path) -> Iterator[None]:
    before = list(sys.path)
    sys.path[:] = [str(first), *before, str(last)]
    try:
        yield
    finally:
        sys.path[:] = before


def _mapping(config: object) -> object:
    """Return a configuration object that knows `to_dict` as a mapping."""
    return config.to_dict() if hasattr(config, "to_dict") else config
