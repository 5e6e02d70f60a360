"""`lenient export`: write a run's student in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lenient.cli import flags


def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, or a .safetensors file.", show_default=False)
    ],
    kind: Annotated[str, typer.Option("--format", metavar="NAME", help="safetensors, pt2, onnx or hub.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="PATH", help="File (hub: folder).", show_default=False)
    ],
    check: Annotated[bool, typer.Option("--check", help="Read it back and compare its outputs.")] = False,
    teacher_arch: Annotated[
        str, typer.Option("--teacher-arch", metavar="SPEC", help="Architecture, for a student of your own code.")
    ] = "",
    checkpoint_key: flags.CheckpointKey = "",
    opset: Annotated[
        int,
        typer.Option("--opset", metavar="N", help="ONNX operators of this version, 13 to 23.", show_default="torch's"),
    ] = 0,
    trust_code: flags.TrustCode = False,
    overwrite: flags.Overwrite = False,
) -> None:
    """Write the student of RUN in another format."""
    from lenient.runs.export import export as write
    from lenient.runs.export import opset_of

    difference = write(
        run,
        kind,
        output,
        check=check,
        arch=teacher_arch or None,
        checkpoint_key=checkpoint_key or None,
        opset=opset or None,
        overwrite=overwrite,
        trust_code=trust_code,
    )
    print(output if difference is None else f"{output}: outputs agree within {difference:.1e} of their range")
    if kind == "onnx":
        print(f"opset {opset_of(output)}")
