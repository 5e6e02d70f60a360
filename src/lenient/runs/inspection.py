"""What was found of a teacher, what can be done with it and what was assumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from lenient.evaluation import num_bytes, parameters
from lenient.methods.choice import choose, obstacles
from lenient.models import choose_student
from lenient.models.card import Network
from lenient.models.checking import advice, readable_batch_norms
from lenient.models.loading import outline
from lenient.models.low_bit import LowBit
from lenient.models.trust import Trusted, UntrustedError
from lenient.runs.job import TeacherFacts, load_teacher


def inspection(teacher: nn.Module | Network | str | Path, trust_code: Trusted, facts: TeacherFacts) -> dict[str, Any]:
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
    kept = obstacles(network)
    method, method_reason = choose(network)
    spec, reason = choose_student(network)
    return {
        **network.card.to_dict(),
        "params": parameters(network.module),
        "bytes": num_bytes(network.module),
        "bits": network.module.bits if isinstance(network.module, LowBit) else None,
        "batch_norm_layers": len(readable_batch_norms(network)),
        "method": None if kept[method] else method,
        "method_reason": kept[method] or method_reason,
        "methods": [name for name, obstacle in kept.items() if not obstacle],
        "obstacles": {name: obstacle for name, obstacle in kept.items() if obstacle},
        "advice": advice(network.behaviour),
        "student": spec,
        "student_reason": reason,
    }
