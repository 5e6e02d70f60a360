"""`lenient export`: write a run's student, or a network of one's own, in another format."""

from __future__ import annotations

import shlex
from pathlib import Path

from lenient.cli import flags, options
from lenient.cli.options import takes
from lenient.core.progress import for_command, working
from lenient.core.text import NOTE, WIDE, visible


@takes(options.EXPORT)
def export(
    run: Path,
    format: str,
    output: Path,
    check: bool,
    teacher_arch: str | None,
    input_size: str | None,
    num_classes: int | None,
    mean: str | None,
    std: str | None,
    checkpoint_key: str | None,
    classes: str | None,
    opset: int | None,
    int8: bool,
    calibrate: Path | None,
    eval_data: str | None,
    data_root: str | None,
    trust_code: bool,
    overwrite: bool,
    progress: str,
) -> None:
    """Write the student of RUN, or a network of yours, in another format."""
    from lenient.runs.export import export as write
    from lenient.runs.export import opset_of

    facts = flags.facts(teacher_arch, input_size, num_classes, mean, std, checkpoint_key, classes)
    found: list[str] = []
    notes: list[str] = []
    with working(f"writing {visible(output)}", for_command(progress)):
        write(
            run,
            format,
            output,
            check=check,
            opset=opset,
            int8=int8,
            calibrate=calibrate,
            eval_data=eval_data,
            data_root=data_root,
            tell=found.append,
            note=notes.append,
            overwrite=overwrite,
            trust_code=trust_code,
            **facts,
        )
        trust = format != "hub" and _needs_trust(output)
    print(f"{output}: {'; '.join(found)}" if found else output)
    if format == "onnx":
        print(f"opset {opset_of(output)}")
    for note in notes:
        print(f"  - {visible(note, NOTE)}")
    print(f"next: {visible(_next(shlex.quote(str(output)), format, trust), WIDE)}")


def _next(output: str, format: str, trust: bool) -> str:
    """Return the command that comes next: measure the file, which may need `trust`, or send the folder."""
    if format == "hub":
        return f"hf upload ORG/NAME {output}"
    return f"lenient evaluate {output} --data imagefolder:DIR{' --trust-code' if trust else ''}"


def _needs_trust(output: Path) -> bool:
    """Whether a file is a program to be run, or names one: who reads it is told of the flag."""
    from lenient.core.errors import LenientError
    from lenient.models import load_network

    try:
        load_network(output)
    except LenientError as error:
        return "--trust-code" in str(error)
    return False
