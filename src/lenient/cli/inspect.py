"""`lenient inspect`: show what is known of a teacher."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping

from lenient.cli import flags, options
from lenient.cli.options import takes
from lenient.core.progress import for_command, working
from lenient.core.text import NOTE, WIDE, visible
from lenient.methods.expected import Expected

PROGRAM = "not counted in a program"


@takes(options.INSPECT)
def inspect(
    teacher: str,
    teacher_arch: str | None,
    input_size: str | None,
    num_classes: int | None,
    mean: str | None,
    std: str | None,
    checkpoint_key: str | None,
    classes: str | None,
    trust_code: bool,
    as_json: bool,
    progress: str,
) -> None:
    """Show what is known of TEACHER, which methods fit it, and what was assumed."""
    from lenient.api import inspect as look

    facts = flags.facts(teacher_arch, input_size, num_classes, mean, std, checkpoint_key, classes)
    with working(f"looking at {visible(teacher)}", for_command(progress)):
        found = look(teacher, trust_code=trust_code, progress="none", **facts)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
        return
    card = found.card
    rows = {
        "architecture": card.arch or "unknown: the module alone was given",
        "parameters": f"{found.params:,} ({found.bytes / 2**20:.1f} MiB)" if found.params else PROGRAM,
        **({"bits": f"{found.bits} for weights and for the inputs of layers"} if found.bits else {}),
        "input": "x".join(map(str, card.input_size)) + " (channels x height x width)",
        "classes": str(card.num_classes) + (f": {', '.join(card.classes[:10])}" if card.classes else ""),
        "mean": ", ".join(f"{v:.4g}" for v in card.mean),
        "std": ", ".join(f"{v:.4g}" for v in card.std),
        "outputs": card.outputs,
        "batch norm": f"{found.batch_norm_layers} layers with statistics",
        "method": f"{found.method or 'none'} ({found.method_reason})",
        **({} if found.method is None else {"expect": _expect(found.expected)}),
        "methods": ", ".join(found.methods) or "none fits this teacher as it is",
        **({"unfit": _unfit(found.obstacles)} if found.obstacles else {}),
        "student": f"{found.student} ({found.student_reason})",
    }
    for name, value in rows.items():
        print(f"{name:13} {visible(value, NOTE)}")
    for note in [*card.notes, *found.advice]:
        print(f"  - {visible(note, NOTE)}")
    if found.method is not None:
        given = {
            "--teacher-arch": teacher_arch,
            "--input-size": input_size,
            "--num-classes": num_classes,
            "--mean": mean,
            "--std": std,
            "--checkpoint-key": checkpoint_key,
            "--classes": classes,
        }
        words = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
        trusted = ["--trust-code"] if trust_code else []
        print(f"next: {visible(shlex.join(['lenient', 'distill', teacher, *words, *trusted]), WIDE)}")


def _expect(measured: Iterable[Expected]) -> str:
    """Return what the method came to elsewhere."""
    told = "; ".join(one.told() for one in measured)
    return f"of the accuracy of small teachers, {told}" if told else "not measured on such teachers"


def _unfit(obstacles: Mapping[str, str]) -> str:
    """Return the methods that do not fit as they are, each kind with its reason."""
    reasons = dict.fromkeys(obstacles.values())
    named = {reason: ", ".join(name for name, own in obstacles.items() if own == reason) for reason in reasons}
    return "; ".join(f"{names} ({reason})" for reason, names in named.items())
