"""What a distillation came to: the student, how it got there, and the numbers that `report.json` keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError
from torch import nn

from lenient.core.keyed import Keyed
from lenient.core.schemas import misfit
from lenient.synthesis.drawing import Draws
from lenient.training.prediction import Prediction
from lenient.training.verdict import Health

PROMISED = ("arch", "params", "classes")
"""Keys that the stored summary has even where there is nothing to say."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a forward pass, the median of several, by batch size."""

    teacher: Mapping[int, float]
    student: Mapping[int, float]
    device: str
    """Where they were measured, as all that is told of the machine."""
    threads: int
    """Of torch on the CPU."""


@dataclass(frozen=True)
class FellBack:
    """That a run left the method it began with for another, with a student that started anew."""

    before: str
    """The method that it began with, which its forecast said would fail."""
    step: int
    """Student updates made by then."""


@dataclass(frozen=True)
class NetworkSummary:
    """Teacher or student in numbers; what was not measured is None. Accuracies are fractions in [0, 1]."""

    arch: str | None
    """The SPEC that builds it, None for a module of one's own."""
    params: int | None
    """None in the report of a run that has not ended."""
    bytes: int | None = None
    """Of parameters and buffers."""
    accuracy: float | None = None
    """On the evaluation data, like all that follows."""
    agreement: float | None = None
    """With the teacher."""
    ece: float | None = None
    """Expected calibration error."""
    nll: float | None = None
    """Negative log-likelihood in nats, mean over images."""
    acc_last_k: float | None = None
    """Mean of the last `k` evaluations."""
    k: int | None = None
    acc_max: float | None = None
    """The best evaluation: an oracle, for it saw the test set."""
    transductive: Mapping[str, float | None] | None = None
    """The same measures by statistics of the test batch, of a student that learned by those of the batch: each answer
    depends on the other test images."""


@dataclass(frozen=True)
class Summary(Keyed):
    """A run in numbers, so far where it has not ended; what was not measured is None."""

    method: str
    seed: int
    steps: int
    """Student updates made."""
    images_synthesized: int
    seconds: float
    """In updates; without loading, trials and what is written at the end."""
    health: Health
    teacher: NetworkSummary
    student: NetworkSummary
    input_size: tuple[int, int, int]
    num_classes: int
    classes: tuple[str, ...] | None = None
    teacher_forwards: int | None = None
    """Images that the teacher was asked about."""
    foreign: tuple[str, ...] | None = None
    """What the images came from besides the teacher; None where the run was data-free in the strict sense."""
    estimated_on: int | None = None
    """Images of the source on which the delivered student's batch-norm statistics were estimated anew; None where they
    are as training left them."""
    fell_back: FellBack | None = None
    """That `method` is not the one that the run began with; None where it is."""
    answers: Mapping[str, Mapping[str, float]] | None = None
    """How the student answers beside its teacher on several kinds of images; see `training.answers`."""
    prediction: Prediction | None = None
    """On what share of real images to expect the teacher's answer of the student, judged without any."""
    latency: Latency | None = None
    eval_data: str | None = None
    """DATA that accuracies are measured on."""
    noise_student: Mapping[str, float] | None = None
    """Accuracy of a student of noise in the same steps, in the demo."""
    demo: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `report.json` holds them; what was not measured is left out."""
        return _known(asdict(self)) | {"health": asdict(self.health)}

    @classmethod
    def read(cls, values: Mapping[str, Any], path: Path) -> Summary:
        """Return what `report.json` holds, at `path`; raises DamagedError where these are no such values."""
        try:
            return _adapter().validate_python({"images_synthesized": 0, "seconds": 0.0} | _known(values))
        except ValidationError as error:
            raise misfit(error, path, "start again with --overwrite") from None


@cache
def _adapter() -> TypeAdapter[Summary]:
    return TypeAdapter(Summary)


def _known(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        str(key): _known(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None or key in PROMISED
    }


class Place(Protocol):
    """The run folder, if there is one."""

    path: Path


@dataclass(frozen=True)
class Evaluation:
    """A measurement of the student on the way, on the evaluation data. Accuracies are fractions in [0, 1]."""

    step: int
    """Student updates made."""
    seconds: float
    accuracy: float
    transductive: float | None = None
    """Accuracy by statistics of the test batch; see `NetworkSummary.transductive`."""

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Evaluation:
        """Return an entry of a run's state, of which other keys are ignored."""
        return cls(entry["step"], entry["seconds"], entry["accuracy"], entry.get("transductive"))


@dataclass
class Result:
    """What a distillation came to; of an interrupted one, what it had come to by then."""

    student: nn.Module
    """In eval mode; takes what the teacher takes."""
    history: list[Evaluation]
    """In order; empty without evaluation data."""
    summary: Summary
    run: Place | None = None
    interrupted: bool = False
    draws: Draws | None = field(default=None, repr=False)
    """Draws more of its images, see `lenient.synthesize`; it holds generator or pool, and is left out of a copy."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "draws": None}

    @property
    def health(self) -> Health:
        """The verdict, its reasons and every check."""
        return self.summary.health
