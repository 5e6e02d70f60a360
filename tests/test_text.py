"""Text fit to print."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenient.cli import main
from lenient.core.errors import UsageError
from lenient.core.text import cell, nearest, shown, visible
from lenient.models.names import Spec, parse_spec

ANY = st.text(st.characters(exclude_categories=()), max_size=400)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("Größe 日本 🐈", "Größe 日本 🐈"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31mred\x9b\x07\x00\x7f", r"\x1b[31mred\x9b\x07\x00\x7f"),
        ("\u202eabc\u2066\u200b\ufeff", r"\u202eabc\u2066\u200b\ufeff"),
        ("a\u2028b\xa0c\u202f", "a\\u2028b\xa0c\u202f"),
        ("\ud800 \udcff", r"\ud800 \udcff"),
        ("", ""),
    ],
)
def test_what_cannot_be_seen_is_written_out(text, seen):
    assert visible(text) == seen
    assert visible(seen) == seen


@given(ANY, st.integers(10, 320))
def test_a_line_is_one_printable_line_of_its_length(text, limit):
    seen = visible(text, limit)
    assert seen.translate({0xA0: " ", 0x202F: " "}).isprintable()
    assert len(seen) <= limit
    assert len(seen.encode()) >= len(seen)  # no surrogate


def test_what_is_cut_keeps_its_beginning_and_its_end():
    seen = visible("-c " + "x" * 10_000_000 + ": no such file", 100)
    assert len(seen) == 100
    assert "..." in seen.removeprefix("-c xxx").removesuffix("x: no such file")
    assert len(visible("\x1b" * 250, 300)) == 300


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (0.5, "0.5"),
        ("a'b\n", '"a\'b\\n"'),
        ([1, "x", None], "[1, 'x', None]"),
        ({"a": {"b": 1}}, "{'a': {'b': 1}}"),
        ("日本", "'日本'"),
    ],
)
def test_values_are_quoted_as_python_writes_them(value, seen):
    assert shown(value) == seen


def test_values_without_end_are_quoted_shortly():
    assert shown(-(10**5000)) == "-2**16609..."
    endless: list[object] = []
    endless.append(endless)
    deep: object = 1
    for _ in range(5000):
        deep = {"a": deep}
    for value in (endless, deep, "x" * 10**7, list(range(10**6)), {str(number): number for number in range(10**4)}):
        assert len(shown(value)) <= 60


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "-1-1", "@SUM(A1)", " =1", "\t=1", "＝1+1"])
def test_no_cell_of_csv_is_computed(text):
    file = io.StringIO()
    csv.writer(file).writerow([cell(text, "csv")])
    read = next(csv.reader(io.StringIO(file.getvalue())))[0]
    assert not read.strip().startswith(tuple("=+-@＝"))
    assert len(read) >= len(text)


@pytest.mark.parametrize("text", ["-1", "+0.5", "cat", "a=b", "日本", "1e-3"])
def test_plain_cells_of_csv_stay(text):
    assert cell(text, "csv") == text


@pytest.mark.parametrize(
    ("name", "cutoff", "found"),
    [("TUA", 0.0, "tau"), ("tau", 1.0, "tau"), ("zzz", 0.0, "tau"), ("zzz", 0.5, ""), ("slot", 0.5, "slots")],
)
def test_the_nearest_name_is_as_near_as_asked(name, cutoff, found):
    assert nearest(name, ["slots", "tau", "share"], cutoff) == found
    assert nearest(name, [], cutoff) == ""


def test_cells_of_markdown_show_markup_as_text():
    seen = cell("a|b <script>`x` *b* [l](u) \\| \n", "markdown")
    assert seen == r"a\|b &lt;script>\`x\` \*b\* \[l](u) \\\| \\n"
    assert cell("lenient:resnet8-half", "markdown") == "lenient:resnet8-half"


def test_what_is_there_is_a_path_colons_or_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no source 'model-abc'"):
        parse_spec("model-abc:v0/t.pt")
    (tmp_path / "model-abc:v0").mkdir()
    (tmp_path / "model-abc:v0" / "t.pt").touch()
    assert parse_spec("model-abc:v0/t.pt") == Spec("path", "model-abc:v0/t.pt")
    (tmp_path / "timm:x").touch()
    assert parse_spec("timm:x") == Spec("timm", "x"), "a source is one, whatever lies there"


@pytest.mark.parametrize("words", [["distill", "x", "--steps", "9" * 5000], ["distill", "x" * 20_000], ["\x1b[31m"],
                                   ["distill", "x", "--\x1b[2J"], ["sample", "x", "-o", "y", "-n", "1" + "0" * 30],
                                   ["inspect", "x:" + "\u202e" * 500]])  # fmt: skip
def test_every_refusal_of_a_command_is_one_line(words, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["lenient", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (2, 3, 5)
    said = capsys.readouterr().err
    assert said == visible(said.rstrip("\n")) + "\n"
    assert said.startswith("lenient: ")
