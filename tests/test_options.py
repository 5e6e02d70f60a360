"""A command and its function take the same: names, defaults, types and texts, for every pair of them."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

import lenient
from lenient.cli import app, options
from lenient.cli.options import REQUIRED, Option, takes
from lenient.core.errors import UsageError
from lenient.models.facts import TeacherFacts

PAIRS: dict[str, tuple[Mapping[str, Option], Callable[..., Any]]] = {
    "distill": (options.DISTILL, lenient.distill),
    "evaluate": (options.EVALUATE, lenient.evaluate),
    "export": (options.EXPORT, lenient.export),
    "inspect": (options.INSPECT, lenient.inspect),
    "report": (options.REPORT, lenient.report),
    "sample": (options.SAMPLE, lenient.sample),
    "train-teacher": (options.TRAIN_TEACHER, lenient.train_teacher),
}
WITHOUT = {"demo": "shows what the others do", "methods": "prints `list_methods`", "bench": "grids are files"}
"""Commands that have no function of such arguments, and why."""
OBJECTS = {
    "distill": {"generator", "observers"},
    "sample": {"on_progress"},
    "train-teacher": {"on_epoch", "on_progress"},
}
"""What only functions take: it cannot be typed on a command line."""
COMMANDS: Any = typer.main.get_command(app)


def arguments(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function; those of `**facts` one by one, of which nothing is said by default."""
    found = dict(inspect.signature(function).parameters)
    if found.pop("facts", None) is not None:
        kinds = typing.get_type_hints(TeacherFacts)
        kind = inspect.Parameter.KEYWORD_ONLY
        found |= {name: inspect.Parameter(name, kind, default=None, annotation=kinds[name]) for name in kinds}
    return found


def described(function: Callable[..., Any]) -> dict[str, str]:
    """What its docstring says of each argument, on one line."""
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n((?: {4}.*\n|\n)+)", text + "\n", re.MULTILINE)
    assert section, function
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section[1], re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in entries}


def hints(function: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(function, localns={"ImageSet": object, "Epoch": object, "Progress": object,
                                                    "TrainingResult": object})  # fmt: skip


def kinds_of(annotation: Any) -> set[Any]:
    """The types of which a value may be one."""
    whole = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    return set(typing.get_args(annotation)) if whole else {annotation}


EVERY = [(command, name) for command, (own, _) in PAIRS.items() for name, option in own.items() if not option.alone]


def of(command: str, name: str) -> tuple[Option, inspect.Parameter]:
    own, function = PAIRS[command]
    return own[name], arguments(function)[own[name].argument or name]


def test_every_command_has_its_function_or_a_reason() -> None:
    assert {*PAIRS, *WITHOUT} == set(COMMANDS.commands)
    functions = {name for name in lenient.__all__ if inspect.isfunction(getattr(lenient, name))}
    assert functions - {name.replace("-", "_") for name in PAIRS} == {
        "compare", "list_methods", "load", "register_method", "synthesize",
    }  # fmt: skip


@pytest.mark.parametrize("command", PAIRS)
def test_a_command_and_its_function_take_the_same(command: str) -> None:
    own, function = PAIRS[command]
    offered = {option.argument or name for name, option in own.items() if not option.alone}
    assert offered | OBJECTS.get(command, set()) == arguments(function).keys()
    assert not offered & OBJECTS.get(command, set())


@pytest.mark.parametrize(("command", "name"), EVERY)
def test_what_is_not_said_is_the_same(command: str, name: str) -> None:
    option, parameter = of(command, name)
    default = REQUIRED if parameter.default is parameter.empty else parameter.default
    assert (type(default), default) == (type(option.default), option.default)


@pytest.mark.parametrize(("command", "name"), EVERY)
def test_a_function_takes_what_the_command_reads(command: str, name: str) -> None:
    option, parameter = of(command, name)
    read = kinds_of(hints(_callback(command))[name])
    if option.parsed:
        assert read <= {str, type(None), list[str]}, "from text"
        return
    function = PAIRS[command][1]
    taken = kinds_of(hints(function).get(parameter.name, parameter.annotation))
    more = {list[str]: Sequence[str]}
    assert {more.get(kind, kind) for kind in read} <= taken


@pytest.mark.parametrize(("command", "name"), EVERY)
def test_an_argument_is_described_in_the_words_of_the_flag(command: str, name: str) -> None:
    option, parameter = of(command, name)
    texts = described(PAIRS[command][1])
    if parameter.name in TeacherFacts.__annotations__ and parameter.name not in texts:
        assert "facts" in texts
        return
    words = texts[parameter.name]
    assert words.lower().startswith(option.help.lower()), f"{words!r} does not begin with {option.help!r}"


@pytest.mark.parametrize("command", PAIRS)
def test_all_arguments_are_described_and_no_others(command: str) -> None:
    function = PAIRS[command][1]
    assert described(function).keys() == inspect.signature(function).parameters.keys()
    if "facts" in described(function) and command == "distill":
        assert all(f"`{name}`" in described(function)["facts"] for name in TeacherFacts.__annotations__)


@pytest.mark.parametrize("command", PAIRS)
def test_a_command_has_the_flags_of_its_options(command: str) -> None:
    own, _ = PAIRS[command]
    built = {parameter.name: parameter for parameter in COMMANDS.commands[command].params}
    built.pop("help", None)
    assert list(built) == list(own)
    for name, option in own.items():
        parameter = built[name]
        assert parameter.required == (option.default is REQUIRED)
        if option.positional:
            continue
        assert set(parameter.opts) == set(option.flags(name))
        assert parameter.help == f"{option.help} {option.more}".strip()
        if option.default is not REQUIRED:
            default = tuple(parameter.default or ()) if parameter.multiple else parameter.default
            assert default == ((option.default or ()) if parameter.multiple else option.default)


def test_a_command_of_other_parameters_is_none() -> None:
    def command(runs: list[Path], output: Path | None, progress: str, other: int) -> None:
        """Do nothing."""

    with pytest.raises(TypeError, match="command: other stands in one of parameters and options alone"):
        takes(options.REPORT)(command)


def _callback(command: str) -> Callable[..., Any]:
    found: Callable[..., Any] = inspect.unwrap(COMMANDS.commands[command].callback)
    return found


def test_a_teacher_is_trained_from_python(tmp_path: Path) -> None:
    """The function of `train-teacher`: the file, the history, and kept checkpoints beside it."""
    made = lenient.train_teacher(
        "digits", "lenient:lenet5", tmp_path / "t.safetensors", epochs=2, keep=2, keep_above=0.0, input_size=(1, 8, 8),
        settings={"lr": 0.02, "batch_size": 256}, device="cpu",
    )  # fmt: skip
    assert [epoch.epoch for epoch in made.history] == [1, 2]
    assert [kept.path for kept in made.kept] == [tmp_path / f"t-e{number:03d}.safetensors" for number in (1, 2)]
    assert {path.name for path in tmp_path.iterdir()} == {"t.safetensors", *(kept.path.name for kept in made.kept)}
    assert lenient.inspect(tmp_path / "t.safetensors").card.num_classes == 10
    with pytest.raises(UsageError, match="exists; choose another name"):
        lenient.train_teacher("digits", "lenient:lenet5", tmp_path / "t.safetensors")
    with pytest.raises(UsageError, match=r"^--keep-above 0.9: give one accuracy"):
        lenient.train_teacher("digits", "lenient:lenet5", tmp_path / "u.safetensors", keep_above=0.9)
