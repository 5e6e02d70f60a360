"""From what was asked for to what will be run: settings from presets, recipes and flags; what `auto` means here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from lenient.core import ranks
from lenient.core.config import flatten, merge, nested, parse, parse_overrides, read_yaml
from lenient.core.errors import TeacherError, UsageError
from lenient.core.runtime import check_compiler, resolve_device, threads
from lenient.core.schemas import ANEW, damaged
from lenient.core.text import VALUE, shown, visible
from lenient.methods import DEFAULT, METHODS, method_class, recipes
from lenient.methods.contract import Method, MethodSettings
from lenient.methods.generator import WithGenerator
from lenient.models import build_student, check_classifier, choose_student
from lenient.models.card import Network, PixelClassifier
from lenient.models.names import OWN, parse_spec
from lenient.models.students import LABEL, Init, copy_student, is_copy
from lenient.models.trust import Trusted, UntrustedError, UntrustedSettingError, require
from lenient.runs.autotune import (
    check_precision,
    fastest_precision,
    fastest_threads,
    fitting_temperature,
    largest_batch,
    memory_is_short,
    most_threads,
    overlap_pays,
    threads_are_tried,
    trial,
)
from lenient.runs.moments import fitting_moments
from lenient.training.settings import MOST_STEPS, DistillSettings, method_settings
from lenient.training.settings import method_name as section_name

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"steps": 20, "batch_size": 16, "log_every": 5, "steps_per_epoch": 10},
    "fast": {"steps": 1500},
    "standard": {},
    "long": {"steps": 72_000, "batch_size": 1024, "steps_per_epoch": 360},
    "paper": {},
}
"""`standard` is the defaults; `long` has their losses and rates at the length of TA-DFKD's paper on CIFAR-10, 200
epochs of 360 steps of 1024 images; `paper` is short for the recipe of that name: the paper's protocol, all through."""
PAPER = "paper"

BUDGET_SHARE = 0.9
"""Share of a time budget that goes to steps; the rest is for evaluation, checkpoints and the report."""


LONGEST_BUDGET = 8760 * 3600.0
"""Seconds in a year."""


@dataclass
class Request:
    """What a user asked for, by flag or argument; None means not said."""

    method: str | None = None
    preset: str | None = None
    recipes: str | Sequence[str] = ()
    overrides: Sequence[str] = ()
    settings: Mapping[str, Any] | None = None
    shared: Mapping[str, Any] = field(default_factory=dict)
    """Settings below those, of several methods or of an earlier version: what the method has no use for is left out."""
    steps: int | None = None
    epochs: int | None = None
    budget: str | None = None
    batch_size: int | Literal["auto"] | None = None
    seed: int | None = None
    device: str | None = None
    precision: str | None = None
    select: str | None = None
    proxy_images: str | Path | None = None
    compile: bool = False
    trust: Trusted = True
    """Which methods, of those that are somebody's code, may be named: all, where the user typed the name."""
    where: str = ""
    """What names them, where the user did not."""
    auto: str = DEFAULT
    """The method where nothing names one: what suits the teacher."""
    own: MethodSettings | None = None
    """Settings of a method that was given as an object: its defaults, and those that it asks for elsewhere, count."""

    def __post_init__(self) -> None:
        if isinstance(self.recipes, str):
            self.recipes = (self.recipes,)

    def layers(self) -> list[dict[str, Any]]:
        """Return the settings asked for, weakest first: preset, recipes, flags, `-s`."""
        if self.preset is not None and self.preset not in PRESETS:
            raise UsageError(f"--preset {visible(self.preset, VALUE)}: unknown; there are {', '.join(PRESETS)}")
        if sum(value is not None for value in (self.steps, self.epochs, self.budget)) > 1:
            raise UsageError("--steps, --epochs and --budget: give one of them")
        named = None if self.method in (None, "auto") else self.method
        if self.own is not None and self.own.name in METHODS:
            named = self.own.name
        spoken = [*map(_named, (self.shared, self.settings or {}, parse_overrides(self.overrides)))]
        told = merge(*spoken)
        # a setting of a method that nobody names is the default's
        chosen = named or method_name(told)
        looked = chosen or (DEFAULT if "method" in told else self.auto)
        files = (
            [self._paper(looked, chosen is not None)]
            if self.preset == PAPER
            else [read_recipe(name, looked) for name in self.recipes]
        )
        for values in files:
            written = method_name(values)
            if named and written and written != named:
                raise UsageError(f"--method {named}: the recipe is for {written}; drop one of the two")
        plain = ("steps", "batch_size", "seed", "device", "precision", "select")
        flags = {name: getattr(self, name) for name in plain if getattr(self, name) is not None}
        if self.batch_size == "auto":  # becomes a number in `decide`
            del flags["batch_size"]
        if self.compile:
            flags["compile"] = True
        if named:
            flags["method"] = {"name": named}
        if self.proxy_images is not None:
            flags["source"] = {"proxy_images": str(self.proxy_images)}
        return [PRESETS.get(self.preset or "standard", {}), *files, flags, *spoken]

    @property
    def leaves_the_method_open(self) -> bool:
        """Whether nothing that was asked for names a method, or a setting of one, which would be the default's."""
        return self.own is None and "method" not in merge(*self.layers())

    def _paper(self, method: str, chosen: bool) -> dict[str, Any]:
        """Return the method's recipe `paper`, which the preset is short for, whatever files of that name there are.

        Raises:
            UsageError: there are other recipes beside it, or not all that a run needs is known of the paper.
        """
        if self.own is not None:
            raise UsageError("--preset paper: the method was given as an object; give the paper's settings to that")
        for name in self.recipes:
            if name != PAPER:
                raise UsageError(
                    f"--preset paper: is the recipe {PAPER}, so it takes no other; drop it or -c {visible(name)}"
                )
        own = recipes(method)
        if PAPER not in own:
            other = "" if chosen else "; name a method that has one, as --method ta-dfkd"
            raise UsageError(f"--preset paper: {_missing(method)}{other}")
        return _named(read_yaml(own[PAPER]))

    def explicit(self) -> dict[str, Any]:
        """Return, flat and dotted, what the user said in so many words; a resumed run compares it with its folder."""
        return flatten(merge(*self.layers()[(0 if self.preset else 1) :]))


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Let `method: NAME` stand for `method: {name: NAME}`, and `method.selection.tau: 0.6` for `method: {tau: 0.6}`."""
    method = values.get("method")
    named: dict[str, Any] = nested({**values, "method": {"name": method}} if isinstance(method, str) else values)
    return named


def _missing(method: str) -> str:
    """Say why a method has no recipe `paper`; methods of ours know what is not known of theirs."""
    kind = None if method.startswith(OWN) else method_class(method)
    return f"{method}: {getattr(kind, 'not_known', 'it has no recipe of that name')}"


def read_recipe(name: str, method: str) -> dict[str, Any]:
    """Read a recipe: a YAML file, or the name of one that comes with the method.

    A run's `config.yaml` is a recipe too: its section `run` is left out.
    """
    path = Path(name)
    if not os.path.exists(path):  # says no, rather than to raise, where a name is too long
        own = recipes(method)
        if name == PAPER and name not in own:
            raise UsageError(f"-c paper: {_missing(method)}")
        if path.suffix or name not in own:
            there = [other for other in METHODS if name in recipes(other)]
            raise UsageError(
                f"-c {visible(name, VALUE)}: no such file, nor a recipe of {method} ({', '.join(own) or 'it has none'})"
                + (f"; --method {there[0]} has it{', and others' * (len(there) > 1)}" if there else "")
            )
        path = own[name]
    try:
        values = _named(read_yaml(path))
    except UsageError as error:
        where = f"-c {visible(path, VALUE)}: "
        raise UsageError(f"{where}{str(error).removeprefix(where)}") from None
    values.pop("run", None)
    return values


def method_name(values: Mapping[str, Any]) -> str | None:
    """Return the method that settings name, None where they do not.

    Raises:
        UsageError: the section `method` is neither a name nor settings.
    """
    section = values.get("method", {})
    return None if isinstance(section, Mapping) and "name" not in section else section_name(section)


def generator_factory(values: Mapping[str, Any]) -> str | None:
    """Return the code that settings let make the generator, None where they name none, or what is no name."""
    section = values.get("generator")
    found = section.get("factory") if isinstance(section, Mapping) else None
    return found if isinstance(found, str) else None


def resolve(request: Request) -> DistillSettings:
    """Return the settings of a request; `auto` values are still in it.

    Raises:
        UsageError: unknown names, bad values.
    """
    settings = parse(DistillSettings, _merged(narrowed(request)))
    if request.budget is not None:
        parse_budget(request.budget)  # refused here rather than after the trials
    if request.epochs is not None:
        settings = settings.model_copy(update={"steps": _steps(request.epochs, settings.steps_per_epoch)})
    return settings


def narrowed(request: Request) -> Request:
    """Return a request with its `shared` settings among the others, but for those that its method has no use for.

    Raises:
        UsageError: the method cannot be told.
    """
    if not request.shared:
        return request
    shared = method_settings(_merged(request).get("method", {})).taken(_named(request.shared))
    return replace(request, settings=merge(shared, _named(request.settings or {})), shared={})


def _merged(request: Request) -> dict[str, Any]:
    """Return the settings of a request in one, the code that they name allowed."""
    merged = merge(*request.layers())
    if request.own is None:
        merged.setdefault("method", {"name": request.auto})
    name = method_name(merged)
    if name is not None and name.startswith(OWN):
        require(name, request.trust, where=request.where, what="its method", kind=UntrustedSettingError)
    factory = generator_factory(merged)
    if factory is not None:
        require(factory, request.trust, where=request.where, what="its generator", kind=UntrustedSettingError)
    if request.own is not None:
        _refuse_for_an_object(merged.get("method", {}), request.own)
        merged["method"] = request.own
    return merged


@contextmanager
def settings_of(path: Path) -> Iterator[None]:
    """Say of settings that a run's `config.yaml` holds, and that cannot be, that the file is damaged."""
    try:
        yield
    except (UntrustedError, UntrustedSettingError):
        raise
    except (UsageError, TeacherError) as error:
        raise damaged(path, str(error).removeprefix("-s "), ANEW) from error


def _refuse_for_an_object(section: Mapping[str, Any], own: MethodSettings) -> None:
    for key, value in flatten(section).items():
        if key != "name" or value != own.name:
            raise UsageError(
                f"method.{key}={shown(value)}: the method was given as an object; give its settings to that"
            )


def _steps(epochs: int, steps_per_epoch: int) -> int:
    most = MOST_STEPS // steps_per_epoch
    if not 1 <= epochs <= most:
        raise UsageError(f"--epochs {visible(epochs, VALUE)}: give 1 to {most} epochs of {steps_per_epoch} steps")
    return epochs * steps_per_epoch


def decide(
    settings: DistillSettings, request: Request, teacher: Network, student: Network, method: Method | None = None
) -> DistillSettings:
    """Replace what is `auto` by what was measured here: device, precision, batch size, threads, overlap, what is
    computed anew, the steps in a budget.

    All ranks take the measurements together, and rank 0's word for them.
    """
    device = ranks.place(resolve_device(settings.device))
    changes: dict[str, Any] = {"device": str(device)}
    if settings.precision == "auto":
        changes["precision"] = ranks.agree(fastest_precision(teacher, student, device, settings.batch_size))
    runtime = settings.model_copy(update=changes).runtime()
    learning = None if student is teacher else student  # only its images are drawn
    check_precision(teacher, learning, runtime, settings.batch_size)
    if settings.teacher.temperature == "auto":
        found = 1.0 if is_copy(student) else ranks.agree(fitting_temperature(teacher, runtime))
        changes["teacher"] = settings.teacher.model_copy(update={"temperature": found})
    own = isinstance(method, WithGenerator) or settings.generator.factory is not None
    if settings.generator.output_moments == "auto":
        moments = None if own else ranks.agree(fitting_moments(teacher, runtime, settings.generator))
        changes["generator"] = settings.generator.model_copy(update={"output_moments": moments})
    _check_ways(settings, device)
    settings = settings.model_copy(update=changes)
    if request.batch_size == "auto":
        size = ranks.agree(largest_batch(settings, teacher, student, method))
        settings = settings.model_copy(update={"batch_size": size})
    if settings.recompute == "auto":
        able = not settings.compile and ranks.count() == 1
        anew = able and memory_is_short(settings, teacher, learning)
        settings = settings.model_copy(update={"recompute": anew})
    count, tried = settings.threads, False
    if count == "auto":
        tried = learning is not None and threads_are_tried(device)
        count = fastest_threads(settings, teacher, student, method) if tried else torch.get_num_threads()
        settings = settings.model_copy(update={"threads": count})
    # where fewer threads are faster at one thing, each of two things at once may have as many
    together, overlap = min(2 * count, most_threads()) if tried else count, settings.overlap
    if overlap == "auto":
        with threads(count):
            overlap = (
                settings.method.takes("overlap")
                and not own
                and overlap_pays(settings, teacher, student, method, together=together)
            )
    count = together if overlap else count
    settings = settings.model_copy(update={"overlap": overlap, "threads": count})
    with threads(count):
        if request.budget is not None:
            steps = steps_within(request.budget, settings, teacher, student, method)
            settings = settings.model_copy(update={"steps": steps})
    return settings


def _check_ways(settings: DistillSettings, device: torch.device) -> None:
    """Refuse ways of running that do not go together, or not here; raises UsageError."""
    if settings.compile:
        if ranks.count() > 1:
            raise UsageError("--compile: works on one device so far; leave it out, or --devices")
        check_compiler(device)
    if settings.recompute is True and settings.compile:
        raise UsageError("-s recompute=true: works without --compile so far; leave one of them out")
    if settings.recompute is True and ranks.count() > 1:
        raise UsageError("-s recompute=true: works on one device so far; take recompute=false, or leave out --devices")


def steps_within(
    budget: str, settings: DistillSettings, teacher: Network, student: Network, method: Method | None = None
) -> int:
    """Return how many student updates a budget such as `30m` is enough for here, by a short trial.

    Raises:
        UsageError: it is not enough for one.
    """
    tried = ranks.agree(trial(settings, teacher, student, method))
    left = BUDGET_SHARE * parse_budget(budget) - tried["seconds_before"]
    if left < 0:
        raise UsageError(
            f"--budget {budget}: {settings.method.name} takes {tried['seconds_before']:.0f} s before the "
            "student's first step; give more"
        )
    return max(1, min(int(left / max(tried["seconds_per_step"], 1e-9)), MOST_STEPS))


def parse_budget(text: str) -> float:
    """Turn `90s`, `30m`, `1.5h` or `1h30m` into seconds."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([smh])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UsageError(f"--budget {visible(text, VALUE)}: write a time such as 90s, 30m or 1h30m")
    seconds = sum(float(number) * {"s": 1, "m": 60, "h": 3600}[unit] for number, unit in parts)
    if not 0 < seconds <= LONGEST_BUDGET:
        raise UsageError(f"--budget {visible(text, VALUE)}: give more than nothing, and at most 8760h")
    return seconds


def pick_student(
    spec: str | torch.nn.Module | Network, teacher: Network, seed: int, init: Init = "as-is"
) -> tuple[Network, str]:
    """Return the student's network and a sentence on where it comes from; `init`: how our own nets' weights are drawn.

    Raises:
        UsageError: a module given does not answer the teacher's images with the teacher's classes.
    """
    if isinstance(spec, PixelClassifier):  # the network without its own normalisation
        spec = Network(spec.module, replace(spec.card, arch=None))
    elif isinstance(spec, torch.nn.Module):
        spec = Network(spec, replace(teacher.card, arch=None, outputs="logits", notes=()))
    if isinstance(spec, Network):
        # it learns images as the teacher sees them, normalisation and all
        card = replace(teacher.card, arch=spec.card.arch, outputs="logits", notes=spec.card.notes)
        try:
            return check_classifier(Network(spec.module, card), plain=True), "given as a module"
        except TeacherError as error:
            raise UsageError(f"the student does not fit the teacher: {error}") from error
    if spec == "auto":
        spec, reason = choose_student(teacher)
        return build_student(spec, teacher.card, seed=seed, init=init), reason
    if parse_spec(spec, LABEL).copies:
        return copy_student(spec, teacher), "a copy of the teacher, as asked for"
    return build_student(spec, teacher.card, seed=seed, init=init), f"{spec}, as asked for"
