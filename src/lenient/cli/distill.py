"""`lenient distill`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lenient.cli import flags, options
from lenient.cli.options import takes
from lenient.core import numbers
from lenient.core.errors import HealthError
from lenient.core.text import NOT_DATA_FREE, WIDE, estimated_anew, expected, fallen_back, visible

if TYPE_CHECKING:
    from lenient.runs.job import Job
    from lenient.training.result import Result


@takes(options.DISTILL)
def distill(
    teacher: str,
    teacher_arch: str | None,
    input_size: str | None,
    num_classes: int | None,
    mean: str | None,
    std: str | None,
    checkpoint_key: str | None,
    classes: str | None,
    student: str,
    method: str,
    preset: str | None,
    steps: int | None,
    epochs: int | None,
    budget: str | None,
    batch_size: str | None,
    seed: int | None,
    proxy_images: str | None,
    eval_data: str | None,
    data_root: str | None,
    recipe: list[str],
    setting: list[str],
    output: str | None,
    resume: bool,
    overwrite: bool,
    select: str | None,
    device: str | None,
    devices: int,
    precision: str | None,
    compile: bool,
    dry_run: bool,
    print_config: bool,
    trust_code: bool,
    track: list[str],
    progress: str,
) -> None:
    """Distil TEACHER into a smaller student without data; the run folder gets the student, a report and the log."""
    from lenient.cli import trackers
    from lenient.cli.launch import launch
    from lenient.core import processes, ranks
    from lenient.core.progress import for_command, working
    from lenient.runs.job import Job, load_teacher
    from lenient.runs.request import Request

    progress = for_command(progress)
    tracked = trackers.known(track)
    found = flags.facts(teacher_arch, input_size, num_classes, mean, std, checkpoint_key, classes)
    with working(f"loading {visible(teacher)}", progress if processes.speaks() else "none"):
        network = load_teacher(teacher, trust_code=trust_code, **found)
    request = Request(
        method=method,
        preset=preset,
        recipes=recipe,
        overrides=setting,
        steps=steps,
        epochs=epochs,
        budget=budget,
        batch_size="auto" if batch_size == "auto" else flags.whole_number("--batch-size", batch_size),
        seed=seed,
        device=device,
        precision=precision,
        select=select,
        proxy_images=proxy_images,
        compile=compile,
    )
    job = Job(
        network,
        student,
        request,
        source=teacher,
        facts=found,
        eval_data=eval_data,
        data_root=data_root,
        trust_code=trust_code,
    )
    if print_config:
        _print_config(job)
        return
    if devices > 1 and not ranks.launched():
        if not resume and "batch size" not in job.undecided:
            job.share(devices)  # refused here rather than by each of them
        raise typer.Exit(launch(devices))
    folder = None if dry_run else Path(output) if output else _default_folder(teacher)
    with ranks.joined():
        _run(job, folder, progress if ranks.is_main() else "none", tracked, resume=resume, overwrite=overwrite)


def _run(
    job: Job, folder: Path | None, progress: str, tracked: Sequence[str], *, resume: bool, overwrite: bool
) -> None:
    """Say what will be done, and do it; without a folder only measure what it would take."""
    from lenient.core import ranks
    from lenient.core.progress import working

    say: Any = _say if progress != "none" else _silent  # on the way
    tell: Any = _say if ranks.is_main() else _silent  # what came of it
    describe(job, say)
    if folder is None or not resume:
        describe_method(job, say)
    if folder is None:
        _dry_run(job, progress, say, tell)
        return
    _announce_trials(job, say, resume)
    with working(job.opening(resume), progress):
        job.open(folder, resume=resume, overwrite=overwrite)
    if resume:  # the folder has said by now which
        describe_method(job, say)
    if ranks.agree(job.complete):
        tell(f"{folder} is complete already; lengthen it with --steps N, or replace it with --overwrite")
        if job.verdict == "failed":
            raise typer.Exit(HealthError.exit_code)
        return
    say(f"machine   {_machine(job)}")
    finish(run_job(job, progress, tracked), folder, tell)


def describe(job: Job, say: Any) -> None:
    """Say what is known of the teacher and of the student before the first step."""
    from lenient.evaluation import parameters
    from lenient.models.students import NAMELESS

    card = job.teacher.card
    size = "x".join(str(value) for value in card.input_size)
    count = parameters(job.teacher.module)
    counted = f"{count:,} parameters, " if count else ""  # none are read of a program
    say(f"teacher   {card.arch or job.source or 'module'}: {counted}{card.num_classes} classes, images {size}")
    say(f"          mean {_row(card.mean)}, std {_row(card.std)}: check these: a wrong mean gives no error")
    for note in card.notes:
        say(f"          {note}")
    student = job.student.card.arch or "module"
    say(f"student   {student}: {parameters(job.student.module):,} parameters ({job.student_reason})")
    if NAMELESS in job.student.card.notes:
        say(f"          {NAMELESS}")


def describe_method(job: Job, say: Any) -> None:
    """Say what will be done."""
    from lenient.core import ranks

    s = job.settings
    say(f"method    {s.method.name}, {s.steps} steps of {s.batch_size} images, seed {s.seed}")
    if job.method_reason:
        say(f"          {s.method.name}, because {job.method_reason}; choose another with --method NAME")
    if job.fallback is not None:
        other = job.fallback["name"]
        say(f"          {other} instead, once, if its forecast is bad; -s fallback=false keeps {s.method.name}")
    if job.fell_back is not None:
        say(f"          {fallen_back(asdict(job.fell_back))}")
    if s.source.proxy_images is not None and s.pictures_folder is not None:  # a run that goes on has its own
        part = f"{s.pictures_share:.0%} of each batch" if s.pictures_share else "the method shows them"
        hint = " (-s source.proxy_share)" if s.pictures_share else ""
        say(f"pictures  {s.pictures_folder}: {part}{hint}; {NOT_DATA_FREE}")
    if ranks.count() > 1:
        each = "" if "batch size" in job.undecided else f", {s.batch_size // ranks.count()} images each"
        say(f"          on {ranks.count()} devices{each}")


def _announce_trials(job: Job, say: Any, resume: bool = False) -> None:
    """What a run goes on with was decided when it began."""
    if job.undecided and not resume:
        say(f"machine   measuring what is best here: {', '.join(job.undecided)}")


def _machine(job: Job) -> str:
    s = job.settings
    threads = [f"{s.threads} thread{'s' if s.threads != 1 else ''}"] if s.device == "cpu" else []
    ways = {"compiled": s.compile, "overlap": s.overlap is True, "maps computed anew": s.recompute is True}
    named = [s.precision, *threads, *(way for way, taken in ways.items() if taken)]
    return f"{s.device}, {', '.join(named)}, batches of {s.batch_size} images"


def _row(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:.4g}" for value in values)


def _say(line: str) -> None:
    print(visible(line, WIDE))


def _silent(*_: Any) -> None:
    return None


def _print_config(job: Job) -> None:
    from lenient.core.config import dump_yaml

    print(dump_yaml(job.settings.model_dump(mode="json")), end="")


def _dry_run(job: Job, progress: str, say: Any, tell: Any) -> None:
    from lenient.core.progress import working

    _announce_trials(job, say)
    with working("measuring", progress):
        job.open(None)
        measured = job.trial()
    seconds = measured["seconds_before"] + measured["seconds_per_step"] * job.settings.steps
    tell(f"machine   {_machine(job)}")
    pace = f"{measured['seconds_per_step'] * 1000:.1f} ms a step"
    tell(f"speed     {pace}, about {duration(seconds)} for {job.settings.steps} steps")
    known = "peak_bytes" in measured
    tell(f"memory    {measured['peak_bytes'] / 2**30:.2f} GiB at the peak" if known else "memory    unknown")
    tell("nothing was written (--dry-run)")


def _default_folder(teacher: str) -> Path:
    stem = teacher.split(":")[-1].rstrip("/").split("/")[-1].removesuffix(".safetensors")
    return Path("runs") / (stem or "run")


def run_job(job: Job, progress: str, tracked: Sequence[str] = ()) -> Result:
    """Run with a progress display, TensorBoard where it is installed, and the trackers asked for."""
    from lenient.cli.trackers import trackers
    from lenient.training.display import watching

    more = [] if job.folder is None else trackers(tracked, job.folder, job.settings)
    with watching(progress, more) as observers:
        return job.run(observers)


def finish(result: Result, folder: Path, say: Any) -> None:
    """Say what came of it; exit with 130 where it was interrupted, 4 where the verdict is `failed`."""
    from lenient.core import ranks

    if result.interrupted:
        if ranks.is_main():
            with suppress(OSError, ValueError):  # the terminal may be what is gone
                print(
                    f"lenient: interrupted; a checkpoint is written: continue with the same command and --resume "
                    f"-o {folder}",
                    file=sys.stderr,
                )
        raise typer.Exit(130)
    if not ranks.is_main():
        return
    health, teacher, student = result.health, result.summary.teacher.accuracy, result.summary.student.accuracy
    say(f"verdict   {health.verdict}: {'; '.join(health.reasons)}")
    if teacher is not None and student is not None:
        share = student / max(teacher, 1e-9)
        say(f"accuracy  teacher {teacher:.2%}, student {student:.2%} ({share:.1%} of the teacher's)")
    else:
        say(f"          {health.note}")
    if result.summary.prediction is not None:
        say(f"expected  {expected(asdict(result.summary.prediction))}")
    if result.summary.fell_back is not None:
        say(f"method    {result.summary.method}, {fallen_back(asdict(result.summary.fell_back))}")
    if result.summary.foreign is not None:
        say(f"images    of {', '.join(result.summary.foreign)}: {NOT_DATA_FREE}")
    if result.summary.estimated_on is not None:
        say(f"norms     {estimated_anew(result.summary.estimated_on)}")
    say(f"time      {duration(result.summary.seconds)}")
    say(f"student   {folder / 'student'}")
    say(f"report    {folder / 'report.html'}")
    if health.verdict == "failed":
        raise typer.Exit(HealthError.exit_code)
    say(f"next      lenient export {shlex.quote(str(folder))} --format onnx -o student.onnx --check")


def duration(seconds: float) -> str:
    """Write seconds as a terminal shows them: `42 s`, `1 min 42 s`, `2 h 5 min`."""
    return numbers.duration(seconds, space=" ")
