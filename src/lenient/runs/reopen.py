"""A run whose folder is read again: its networks and parts, to draw from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from lenient.core.errors import TeacherError, UsageError
from lenient.core.memory import memory_errors
from lenient.models.card import Network
from lenient.models.trust import Trusted, require
from lenient.runs.folder import RunFolder, fingerprint
from lenient.runs.job import check_pictures, load_teacher
from lenient.runs.request import Request, decide, pick_student, resolve, settings_of
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.result import FellBack
from lenient.training.trainer import Distillation


def is_run(what: object) -> TypeGuard[str | Path]:
    """Whether it names the folder of a run."""
    return isinstance(what, (str, Path)) and os.path.isfile(os.path.join(what, "config.yaml"))


def reopen(
    run: Path,
    device: str | None = None,
    *,
    teacher: str | None = None,
    arch: str | None = None,
    checkpoint_key: str | None = None,
    student: str | None = None,
    trust_code: Trusted = False,
) -> tuple[Distillation, FrozenTeacher]:
    """Rebuild a run's networks and parts from its folder, to draw more samples; enter the teacher before use.

    Args:
        run: its folder.
        device: where; by default that of the run.
        teacher: where the teacher is now, `arch` which network, and `checkpoint_key` which one of its file; by
            default as the run says.
        student: which network; it must be the run's.
        trust_code: lets the run name code to run and places to visit; what is named here needs no trust.

    Raises:
        UsageError: not a run, or nothing to rebuild it from.
        DamagedError: a file of the run is.
        TeacherError: the teacher is no longer where it was, or is another one; UntrustedError: the run names code to
            run, or a place to visit.
    """
    folder = RunFolder(run)
    config = folder.read_config()
    if config is None:
        raise UsageError(f"{run}: not a run folder; it has no config.yaml of a run")
    identity = config.pop("run")
    said = folder.path / "config.yaml"
    source = teacher or identity["teacher"]["source"]
    objects = {
        "teacher": source is None,
        "student": identity["student"]["arch"] is None,
        "generator": "generator" in identity,
    }
    for what in (name for name, given in objects.items() if given):
        raise UsageError(f"{run}: its {what} was given as a Python object, which cannot be loaded again from here")
    if teacher is None:
        require(source, trust_code, where=said, what="its teacher", again="--teacher NAME", weights=True)
    network = _load_again(source, identity["teacher"]["facts"], arch, checkpoint_key, said, trust_code)
    if fingerprint(network.module) != identity["teacher"]["sha256"]:
        raise TeacherError(f"{source}: is not the teacher that {run} was made with")
    if device is not None:
        config["device"] = device
    config["compile"] = False  # a few images are drawn before a compiler, if there is one here, has begun
    if student is None:
        require(identity["student"]["arch"], trust_code, where=said, what="its student", again="--student NAME")
    elif student != identity["student"]["arch"]:
        raise UsageError(f"--student {student}: it is {identity['student']['arch']} in {run}; leave the flag out")
    with settings_of(said):
        request = Request(shared=config, trust=trust_code, where=str(said))
        settings = resolve(request)
    check_pictures(settings, network, identity, str(run))
    fell_back = FellBack(**identity["fell_back"]) if "fell_back" in identity else None
    with settings_of(said):
        settings = decide(settings, Request(), network, network)
        built, _ = pick_student(identity["student"]["arch"], network, settings.seed)
    frozen = FrozenTeacher(network, settings.runtime())
    with frozen, memory_errors():
        distillation = Distillation(frozen, built, settings, frozen.runtime, fell_back=fell_back)
        if distillation.resume(folder) is None:
            raise UsageError(f"{run}: has no checkpoint yet; wait for the run to write one")
    return distillation, frozen


def _load_again(
    source: str, facts: Mapping[str, Any], arch: str | None, checkpoint_key: str | None, said: Path, trust: Trusted
) -> Network:
    """Load a run's teacher with the facts that its settings, in the file `said`, have."""
    if arch is None and facts.get("arch") is not None:
        arch = str(facts["arch"])
        require(arch, trust, where=said, what="its teacher", again="--teacher-arch NAME")
    names = ("input_size", "num_classes", "mean", "std", "checkpoint_key", "classes")
    told = {name: facts[name] for name in names if name in facts}
    if checkpoint_key is not None:
        told["checkpoint_key"] = checkpoint_key
    return load_teacher(source, arch=arch, trust_code=trust, **told)
