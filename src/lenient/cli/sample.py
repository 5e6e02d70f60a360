"""`lenient sample`: draw images from a run's generator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lenient.cli import flags
from lenient.core.errors import UsageError
from lenient.core.text import VALUE, visible


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
    student: Annotated[
        str, typer.Option(metavar="SPEC", help="The student's network.", show_default="as RUN says")
    ] = "",
    trust_code: flags.TrustCode = False,
) -> None:
    """Write synthetic images of RUN as PNG files, and the teacher's soft labels as labels.csv."""
    from lenient.api import reopen
    from lenient.runs.samples import MOST, write_samples

    if (output.is_symlink() or output.exists()) and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"-o {output}: is there and no empty folder; choose another")
    if not 1 <= count <= MOST:
        raise UsageError(f"-n {visible(count, VALUE)}: give a number from 1 to {MOST}")
    distillation, frozen = reopen(
        run,
        device or None,
        teacher=teacher or None,
        arch=teacher_arch or None,
        student=student or None,
        trust_code=trust_code,
    )
    clipped = write_samples(distillation, frozen, count, output, seed)
    print(f"{count} images in {output}; {clipped:.2%} of the values were clipped to 8 bit")
