"""What a GRID.yaml says: data, teachers, students, seeds, rows, and the settings that all cells share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lenient.bench.open_rows import AUTO, all_of, open_settings
from lenient.core.config import Settings, flatten, merge, nested, parse, parse_overrides, read_yaml
from lenient.core.errors import UsageError
from lenient.core.text import shown
from lenient.methods import METHODS
from lenient.methods.baselines import REAL, RealSettings
from lenient.methods.contract import of_some
from lenient.models.card import MAX_CLASSES, MAX_INPUT
from lenient.models.facts import LARGEST_CONSTANT
from lenient.models.names import OWN, with_whole_path
from lenient.models.trust import Trusted, UntrustedSettingError, require
from lenient.pictures.holding import listed
from lenient.runs.request import Request, resolve


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


MOST_ENTRIES = 1000
"""Of any list of a grid."""
MOST_CELLS = 100_000
"""Of a grid: they are listed before the first one starts, which takes seconds for so many."""


def _one_for_all(value: Any) -> Any:
    return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _three_lengths(value: Any) -> Any:
    lengths = value if isinstance(value, list | tuple) else ()
    if len(lengths) != 3 or not all(type(length) is int and 1 <= length <= MAX_INPUT for length in lengths):
        raise ValueError(f"write [C, H, W], three numbers from 1 to {MAX_INPUT}")
    return value


Length = Annotated[int, Field(ge=1, le=MAX_INPUT)]
Constant = Annotated[float, Field(ge=-LARGEST_CONSTANT, le=LARGEST_CONSTANT)]
Deviation = Annotated[float, Field(ge=1 / LARGEST_CONSTANT, le=LARGEST_CONSTANT)]

FACTS = ("checkpoint_key", "input_size", "num_classes", "mean", "std")
"""Keys of a teacher that say of its file what that may not."""

Nested = Annotated[dict[str, Any], BeforeValidator(nested)]
Several = Annotated[tuple[str, ...], BeforeValidator(_several)]


class TrainSettings(Settings):
    """A teacher to train here, on nine tenths of the training images; the other tenth measures its epochs."""

    arch: str
    """SPEC of the network."""
    keep: int = Field(0, ge=0, le=10_000)
    """Checkpoints to keep of the training, each a teacher of its own; 0 takes the last weights alone."""
    keep_above: float | None = Field(None, ge=0, le=1)
    """Only epochs above this accuracy on the held-out tenth are kept."""
    epochs: int | None = Field(None, ge=1, le=10**6)
    """Passes over the images; by default what suits the data."""
    seed: int = Field(0, ge=0, le=2**63 - 1)
    precision: Literal["32", "bf16"] = "32"
    settings: Nested = Field(default_factory=dict)
    """Settings of the training: those of `lenient train-teacher -s`, such as label_smoothing, mixup, augment."""

    @field_validator("precision", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value)  # YAML reads 32 as a number


class TeacherSettings(Settings):
    """One entry of `teachers`: a file, or a training."""

    label: str | None = None
    """Name in tables; by default T1, T2, ... in order. With `keep` the checkpoints are LABEL1, LABEL2, ..."""
    file: str | None = None
    """A checkpoint."""
    arch: str | None = None
    """SPEC for a file that does not know its own architecture."""
    checkpoint_key: str | None = None
    """Which network of a file, by dots, as after `--checkpoint-key`."""
    input_size: Annotated[tuple[Length, Length, Length], BeforeValidator(_three_lengths)] | None = None
    """What a file's network takes, as [C, H, W], where the file does not say."""
    num_classes: int | None = Field(None, ge=2, le=MAX_CLASSES)
    mean: Annotated[tuple[Constant, ...], BeforeValidator(_one_for_all)] | None = Field(None, min_length=1)
    """Of the file's normalisation, one number per channel or one for all, in pixel units; `std` goes with it."""
    std: Annotated[tuple[Deviation, ...], BeforeValidator(_one_for_all)] | None = Field(None, min_length=1)
    train: TrainSettings | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> TeacherSettings:
        if (self.file is None) == (self.train is None):
            raise ValueError("needs either file or train")
        if self.arch is not None and self.file is None:
            raise ValueError("arch beside train: write it inside of train")
        if self.file is None and self.facts:
            raise ValueError(f"{next(iter(self.facts))} beside train: it is for a file; leave it out")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together; give both, in pixel units")
        return self

    @property
    def facts(self) -> dict[str, Any]:
        """What is said of a file beside its architecture: arguments of `load_teacher`, those alone that are given."""
        found = {name: getattr(self, name) for name in FACTS}
        return {name: value for name, value in found.items() if value is not None}


class RowSettings(Settings):
    """One entry of `rows`: a method with what differs from its defaults."""

    method: str
    """A method's name, `auto` for what suits each teacher, or `real` for the student of the training images."""
    recipe: Several = Field((), max_length=MOST_ENTRIES)
    """Recipes, weakest first: names of those that come with the method, or files beside the grid."""
    settings: Nested = Field(default_factory=dict)
    """Settings of the distillation, over those of the recipe and of the grid."""
    proxy_images: str | None = None
    """Folder of pictures, beside the grid or named by its whole path: as after `--proxy-images`."""


def _teachers(values: Any) -> Any:
    if not isinstance(values, Sequence) or isinstance(values, str):
        return values
    found = []
    for number, value in enumerate(values):
        if isinstance(value, str):
            value = {"file": value}
        if isinstance(value, Mapping) and isinstance(value.get("train"), Mapping):
            value = {**value, "train": parse(TrainSettings, value["train"], f"teachers.{number}.train.")}
        found.append(_entry(TeacherSettings, value, f"teachers.{number}"))
    return found


def _rows(values: Any) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError("write a label and a method for each, as in `ours: ta-dfkd`")
    return {
        str(label): _entry(RowSettings, {"method": value} if isinstance(value, str) else value, f"rows.{label}")
        for label, value in values.items()
    }


def _entry(model: type[Settings], value: Any, where: str) -> Settings:
    """Parse one entry by itself, so that the nearest key named in an error is one of its own."""
    if isinstance(value, model):
        return value
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: {shown(value)}: write settings as key: value")
    return parse(model, value, f"{where}.")


class Grid(Settings):
    """A grid of distillations. A cell is one (row, teacher, student, seed)."""

    name: str = Field(pattern=r"^[\w-][\w.-]*$", max_length=100)
    """Names the folder: runs/NAME unless -o says otherwise."""
    data: str
    """DATA that students are measured on, that teachers are trained on, and that the row `real` learns from."""
    teachers: Annotated[list[TeacherSettings], BeforeValidator(_teachers)] = Field(
        min_length=1, max_length=MOST_ENTRIES
    )
    students: Several = Field(min_length=1, max_length=MOST_ENTRIES)
    """SPECs of the students."""
    seeds: tuple[Annotated[int, Field(ge=0, le=2**63 - 1)], ...] = Field((0,), min_length=1, max_length=MOST_ENTRIES)
    """Seeds, or how many of them, from 0."""
    rows: Annotated[dict[str, RowSettings], BeforeValidator(_rows)] = Field(min_length=1, max_length=MOST_ENTRIES)
    settings: Nested = Field(default_factory=dict)
    """Settings of all cells: steps, batch_size, precision, steps_per_epoch, ..."""
    launcher_options: dict[str, Any] = Field(default_factory=dict)
    """For --launcher ray: options of its tasks (num_cpus, num_gpus, ...); for slurm: parameters of submitit."""

    @field_validator("seeds", mode="before")
    @classmethod
    def _counted(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if value > MOST_ENTRIES:
                raise ValueError(f"give at most {MOST_ENTRIES} seeds")
            return tuple(range(value))
        return value

    @field_validator("seeds", "students")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("names one twice")
        return values

    @model_validator(mode="after")
    def _countable(self) -> Grid:
        teachers = sum(1 if entry.train is None else max(entry.train.keep, 1) for entry in self.teachers)
        count = len(self.rows) * teachers * len(self.students) * len(self.seeds)
        if count > MOST_CELLS:
            raise ValueError(f"rows, teachers, students and seeds make {count:,} cells; at most {MOST_CELLS:,}")
        return self


def load_grid(path: Path, overrides: Sequence[str] = (), trust_code: bool = False) -> Grid:
    """Read a grid; `overrides` are `key=value` by dots and win over the file. Every row's settings are checked.

    With `trust_code`, or where `overrides` name them, its methods and generators may be code of the user's own.

    Raises:
        UsageError: one line with the file, the dotted key, and the nearest valid one.
    """
    try:
        grid = parse(Grid, merge(read_yaml(path), parse_overrides(overrides)), "")
        grid = _placed(grid, path.parent)
        used = set[str]()
        for label in grid.rows:
            for own in all_of(settings_of(grid, label, 0, trust_code or _typed(overrides))):
                used |= flatten(own).keys()
            pictures_of(grid, label)
        for key in flatten(grid.settings):
            if of_some(key) and key not in used:
                raise UsageError(f"settings.{key}: no row has a method that uses it; leave it out")
    except UsageError as error:
        raise UsageError(f"{path}: {str(error).removeprefix(f'-c {path}: ')}") from None
    return grid


def trusted(grid: Grid, path: Path, overrides: Sequence[str] = (), trust_code: bool = False) -> Trusted:
    """Return what of the names in files the processes of the grid of the file `path` may use.

    With `trust_code` that is all. Else it is what `overrides`, which the user typed, name.

    Raises:
        UsageError: the grid names code to run, or a place to visit, that nobody typed.
    """
    if trust_code:
        return True
    typed = _typed(overrides)
    for name in grid.students:
        require(name, typed, where=path, what="its student", again="-s students=NAME", kind=UntrustedSettingError)
    for teacher in grid.teachers:
        arch = teacher.arch if teacher.train is None else teacher.train.arch
        if arch is not None:
            require(arch, typed, where=path, what="its teacher", kind=UntrustedSettingError)
    return typed


def _typed(overrides: Sequence[str]) -> frozenset[str]:
    """Return all names that the user typed, those of methods also with the whole path of their file."""
    return frozenset(name for text in _texts(parse_overrides(overrides)) for name in (text, with_whole_path(text)))


def _texts(values: Any) -> Iterator[str]:
    """Yield all texts in nested settings."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, Mapping):
        yield from (text for value in values.values() for text in _texts(value))
    elif isinstance(values, Sequence):
        yield from (text for value in values for text in _texts(value))


def _placed(grid: Grid, folder: Path) -> Grid:
    """Return the grid with files that lie beside it named by their whole path."""

    def place(name: str) -> str:
        return str(folder / name) if (folder / name).is_file() else name

    teachers = [t if t.file is None else t.model_copy(update={"file": place(t.file)}) for t in grid.teachers]
    rows = {label: row.model_copy(update=_row_places(row, folder)) for label, row in grid.rows.items()}
    return grid.model_copy(update={"teachers": teachers, "rows": rows})


def _row_places(row: RowSettings, folder: Path) -> dict[str, Any]:
    recipes = tuple(str(folder / name) if (folder / name).is_file() else name for name in row.recipe)
    pictures = row.proxy_images
    return {
        "recipe": recipes,
        "proxy_images": None if pictures is None else str((folder / Path(pictures).expanduser()).absolute()),
    }


def pictures_of(grid: Grid, label: str) -> str | None:
    """Return a hash of names and sizes of the pictures that a row shows, None where it shows none.

    Raises:
        UsageError: there are none in the folder; the message names the row.
    """
    folder = all_of(settings_of(grid, label, 0))[0]["source"]["proxy_images"]
    try:
        return None if folder is None else listed(folder).sha256()
    except UsageError as error:
        raise UsageError(f"rows.{label}: {str(error).removeprefix('--').replace('-', '_', 1)}") from None


def settings_of(grid: Grid, label: str, seed: int, trust: Trusted = True) -> dict[str, Any]:
    """Return the resolved settings of a row's cells, as `config.yaml` would hold them; `auto` may be among them.

    Where it is the method, they are those of each method that may come of it: see `open_settings`.

    `trust` says which methods and generators may be code of the user's own; `load_grid` has asked.

    Raises:
        UsageError: an unknown method, recipe or setting; the message names the row.
    """
    row = grid.rows[label]
    asked = merge(grid.settings, row.settings)
    several = row.method == AUTO  # settings of the row are for every method that it may come to

    def resolved(method: str) -> dict[str, Any]:
        request = Request(
            method=method,
            recipes=row.recipe,
            shared=asked if several else grid.settings,
            settings={} if several else row.settings,
            proxy_images=row.proxy_images,
            seed=seed,
            trust=trust,
            where="the grid",
        )
        found = resolve(request)
        _ = found.pictures_share  # refused here rather than by each cell
        return found.model_dump(mode="json")

    try:
        if several:
            return open_settings(asked, resolved)
        if row.method != REAL:
            if row.method not in METHODS and not row.method.startswith(OWN):
                known = ", ".join((*METHODS, AUTO, REAL))
                raise UsageError(f"method={row.method!r}: no such method; there are {known}")
            return resolved(row.method)
        if row.proxy_images is not None:
            raise UsageError(f"proxy_images: the row {REAL} learns from the training images; leave it out")
        if row.recipe:
            raise UsageError(f"recipe={row.recipe[0]!r}: the row {REAL} has no recipes; give settings")
        own = parse(RealSettings, asked.pop("method", {}), "settings.method.")
        # its images are real ones: a run folder shows and keeps none of them
        shared, settings = ({**values, "method": {}} for values in (grid.settings, row.settings))
        shared = merge({"report": {"images": False}}, shared)
        request = Request(own=own, shared=shared, settings=settings, seed=seed, trust=trust, where="the grid")
        return resolve(request).model_dump(mode="json")
    except UsageError as error:
        raise UsageError(f"rows.{label}: {str(error).removeprefix('-s ').removeprefix('-c ')}") from None
