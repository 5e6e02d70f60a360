"""What was found of a teacher, what can be done with it and what was assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from lenient.core.keyed import Keyed
from lenient.evaluation import num_bytes, parameters
from lenient.methods.choice import choose, obstacles
from lenient.methods.expected import Expected, expected
from lenient.models import choose_student
from lenient.models.card import Card, Network
from lenient.models.checking import advice, readable_batch_norms
from lenient.models.facts import TeacherFacts
from lenient.models.loading import outline
from lenient.models.low_bit import LowBit
from lenient.models.trust import Trusted, UntrustedError
from lenient.runs.job import load_teacher


@dataclass(frozen=True)
class Inspection(Keyed):
    """What `lenient.inspect` found of a teacher."""

    card: Card
    """What it takes and returns: size, classes, normalisation, and notes of what was found where."""
    params: int
    bytes: int
    """Of parameters and buffers."""
    bits: int | None
    """Of its weights and of what its layers take, where they are integers; else None."""
    batch_norm_layers: int
    """Those with statistics that methods can read."""
    method: str | None
    """What `auto` takes, None where that does not fit."""
    method_reason: str
    """Why it is taken, or does not fit."""
    expected: tuple[Expected, ...]
    """What that method came to on other teachers of the kind, small ones: a data set each, where it was measured."""
    methods: tuple[str, ...]
    """All that fit as their settings are."""
    obstacles: Mapping[str, str]
    """Each other method, with what keeps the teacher from it."""
    advice: tuple[str, ...]
    """What a run has to mind, a line each."""
    student: str
    """The SPEC that `auto` takes."""
    student_reason: str

    @classmethod
    def of(cls, network: Network) -> Inspection:
        """Return what is to be said of a checked network."""
        kept = obstacles(network)
        choice = choose(network)
        student, student_reason = choose_student(network)
        return cls(
            card=network.card,
            params=parameters(network.module),
            bytes=num_bytes(network.module),
            bits=network.module.bits if isinstance(network.module, LowBit) else None,
            batch_norm_layers=len(readable_batch_norms(network)),
            method=None if kept[choice.name] else choice.name,
            method_reason=kept[choice.name] or choice.reason,
            expected=expected(choice.name, bool(readable_batch_norms(network))),
            methods=tuple(name for name, obstacle in kept.items() if not obstacle),
            obstacles={name: obstacle for name, obstacle in kept.items() if obstacle},
            advice=tuple(advice(network.behaviour)),
            student=student,
            student_reason=student_reason,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the card's among the others, as `lenient inspect --json` prints them."""
        values = super().to_dict()
        del values["card"]
        return self.card.to_dict() | values


def inspection(teacher: nn.Module | Network | str | Path, trust_code: Trusted, facts: TeacherFacts) -> Inspection:
    """Describe a teacher as `lenient.inspect` does; a run that names code not to be trusted by its files alone.

    Raises:
        TeacherError: it cannot be loaded.
    """
    try:
        network = load_teacher(teacher, trust_code=trust_code, **facts)
    except UntrustedError as error:
        if not isinstance(teacher, (str, Path)) or not Path(teacher).is_dir():
            raise
        network = outline(teacher)
        network.card = replace(network.card, notes=(*network.card.notes, f"as its files say, nothing was run: {error}"))
    return Inspection.of(network)
