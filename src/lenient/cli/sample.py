"""`lenient sample`: a data set of a run's synthetic images."""

from __future__ import annotations

from pathlib import Path

from lenient.cli import options
from lenient.cli.options import takes
from lenient.core.progress import for_command, working
from lenient.core.text import WIDE, visible


@takes(options.SAMPLE)
def sample(
    run: Path,
    output: Path,
    count: int,
    format: str,
    crops: int,
    crop_area: float,
    crop_flip: float,
    device: str | None,
    seed: int,
    teacher: str | None,
    teacher_arch: str | None,
    checkpoint_key: str | None,
    student: str | None,
    trust_code: bool,
    overwrite: bool,
    progress: str,
) -> None:
    """Write synthetic images of RUN with the teacher's soft labels, as pictures or arrays that other trainers read."""
    from lenient import api

    with working("drawing images", for_command(progress), total=count) as watch:
        made = api.sample(
            run,
            output,
            count,
            format=format,
            crops=crops,
            crop_area=crop_area,
            crop_flip=crop_flip,
            seed=seed,
            device=device,
            teacher=teacher,
            teacher_arch=teacher_arch,
            checkpoint_key=checkpoint_key,
            student=student,
            trust_code=trust_code,
            overwrite=overwrite,
            on_progress=watch,
            progress="none",
        )
    print(f"{made.images} images in {output}; {made.clipped:.2%} of the values were clipped to 8 bit")
    print(f"next: look at them; {visible(output / 'README.md', WIDE)} says how to read them")
