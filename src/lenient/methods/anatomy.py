"""What a method is made of, read off the algorithm that it builds for a toy teacher: the table of `lenient methods`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lenient.core.config import keys_of
from lenient.core.runtime import Runtime
from lenient.core.seeding import Streams, untouched_global_rng
from lenient.generators.upsampling import GeneratorSettings
from lenient.losses.objective import Objective, Weight
from lenient.methods import method_class, recipes, registered
from lenient.methods.contract import STUDENT, Algorithm, Context
from lenient.models.card import Card, Network
from lenient.teacher.frozen import FrozenTeacher

COLUMNS: dict[str, tuple[str, ...]] = {
    "class prior": ("class_prior", "embedding"),
    "entropy": ("entropy",),
    "activation": ("activation",),
    "adversarial": ("adversarial",),
    "BN": ("bn",),
    "image": ("image",),
    "selection": ("selection",),
    "replay": ("replay",),
    "student": ("student",),
    "update": ("update",),
    "G : S (: M)": ("schedule",),
}
"""Columns of the table (the first of TA-DFKD's paper, extended), and the pieces in each; the last one gives the updates
of generator, student and memory in a round."""


@dataclass(frozen=True)
class MethodInfo:
    """What there is to know of a method."""

    paper: str
    """What it is and where it was published, in a few lines."""
    anatomy: Mapping[str, str]
    """What it is made of with its defaults, by the columns of the table."""
    settings: Mapping[str, tuple[Any, str]]
    """Dotted key below `method.` to the default and what it means."""
    recipes: tuple[str, ...]


def method_info(name: str) -> MethodInfo:
    """Return what there is to know of a method; raises UsageError where there is none of that name."""
    kind = method_class(name)
    module = inspect.getmodule(kind)
    settings = {key: _field(kind.settings_type, key) for key in keys_of(kind.settings_type) if key != "name"}
    paper = (module.__doc__ if module and name not in registered() else None) or kind.__doc__ or name
    return MethodInfo(inspect.cleandoc(paper).strip(), anatomy(name), settings, tuple(recipes(name)))


def _field(model: Any, key: str) -> tuple[Any, str]:
    """Return default and text of a dotted key of a settings model."""
    head, _, rest = key.partition(".")
    field = model.model_fields[head]
    if rest:
        return _field(field.annotation, rest)
    bases = (base.model_fields for base in model.__mro__ if hasattr(base, "model_fields"))
    texts = (fields[head].description for fields in bases if head in fields)  # one that only changes a default has none
    return field.get_default(call_default_factory=True), next(filter(None, texts), "")


def anatomy(name: str) -> dict[str, str]:
    """Return what stands in each column for a method with its defaults, the weight first unless 1; "" is none."""
    shown = {key: "" if text == "none" else text for key, text in _pieces(name).items()}
    return {column: " + ".join(shown[key] for key in keys if shown.get(key, "")) for column, keys in COLUMNS.items()}


def _pieces(name: str) -> Mapping[str, str]:
    kind = method_class(name)
    settings = kind.settings_type(name=name)
    shape = GeneratorSettings(**{"width": 2, "latent_dim": 2, **settings.general.get("generator", {})})
    runtime = Runtime(torch.device("cpu"))
    toy = Network(_toy(), Card(None, (1, 8, 8), 2, (0.5,), (0.5,)))
    with untouched_global_rng(), FrozenTeacher(toy, runtime) as teacher:
        context = Context(teacher, _toy(), runtime, Streams(0), shape, batch_size=16)
        return describe(kind(settings).build(context))


def describe(algorithm: Algorithm) -> dict[str, str]:
    """Say in a word or two what each part of an algorithm is."""
    found = {} if algorithm.objective is None else _terms(algorithm.objective)
    image = " + ".join(found.pop(name) for name in ("tv", "l2") if name in found)
    last = algorithm.schedule.phases[-1]
    images = sum(last.count(name) for name in algorithm.updates if name not in (STUDENT, "memory"))
    student, memory = last.count(STUDENT), last.count("memory")
    return {
        **found,
        **({"image": image} if image else {}),
        **algorithm.parts,
        "student": " + ".join(_terms(algorithm.imitation).values()),
        "schedule": f"{images} : {student}" + (f" : {memory}" if memory else ""),
    }


def _terms(objective: Objective) -> dict[str, str]:
    return {name: _weighed(weight, term.label) for name, (weight, term) in objective.terms.items()}


def _weighed(weight: Weight, label: str) -> str:
    if callable(weight):
        return f"{label}, climbing"
    return label if weight == 1 else f"{weight:.4g} {label}"


def _toy() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2))
    return nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)).eval()
