"""Text fit to print."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenient.text import cell, shown, visible

ANY = st.text(st.characters(exclude_categories=()), max_size=400)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("Größe 日本 🐈", "Größe 日本 🐈"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31mred\x9b\x07\x00\x7f", r"\x1b[31mred\x9b\x07\x00\x7f"),
        ("\u202eabc\u2066\u200b\ufeff", r"\u202eabc\u2066\u200b\ufeff"),
        ("a\u2028b\xa0c", r"a\u2028b\xa0c"),
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
    assert seen.isprintable()
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


def test_cells_of_markdown_show_markup_as_text():
    seen = cell("a|b <script>`x` *b* [l](u) &amp; \\| \n", "markdown")
    assert seen == ("a&#124;b &#60;script&#62;&#96;x&#96; &#42;b&#42; &#91;l&#93;(u) &#38;amp; &#92;&#124; &#92;n")
    assert cell("lenient:resnet8-half", "markdown") == "lenient:resnet8-half"


def test_cells_of_latex_show_commands_as_text():
    assert cell(r"\input{x} 5% $a_1$ #&~^", "latex") == (
        r"\textbackslash{}input\{x\} 5\% \$a\_1\$ \#\&\textasciitilde{}\textasciicircum{}"
    )
