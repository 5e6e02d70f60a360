"""Settings as text: the YAML that is read and written."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lenient.core.config import dump_yaml, load_yaml, parse_overrides, read_yaml
from lenient.core.errors import UsageError
from lenient.core.text import LINE, visible


def load(text: str) -> object:
    return load_yaml(text, "-c r.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# nothing", None),
        ("[~, null, true, False, yes, on]", [None, None, True, False, "yes", "on"]),
        ("[1, -2, +3, 010, 0x1F, 0o17]", [1, -2, 3, 10, 31, 15]),
        ("[0.5, 1e-3, .5, 1., -1E+2, 3_000]", [0.5, 1e-3, 0.5, 1.0, -100.0, "3_000"]),
        ("[2020-01-01, 2001-01-01 25:00, 1:30, =, cuda:0]", ["2020-01-01", "2001-01-01 25:00", "1:30", "=", "cuda:0"]),
        ("['1', \"2\\n\", '', \"null\"]", ["1", "2\n", "", "null"]),
        ("a: {b: [1, {c: 2}]}\nd:\n- e\n- f: |\n    g\n", {"a": {"b": [1, {"c": 2}]}, "d": ["e", {"f": "g\n"}]}),
        ("{1: a, ~: b, true: c, '<<': e}", {"1": "a", "~": "b", "true": "c", "<<": "e"}),
        ("--- 1\n...\n", 1),
        ("[]", []),
        ("{}", {}),
    ],
)  # fmt: skip
def test_the_core_schema_is_read(text, value):
    found = load(text)
    assert found == value
    assert repr(found) == repr(value), "types, too"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x 1", "anchors"),
        ("&a [*a]", "anchors"),
        ("&a {b: *a}", "anchors"),
        ("a: *x", "aliases"),
        ("{<<: {a: 1}}", "merge keys"),
        ("!!python/object/apply:os.system [touch ran]", "tags"),
        ("!!int 1", "tags"),
        ("! a", "tags"),
        ("!!binary zzz", "tags"),
        ("{? [1] : 2}", "keys are text"),
        ("{'': 2}", "a key is empty"),
        ("{a: 1, a: 2}", "'a' is there twice"),
        ("{a: 1, 'a': 2}", "'a' is there twice"),
        ("a: 1\nb:\n  c: 1\n  c: 2", r"line 4: the key 'c'"),
        ("--- 1\n--- 2", "second document"),
        (".inf", "finite"),
        ("-.INF", "finite"),
        (".nan", "finite"),
        ("1e400", "finite"),
        ("9" * 5000, "too many digits"),
        ("0x" + "f" * 5000, "too many digits"),
        ("[" * 5000, "levels deep"),
        ("[" * 21 + "]" * 21, "levels deep"),
        ("- " * 5000, "levels deep"),
        ("{a: " * 5000, "levels deep"),
        ("[1", "not valid YAML at line"),
        ("a: b: c", "not valid YAML at line 1"),
        ("|", None),
        ("%YAML 9.9", "not valid YAML"),
        ('"\\UFFFFFFFF"', "not valid YAML"),
        ("\ud800", "not valid YAML"),
        ("a\x00b", "not valid YAML"),
        ("\x1b[31m", "not valid YAML"),
        ("x: y\n" * 300_000, "at most"),
    ],
)  # fmt: skip
def test_what_no_setting_needs_is_refused_in_one_line(text, words):
    if words is None:
        assert load(text) == ""
        return
    with pytest.raises(UsageError, match=words) as caught:
        load(text)
    said = str(caught.value)
    assert said.startswith("-c r.yaml: ")
    assert said == visible(said, LINE)


def test_a_laugh_takes_no_time():
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    with pytest.raises(UsageError, match="anchors"):
        load("\n".join(lines))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(["1e3", "0o17", "010", "1_0", "yes", "~", "<<", "=", "1:30", "2020-01-01", ".5", "+1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=6), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def check_round_trip(values):
    text = dump_yaml(values)
    assert load(text) == values
    assert repr(load(text)) == repr(values), "types, too"
    assert "&id" not in text


@given(st.dictionaries(st.text(min_size=1, max_size=6), PLAIN, max_size=4))
@hypothesis_settings(max_examples=300, deadline=None)
def test_what_is_written_is_read_back(values):
    check_round_trip(values)


def test_what_is_written_needs_no_anchor_and_no_surrogate():
    row = [1, 2]
    assert load(dump_yaml({"a": row, "b": row, "c": "\udcff"})) == {"a": row, "b": row, "c": r"\udcff"}
    assert yaml.safe_load(dump_yaml({"a": "1e3", "b": 1e-5})) == {"a": "1e3", "b": 1e-5}


YAML_LIKE = st.lists(
    st.sampled_from([*"[]{}:,-?&*!|>'\"%@`#~=<.0123456789aefxn\\ \n\t", "---", "...", "<<", "\ufeff", "\x00", "\ud800"])
    | st.text(max_size=3),
    max_size=40,
).map("".join)  # fmt: skip


def check_any_text(text):
    try:
        value = load(text)
    except UsageError as error:
        said = str(error)
        assert said.startswith("-c r.yaml: ")
        assert said == visible(said, LINE)
    else:
        check_plain(value)


def check_plain(value):
    if isinstance(value, dict):
        assert all(type(key) is str and key for key in value)
        for inner in value.values():
            check_plain(inner)
    elif isinstance(value, list):
        for inner in value:
            check_plain(inner)
    else:
        assert value is None or type(value) in (bool, int, float, str)
        assert not isinstance(value, float) or math.isfinite(value)


@given(YAML_LIKE)
@hypothesis_settings(max_examples=300, deadline=None)
def test_any_text_is_plain_values_or_one_line(text):
    check_any_text(text)


@pytest.mark.slow
@given(YAML_LIKE)
@hypothesis_settings(max_examples=20_000, deadline=None)
def test_20_000_texts_are_plain_values_or_one_line(text):
    check_any_text(text)


@pytest.mark.slow
@given(st.dictionaries(st.text(min_size=1, max_size=6), PLAIN, max_size=4))
@hypothesis_settings(max_examples=5000, deadline=None)
def test_5000_written_values_are_read_back(values):
    check_round_trip(values)


def test_both_parsers_of_pyyaml_do(monkeypatch):
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert load("{a: [1e-3, 'x'], b: }") == {"a": [1e-3, "x"], "b": None}
    for text in ("[" * 5000, "&a [*a]", '"\\UFFFFFFFF"', "\ud800", "[1"):
        check_any_text(text)


def test_files_that_are_none(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"a: \xff")
    for name, words in [("pipe", "pipe"), ("bytes", "UTF-8"), ("", "folder"), ("none", "No such file")]:
        with pytest.raises(UsageError, match=words):
            read_yaml(tmp_path / name)


@pytest.mark.parametrize(
    "pair", ["=1", "steps", "steps=&a [*a]", "steps=[1", "steps=" + "[" * 3000, "steps=" + "9" * 5000]
)
def test_overrides_that_are_none(pair):
    with pytest.raises(UsageError, match=r"^-s ") as caught:
        parse_overrides([pair])
    assert len(str(caught.value)) <= LINE
