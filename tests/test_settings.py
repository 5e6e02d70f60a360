"""Every setting: bounded, refused in one line, and the same after a round trip."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lenient.bench.grid import Grid, RowSettings, TeacherSettings, TrainSettings
from lenient.core.config import dump_yaml, flatten, parse
from lenient.core.errors import UsageError
from lenient.core.text import LINE, visible
from lenient.defenses.abd import ABDSettings
from lenient.methods import METHODS, method_class
from lenient.methods.baselines import RealSettings
from lenient.runs.request import Request, parse_budget, resolve
from lenient.supervised import TeacherRecipe
from lenient.training.settings import DistillSettings

MODELS = [
    DistillSettings,
    RealSettings,
    TeacherRecipe,
    Grid,
    TrainSettings,
    TeacherSettings,
    RowSettings,
    *(method_class(name).settings_type for name in METHODS),
    ABDSettings,
]


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")
        yield prefix + name, field


def unbounded(kind: Any, metadata: list[Any]) -> Iterator[type]:
    """Yield the numbers of an annotation that have no lower or no upper bound."""
    origin = get_origin(kind)
    if origin is Annotated:
        inner, *more = get_args(kind)
        found: list[Any] = []
        for item in more:
            found += item.metadata if isinstance(item, FieldInfo) else [item]
        yield from unbounded(inner, found)
    elif origin in (Union, types.UnionType):
        for part in get_args(kind):
            yield from unbounded(part, metadata)
    elif origin is not None and origin is not Literal:
        for part in get_args(kind):
            yield from unbounded(part, [])
    elif kind in (int, float):
        low, high = ([m for m in metadata if isinstance(m, kinds)] for kinds in ((Ge, Gt), (Le, Lt)))
        if not (low and high):
            yield kind


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_number_has_both_bounds(model):
    found = list(fields(model))
    assert found
    assert [name for name, field in found if list(unbounded(field.annotation, field.metadata))] == []


@pytest.mark.parametrize("value", ["1e39", "'inf'", "'nan'", "-1e30", "1" + "0" * 30])
@pytest.mark.parametrize("key", ["steps", "batch_size", "seed", "health.kept", "method.student_lr", "method.beta",
                                 "generator.width", "method.replay.slots", "checkpoint_every"])  # fmt: skip
def test_no_number_is_without_bound(key, value):
    refused(Request(overrides=[f"{key}={value}"]), key)


def refused(request: Request, *words: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(request)
    said = str(caught.value)
    assert said == visible(said, LINE - len("lenient: "))
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    "method", [None, [1], {"name": [1]}, {"name": 1}, 5, True, [], "", "\x1b", "x" * 20_000, {"name": {}}]
)
def test_what_is_no_method_is_one_line(method):
    refused(Request(settings={"method": method}), "method")


@pytest.mark.parametrize("key", ["a." * 3000 + "a", "method..tau", ".", "x" * 20_000, "\x1b[31m", "method.", "steps.a"])
def test_what_is_no_key_is_one_line(key):
    refused(Request(overrides=[f"{key}=1"]))


@pytest.mark.parametrize("value", ["true", "[1]", "{a: 1}", "x" * 20_000, "2020-01-01", "null", "'\\0'", "\u202eabc"])
def test_what_is_no_number_is_one_line_with_its_key(value):
    refused(Request(overrides=[f"steps={value}"]), "steps")


def test_text_that_no_file_can_be_named_is_refused():
    refused(Request(settings={"device": "a\0b"}), "device")
    refused(Request(settings={"device": "\ud800"}), "device")


def test_an_error_of_the_settings_as_a_whole_says_where():
    with pytest.raises(UsageError, match=r"^-s: nesterov needs"):
        parse(TeacherRecipe, {"nesterov": True, "momentum": 0})
    with pytest.raises(UsageError, match=r"^-s bound=-1\.0: "):
        parse(method_class("mad").settings_type, {"name": "mad", "bound": -1.0})


@pytest.mark.parametrize("budget", ["9" * 400 + "h", "1" + "0" * 30 + "h", "0s", "8761h", "x", "١h", ""])
def test_what_is_no_budget_is_one_line(budget):
    with pytest.raises(UsageError, match="--budget") as caught:
        parse_budget(budget)
    assert len(str(caught.value)) < LINE


@pytest.mark.parametrize("epochs", [0, -1, 10**30, 10**9])
def test_what_is_no_number_of_epochs_is_one_line(epochs):
    refused(Request(epochs=epochs), "--epochs")


def written(value: Any) -> str:
    """What `--print-config` has of a value, on one line."""
    return json.dumps(value) if isinstance(value, list) else dump_yaml({"v": value}).removeprefix("v: ").strip()


@pytest.mark.parametrize("name", METHODS)
def test_every_printed_setting_says_the_same_on_the_command_line(name):
    before = resolve(Request(method=name))
    printed = flatten(before.model_dump(mode="json"))
    pairs = [f"{key}={written(value)}" for key, value in printed.items()]
    assert resolve(Request(overrides=pairs)) == before
    bare = [f"{key}={'null' if value is None else value}" for key, value in printed.items()]
    assert resolve(Request(overrides=bare)) == before


LEAVES = {name: sorted(flatten(resolve(Request(method=name)).model_dump(mode="json"))) for name in METHODS}
HOSTILE = st.one_of(
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.text(st.characters(exclude_categories=()), max_size=30),
    st.booleans(),
    st.none(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from([1e39, -1e39, 1e-320, "x" * 5000, "auto", "32", [[[]]]]),
)


def check_setting(data):
    name = data.draw(st.sampled_from(list(METHODS)))
    key = data.draw(st.sampled_from(LEAVES[name]))
    value = data.draw(HOSTILE)
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    try:
        found = resolve(Request(method=name, settings=nested))
    except UsageError as error:
        said = str(error)
        assert said == visible(said, LINE - len("lenient: "))
        return
    printed = written(flatten(found.model_dump(mode="json"))[key])
    assert resolve(Request(overrides=[f"method.name={name}", f"{key}={printed}"])) == found


@given(st.data())
@hypothesis_settings(max_examples=300, deadline=None)
def test_any_value_of_any_setting_is_taken_or_one_line(data):
    check_setting(data)


@pytest.mark.slow
@given(st.data())
@hypothesis_settings(max_examples=5000, deadline=None)
def test_5000_values_of_settings_are_taken_or_one_line(data):
    check_setting(data)


GRID = {
    "name": "g",
    "data": "digits",
    "teachers": [{"file": "t"}],
    "students": "lenient:resnet8",
    "rows": {"a": "noise"},
}


@pytest.mark.parametrize(
    "change",
    [
        *({"name": name} for name in ("..", ".", "a/b", "x" * 200, "a\n")),
        *({"seeds": seeds} for seeds in (10**9, -1, 0, [10**30], [-1], True, list(range(2000)))),
        *(
            {"teachers": teachers}
            for teachers in ([{"train": {"arch": "a", "keep": 10**9}}], [{"file": "a\0b"}], [[1]])
        ),
        *({key: [str(n) for n in range(2000)]} for key in ("students", "teachers")),
        *({"rows": rows} for rows in ({str(n): "noise" for n in range(2000)}, [1], {"a": [1]})),
        {"students": ["\ud800"]},
    ],
    ids=lambda change: f"{change}"[:40],
)
def test_what_is_no_grid_is_one_line(change):
    assert parse(Grid, GRID, "").name == "g"
    with pytest.raises(UsageError) as caught:
        parse(Grid, GRID | change, "")
    said = str(caught.value)
    assert said == visible(said, LINE - len("lenient: "))
    assert next(iter(change)) in said


@pytest.mark.parametrize(
    ("method", "least", "most", "values"),
    [
        ("adadfq", "lower", "upper", (0.6, 0.5)),
        ("cudfkd", "climb_begin", "climb_end", (0.8, 0.2)),
        ("ta-dfkd", "selection.min_rounds", "selection.max_rounds", (3, 2)),
    ],
)
def test_two_settings_that_come_in_the_wrong_order_are_refused(method, least, most, values):
    low, high = values
    with pytest.raises(UsageError) as caught:
        resolve(Request(method=method, settings={f"method.{least}": low, f"method.{most}": high}))
    assert str(caught.value) == f"-s method.{most}={high}: is below {least.rpartition('.')[2]}, which is {low}"
    same = {f"method.{least}": low, f"method.{most}": low}
    assert flatten(resolve(Request(method=method, settings=same)).model_dump()).items() >= same.items()


def test_a_bound_that_is_none_is_above_all():
    settings = {"method.selection.min_rounds": 9, "method.selection.max_rounds": None}
    assert resolve(Request(method="ta-dfkd", settings=settings)).method.selection.max_rounds is None
