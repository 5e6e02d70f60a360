"""What a method is made of, read off the algorithm that it builds for a toy teacher: the table of `lenient methods`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from lenient.core.config import Part, Settings, parts_of
from lenient.core.runtime import Runtime
from lenient.core.seeding import Streams, untouched_global_rng
from lenient.generators.upsampling import GeneratorSettings
from lenient.losses.objective import Later, Objective, Weight
from lenient.methods import METHODS, method_class, recipes, registered
from lenient.methods.contract import STUDENT, Algorithm, Context, Method, Phase
from lenient.models.card import Card, Network
from lenient.models.names import OWN, with_whole_path
from lenient.pictures.holding import Pictures
from lenient.teacher.frozen import FrozenTeacher
from lenient.teacher.probes import BatchNormInputs, Blocks, Features, Pooled

COLUMNS: dict[str, tuple[str, ...]] = {
    "images": ("sampler",),
    "labels": ("labels",),
    "class prior": ("class_prior", "embedding", "difference", "sum"),
    "entropy": ("entropy",),
    "activation": ("activation",),
    "adversarial": ("adversarial",),
    "BN": ("bn",),
    "image": ("image", "latents", "diversity", "contrastive", "coupling", "alignment"),
    "selection": ("selection",),
    "replay": ("replay",),
    "student": ("student",),
    "update": ("update",),
    "G : S (: M)": ("schedule",),
    "teacher": ("needs",),
}
"""Columns of the table (the first of TA-DFKD's paper, extended), and the pieces in each; the last ones give the updates
of generator, student and memory in a round, after those that come first, and what the teacher must have. Terms that no
column names, as those of one's own, are of the image."""
PIECES = frozenset(piece for pieces in COLUMNS.values() for piece in pieces)
JOINED: dict[str, tuple[str, ...]] = {
    "images come from": ("images",),
    "asked for": ("labels",),
    "terms": ("class prior", "entropy", "activation", "BN", "image"),
    "adversary": ("adversarial",),
    "selection": ("selection",),
    "replay": ("replay",),
    "student": ("student", "update"),
    "G : S (: M)": ("G : S (: M)",),
    "needs of the teacher": ("teacher",),
}
"""Columns of the narrow table, and those of the other one that are in each."""
LAST_LAYER = frozenset({"features", "last layer"})
"""Needs that a teacher without a linear layer at its end cannot meet."""


class Setting(NamedTuple):
    """One setting of a method."""

    default: Any
    text: str
    """What it means."""


@dataclass(frozen=True)
class MethodInfo:
    """What there is to know of a method."""

    paper: str
    """What it is and where it was published, in a few lines."""
    anatomy: Mapping[str, str]
    """What it is made of with its defaults, by the columns of the table."""
    settings: Mapping[str, Setting]
    """By dotted key below `method.`."""
    recipes: tuple[str, ...]


def method_info(name: str) -> MethodInfo:
    """Return what there is to know of a method; raises UsageError where there is none of that name."""
    name, kind = with_whole_path(name), method_class(name)
    module = inspect.getmodule(kind)
    settings = dict(documented(kind.settings_type(name=name)))
    own = name in registered() or name.startswith(OWN)
    paper = (module.__doc__ if module and not own else None) or kind.__doc__ or name
    return MethodInfo(inspect.cleandoc(paper).strip(), anatomy(name), settings, tuple(recipes(name)))


def documented(defaults: Settings, prefix: str = "") -> Iterator[tuple[str, Setting]]:
    """Yield every dotted key with its default and what it means; of parts also those that are not the default, which
    their text begins with."""
    kind = type(defaults)
    for key, field in kind.model_fields.items():
        value, text = getattr(defaults, key), _text(kind, key)
        others = parts_of(field.annotation)
        if key == "name":
            continue
        if isinstance(value, Settings):
            if isinstance(value, Part):
                yield prefix + key, Setting(value.name, f"{text.removesuffix('.')}: one of {', '.join(others)}.")
            found = dict(documented(value, f"{prefix}{key}."))
            for name, part in others.items():
                for own, (default, meaning) in documented(part(name=name), f"{prefix}{key}."):
                    found.setdefault(own, Setting(default, f"({name}) {meaning}"))
            yield from found.items()
        else:
            yield prefix + key, Setting(value, text)


def _text(kind: type[Settings], key: str) -> str:
    bases = (base.model_fields for base in kind.__mro__ if issubclass(base, Settings))
    texts = (fields[key].description for fields in bases if key in fields)  # one that only changes a default has none
    return " ".join(next(filter(None, texts), "").split())


def anatomy(name: str) -> dict[str, str]:
    """Return what stands in each column for a method with its defaults, the weight first unless 1; "" is none."""
    shown = {key: "" if text == "none" else text for key, text in _pieces(name).items()}
    return {column: " + ".join(shown[key] for key in keys if shown.get(key, "")) for column, keys in COLUMNS.items()}


def joined(row: Mapping[str, str]) -> dict[str, str]:
    """Return what stands in each column of the narrow table, of a row of the other one; "" is none."""
    found = {column: " + ".join(row[key] for key in keys if row[key]) for column, keys in JOINED.items()}
    needed = found["needs of the teacher"] or "answers alone"
    return found | {"student": found["student"].removesuffix(" + plain"), "needs of the teacher": needed}


def page(name: str) -> str:
    """Return the page of a method under docs/methods: methods of one file have one, called as the first of them."""
    module = METHODS[name].partition(":")[0]
    return next(other for other, place in METHODS.items() if place.partition(":")[0] == module) + ".md"


def _pieces(name: str) -> Mapping[str, str]:
    method, algorithm = _toy_of(name)
    instead = {"last layer": "last layer or class names"} if getattr(method, "takes_class_names", False) else {}
    return {**describe(algorithm), "needs": ", ".join(instead.get(n, n) for n in needs_of(method, algorithm))}


def needs_by_default(name: str) -> tuple[str, ...]:
    """Return what a method with its defaults needs of a teacher besides its answers."""
    return needs_of(*_toy_of(name))


def _toy_of(name: str) -> tuple[Method, Algorithm]:
    """Return a method with its defaults, and what it builds for a toy teacher."""
    kind = method_class(name)
    settings = kind.settings_type(name=name)
    shape = GeneratorSettings(**{"width": 2, "latent_dim": 2, **settings.general.get("generator", {})})
    runtime = Runtime(torch.device("cpu"))
    toy = Network(_toy(), Card(None, (1, 8, 8), 2, (0.5,), (0.5,)))
    with untouched_global_rng(), FrozenTeacher(toy, runtime) as teacher:
        pictures = Pictures("proxy", torch.zeros(1, 1, 8, 8, dtype=torch.uint8), ())
        context = Context(teacher, _toy(), runtime, Streams(0), shape, batch_size=16, pictures=pictures)
        method = kind(settings)
        return method, method.build(context)


def needs_of(method: Method, algorithm: Algorithm) -> tuple[str, ...]:
    """Say what a method with its settings needs of a teacher besides its answers: a gradient to the images, statistics
    of batch norms, what goes into its last layer, the weights of that, maps on the way."""
    objectives = [own for own in (algorithm.objective, algorithm.imitation) if own is not None]
    probes = [probe for own in objectives for need in own.needs() for probe in need.probes]
    needs = {
        "gradient": getattr(method, "needs_gradient", True),
        "batch norm": method.needs_batch_norm,
        "features": any(isinstance(probe, Features) for probe in probes),
        "last layer": getattr(method, "needs_linear_head", False),
        "maps": any(isinstance(probe, Blocks | Pooled | BatchNormInputs) for probe in probes),
    }
    return tuple(need for need, wanted in needs.items() if wanted)


def describe(algorithm: Algorithm) -> dict[str, str]:
    """Say in a word or two what each part of an algorithm is."""
    found = {} if algorithm.objective is None else _terms(algorithm.objective)
    image = " + ".join(found.pop(name) for name in [*found] if name == "image" or name not in PIECES)
    return {
        **found,
        **({"image": image} if image else {}),
        **algorithm.parts,
        "student": " + ".join(_terms(algorithm.imitation).values()),
        "schedule": ", then ".join(_phase(phase, algorithm) for phase in algorithm.schedule.phases),
    }


def _phase(phase: Phase, algorithm: Algorithm) -> str:
    """Describe a phase: its rounds where it ends, and of a round the updates of images, student and memory."""
    images = sum(phase.count(name) for name in algorithm.updates if name not in (STUDENT, "memory"))
    student, memory = phase.count(STUDENT), phase.count("memory")
    if phase.rounds is not None:
        return f"{phase.rounds:,} of {images}"
    return f"{images} : {student}" + (f" : {memory}" if memory else "")


def _terms(objective: Objective) -> dict[str, str]:
    return {name: _weighed(weight, term.label) for name, (weight, term) in objective.terms.items()}


def _weighed(weight: Weight, label: str) -> str:
    if isinstance(weight, Later):
        return f"{_weighed(weight.weight, label)}, later"
    if callable(weight):
        return f"{label}, climbing"
    return label if weight == 1 else f"{weight:.4g} {label}"


def _toy() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2))
    return nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)).eval()
