"""Rows whose method is `auto`: their cells are planned with settings for each method that may come of it, and take one
when they run, by asking the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lenient.core.config import flatten
from lenient.core.errors import UsageError
from lenient.methods.choice import CHOICES, choose
from lenient.models.card import Network

AUTO = "auto"
"""The method of such a row."""
CHOICES_KEY = "choices"


def open_settings(asked: Mapping[str, Any], resolved: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Return the settings of such a row's cells: those of every method that may be taken, under its name.

    Args:
        asked: what row and grid ask for.
        resolved: a method's name to the resolved settings.

    Raises:
        UsageError: a setting of a method is asked for, which one is not known, or a recipe is for one method alone.
    """
    for key in flatten({"method": asked["method"]} if "method" in asked else {}):
        raise UsageError(
            f"settings.{key}: the row's method is {AUTO}, which teachers choose by themselves; name a method, or leave "
            "it out"
        )
    found = {}
    for name in CHOICES:
        try:
            found[name] = resolved(name)
        except UsageError as error:
            raise UsageError(f"{error} (method {AUTO} may come to {name})") from None
    return {"method": {"name": AUTO}, CHOICES_KEY: found}


def all_of(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return resolved settings of a row, or those of each method that may be taken where it is open."""
    return [*settings[CHOICES_KEY].values()] if CHOICES_KEY in settings else [settings]


def each(settings: Mapping[str, Any], change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Return settings with a change of those of every method that may be taken; of one alone, so changed."""
    if CHOICES_KEY not in settings:
        return change(settings)
    changed = {name: change(own) for name, own in settings[CHOICES_KEY].items()}
    return {**settings, CHOICES_KEY: changed}


def taken(settings: Mapping[str, Any], teacher: Network, before: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings that a cell runs with: its own, or of those for each method the teacher's.

    A run that goes on, with the settings `before`, keeps the method that it has; one that fell back has that alone of
    its settings.
    """
    if CHOICES_KEY not in settings:
        return settings
    choices: Mapping[str, Mapping[str, Any]] = settings[CHOICES_KEY]
    name = before["method"]["name"] if before else choose(teacher).name
    fell_back = before.get("run", {}).get("fell_back")
    return choices[name] if fell_back is None else {**choices[fell_back["before"]], "method": choices[name]["method"]}


def fallback(settings: Mapping[str, Any], teacher: Network) -> Mapping[str, Any] | None:
    """Return the section `method` that a cell of an open row may fall back to, None where there is none."""
    name = choose(teacher).fallback if CHOICES_KEY in settings else None
    found: Mapping[str, Any] | None = None if name is None else settings[CHOICES_KEY][name]["method"]
    return found
