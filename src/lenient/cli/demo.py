"""`lenient demo`: the whole way on handwritten digits, offline, in under two minutes."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Annotated

import typer

from lenient.cli import flags

TEACHER, STUDENT = "lenient:wrn-10-2", "lenient:resnet8-half"
EPOCHS, STEPS = 12, 1200
"""Of the teacher and of both students: fewer than the recipes `digits` have, for what comes after adds little here."""
FOLDER = Path("runs/demo")
"""The demo's folder by default; there, and only there, it replaces an earlier demo unasked."""


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Run folder.")] = FOLDER,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of teacher and distillation.")] = 0,
    overwrite: flags.Overwrite = False,
    progress: Annotated[str, typer.Option(metavar="KIND", help="auto, rich, plain or none.")] = "auto",
) -> None:
    """Train a digits teacher, throw the images away, distil without data, measure both on held-out digits."""
    from lenient.cli.distill import describe, describe_method, duration, finish, run_job
    from lenient.core.files import check_new
    from lenient.core.progress import for_command, working
    from lenient.data import load_data
    from lenient.models import save_network
    from lenient.runs.folder import RunFolder
    from lenient.runs.job import Job
    from lenient.runs.request import Request
    from lenient.supervised import TeacherRecipe, default_recipe, train_classifier, untrained

    progress = for_command(progress)
    overwrite = overwrite or output == FOLDER
    teacher_file = output.parent / f"{output.name}-teacher.safetensors"
    RunFolder.check(output, overwrite=overwrite)  # said now rather than after the teacher's training
    check_new(teacher_file, overwrite)
    started = time.monotonic()
    print("1. A teacher, trained on 1,438 real scans of handwritten digits (8x8 pixels)")
    images = load_data("digits", split="train")
    teacher = untrained(TEACHER, images, seed)
    with working("   training", progress):
        train_classifier(teacher, images, TeacherRecipe(**default_recipe("digits") | {"epochs": EPOCHS, "seed": seed}))
    save_network(teacher_file, teacher)
    del images
    print(f"   {teacher_file} ({duration(time.monotonic() - started)}). The training images are gone now.")

    print("2. The noise student: the same steps on noise images, to see what the method adds")
    noise = Job(
        teacher, STUDENT, Request(method="noise", recipes=["digits"], steps=STEPS, seed=seed), eval_data="digits"
    )
    with working(f"   {noise.opening(False)}", progress):
        noise.open(None)
    logging.getLogger("lenient").setLevel(logging.ERROR)  # its alarms are what it is there for
    with working("   learning from noise", progress):
        baseline = noise.run()
    if baseline.interrupted:
        raise KeyboardInterrupt
    noise_accuracy = baseline.summary.student.accuracy
    print(f"   it reaches {noise_accuracy:.1%} on held-out digits")

    print("3. Distillation without data")
    found = {"precision": noise.settings.precision}  # one trial is enough
    request = Request(recipes=["digits"], steps=STEPS, seed=seed, settings=found)
    job = Job(teacher, STUDENT, request, source=str(teacher_file), eval_data="digits")
    describe(job, print)
    describe_method(job, print)
    job.extra = {"noise_student": {"accuracy": noise_accuracy}, "demo": True}
    with working(f"   {job.opening(False)}", progress):
        job.open(output, overwrite=overwrite)
    result = run_job(job, progress)
    print(f"in all    {duration(time.monotonic() - started)}; noise student {noise_accuracy:.2%}")
    finish(result, output, print)
