"""`lenient export`: write a run's student in another format."""

from __future__ import annotations

from pathlib import Path

from lenient.cli import options
from lenient.cli.options import takes


@takes(options.EXPORT)
def export(
    run: Path,
    format: str,
    output: Path,
    check: bool,
    teacher_arch: str | None,
    checkpoint_key: str | None,
    opset: int | None,
    trust_code: bool,
    overwrite: bool,
) -> None:
    """Write the student of RUN in another format."""
    from lenient.runs.export import export as write
    from lenient.runs.export import opset_of

    difference = write(
        run,
        format,
        output,
        check=check,
        arch=teacher_arch,
        checkpoint_key=checkpoint_key,
        opset=opset,
        overwrite=overwrite,
        trust_code=trust_code,
    )
    print(output if difference is None else f"{output}: outputs agree within {difference:.1e} of their range")
    if format == "onnx":
        print(f"opset {opset_of(output)}")
