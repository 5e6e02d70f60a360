"""`lenient sample`: draw images from a run's generator."""

from __future__ import annotations

from pathlib import Path

from lenient.cli import options
from lenient.cli.options import takes


@takes(options.SAMPLE)
def sample(
    run: Path,
    output: Path,
    count: int,
    device: str | None,
    seed: int,
    teacher: str | None,
    teacher_arch: str | None,
    checkpoint_key: str | None,
    student: str | None,
    trust_code: bool,
) -> None:
    """Write synthetic images of RUN as PNG files, and the teacher's soft labels as labels.csv."""
    from lenient import api

    clipped = api.sample(
        run,
        output,
        count,
        seed=seed,
        device=device,
        teacher=teacher,
        teacher_arch=teacher_arch,
        checkpoint_key=checkpoint_key,
        student=student,
        trust_code=trust_code,
    )
    print(f"{count} images in {output}; {clipped:.2%} of the values were clipped to 8 bit")
