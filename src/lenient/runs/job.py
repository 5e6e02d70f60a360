"""One distillation from request to report: what the command and the Python function share."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import nn

from lenient.core import files, processors, ranks
from lenient.core.config import flatten, merge, nested
from lenient.core.errors import DamagedError, HealthError, LenientError, MachineError, UsageError
from lenient.core.files import disk_errors
from lenient.core.memory import memory_errors
from lenient.core.runtime import Runtime, resolve_device, threads
from lenient.core.schemas import Report, read_json
from lenient.core.seeding import untouched_global_rng
from lenient.core.text import NOT_DATA_FREE, VALUE, estimated_anew, visible
from lenient.defenses import defense_of
from lenient.evaluation import Measures, latency
from lenient.evaluation.running import check_fits, named_by
from lenient.generators.own import GeneratorFactory
from lenient.methods import method_class
from lenient.methods.choice import choose
from lenient.methods.contract import Method
from lenient.methods.generator import WithGenerator
from lenient.models import check_classifier, load_network, network_from_module
from lenient.models.card import Network
from lenient.models.checking import check_distillable, readable_batch_norms
from lenient.models.classes import Names
from lenient.models.lending import copied_module
from lenient.models.names import one_line, parse_spec
from lenient.models.students import is_copy
from lenient.models.trust import Trusted, UntrustedSettingError, require
from lenient.pictures.holding import listed
from lenient.reporting import write_report
from lenient.runs.autotune import threads_are_tried, trial
from lenient.runs.export import write_student
from lenient.runs.folder import RESUME, RunFolder, environment, fingerprint
from lenient.runs.request import (
    Request,
    decide,
    generator_factory,
    method_name,
    narrowed,
    pick_student,
    resolve,
    settings_of,
)
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.answers import answers, forecast
from lenient.training.prediction import predicted
from lenient.training.result import Evaluation, FellBack, Latency, NetworkSummary, Result, Summary
from lenient.training.settings import DistillSettings
from lenient.training.trainer import Distillation, Evaluate, Fallback, Observer, check_batch_norms, run_loop
from lenient.training.verdict import informed, shift_of

if TYPE_CHECKING:
    from lenient.data import ImageSet

log = logging.getLogger("lenient")

CROWDED = 0.3
"""Processors' time that others take from which on a run says so."""
SAMPLES, PER_CLASS, CLASSES_SHOWN = 512, 8, 20
PICTURES = "source.proxy_images"
TRANSDUCTIVE = ("accuracy", "agreement", "ece", "nll")
"""What is also measured by statistics of the test batch, of a student that learned by such."""
LAST_K = 10
"""Evaluations averaged in `acc_last_k` (TA-DFKD: the last 10 of 200 on CIFAR-10), at most a fifth, rounded up."""


def load_teacher(
    teacher: nn.Module | Network | str | Path,
    *,
    arch: str | None = None,
    input_size: Sequence[int] | None = None,
    num_classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    checkpoint_key: str | None = None,
    classes: Names | None = None,
    trust_code: Trusted = False,
) -> Network:
    """Load and check a teacher: a module (what `lenient.load` returns, too), a file, a folder, or SOURCE:NAME; what is
    not given is found or assumed.

    `trust_code` allows code and places that the file names, as in `load_network`.

    Raises:
        TeacherError: it cannot be loaded, or one real forward pass shows that it is not the classifier described.
    """
    facts: dict[str, Any] = {"input_size": input_size, "num_classes": num_classes, "mean": mean, "std": std}
    facts["classes"] = classes
    if isinstance(teacher, nn.Module | Network):
        return check_classifier(network_from_module(teacher, **facts))
    more: dict[str, Any] = {"checkpoint_key": checkpoint_key, "trust_code": trust_code}
    return check_classifier(load_network(teacher, arch=arch, **more, **facts))


class Job:
    """One distillation from request to report: what the command and `distill` share.

    `method` is an object, or a name that the request does not say. `fallback` is the section `method` to go on with
    where the forecast raises the alarm; by default that of `choose`, where nobody names a method.
    """

    def __init__(
        self,
        teacher: Network,
        student: nn.Module | Network | str,
        request: Request,
        *,
        method: Method | str | None = None,
        source: str | None = None,
        facts: Mapping[str, Any] | None = None,
        eval_data: str | None = None,
        data_root: str | Path | None = None,
        trust_code: Trusted = False,
        generator: GeneratorFactory | None = None,
        fallback: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(method, str):
            request, method = replace(request, method=method), None
        elif method is not None:
            request = replace(request, own=method.settings)
        choice = choose(teacher)
        request = narrowed(replace(request, auto=choice.name))
        self.method_reason = choice.reason if request.leaves_the_method_open else ""
        if fallback is None and self.method_reason and choice.fallback is not None:
            fallback = {"name": choice.fallback}
        self.trust_code = trust_code
        self.teacher, self.request, self.method, self.generator = teacher, request, method, generator
        self.source, self.facts = source, dict(facts or {})
        if "classes" in self.facts:  # as they were read, for their file may be another one when they are needed again
            self.facts["classes"] = teacher.card.classes
        self.eval_data, self.data_root = eval_data, data_root
        self.settings: DistillSettings = resolve(request)
        if generator is not None and self.settings.generator.factory is not None:
            raise UsageError("-s generator.factory: the generator was given as an object; leave one of the two out")
        own = generator is not None or self.settings.generator.factory is not None  # who draws so wants no other way
        self.fallback = fallback if self.settings.fallback and not own else None
        """The section `method` to go on with, once, where the forecast raises the alarm."""
        self.fell_back: FellBack | None = None
        """That the run in the folder has done so."""
        self.hash = fingerprint(teacher.module)
        self._wanted_student = student
        self.folder: RunFolder | None = None
        self._source: RunFolder | None = None  # where a checkpoint may lie
        self.data: ImageSet | None = None
        self.extra: dict[str, Any] = {}
        self.student, self.student_reason = pick_student(
            student, teacher, self.settings.seed, self.settings.student.init
        )

    def open(self, path: str | Path | None, *, resume: bool = False, overwrite: bool = False) -> None:
        """Open the run folder: a new one with the settings decided here, or an old one with the settings it has.

        Of several ranks the first one writes; the others read its checkpoint.
        """
        if not resume:  # before a folder is made for a run that cannot be
            self._check("batch size" not in self.undecided)
        if path is None:
            if resume:
                raise UsageError("--resume: name the run with -o DIR")
            self.load_data()
            self.settings = self._decide()
            self._check_fallback()
            return
        path = Path(path)
        if ranks.is_main():
            self.folder = RunFolder.create(path, overwrite=overwrite, resume=resume)
        try:
            old = ranks.agree(self.folder.read_config() if resume and self.folder is not None else None)
            self._source = None if old is None else RunFolder(path)
            if resume and old is None:
                log.warning("--resume: %s holds no run to go on with; this one begins anew", path)
            if old is None:
                self.load_data()  # refused before trials, which take a while
                self.settings = self._decide()
            else:
                self._take_over(old, path)
            self._check(True)
            self.load_data()
            self._rehearse(self.settings, self.builder())
            if old is None:
                self._check_fallback()
            self._claim(anew=old is None)
        except BaseException:
            if self.folder is not None:
                self.folder.close()
            raise

    def _claim(self, *, anew: bool) -> None:
        """Empty the folder for a new run, and write its settings: only now that nothing is left to refuse."""
        if self.folder is not None and anew:
            self.folder.empty()
            self._write_config(self.folder)

    def _write_config(self, folder: RunFolder) -> None:
        folder.write_config({**self.settings.model_dump(mode="json"), "run": self._identity()})

    def _check(self, size_known: bool) -> None:
        """Refuse settings that cannot be; the batch size only where it is known by now."""
        method = self.method or method_class(self.settings.method.name)(self.settings.method)
        gradient = getattr(method, "needs_gradient", True) or defense_of(self.settings.defense).needs_gradient
        check_distillable(self.teacher, gradient=gradient)
        if self.settings.pictures_folder is not None:
            listed(self.settings.pictures_folder)  # refused here rather than after trials
        check_batch_norms(method, self.settings, readable_batch_norms(self.teacher))
        temperature = self.settings.teacher.temperature
        if temperature not in (1, "auto") and is_copy(self.student):
            raise UsageError(
                f"-s teacher.temperature={temperature:g}: a copy of the teacher begins with its logits; leave it at 1"
            )
        if size_known:
            self.share(ranks.count())

    def _check_fallback(self) -> None:
        """Do without a fallback that cannot be, as with a number of ranks that its batches do not divide among."""
        if self.fallback is None:
            return
        why = ""
        try:
            self._rehearse(self.settings.with_method(self.fallback), None)
        except LenientError as error:
            why = str(error)
        if ranks.any_rank(bool(why))[0]:
            log.info("no fallback to %s: %s", self.fallback["name"], why)
            self.fallback = None

    def _rehearse(self, settings: DistillSettings, method: Method | None) -> None:
        """Put a run together from copies: what its method refuses has to be refused before a folder is emptied."""
        runtime = settings.runtime()
        copied = replace(self.student, module=copied_module(self.student.module))
        with untouched_global_rng(), memory_errors(), FrozenTeacher(self.teacher, runtime) as frozen:
            Distillation(frozen, copied, settings, runtime, method=copy.deepcopy(method))

    def share(self, devices: int) -> int:
        """Return how many images of a batch each of several devices has.

        Raises:
            UsageError: they do not divide.
        """
        size = self.settings.batch_size
        if size % devices:
            raise UsageError(f"--devices {devices}: --batch-size {size} does not divide among them")
        return size // devices

    def opening(self, resume: bool) -> str:
        """Say what `open` will be at."""
        return "measuring" if self.undecided and not resume else "preparing"

    @property
    def undecided(self) -> list[str]:
        """What short trials will decide when the job is opened."""
        s = self.settings
        own = [name for name in ("precision", "overlap") if getattr(s, name) == "auto" and s.method.takes(name)]
        own += ["temperature"] if s.teacher.temperature == "auto" else []
        own += ["images' moments"] if s.generator.output_moments == "auto" else []
        asked = {
            "batch size": self.request.batch_size == "auto",
            "threads": s.threads == "auto" and threads_are_tried(resolve_device(s.device)),
            "steps": self.request.budget is not None,
        }
        return own + [name for name, wanted in asked.items() if wanted]

    def _decide(self) -> DistillSettings:
        others, tried = processors.Others(), "threads" in self.undecided
        settings = decide(self.settings, self.request, self.teacher, self.student, self.builder())
        busy = others.processors()
        if tried and busy is not None and busy > CROWDED:
            where = f"{busy:.1f} of {processors.available()} processors busy"
            log.warning("the machine is crowded: other processes keep %s, so steps take longer", where)
        return settings

    def builder(self) -> Method | None:
        """Return what builds the algorithm, None where the settings' method does without more."""
        if self.generator is None:
            return self.method
        method = self.method or method_class(self.settings.method.name)(self.settings.method)
        return WithGenerator(method, self.generator)

    def _identity(self) -> dict[str, Any]:
        facts = {name: list(value) if isinstance(value, (list, tuple)) else value for name, value in self.facts.items()}
        pictures = self.settings.pictures(self.teacher.card.input_size)
        return {
            "teacher": {
                "source": self.source,
                "sha256": self.hash,
                "facts": facts,
                "card": self.teacher.card.to_dict(),
            },
            "student": {"arch": self._student_name, "reason": self.student_reason},
            **({} if self.generator is None else {"generator": {"source": None}}),
            **({} if pictures is None else {"pictures": {"sha256": pictures.sha256}}),
            "eval_data": self.eval_data,
            **({} if self.fallback is None else {"fallback": dict(self.fallback)}),
            **({} if self.fell_back is None else {"fell_back": asdict(self.fell_back)}),
        }

    @property
    def _student_name(self) -> str | None:
        """What builds the student again: of a copy of the teacher, that it is one."""
        wanted = self._wanted_student
        return wanted if isinstance(wanted, str) and parse_spec(wanted).copies else self.student.card.arch

    def _take_over(self, old: dict[str, Any], path: Path) -> None:
        """Go on with a folder's settings; the teacher must be the same, and flags may only lengthen the run."""
        identity = old.pop("run", {})
        with settings_of(path / "config.yaml"):
            old = nested(old)  # what it names is looked for in one place
        teacher = identity.get("teacher", {})
        if teacher.get("sha256") != self.hash:
            raise UsageError(f"--resume: {path} was made with another teacher; name that one, or another -o DIR")
        card = self.teacher.card.to_dict()
        for fact in ("input_size", "num_classes", "mean", "std", "outputs", "classes"):
            before = teacher.get("card", {}).get(fact)
            if before != card[fact]:
                hint = f"check --{fact.replace('_', '-')}" if fact != "outputs" else "name the same teacher"
                raise UsageError(f"--resume: the teacher's {fact} is {before} in {path}, not {card[fact]}; {hint}")
        self._check_generator("generator" in identity, path)
        measured_on = identity.get("eval_data")
        if self.eval_data is not None and measured_on not in (None, self.eval_data):
            raise UsageError(
                f"--resume: {path} is measured on {measured_on}, not {self.eval_data}; leave --eval-data out"
            )
        self.eval_data = self.eval_data or measured_on
        stored, asked = flatten(old), flatten(self.settings.model_dump(mode="json"))
        self.fallback = identity.get("fallback")
        said = {key if key in asked else f"{key}.name" for key in self.request.explicit()}
        if "fell_back" in identity:
            self.fell_back = FellBack(**identity["fell_back"])
            said &= stored.keys()  # what only the method before took is gone
        if self.method is not None:
            said |= {key for key in asked if key.startswith("method.")}
        _refuse_others(said, asked, stored, path)
        wanted = self._wanted_student = self._student_of(identity.get("student"), path)
        steps = self._longer(old, path)
        # what is stored is the first rank's own
        stored_device = old["device"] if ranks.count() == 1 else str(old["device"]).split(":")[0]
        device = self.request.device or stored_device
        if self.method is not None:
            del old["method"]
        self._require_stored(old, path)
        moved = nested({PICTURES: asked[PICTURES]} if PICTURES in said else {})
        here = {"device": device, "threads": self._threads(old, said)}
        if "recompute" in said:  # the same to the bit
            here["recompute"] = self.settings.recompute
        going_on = merge({**old, "steps": steps, **here}, moved)
        again = Request(shared=going_on, own=self.request.own)
        with settings_of(path / "config.yaml"):
            self.settings = resolve(again)
            self._other()  # refused now rather than when it is needed
        check_pictures(self.settings, self.teacher, identity, f"--resume: {path}")
        self.method_reason = ""
        if self.request.device is None:
            _check_available(self.settings.device, path / "config.yaml")
        self.settings = decide(self.settings, Request(), self.teacher, self.student, self.builder())
        self.student, self.student_reason = pick_student(
            wanted, self.teacher, self.settings.seed, self.settings.student.init
        )

    def _require_stored(self, old: dict[str, Any], path: Path) -> None:
        """Refuse code that a folder's settings name, as its method or its generator, and that the user did not type."""
        own = self.settings
        method = None if self.method is not None else method_name(old)
        for stored, typed, what, again in (
            (method, own.method.name, "its method", "--method NAME"),
            (generator_factory(old), own.generator.factory, "its generator", "-s generator.factory=NAME"),
            (method_name({"method": self.fallback or {}}), own.method.name, "its fallback", "--method NAME"),
        ):
            if stored is not None and stored != typed:
                said_in = path / "config.yaml"
                require(stored, self.trust_code, where=said_in, what=what, again=again, kind=UntrustedSettingError)

    def _check_generator(self, own: bool, path: Path) -> None:
        """Refuse to go on with another generator than a folder's: the user's `own`, or the method's."""
        if own and self.generator is None:
            raise UsageError(f"--resume: the generator of {path} was a Python object; go on from Python, with that one")
        if self.generator is not None and not own:
            raise UsageError(f"--resume: {path} draws with its method's own generator; leave `generator` out")

    def _student_of(self, stored: dict[str, Any] | None, path: Path) -> nn.Module | Network | str:
        """What to build a folder's student from."""
        wanted = self._wanted_student
        if stored is None or not isinstance(wanted, str):
            return wanted
        arch: str | None = stored.get("arch")
        if arch is None:
            raise UsageError(f"--resume: the student of {path} was a Python object; go on from Python, with that one")
        if wanted not in ("auto", arch):
            raise UsageError(f"--resume: the student is {arch} in {path}, not {wanted}; leave --student out")
        if wanted != arch:
            require(
                arch,
                self.trust_code,
                where=path / "config.yaml",
                what="its student",
                again="--student NAME",
                kind=UntrustedSettingError,
            )
        return arch

    def _threads(self, old: Mapping[str, Any], said: Set[str]) -> int | str:
        """Return the threads of a run that goes on: those that it began with, unless others are asked for now."""
        asked = self.settings.threads
        began: int | str = old.get("threads", "auto")
        if "threads" in said and asked != "auto":
            return asked
        if processors.given():
            return torch.get_num_threads()
        if began == "auto" and self.folder is not None:  # of an earlier version
            began = self._environment_before().get("threads", "auto")
        began = ranks.agree(began)
        return began

    def _longer(self, old: dict[str, Any], path: Path) -> int:
        """Steps of a run that goes on: those planned, or more if a flag says so."""
        planned: int = old["steps"]
        asked: int
        if self.request.epochs is not None:
            asked = self.request.epochs * old["steps_per_epoch"]
        elif "steps" in self.request.explicit():
            asked = self.settings.steps
        else:
            return planned
        by_flag = self.request.steps is not None or self.request.epochs is not None
        if by_flag and asked < planned:
            raise UsageError(f"--steps {asked}: {path} was planned for {planned}; it can only be lengthened")
        return max(asked, planned)

    @property
    def complete(self) -> bool:
        """Whether the folder holds this run complete already, at the length asked for."""
        if self.folder is None or not self.folder.done:
            return False
        state = self.folder.load_checkpoint(torch.device("cpu"))
        return state is not None and state["step"] >= self.settings.steps

    @property
    def verdict(self) -> str | None:
        """The verdict of the complete run in the folder, None where there is none; raises DamagedError."""
        if self.folder is None:
            return None
        report = self.folder.path / "report.json"
        found = read_json(report, Report, f"`lenient report {self.folder.path}` writes it again")
        return None if found is None else str(found["health"]["verdict"])

    def trial(self) -> dict[str, float]:
        """Make a few updates on copies; see `autotune.trial`."""
        with self.threaded():
            return trial(self.settings, self.teacher, self.student, self.builder())

    def threaded(self) -> AbstractContextManager[None]:
        """Give torch the run's number of threads for a while, once that is decided."""
        count = self.settings.threads
        return nullcontext() if count == "auto" else threads(count)

    def run(self, observers: Sequence[Observer] = ()) -> Result:
        """Run to the end (or an interruption), then write student, samples, summary and report."""
        with self.threaded():
            return self._run(observers)

    def _run(self, observers: Sequence[Observer]) -> Result:
        runtime = self.settings.runtime()
        try:
            with FrozenTeacher(self.teacher, runtime) as frozen:
                evaluate = self._evaluate(runtime)
                run = Distillation(
                    frozen,
                    self.student,
                    self.settings,
                    runtime,
                    method=self.builder(),
                    folder=self.folder,
                    evaluate=evaluate,
                    observers=tuple(observers),
                    forecast=None if self._real_data else forecast,
                    fallback=self._other(),
                    fell_back=self.fell_back,
                )
                self._begin(run, runtime)
                try:
                    result = run_loop(run)
                except HealthError:
                    self._give_up(run)
                    raise
                result.draws = run.draws
                if result.interrupted:
                    return result
                images = self._images(run)
                with _optional("numbers to judge the student by"):
                    result.summary = own = replace(result.summary, answers=answers(run))
                    if not self._real_data:
                        prediction = predicted(own.answers, shift_of(own.health), own.num_classes)
                        health = informed(own.health, prediction, self.settings.health)
                        result.summary = replace(own, prediction=prediction, health=health)
            self.student.module.to("cpu", torch.float32 if runtime.precision == "64" else None).eval()
            if not ranks.is_main():
                return result
            self._deliver(result, images)
            summary = self._measured(result.summary, runtime)
            result.summary = replace(summary, student=last_and_best(result.history, summary.student))
            self._report(result.summary)
            return result
        finally:
            if self.folder is not None:
                self.folder.close()

    def _other(self) -> Fallback | None:
        """What the run goes on with where its forecast raises the alarm."""
        if self.fallback is None:
            return None
        return Fallback(self.settings.with_method(self.fallback), self._keep)

    def _keep(self, run: Distillation) -> None:
        """Take over the settings of a run that fell back, and write them down."""
        self.settings, self.fell_back = run.settings, run.fell_back
        self.fallback, self.method_reason = None, ""
        if self.folder is not None:
            self._write_config(self.folder)

    @property
    def _real_data(self) -> bool:
        """Whether it learns from real images, of which there is nothing to expect."""
        return getattr(self.builder(), "real_data", False)

    def _begin(self, run: Distillation, runtime: Runtime) -> None:
        state = None
        if self._source is not None:
            metrics = self._source.path / "metrics.jsonl"
            state = run.resume(self._source, metrics.stat().st_size if metrics.is_file() else 0)
        if run.fell_back != self.fell_back:  # it was killed before that was written
            self._keep(run)
        if self.folder is None:
            return
        if self._source is not None:
            self._write_config(self.folder)  # not before: a run is not lengthened that cannot go on
        environment_now = environment(runtime.device, runtime.precision)
        if state is not None:
            before = self._environment_before()
            names = ("torch", "device", "device_name", "ranks", "threads")
            changed = [name for name in names if before.get(name) != environment_now[name]]
            for key in changed:
                log.warning("--resume: %s was %s, is %s: not to the bit", key, before.get(key), environment_now[key])
        if run.resumed_from is not None and run.resumed_from.name != "last.pt":
            self.folder.distrust_last()
        self.folder.open_logs(state["metrics_bytes"] if state else 0)
        self.folder.write_env(environment_now)
        log.info("%s from step %d of %d", "going on" if state else "starting", run.step, self.settings.steps)

    def _environment_before(self) -> dict[str, Any]:
        assert self.folder is not None, "there is a checkpoint"
        try:
            return self.folder.read_env()
        except DamagedError as error:
            log.warning("%s: whether the machine is another one is not known", error)
            return {}

    def load_data(self) -> None:
        """Read the evaluation data, unless that is done; `open` does it by itself.

        Raises:
            UsageError: it is not where it should be, cannot be read, or its classes are not the teacher's.
        """
        if self.data is not None or self.eval_data is None or not ranks.is_main():
            return
        from lenient.data import load_data

        size = self.teacher.card.input_size
        with named_by("--eval-data"):
            self.data = load_data(self.eval_data, split="test", root=self.data_root, input_size=size)
            check_fits(self.teacher, self.data)
        for note in self.data.notes:
            log.warning("--eval-data %s", note)

    def _evaluate(self, runtime: Runtime) -> Evaluate | None:
        if self.data is None:
            return None
        from lenient.evaluation import accuracy

        data = self.data

        def measure(student: nn.Module, statistics: str = "running", /) -> dict[str, float]:
            network = Network(student, self.student.card)
            right = accuracy(network, data, device=runtime.device, precision=runtime.precision, statistics=statistics)
            return {"accuracy": right}

        return measure

    def _give_up(self, run: Distillation) -> None:
        """The run stopped itself: leave a report that says why."""
        if self.folder is None:
            return
        self.folder.write_metrics("end", replace(run.result().summary, **self.extra).to_dict())
        with _optional("report"):
            write_report(self.folder.path)

    def _images(self, run: Distillation) -> dict[str, torch.Tensor] | None:
        if not self.settings.report.images or self.folder is None:
            return None
        with _optional("synthetic images in the report"):
            return self._samples(run)
        return None

    def _samples(self, run: Distillation) -> dict[str, torch.Tensor]:
        """Synthetic images for the report: up to 8 a class, of those the teacher is surest about."""
        size = self.settings.batch_size
        images, logits = [], []
        with torch.no_grad(), memory_errors():
            for number, start in enumerate(range(0, SAMPLES, size)):
                part = run.algorithm.source.sample(min(size, SAMPLES - start), "report", number).float()
                images.append(part)
                logits.append(run.teacher.respond(run.teacher.normalize(part)).logits.float())
        drawn = torch.cat(images)
        confidence, labels = torch.cat(logits).softmax(dim=1).max(dim=1)
        chosen: list[int] = []
        for label in labels.unique().tolist()[:CLASSES_SHOWN]:
            members = (labels == label).nonzero().flatten()
            chosen += members[confidence[members].argsort(descending=True)][:PER_CLASS].tolist()
        pixels = (drawn[chosen].clamp(0, 1) * 255).round().byte()
        return {
            "images": pixels.cpu().contiguous(),
            "labels": labels[chosen].cpu(),
            "confidence": confidence[chosen].cpu(),
        }

    def _measured(self, summary: Summary, runtime: Runtime) -> Summary:
        """Return the summary with what is measured once the student is delivered."""
        with _optional("latency"):
            summary = replace(summary, latency=self._latency(runtime))
        if self.data is None:
            return summary
        teacher = replace(summary.teacher, accuracy=self._measure(self.teacher, runtime).accuracy)
        found = self._measure(self.student, runtime, self.teacher)
        measures = {name: getattr(found, name) for name in TRANSDUCTIVE}
        other = None
        if summary.estimated_on is not None:
            by_batch = self._measure(self.student, runtime, self.teacher, "batch")
            other = {name: getattr(by_batch, name) for name in TRANSDUCTIVE}
        student = replace(summary.student, **measures, transductive=other)
        return replace(summary, eval_data=self.eval_data, teacher=teacher, student=student)

    def _latency(self, runtime: Runtime) -> Latency:
        teacher, student = (
            latency(network.module, network.card.input_size, device=runtime.device, repeats=10)
            for network in (self.teacher, self.student)
        )
        return Latency(
            teacher["milliseconds"], student["milliseconds"], device=student["device"], threads=student["threads"]
        )

    def _measure(
        self, network: Network, runtime: Runtime, teacher: Network | None = None, statistics: str = "running"
    ) -> Measures:
        from lenient.evaluation import evaluate

        assert self.data is not None, "asked for without --eval-data"
        found = evaluate(
            network,
            self.data,
            teacher=teacher,
            device=runtime.device,
            precision=runtime.precision,
            statistics=statistics,
        )
        if network is self.teacher and found.note is not None:
            log.warning("--eval-data %s: %s", self.eval_data, found.note)
        return found

    def _deliver(self, result: Result, images: dict[str, torch.Tensor] | None) -> None:
        if self.folder is None:
            return
        path = self.folder.path
        method, steps, foreign = self.settings.method.name, result.summary.steps, result.summary.foreign
        if self.fell_back is not None:
            steps -= self.fell_back.step  # this student's own
        how = f"by lenient ({method}, {steps} steps)"
        note = f"distilled without data {how}"
        if foreign is not None:
            note = f"distilled {how} on images of {', '.join(foreign)}: {NOT_DATA_FREE}"
        estimated = result.summary.estimated_on
        notes = (note,) if estimated is None else (note, estimated_anew(estimated))
        for text in notes[1:]:
            log.warning("the student's %s", text)
        self.student = Network(self.student.module, replace(self.student.card, notes=notes))
        write_student(path / "student", self.student, warn)
        if images is not None:
            self.folder.claim("samples/images.safetensors")
            with disk_errors(path, RESUME):
                files.write(path / "samples" / "images.safetensors", save(images))

    def _report(self, summary: Summary) -> None:
        if self.folder is None:
            return
        self.folder.write_metrics("end", replace(summary, **self.extra).to_dict())
        with _optional("report"):
            write_report(self.folder.path)
        self.folder.mark_done()


class OtherSettingsError(UsageError):
    """A run cannot be gone on with by these settings: `difference` is the first that differs from those at `path`."""

    def __init__(self, path: Path, key: str, stored: object, asked: object) -> None:
        super().__init__(f"--resume: {key} is {stored!r} in {path}, not {asked!r}; leave it out")
        self.path, self.difference = path, f"{key} {stored!r}, not {asked!r}"


def _refuse_others(said: Set[str], asked: Mapping[str, Any], stored: Mapping[str, Any], path: Path) -> None:
    """Refuse settings of which the user `said` other things than a run's are; raises OtherSettingsError."""
    for key in sorted(said):
        moved = key == PICTURES and stored.get(key) is not None  # whether these are the same is another question
        if moved or key in ("device", "steps", "threads", "recompute") or asked[key] in (stored.get(key), "auto"):
            continue
        raise OtherSettingsError(path, key, stored.get(key), asked[key])


def check_pictures(settings: DistillSettings, teacher: Network, identity: Mapping[str, Any], where: str) -> None:
    """Refuse to go on with other pictures than those of a run, of which its `identity` tells; raises UsageError."""
    pictures = settings.pictures(teacher.card.input_size)
    if pictures is not None and identity.get("pictures", {}).get("sha256") != pictures.sha256:
        folder = visible(settings.pictures_folder, VALUE)
        raise UsageError(f"{where} was made with other pictures than {folder} holds now; put them back there")


def _check_available(device: str, path: Path) -> None:
    """Refuse a device that a run's settings name and that is not here: a matter of that file, not of a flag."""
    try:
        resolve_device(device)
    except UsageError:
        raise UsageError(
            f"{path}: device {visible(device, VALUE)} is not available here; give --device auto or cpu"
        ) from None


@contextmanager
def _optional(what: str) -> Iterator[None]:
    """Do without what only describes a finished run, with a warning, where it cannot be made; a disk that gives out is
    no such case."""
    try:
        yield
    except MachineError as error:
        if not isinstance(error, DamagedError):
            raise
        warn(f"no {what}: {error}")
    except Exception as error:
        warn(f"no {what}: {one_line(error)}")


def warn(text: str) -> None:
    """Say one line in the log and to whoever sits there."""
    if log.hasHandlers():  # where nobody keeps the log, Python's last resort would say the line to them, too
        log.warning("%s", text)
    print(f"warning: {text}", file=sys.stderr)


def last_and_best(history: Sequence[Evaluation], student: NetworkSummary) -> NetworkSummary:
    """Return it with the mean of the last `k` evaluations, and the best one, an oracle that saw the test set."""
    if not history:
        return student
    k = min(LAST_K, -(-len(history) // 5))
    last, best = _last_and_best([entry.accuracy for entry in history], k)
    other, curve = student.transductive, [value for entry in history if (value := entry.transductive) is not None]
    if other is not None and curve:
        other_last, other_best = _last_and_best(curve, k)
        other = {**other, "acc_last_k": other_last, "acc_max": other_best}
    return replace(student, k=k, acc_last_k=last, acc_max=best, transductive=other)


def _last_and_best(values: Sequence[float], k: int) -> tuple[float, float]:
    latest = values[-k:]
    return sum(latest) / len(latest), max(values)
