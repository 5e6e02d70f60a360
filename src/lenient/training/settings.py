"""All settings of one distillation, apart from those of the method, which live with the method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from lenient.core.config import BY_NAME, Nothing, Settings, flatten, keys_of, merge, parse
from lenient.core.errors import UsageError
from lenient.core.runtime import Runtime
from lenient.core.text import VALUE, shown, visible
from lenient.defenses.abd import ABDSettings
from lenient.generators.upsampling import GeneratorSettings
from lenient.methods import DEFAULT, method_class
from lenient.methods.anatomy import Setting, documented
from lenient.methods.contract import MethodSettings
from lenient.models.names import with_whole_path
from lenient.models.students import Init
from lenient.pictures.holding import Pictures, held
from lenient.synthesis.proxy import SourceSettings
from lenient.training.verdict import HealthSettings

MOST_STEPS = 10**9


def method_settings(value: Any) -> MethodSettings:
    """Return the settings of a method from what the section `method` holds; raises UsageError."""
    if isinstance(value, MethodSettings):
        return value
    name = with_whole_path(method_name(value))
    return parse(method_class(name).settings_type, {**value, "name": name}, "-s method.")


def method_name(section: Any) -> str:
    """Return the method that the section `method` of settings names, the default where it does not.

    Raises:
        UsageError: it is not settings, or the name is no text.
    """
    name = section.get("name", DEFAULT) if isinstance(section, Mapping) else section
    if not isinstance(section, Mapping) or not isinstance(name, str):
        raise UsageError(f"method: {shown(name)}: write a name, or settings as key: value")
    return name


def _text(value: Any) -> Any:
    """YAML reads `precision: 32` as a number."""
    return str(int(value)) if isinstance(value, (int, float)) else value


class StudentSettings(Settings):
    """How the student starts."""

    init: Init = "as-is"
    """How the weights of a `lenient:` student are drawn: `he` (convolutions normal, variance 2 / fan-out), `torch`
    (uniform, variance 1 / (3 fan-in)), or `as-is`: `he` for residual nets, `torch` for LeNet-5. Other students stay as
    they are."""


class TeacherSettings(Settings):
    """How the teacher's answers are read."""

    temperature: Annotated[float, Field(gt=0, le=1e6)] | Literal["auto"] = 1.0
    """Divides the teacher's logits before any loss sees them, and so those that the student learns; `auto`: 1, or what
    brings logits that spread too far for losses back to the usual."""


class ReportSettings(Settings):
    """What the report shows."""

    images: bool = True
    """Whether synthetic images are stored and shown; they can resemble private data."""


class DistillSettings(Settings):
    """All settings of one distillation; `config.yaml` holds those that the method makes use of, resolved."""

    @model_validator(mode="before")
    @classmethod
    def _with_what_the_method_asks_for(cls, values: Any) -> Any:
        """Put the method's own defaults of general settings under the values given; refuse what it has no use for."""
        if not isinstance(values, dict):
            return values
        method = method_settings(values.get("method", {}))
        for key in flatten(values):
            if not method.takes(key):
                name = visible(method.name, VALUE)
                raise UsageError(
                    f"-s {visible(key, VALUE)}: {name} does not use it; leave it out, or take another --method"
                )
        return {**merge(method.general, values), "method": method}

    @model_serializer(mode="wrap")
    def _taken(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return self.method.taken(handler(self))

    @classmethod
    def known(cls, values: Mapping[str, Any]) -> Iterable[str]:
        """Yield the dotted keys that the method of such values takes."""
        return filter(method_settings(values.get("method", {})).takes, keys_of(cls))

    method: Annotated[SerializeAsAny[MethodSettings], BeforeValidator(method_settings)] = Field(
        default_factory=lambda: method_settings({})
    )
    defense: Annotated[Nothing | ABDSettings, BY_NAME] = Nothing()
    """What protects the student from a teacher that may carry a backdoor."""
    steps: int = Field(4000, ge=1, le=MOST_STEPS)
    """Student optimizer steps."""
    batch_size: int = Field(128, ge=2, le=2**20)
    """Images per student step (TA-DFKD's paper: 1024)."""
    seed: int = Field(0, ge=0, le=2**63 - 1)
    """All randomness comes from it."""
    steps_per_epoch: int = Field(100, ge=1, le=10**9)
    """Student steps in one epoch (TA-DFKD's paper: 360): learning rates, evaluation, the memory bank's writes and
    CuDFKD's climb count in epochs."""
    generator: GeneratorSettings = GeneratorSettings()
    source: SourceSettings = SourceSettings()
    student: StudentSettings = StudentSettings()
    teacher: TeacherSettings = TeacherSettings()
    health: HealthSettings = HealthSettings()
    report: ReportSettings = ReportSettings()
    device: str = "auto"
    """Where networks run: auto, cpu, cuda, cuda:N or mps."""
    precision: Annotated[Literal["auto", "32", "64", "bf16"], BeforeValidator(_text)] = "auto"
    """How precisely: auto, 32, bf16, or 64, everything in float64, for checks."""
    threads: Literal["auto"] | Annotated[int, Field(strict=True, ge=1, le=1024)] = "auto"
    """Threads of torch on the CPU: `auto` takes all that torch has, or fewer where a trial finds that faster."""
    compile: bool = False
    """Whether the plain forwards of all networks are compiled; those with probes and the virtual step never are."""
    overlap: Literal["auto"] | bool = "auto"
    """Whether a CPU makes the next step's images while the student learns: `auto` where a trial shows a gain."""
    recompute: Literal["auto"] | bool = "auto"
    """Whether networks keep only what goes into their blocks for the backward pass and compute the rest anew: less
    memory for more time, and the same bits (activation checkpointing); `auto`: where memory would be short."""
    select: Literal["last", "ema", "proxy"] = "last"
    """The student delivered: of the last step, averaged over steps, or of the best agreement on the probe set."""
    ema_decay: float = Field(0.999, gt=0, lt=1)
    """Decay per step of the average that `select: ema` delivers."""
    fallback: bool = True
    """Whether a run whose method `auto` took goes on with a sturdier one, once, where its forecast raises the alarm."""
    log_every: int = Field(50, ge=1, le=10**9)
    """Student steps between log lines, or updates of others while the student rests."""
    checkpoint_every: int | None = Field(None, ge=1, le=10**9)
    """Student steps between checkpoints; by default one every five minutes."""

    @property
    def pictures_share(self) -> float:
        """Share of each student batch from the user's pictures, beside the method's own images; raises UsageError where
        the settings contradict each other."""
        return self.source.share(self.method.name, self.method.shows_pictures)

    @property
    def pictures_folder(self) -> str | None:
        """The folder of the user's pictures, where any are shown; raises UsageError as `pictures_share` does."""
        shown = self.pictures_share > 0 or self.method.shows_pictures
        return self.source.proxy_images if shown else None

    def pictures(self, input_size: tuple[int, int, int]) -> Pictures | None:
        """Return the user's pictures for a teacher of images (C, H, W), None where none are shown.

        Raises:
            UsageError: as `pictures_share`, and as `lenient.pictures.holding.held`.
        """
        folder = self.pictures_folder
        return None if folder is None else held(folder, input_size, self.seed, self.source.proxy_memory)

    def with_method(self, method: Mapping[str, Any]) -> DistillSettings:
        """Return these settings with another section `method`, without those that this method has no use for.

        Raises:
            UsageError: the section cannot be.
        """
        other, values = method_settings(method), self.model_dump(mode="json")
        del values["method"]
        return parse(DistillSettings, {**other.taken(values), "method": other})

    def runtime(self) -> Runtime:
        """Return where and how networks run, once nothing is `auto` any more."""
        device, anew = torch.device(self.device), self.recompute is True
        return Runtime(device, self.precision, self.compile, self.overlap is True, recompute=anew)


def general_settings(name: str) -> dict[str, Setting]:
    """Return of the settings outside of a method's own, by dots, those that it takes: the default and what it means."""
    defaults = DistillSettings(method=method_settings({"name": name}))
    takes = defaults.method.takes
    return {key: value for key, value in documented(defaults) if takes(key) and not key.startswith("method.")}
