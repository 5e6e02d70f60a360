"""What a method is made of, read off a game that it builds for a toy teacher: the table of `lenient methods`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lenient.core.runtime import Runtime
from lenient.core.seeding import Streams, untouched_global_rng
from lenient.generators.upsampling import GeneratorSettings
from lenient.methods import method_class
from lenient.methods.contract import Stage
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
    "G : S (: M)": ("rhythm",),
}
"""Columns of the table (the first of TA-DFKD's paper, extended), and the pieces in each; the last one gives the turns
of generator, student and memory in a cycle."""


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
        stage = Stage(teacher, _toy(), runtime, Streams(0), shape, batch_size=16)
        return kind(settings).build(stage).anatomy


def _toy() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2))
    return nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)).eval()
