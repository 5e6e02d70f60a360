"""The one loop for all methods; it knows none by name. It asks whose update is next, guards, steps, counts and logs."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lenient.core import ranks
from lenient.core.batch_norm import one_batch
from lenient.core.errors import DamagedError, TeacherError
from lenient.core.memory import memory_errors
from lenient.core.modes import mode
from lenient.core.optimizers import load_optimizer
from lenient.core.runtime import Runtime, in_parts, repeatable
from lenient.core.schemas import ANEW, damaged
from lenient.core.seeding import Streams, untouched_global_rng
from lenient.core.segments import Segments
from lenient.core.signals import save_on_signals, stop_on_signals
from lenient.defenses import defense_of
from lenient.evaluation import num_bytes, parameters, reestimate
from lenient.evaluation.statistics import normalising
from lenient.generators.own import named_factory
from lenient.methods import method_class
from lenient.methods.contract import STUDENT, Context, Method, StepOutput, Update
from lenient.methods.generator import WithGenerator
from lenient.methods.mixing import mixed
from lenient.models.card import Network
from lenient.models.lending import as_it_was, own_grad_mode
from lenient.models.names import one_line
from lenient.synthesis.drawing import Draws
from lenient.teacher.batch import Clock
from lenient.teacher.frozen import FrozenTeacher
from lenient.teacher.probes import BatchNorms
from lenient.training.guard import Guard, check_optimizer
from lenient.training.health import HealthMonitor
from lenient.training.model_selection import Delivery
from lenient.training.result import Evaluation, FellBack, NetworkSummary, Result, Summary
from lenient.training.settings import DistillSettings

log = logging.getLogger("lenient")


class Folder(Protocol):
    """Where a run leaves what outlives it, as `runs.folder.RunFolder` does."""

    path: Path

    def write_metrics(self, event: str, values: Mapping[str, Any]) -> None:
        """Add one event to the history."""
        ...

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Keep the state of a run, and the one before it."""
        ...

    def checkpoints(self, device: torch.device) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield file and state of each readable checkpoint, the newest first; raises DamagedError after them."""
        ...


class Observer(Protocol):
    """Watches a run: progress displays, trackers."""

    def start(self, total_steps: int, step: int) -> None:
        """Open at `step` of `total_steps`."""
        ...

    def step(self, step: int, images: int) -> None:
        """After each student step."""
        ...

    def line(self, event: str, values: Mapping[str, Any]) -> None:
        """After each event that also goes to `metrics.jsonl`."""
        ...

    def stop(self) -> None:
        """Close."""
        ...


class Evaluate(Protocol):
    """Measures a student in eval mode: returns `accuracy` and, where a teacher was given, `agreement`."""

    def __call__(self, student: nn.Module, statistics: str = "running", /) -> dict[str, float]:
        """Measure it by what its batch norms have stored, or by the test `batch`."""
        ...


class Forecast(Protocol):
    """Tells what to expect of a student in the midst of its run, None where nothing tells."""

    def __call__(self, run: Distillation, progress: float, /) -> dict[str, float] | None:
        """Return `expected`, `low` and `high`, shares in [0, 1], and what they rest on."""
        ...


@dataclass(frozen=True)
class Fallback:
    """What a run goes on with where its forecast raises the alarm."""

    settings: DistillSettings
    """Of another method, for as many steps in all."""
    keep: Callable[[Distillation], None]
    """Called with a run that has changed, between two checkpoints of it, to write down that it has."""


FORECAST = 0.25
"""Share of the student's steps after which its run is told what to expect of it."""
CHECKPOINT_SECONDS = 300.0
STATISTICS_IMAGES = 1024
"""Images that a student's batch-norm statistics are estimated on, or the batch that makes them more."""


class Distillation:
    """One run of one method: state, the loop, checkpoints."""

    def __init__(
        self,
        teacher: FrozenTeacher,
        student: Network,
        settings: DistillSettings,
        runtime: Runtime,
        *,
        method: Method | None = None,
        folder: Folder | None = None,
        evaluate: Evaluate | None = None,
        observers: tuple[Observer, ...] = (),
        forecast: Forecast | None = None,
        fallback: Fallback | None = None,
        fell_back: FellBack | None = None,
    ) -> None:
        runtime = student.behaviour.applied(runtime)
        decided = settings.teacher.temperature
        teacher = teacher.softened(1.0 if decided == "auto" else decided)
        self.teacher, self.runtime = teacher, runtime
        self.folder, self.evaluate, self.observers, self.forecast = folder, evaluate, observers, forecast
        self.streams = Streams(settings.seed, runtime.device)
        self._network = student
        self.student = runtime.place(student.module).train()
        self.fallback = fallback
        self._untrained: Mapping[str, Any] = {} if fallback is None else copy.deepcopy(self.student.state_dict())
        self.step = self.images = 0
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.inverted: Tensor | None = None
        """Images that the teacher alone draws, once they were asked for (`training.answers`)."""
        self.resumed_from: Path | None = None
        """The checkpoint that it goes on from."""
        self.estimated_on: int | None = None
        """Images on which the statistics of the student that is delivered were estimated anew."""
        self._put_together(settings, method, fell_back)

    def _put_together(self, settings: DistillSettings, method: Method | None, fell_back: FellBack | None) -> None:
        """Make all that is a method's: its algorithm, and what watches that."""
        teacher = self.teacher
        self.settings, self.fell_back = settings, fell_back
        method = method or method_class(settings.method.name)(settings.method)
        if settings.generator.factory is not None:
            method = WithGenerator(method, named_factory(settings.generator.factory))
        check_batch_norms(method, settings, teacher.batch_norms)
        self.context = Context(
            teacher,
            self.student,
            self.runtime,
            self.streams,
            settings.generator,
            settings.batch_size,
            settings.steps - self.earlier,
            settings.steps_per_epoch,
            pictures=settings.pictures(teacher.card.input_size),
        )
        algorithm = method.build(self.context)
        taught = replace(self.context, teacher=teacher.by(algorithm.statistics))
        if settings.pictures_share > 0:
            algorithm = mixed(algorithm, taught, settings.source, settings.pictures_share)
        self.algorithm = defense_of(settings.defense).defend(algorithm, taught)
        # those whose averages are of the source's images and say nothing of real ones
        self._unlike = normalising(self._network) if self.algorithm.statistics == "batch" else []
        for name, update in self.algorithm.updates.items():
            check_optimizer(name, update.optimizer)
            update.module.train()
        self.guard = Guard([update.module for update in self.algorithm.updates.values()])
        self.health = HealthMonitor(teacher.card.num_classes, settings.health, self.runtime.device)
        self.delivery = Delivery(settings.select, settings.ema_decay, self.student)
        self.updates = 0
        """Of the method that goes on: they start anew where a run falls back, as its student's steps do for it."""
        self._falls_back = False
        self._base_rates = {
            name: [group["lr"] for group in update.optimizer.param_groups]
            for name, update in self.algorithm.updates.items()
        }

    # the loop

    def run(
        self,
        stop: threading.Event | None = None,
        save: threading.Event | None = None,
        until: Callable[[], bool] | None = None,
    ) -> Result:
        """Make updates until the student has made all its steps, or `stop` is set; then a checkpoint is written.

        Where `save` is set one is written, too, and the event cleared. `until`, which is asked before each update, ends
        the run instead of the number of steps; all ranks have to come to the same answer.
        """
        s = self.settings
        watching: list[Observer] = []
        try:
            for observer in self.observers:
                observer.start(s.steps, self.step)
                watching.append(observer)
            self._say_notes()
            started, lap = time.monotonic() - self.seconds, (time.monotonic(), self.images)
            self._written, self._written_step = time.monotonic(), self.step
            while self.step < s.steps if until is None else not until():
                if self._falls_back:
                    self._fall_back()
                if self._save_or_stop(stop, save):
                    return self.result(interrupted=True)
                name, output = self.take_update()
                self.seconds = time.monotonic() - started
                if name == STUDENT:
                    lap = self._after_step(output, lap)
                elif self.updates % s.log_every == 0 and self._student_rests(s.log_every):
                    for observer in watching:
                        observer.step(self.step, self.images)
                    lap = self._log_line(lap)
            if until is not None:
                self._log_line(lap)  # the end may be anywhere
        finally:
            self.algorithm.source.close()
            for observer in watching:
                observer.stop()
        self.checkpoint()  # of the live student: `--resume` with more steps and `sample` go on from here
        self._deliver()
        return self.result()

    def _fall_back(self) -> None:
        """Go on with the other method. The first checkpoint holds whatever else may be lost from here on; the second
        leaves none of the method before, which the settings are no more."""
        fallback = self.fallback
        assert fallback is not None, "asked before"
        before, after = self.settings.method.name, fallback.settings.method.name
        if ranks.is_main():
            log.warning("step %d: going on with %s instead of %s, student anew", self.step, after, before)
        self.emit("fallback", {"step": self.step, "before": before, "method": after})
        self._change(FellBack(before, self.step))
        self._say_notes()
        self.checkpoint()
        fallback.keep(self)
        self.checkpoint()

    def _change(self, fell_back: FellBack) -> None:
        """Be the run of the other method, which begins here, with the student as it was before the first step."""
        assert self.fallback is not None, "there is another method"
        self.algorithm.source.close()
        self.student.load_state_dict(self._untrained)
        forecast = {name: value for name, value in self.health.latest.items() if name.startswith("forecast/")}
        settings = self.fallback.settings
        self.fallback, self._untrained = None, {}  # once
        self.runtime = replace(self.runtime, overlap=settings.runtime().overlap)
        self._put_together(settings, None, fell_back)
        self.health.latest |= forecast  # a run is told once

    @property
    def earlier(self) -> int:
        """The student's steps by a method before the one that goes on."""
        return 0 if self.fell_back is None else self.fell_back.step

    @property
    def progress(self) -> float:
        """Share of its method's steps that the student has made, in [0, 1]."""
        return (self.step - self.earlier) / (self.settings.steps - self.earlier)

    def _deliver(self) -> None:
        """Make the live student the one that is delivered, which the verdict is about."""
        other = self.delivery.install(self.student)
        if self._unlike:
            self.estimated_on = self._estimate()
        if other or self._unlike:
            self.health.question(self._predict)

    def _say_notes(self) -> None:
        """Say once what there is to know of the algorithm."""
        if self.updates == 0 and ranks.is_main():
            for note in self.algorithm.notes:
                log.warning("%s", note)

    def _save_or_stop(self, stop: threading.Event | None, save: threading.Event | None) -> bool:
        """Write a checkpoint where one is due or asked for, by any rank; return whether to stop."""
        asked = save is not None and save.is_set()
        if save is not None and asked:
            save.clear()  # before it is written: a later signal asks for a later state
        stopped, due = ranks.any_rank(stop is not None and stop.is_set(), asked or self._checkpoint_due())
        if stopped or due:
            self.checkpoint()
        return stopped

    def _student_rests(self, updates: int) -> bool:
        """Whether the student had none of the last so many updates: others then log, alarm and stop by their own."""
        steps_before = self.algorithm.schedule.steps_before
        return steps_before(self.updates) == steps_before(max(self.updates - updates, 0))

    def _after_step(self, output: StepOutput, lap: tuple[float, int]) -> tuple[float, int]:
        s = self.settings
        for observer in self.observers:
            observer.step(self.step, self.images)
        if self.step % s.log_every == 0 or self.step == s.steps:
            lap = self._log_line(lap)
        if self.step % s.steps_per_epoch == 0 or self.step == s.steps:
            self._epoch_end(output)
        return lap

    @property
    def clock(self) -> Clock:
        """That of the next update."""
        return self.context.clock(self.algorithm.schedule, self.updates)

    def take_update(self) -> tuple[str, StepOutput]:
        """Make one update of one network: gradients by the method, the guard, the optimizer's step."""
        updates, clock = self.algorithm.updates, self.clock
        name = self.algorithm.schedule.name(clock.update)
        update = updates[name]
        self.streams.seed_global(name, self.updates)
        self._set_rate(name, update, clock)
        for other in updates.values():
            other.module.requires_grad_(other is update)
        update.optimizer.zero_grad(set_to_none=True)
        with self.guard.watch() as settle:
            with one_batch():
                output = update.step(clock)
            gradients = [p.grad for p in update.module.parameters() if p.grad is not None]
            ranks.average_(gradients)
            bad = settle([*gradients, *output.losses.values()])
        if update.clip_norm is not None:
            nn.utils.clip_grad_norm_(update.module.parameters(), update.clip_norm)
        self.guard.step(update.optimizer, bad)
        self.health.observe(name, output, bad)
        self.updates += 1
        self.images += output.images
        if name == STUDENT:
            self.step += 1
            self.delivery.follow(self.student, bad)
        update.after(clock, output, bad)
        return name, output

    def _set_rate(self, name: str, update: Update, clock: Clock) -> None:
        factor = update.rate(clock)
        for group, base in zip(update.optimizer.param_groups, self._base_rates[name], strict=True):
            group["lr"] = base * factor

    # log lines, evaluation

    def _log_line(self, lap: tuple[float, int]) -> tuple[float, int]:
        line = self.health.line()
        progress = self.progress
        fresh = self.algorithm.source.sample(min(64, self.settings.batch_size), "probe", self.updates)
        found = self.inspect(fresh)
        updates = self.algorithm.updates
        self.health.moved({name: own.module for name, own in updates.items() if self._should_move(name, own)})
        self.health.latest["health/updates"] = float(self.updates)
        now = time.monotonic()
        rates = {f"lr/{name}": own.optimizer.param_groups[0]["lr"] for name, own in updates.items()}
        values = {
            "step": self.step,
            "update": self.updates,
            "epoch": self.step // self.settings.steps_per_epoch,
            "seconds": self.seconds,
            "images": self.images,
            "images_per_second": (self.images - lap[1]) / max(now - lap[0], 1e-9),
            **line["values"],
            **found,
            **rates,
        }
        self.emit("log", values)
        if any(line["histogram"]):
            self.emit("classes", {"step": self.step, "histogram": line["histogram"]})
        done = self.updates / self.algorithm.schedule.updates_for(self.settings.steps - self.earlier)
        self._alarm(self.health.raise_alarms(done))
        self.delivery.judge(self.student, found["health/probe_agreement"], progress)
        if self.forecast is not None and FORECAST <= progress < 2 * FORECAST and not self.health.forecasted:
            told = self.forecast(self, progress)
            if told is not None:
                self.emit("forecast", {"step": self.step, **told})
                alarm = self.health.foresee(told)
                self._alarm(alarm)
                self._falls_back = self.fallback is not None and ranks.agree(bool(alarm))
        return now, self.images

    def _alarm(self, found: Mapping[str, str]) -> None:
        for name, message in found.items():
            if ranks.is_main():
                log.warning("alarm at step %d: %s", self.step, message)
            self.emit("alarm", {"step": self.step, "name": name, "message": message})

    @torch.no_grad()
    def inspect(self, images: Tensor) -> dict[str, float]:
        """Let health look at images (n, C, H, W) in pixel units, and at the student; return what the log says of it."""
        probes = (BatchNorms(),) if self.teacher.batch_norms else ()
        answer = self.teacher.respond(self.teacher.normalize(images), probes)
        return self.health.inspect(images, answer, self._predict)

    def _estimate(self) -> int:
        """Estimate the student's batch-norm statistics anew on images of the source, and return on how many: what
        training left are averages over the last ones, of weights that have moved since."""
        batches = list(self.statistics_batches())

        def forward(images: Tensor) -> None:
            self.student(self.teacher.normalize(self.runtime.images(images)))

        with mode(self.student, "eval"), untouched_global_rng(), own_grad_mode(), self.runtime.autocast():
            reestimate(self._unlike, forward, batches)
        return sum(len(images) for images in batches)

    def statistics_batches(self) -> Iterator[Tensor]:
        """Yield images of the source, (n, C, H, W) in pixel units, that a student's statistics are estimated on."""
        size = self.settings.batch_size
        for number in range(-(-STATISTICS_IMAGES // size)):
            yield self.algorithm.source.sample(size, "statistics", number)

    @property
    def draws(self) -> Draws:
        """What it takes to draw more of the run's images."""
        own = self.algorithm
        return Draws(self.teacher, own.drawn, own.selection, self.settings.batch_size)

    def _predict(self, images: Tensor) -> Tensor:
        return self.student_logits(images).argmax(dim=1)

    def student_logits(self, images: Tensor) -> Tensor:
        """Return the student's answers (N, K) to images in pixel units, in eval mode, a batch at a time; its buffers
        and mode are left as they are."""
        with as_it_was(self.student), own_grad_mode(), torch.no_grad(), self.runtime.autocast():
            self.student.eval()
            parts = [self.student(self.teacher.normalize(part)) for part in self._parts(images)]
        return torch.cat(parts)

    @torch.no_grad()
    def teacher_logits(self, images: Tensor) -> Tensor:
        """Return the teacher's answers (N, K) to images in pixel units, a batch at a time."""
        return torch.cat([self.teacher.respond(self.teacher.normalize(p)).logits for p in self._parts(images)])

    def _parts(self, images: Tensor) -> list[Tensor]:
        return [self.runtime.images(part) for part in in_parts(images, self.settings.batch_size)]

    def _should_move(self, name: str, update: Update) -> bool:
        """Not where the schedule has come to a rate of 0; a base rate of 0 is a mistake to report."""
        rates = zip(update.optimizer.param_groups, self._base_rates[name], strict=True)
        return any(group["lr"] > 0 or base == 0 for group, base in rates)

    def _epoch_end(self, output: StepOutput) -> None:
        event = None if output.selected is None else output.selected.event()
        if event is not None:
            self.emit(event[0], {"step": self.step, **event[1]})
        measured = self._measured()
        if measured is not None:
            self.history.append({"step": self.step, "seconds": self.seconds, **measured})
            self.emit("eval", self.history[-1])

    def _measured(self) -> dict[str, float] | None:
        """Measure the student as it would be delivered now, where this rank has the data."""
        if not self._unlike:
            if self.evaluate is None:
                return None
            with mode(self.student, "eval"), untouched_global_rng():
                return self.evaluate(self.student)
        if not ranks.any_rank(self.evaluate is not None)[0]:  # a source draws on all ranks or none
            return None
        with as_it_was(self.student), mode(self.student, "eval"), untouched_global_rng():
            self._estimate()
            if self.evaluate is None:
                return None
            transductive = self.evaluate(self.student, "batch")["accuracy"]
            return {**self.evaluate(self.student), "transductive": transductive}

    def emit(self, event: str, values: Mapping[str, Any]) -> None:
        """Write one event to the run folder and tell the observers."""
        if self.folder is not None:
            self.folder.write_metrics(event, values)
        for observer in self.observers:
            observer.line(event, values)

    # checkpoints

    def _checkpoint_due(self) -> bool:
        every = self.settings.checkpoint_every
        if every is None:
            return time.monotonic() - self._written > CHECKPOINT_SECONDS
        return self.step % every == 0 and self.step > self._written_step

    def checkpoint(self) -> None:
        """Write all that outlives an update to the run folder, if there is one."""
        self._written, self._written_step = time.monotonic(), self.step
        if self.folder is not None:
            self.folder.save_checkpoint(self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return all that outlives an update."""
        networks = {
            name: {"module": update.module.state_dict(), "optimizer": update.optimizer.state_dict()}
            for name, update in self.algorithm.updates.items()
        }
        return {
            "updates": self.updates,
            "step": self.step,
            "seconds": self.seconds,
            "images": self.images,
            "forwards": self.teacher.forwards,
            "fell_back": None if self.fell_back is None else asdict(self.fell_back),
            "history": self.history,
            "networks": networks,
            "source": self.algorithm.source.state_dict(),
            "state": {name: part.state_dict() for name, part in self.algorithm.lasting.items()},
            "health": self.health.state_dict(),
            "delivery": self.delivery.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it is not that of such a run: other networks, shapes or kinds.
        """
        try:
            self._load(state)
        except ValueError:
            raise
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise ValueError(one_line(error)) from error

    def _load(self, state: dict[str, Any]) -> None:
        fell_back = state.get("fell_back")  # one of an earlier version has no word on it
        if fell_back is not None and self.fell_back is None and self.fallback is not None:
            self._change(FellBack(**fell_back))  # killed before the settings said so
        fresh = self.state_dict() | {"history": [], "delivery": state["delivery"]}
        if fell_back != fresh.pop("fell_back"):
            raise ValueError("it is of another method than the settings, before or after the run fell back")
        like({key: state[key] for key in fresh}, fresh)
        if state["step"] - self.earlier > state["updates"]:
            raise ValueError(f"step {state['step']} is beyond update {state['updates']}")
        for name, saved in state["networks"].items():
            update = self.algorithm.updates[name]
            update.module.load_state_dict(saved["module"])
            load_optimizer(update.optimizer, saved["optimizer"])
        self.algorithm.source.load_state_dict(state["source"])
        for name, part in self.algorithm.lasting.items():
            part.load_state_dict(state["state"][name])
        self.health.load_state_dict(state["health"])
        self.updates, self.step, self.seconds = state["updates"], state["step"], state["seconds"]
        self.delivery.load_state_dict(state["delivery"], self.progress)
        self.images, self.teacher.forwards = state["images"], state["forwards"]
        self.history = list(state["history"])

    def resume(self, folder: Folder, metrics_bytes: int | None = None) -> dict[str, Any] | None:
        """Go on from the newest sound checkpoint in a folder and return it, None where there is none yet.

        `metrics_bytes` is how many `metrics.jsonl` has, where the run writes on in it.

        Raises:
            DamagedError: there are checkpoints, and none fits this run; the message is about the newest.
        """
        first: DamagedError | None = None
        try:
            for path, state in folder.checkpoints(self.runtime.device):
                try:
                    if metrics_bytes is not None and state["metrics_bytes"] > metrics_bytes:
                        raise ValueError(f"metrics.jsonl had {state['metrics_bytes']} bytes, now {metrics_bytes}")
                    self.load_state_dict(state)
                    self.resumed_from = path
                    if path.name != "last.pt":
                        log.warning("last.pt is missing, damaged or of another run: going on from %s", path.name)
                    return state
                except ValueError as error:
                    first = first or damaged(path, str(error), ANEW)
                except DamagedError as error:  # of a file beside it
                    first = first or error
        except DamagedError as error:
            first = first or error
        if first is not None:
            raise first
        return None

    def result(self, *, interrupted: bool = False) -> Result:
        """Return what the run has come to so far."""
        card = self.teacher.card
        summary = Summary(
            self.settings.method.name,
            self.settings.seed,
            self.step,
            self.images,
            self.seconds,
            self.health.verdict(),
            _in_numbers(self.teacher.network),
            _in_numbers(self._network),
            card.input_size,
            card.num_classes,
            card.classes,
            self.teacher.forwards,
            foreign=tuple(self.algorithm.foreign) or None,
            estimated_on=self.estimated_on,
            fell_back=self.fell_back,
        )
        history = [Evaluation.read(entry) for entry in self.history]
        return Result(self.student, history, summary, self.folder, interrupted)


def _in_numbers(network: Network) -> NetworkSummary:
    return NetworkSummary(network.card.arch, parameters(network.module), num_bytes(network.module))


def like(saved: Any, fresh: Any, where: str = "state") -> None:
    """Check that what was saved has the kinds, keys and shapes of what a new run has; raises ValueError.

    A tensor or list that is empty now may have any length, and what is None now may be anything but of a plain kind.
    """
    if isinstance(fresh, Tensor):
        free = int(fresh.numel() == 0)
        fits = isinstance(saved, Tensor) and saved.is_floating_point() == fresh.is_floating_point()
        fits = fits and saved.dim() == fresh.dim() and saved.shape[free:] == fresh.shape[free:]
    elif isinstance(fresh, Mapping):
        fits = isinstance(saved, Mapping) and (not fresh or set(saved) == set(fresh))
    elif isinstance(fresh, list):
        fits = isinstance(saved, list) and (not fresh or len(saved) == len(fresh))
    elif isinstance(fresh, Segments):
        fits = isinstance(saved, Segments)
    elif fresh is None:
        fits = saved is None or isinstance(saved, (Tensor, Mapping))
    else:
        whole = type(saved) is int and 0 <= saved <= 10**15
        fits = whole or (isinstance(fresh, float) and type(saved) is float)
    if not fits:
        raise ValueError(f"{where} is not what such a run has")
    inner = fresh.items() if isinstance(fresh, Mapping) else enumerate(fresh) if isinstance(fresh, list) else ()
    for key, value in inner:
        if key != "optimizer":
            like(saved[key], value, f"{where}.{key}")


def check_batch_norms(method: Method, settings: DistillSettings, layers: Sequence[object]) -> None:
    """Refuse a teacher without batch-norm `layers` for a method that matches their statistics."""
    if method.needs_batch_norm and not layers:
        raise TeacherError(
            f"the teacher has no batch-norm layers, whose statistics {settings.method.name} matches; take --method "
            "auto, or switch that term off knowingly with -s method.bn_weight=0"
        )


def run_loop(distillation: Distillation, until: Callable[[], bool] | None = None) -> Result:
    """Run, as `Distillation.run`, under signal handling, memory errors turned into words, the caller's random streams
    untouched, and an accelerator's algorithms those that give the same bits each time."""
    device = distillation.runtime.device
    more = "" if distillation.runtime.recompute or ranks.count() > 1 else ", or take -s recompute=true"
    with (
        untouched_global_rng(),
        stop_on_signals() as stop,
        save_on_signals() as save,
        memory_errors(or_else=more),
        repeatable(device),
    ):
        return distillation.run(stop, save, until)
