"""The front door from Python: `distill`, `inspect`, `load`, `train_teacher`; the commands are thin wrappers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from lenient import ranks
from lenient.errors import TeacherError, UsageError
from lenient.evaluation import num_bytes, parameters
from lenient.job import Job, load_teacher
from lenient.loop import Distillation, Observer, Result
from lenient.methods import fitting
from lenient.methods.contract import Method
from lenient.models import choose_student, load_network
from lenient.models.card import Network, PixelClassifier
from lenient.models.checking import advice, heard_batch_norms
from lenient.planning import Request, decide, pick_student, resolve
from lenient.run import RunFolder, fingerprint
from lenient.teacher import FrozenTeacher

WITHOUT_BATCH_NORM = (
    "no batch-norm layers: ta-dfkd matches their statistics; -s method.bn_weight=0 goes without, unproven"
)


def load(path: str | Path, **facts: Any) -> PixelClassifier:
    """Load a student (or any classifier that `lenient distill` takes) as a module that takes pixels in [0, 1].

    `facts` are those of `load_teacher`. Raises TeacherError where it cannot be loaded.
    """
    network = load_network(str(path), **facts)
    return PixelClassifier(network.module, network.card).eval()


def inspect(teacher: nn.Module | Network | str | Path, **facts: Any) -> dict[str, Any]:
    """Say what was found of a teacher, what can be done with it and what was assumed; `facts` as for `load_teacher`."""
    network = load_teacher(teacher, **facts)
    layers = heard_batch_norms(network)
    faults = advice(network.behaviour)
    spec, reason = choose_student(network)
    return {
        **network.card.to_dict(),
        "params": parameters(network.module),
        "bytes": num_bytes(network.module),
        "batch_norm_layers": len(layers),
        "methods": [] if faults else fitting(bool(layers)),
        "advice": faults if faults or layers else [WITHOUT_BATCH_NORM],
        "student": spec,
        "student_reason": reason,
    }


def distill(
    teacher: nn.Module | Network | str | Path,
    student: nn.Module | Network | str = "auto",
    *,
    method: str | Method | None = None,
    output: str | Path | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    budget: str | None = None,
    preset: str | None = None,
    recipe: str | Sequence[str] = (),
    batch_size: int | Literal["auto"] | None = None,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    eval_data: str | None = None,
    data_root: str | Path | None = None,
    device: str | None = None,
    precision: str | None = None,
    compile: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
    **facts: Any,
) -> Result:
    """Distil `teacher` into `student` without data.

    Args:
        teacher: any module that maps images to logits, or what `lenient distill` takes; it comes back untouched.
        student: a module to train in place, SOURCE:NAME, or `auto`.
        method: a name, or a method object of your own.
        output: the run folder; None keeps everything in memory.
        settings: the strongest word, nested or by dots: {"method": {"tau": 0.6}} or {"method.tau": 0.6}.
        eval_data: DATA to measure the student on; it never steers the run.
        facts: `arch`, `input_size`, `num_classes`, `mean`, `std` of the teacher, where they cannot be found.

    The other arguments are the flags of the command. Under torchrun all processes call this alike, share the batch,
    and end up with the same student; the first one writes. Raises the errors of `lenient.errors`.
    """
    network = load_teacher(teacher, **facts)
    own = None if method is None or isinstance(method, str) else method
    request = Request(
        method=method if isinstance(method, str) else None,
        preset=preset,
        recipes=(recipe,) if isinstance(recipe, str) else tuple(recipe),
        settings=settings or {},
        steps=steps,
        epochs=epochs,
        budget=budget,
        batch_size=batch_size,
        seed=seed,
        device=device,
        precision=precision,
        compile=compile,
    )
    source = str(teacher) if isinstance(teacher, (str, Path)) else None
    with ranks.joined():
        job = Job(
            network, student, request, method=own, source=source, facts=facts, eval_data=eval_data, data_root=data_root
        )
        job.open(Path(output) if output is not None else None, resume=resume, overwrite=overwrite)
        return job.run(observers if ranks.is_main() else ())


def train_teacher(*args: Any, **kwargs: Any) -> Any:
    """Train a classifier on real data; see `lenient.supervised.train_classifier`."""
    from lenient.supervised import train_classifier

    return train_classifier(*args, **kwargs)


def reopen(run: Path, device: str | None = None) -> tuple[Distillation, FrozenTeacher]:
    """Rebuild a run's networks and parts from its folder, to draw more samples; enter the teacher before use.

    Raises:
        UsageError: not a run, or nothing to rebuild it from.
        TeacherError: the teacher is no longer where it was, or is another one.
    """
    folder = RunFolder(run)
    config = folder.read_config()
    if config is None or "run" not in config:
        raise UsageError(f"{run}: not a run folder; it has no config.yaml of a run")
    identity = config.pop("run")
    source, facts = identity["teacher"]["source"], identity["teacher"]["facts"]
    if source is None:
        raise UsageError(f"{run}: its teacher was given as a Python object, which cannot be loaded again from here")
    network = load_teacher(source, **facts)
    if fingerprint(network.module) != identity["teacher"]["sha256"]:
        raise TeacherError(f"{source}: is not the teacher that {run} was made with")
    if device is not None:
        config["device"] = device
    config["compile"] = False  # a few images are drawn before a compiler, if there is one here, has begun
    settings = decide(resolve(Request(settings=config)), Request(), network, network)
    runtime = settings.runtime()
    state = folder.load_checkpoint(runtime.device)
    if state is None:
        raise UsageError(f"{run}: has no checkpoint yet; wait for the run to write one")
    if identity["student"]["arch"] is None:
        raise UsageError(f"{run}: its student was given as a Python object, which cannot be loaded again from here")
    student, _ = pick_student(identity["student"]["arch"], network, settings.seed)
    frozen = FrozenTeacher(network, runtime)
    with frozen:
        distillation = Distillation(frozen, student, settings, runtime)
        distillation.load_state_dict(state)
    return distillation, frozen
