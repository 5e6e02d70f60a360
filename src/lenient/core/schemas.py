"""What runs and grids left in their folders, read back: limited in size and depth, checked against a schema, and where
it is damaged, named together with the cure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lenient.core.config import load_yaml
from lenient.core.errors import DamagedError, UsageError
from lenient.core.files import read_bytes
from lenient.core.manifest import SEGMENTS, TREES
from lenient.core.text import LINE, shown, visible

if TYPE_CHECKING:
    from numpy.typing import NDArray

ANEW = "start again with --overwrite"
MIB = 2**20
TEXT_LIMIT, METRICS_LIMIT, SAMPLES_LIMIT = 4 * MIB, 256 * MIB, 256 * MIB

T = TypeVar("T")


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Count = Annotated[int, BeforeValidator(_no_truth), Field(ge=0, le=10**15, strict=True)]
Amount = Annotated[float, BeforeValidator(_no_truth), Field(strict=True, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_no_truth), Field(ge=0, le=1, strict=True, allow_inf_nan=False)]
Text = Annotated[str, Field(strict=True, max_length=20_000)]
Seed = Annotated[int, BeforeValidator(_no_truth), Field(ge=0, le=2**63 - 1, strict=True)]
Row = Annotated[list[Amount], Field(max_length=100_000)]


class Stored(BaseModel):
    """Base of what is read back; keys that a schema does not name are kept as they are."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StoredFacts(_Closed):
    """What the user said of the teacher."""

    arch: Text | None = None
    input_size: list[Count] | None = None
    num_classes: Count | None = None
    mean: Row | None = None
    std: Row | None = None
    checkpoint_key: Text | None = None
    classes: list[Text] | None = None
    """Names, and no path: no file says what is read."""


class StoredCard(Stored):
    """What the teacher takes and returns."""

    input_size: Annotated[list[Count], Field(min_length=3, max_length=3)]
    num_classes: Count
    mean: Row
    std: Row
    outputs: Literal["logits", "probabilities"]


class StoredTeacher(Stored):
    """The teacher of a run; `source` is None for a Python object."""

    source: Text | None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    facts: StoredFacts
    card: StoredCard


class StoredStudent(Stored):
    """The student of a run; `arch` is None for a Python object."""

    arch: Text | None
    reason: Text = ""


class StoredGenerator(Stored):
    """The user's own generator of a run; `source` is None for a Python object."""

    source: Text | None


class StoredPictures(Stored):
    """The user's pictures of a run."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StoredFellBack(_Closed):
    """That a run left the method it began with."""

    before: Text
    step: Count


class Identity(Stored):
    """Of what and on what a run was made."""

    teacher: StoredTeacher
    student: StoredStudent
    generator: StoredGenerator = StoredGenerator(source=None)
    """There where it is the user's own."""
    pictures: StoredPictures | None = None
    """There where any are shown."""
    eval_data: Text | None = None
    fallback: dict[str, Any] | None = None
    """The section `method` that it goes on with where its forecast raises the alarm."""
    fell_back: StoredFellBack | None = None


class RunConfig(Stored):
    """`config.yaml`. Settings are checked in full where they become settings again."""

    run: Identity
    method: dict[str, Any]
    steps: Annotated[int, Field(ge=1, le=10**12, strict=True)]
    batch_size: Annotated[int, Field(ge=1, le=10**9, strict=True)]
    steps_per_epoch: Annotated[Count, Field(ge=1)]
    device: Text


class Environment(Stored):
    """`env.json`."""

    command: list[Text] | None = None
    threads: Count | None = None
    ranks: Count | None = None


class Health(Stored):
    """The verdict of a run."""

    verdict: Text
    reasons: list[Text] | None = None
    checks: list[dict[str, Any]] | None = None


class StoredCheck(_Closed):
    """One question of a verdict."""

    name: Text
    value: Amount | None
    threshold: Amount
    status: Literal["ok", "warning", "failed"]
    text: Text


class StoredHealth(_Closed):
    """A verdict with all that it is made of."""

    verdict: Literal["ok", "warning", "failed"]
    reasons: list[Text]
    checks: list[StoredCheck]
    note: Text


class StoredCropping(_Closed):
    """How crops were drawn."""

    count: Annotated[Count, Field(ge=1, le=10_000)]
    area: Annotated[Share, Field(gt=0)]
    flip: Share


class StoredImages(Stored):
    """What a file of synthetic images says beside its tensors."""

    classes: Annotated[list[Text], Field(min_length=1, max_length=100_000)]
    steps: Count
    seconds: Annotated[Amount, Field(ge=0)]
    health: StoredHealth
    clipped: Share
    method: Text
    teacher: Text | None
    seed: Seed
    cropping: StoredCropping | None
    foreign: Annotated[list[Text], Field(max_length=100)]


class StoredDataSet(Stored):
    """`dataset.json`, which describes a data set of synthetic images."""

    format: Text
    files: Count
    """All that the folder holds, this one among them."""


class Answers(BaseModel):
    """How the student answers beside its teacher on one kind of images."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, Amount | None]
    images: Amount
    agreement: Share
    chance: Share


class Prediction(Stored):
    """On what share of real images a student was expected to answer as its teacher does."""

    expected: Share
    low: Share
    high: Share
    level: Share
    runs: Count
    teachers: Count
    data: Annotated[list[Text], Field(max_length=100)]


class _Network(Stored):
    arch: Text | None = None
    params: Count | None = None
    bytes: Count | None = None
    accuracy: Share | None = None
    transductive: Annotated[dict[Text, Amount | None], Field(max_length=100)] | None = None


class Summary(Stored):
    """`report.json`, and the `end` event."""

    method: Text | None = None
    seed: Seed | None = None
    steps: Count | None = None
    images_synthesized: Count | None = None
    teacher_forwards: Count | None = None
    foreign: Annotated[list[Text], Field(max_length=100)] | None = None
    estimated_on: Count | None = None
    fell_back: StoredFellBack | None = None
    seconds: Amount | None = None
    health: Health | None = None
    answers: Annotated[dict[Text, Answers], Field(max_length=100)] | None = None
    prediction: Prediction | None = None
    teacher: _Network | None = None
    student: _Network | None = None
    classes: list[Text] | None = None
    num_classes: Count | None = None
    input_size: list[Count] | None = None


class Report(Summary):
    """`report.json`, which always has a verdict."""

    health: Health


class Line(Stored):
    """An event that no schema below is about."""

    event: Text
    step: Count | None = None


class LogLine(BaseModel):
    """Numbers of the loop; None where they were not finite."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, Amount | None]
    event: Text
    step: Count


class Classes(Line):
    """Accepted samples per class."""

    histogram: list[Amount | None]


class Evaluation(Line):
    """A measurement on real images."""

    step: Count
    seconds: Annotated[Amount, Field(ge=0)] | None = None
    accuracy: Share | None = None
    transductive: Share | None = None
    agreement: Share | None = None


class Alarm(Line):
    """A question of health that failed."""

    name: Text = ""
    message: Text = ""


class ChangedMethod(Line):
    """A run that fell back."""

    step: Count
    before: Text
    method: Text


EVENTS: Mapping[str, type[BaseModel]] = {
    "log": LogLine,
    "classes": Classes,
    "eval": Evaluation,
    "forecast": LogLine,
    "alarm": Alarm,
    "fallback": ChangedMethod,
    "end": Summary,
}


class StudentCard(Stored):
    """`student/config.json`."""

    arch: Text | None = None
    classes: list[Text] | None = None
    input_size: list[Count] | None = None


class _Trained(_Closed):
    module: dict[str, Any]
    optimizer: dict[str, Any]


class _Delivered(_Closed):
    best: float
    followed: Count
    kept: dict[str, Any] | None


class StoredSegment(_Closed):
    """A file of rows that a checkpoint needs."""

    name: Annotated[str, Field(pattern=f"^{TREES[SEGMENTS]}$")]
    first: Count
    end: Count
    bytes: Count


class StoredSegments(_Closed):
    """What a state holds in one place, and where it lies."""

    path: Annotated[list[Text], Field(min_length=1, max_length=100)]
    first: Count
    end: Count
    files: Annotated[list[StoredSegment], Field(max_length=100_000)]
    rest: dict[str, Any]
    """The last rows, which are in no file."""


class CheckpointState(Stored):
    """A checkpoint; its tensors are checked against the run that takes them up."""

    updates: Count
    step: Count
    seconds: Annotated[Amount, Field(ge=0)]
    images: Count
    forwards: Count
    fell_back: StoredFellBack | None = None
    history: list[Evaluation | dict[str, Any]]
    networks: dict[str, _Trained]
    source: dict[str, Any]
    state: dict[str, dict[str, Any]]
    health: dict[str, Any]
    delivery: _Delivered
    segments: list[StoredSegments] = []
    metrics_bytes: Count


class _ToldTeacher(Stored):
    label: Text
    path: Text


class CellSpec(Stored):
    """`spec.json` of a cell. Settings are checked in full where they become settings again."""

    id: Text
    row: Text
    method: Text
    teacher: _ToldTeacher
    student: Text
    seed: Seed
    data: Text
    data_root: Text | None
    settings: dict[str, Any]


class TeacherSpec(Stored):
    """`spec.json` of a teacher: of a file, or of a training where `source` is None."""

    data: Text
    device: Text
    arch: Text | None
    source: Text | None
    data_root: Text | None
    name: Text = ""
    checkpoint_key: Text | None = None
    input_size: Annotated[list[Count], Field(min_length=3, max_length=3)] | None = None
    num_classes: Count | None = None
    mean: Row | None = None
    std: Row | None = None
    recipe: dict[str, Any] | None = None
    keep: Count = 0
    keep_above: Share | None = None
    precision: Literal["32", "bf16"] = "32"

    @model_validator(mode="after")
    def _whole(self) -> TeacherSpec:
        if self.source is None and (self.arch is None or self.recipe is None):
            raise ValueError("a training has an arch and a recipe")
        if self.source is not None and not self.name:
            raise ValueError("a file has a name")
        return self


class CellTeacher(Stored):
    """What a record says of a teacher."""

    label: Text


class CellCost(Stored):
    """What a cell took."""

    seconds: Amount | None = None


class CellRecord(Stored):
    """`cell.json`."""

    id: Text
    row: Text
    teacher: CellTeacher
    last: Share | None = None
    verdict: Text | None = None
    fell_back: StoredFellBack | None = None
    cost: CellCost


class MadeTeacher(Stored):
    """One teacher of `teacher.json`."""

    file: Text
    sha256: Text
    accuracy: Share
    card: StoredCard


class MadeTeachers(Stored):
    """`teacher.json`."""

    teachers: list[MadeTeacher]


class Failed(Stored):
    """`failed.json`."""

    reason: Text
    exit_code: int | None = None
    resume: bool = False


class Cost(Stored):
    """A line of `cost.jsonl`."""

    step: Count
    cpu_seconds: Amount
    peak_bytes: Count | None


def damaged(path: Path, why: str, cure: str) -> DamagedError:
    """Return the error for a file that says what it cannot, in at most 300 characters."""
    room = max(LINE - len(str(path)) - len(cure) - len(": is damaged (); "), 20)
    return DamagedError(f"{path} is damaged ({visible(' '.join(why.split()), room)}); {cure}")


def check(model: type[BaseModel], values: Any, path: Path, cure: str) -> Any:
    """Return `values` as they are, where they fit the schema; raises DamagedError."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        raise misfit(error, path, cure) from None
    except RecursionError:
        raise damaged(path, "it is nested too deeply", cure) from None
    return values


def misfit(error: ValidationError, path: Path, cure: str) -> DamagedError:
    """Return the error for a file whose values do not fit, by the first of them."""
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(map(str, first["loc"]))[:80]
    said = f"{first['msg'][0].lower()}{first['msg'][1:]}"
    value = f"; it is {shown(first['input'])}" if first["type"] != "missing" else ""
    return damaged(path, f"{key}: {said}{value}" if key else f"{said}{value}", cure)


def content(path: Path, cure: str, limit: int = TEXT_LIMIT) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it cannot be read, or is larger than `limit` bytes.
    """
    try:
        return read_bytes(path, limit)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise damaged(path, error.strerror or type(error).__name__, cure) from None


def parse_json(text: bytes) -> Any:
    """Return what JSON says; raises ValueError where it is none, nests too deeply, or has a number beyond 64 bits."""
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _whole(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def read_json(path: Path, model: type[BaseModel], cure: str, limit: int = TEXT_LIMIT) -> dict[str, Any] | None:
    """Return an object of JSON that fits the schema, None where there is no file; raises DamagedError."""
    try:
        found = parse_json(content(path, cure, limit))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise damaged(path, f"it is no JSON: {error}", cure) from None
    checked: dict[str, Any] = check(model, found, path, cure)
    return checked


def read_config(path: Path) -> dict[str, Any] | None:
    """Return the settings and the identity in a `config.yaml`, None where there is no file; raises DamagedError."""
    values = read_settings(path)
    return None if values is None else check(RunConfig, values, path, ANEW)


def read_settings(path: Path, cure: str = ANEW) -> dict[str, Any] | None:
    """Return the mapping in a `config.yaml`, unchecked, None where there is no file; raises DamagedError."""
    try:
        text = content(path, cure).decode()
        values = load_yaml(text, "its YAML")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise damaged(path, "it is no text in UTF-8", cure) from None
    except UsageError as error:
        raise damaged(path, str(error), cure) from None
    if not isinstance(values, dict):
        raise damaged(path, f"it holds {'nothing' if values is None else shown(values)}, not settings", cure)
    return values


def read_lines(path: Path, cure: str) -> list[tuple[int, dict[str, Any]]]:
    """Return the objects of a file with one of JSON in each line, with the numbers of their lines from 1.

    A last line that a killed process has cut short is left out; raises DamagedError for any other that is none.
    """
    try:
        raw = content(path, cure, METRICS_LIMIT).split(b"\n")
    except FileNotFoundError:
        return []
    lines = [(number, text) for number, text in enumerate(raw, start=1) if text.strip()]
    found: list[tuple[int, dict[str, Any]]] = []
    for number, text in lines:
        try:
            value = parse_json(text)
            if not isinstance(value, dict):
                raise ValueError("it must be a JSON object")
        except ValueError as error:
            if number == lines[-1][0]:
                break
            raise at_line(path, number, str(error), cure) from None
        found.append((number, value))
    return found


def at_line(path: Path, number: int, why: str, cure: str) -> DamagedError:
    """Return the error for one line of a file."""
    return damaged(Path(f"{path}, line {number}"), why, cure)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the events of a `metrics.jsonl`, in order; raises DamagedError where a line is not what its kind holds."""
    cure = "start again with --overwrite"
    if not (path.parent / "done").exists():  # of a run that is done the end would be cut off, too
        cure = f"cut the file off before that line, or {cure}"
    found = []
    for number, value in read_lines(path, cure):
        place = Path(f"{path}, line {number}")
        check(Line, value, place, cure)
        check(EVENTS.get(value["event"], Line), value, place, cure)
        found.append(value)
    return found


def read_samples(path: Path) -> dict[str, NDArray[Any]]:
    """Return `images` (N, C, H, W), `labels` (N,) and, where it is there, `confidence` (N,).

    Raises:
        DamagedError: the file holds something else, or cannot be read.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load

    cure = "the report leaves it out"
    try:
        tensors = load(content(path, cure, SAMPLES_LIMIT))
    except (SafetensorError, ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise damaged(path, str(error), cure) from None
    images, labels, confidence = (tensors.get(name) for name in ("images", "labels", "confidence"))
    if images is None or labels is None or images.ndim != 4 or labels.shape != (len(images),):
        raise damaged(path, "images (N, C, H, W) and N labels are expected", cure)
    if images.dtype != np.uint8 or labels.dtype.kind not in "iu" or (len(labels) and not labels.min() >= 0):
        raise damaged(path, "images of 8 bits and labels from 0 are expected", cure)
    if confidence is not None and (confidence.shape != labels.shape or not np.isfinite(confidence).all()):
        del tensors["confidence"]
    return tensors
