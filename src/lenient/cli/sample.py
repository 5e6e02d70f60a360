"""`lenient sample`: draw images from a run's generator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lenient.cli import flags


def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="A new folder.", show_default=False)],
    count: Annotated[int, typer.Option("-n", "--count", metavar="N", help="Images.")] = 64,
    device: flags.Device = "",
    seed: Annotated[int, typer.Option(metavar="N", help="Draws other images.")] = 0,
    teacher: Annotated[
        str, typer.Option(metavar="TEACHER", help="The teacher of RUN.", show_default="as RUN says")
    ] = "",
    teacher_arch: flags.TeacherArch = "",
    checkpoint_key: flags.CheckpointKey = "",
    student: Annotated[
        str, typer.Option(metavar="SPEC", help="The student's network.", show_default="as RUN says")
    ] = "",
    trust_code: flags.TrustCode = False,
) -> None:
    """Write synthetic images of RUN as PNG files, and the teacher's soft labels as labels.csv."""
    from lenient import api

    clipped = api.sample(
        run,
        output,
        count,
        seed=seed,
        device=device or None,
        teacher=teacher or None,
        teacher_arch=teacher_arch or None,
        checkpoint_key=checkpoint_key or None,
        student=student or None,
        trust_code=trust_code,
    )
    print(f"{count} images in {output}; {clipped:.2%} of the values were clipped to 8 bit")
