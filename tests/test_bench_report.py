"""The report of a grid: its numbers, what it says of cells without a result, and that its own file makes it again."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import os
import re
import shutil
import statistics
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from bench_fixtures import TA, K, make_grid, record
from lenient.bench.report import Choice, Options, read_grid, write_bench_report
from lenient.bench.report.figures import (
    _picture_heading,
    clock_curves,
    gap_boxes,
    image_grids,
    style,
    training_curves,
    two_teachers,
)
from lenient.bench.report.measures import frechet, outside, project
from lenient.bench.report.records import Failure, Grid, panels
from lenient.bench.report.results import ablations, catastrophic, context, in_percent
from lenient.bench.report.sweeps import picture_rows, sweeps
from lenient.bench.report.tables.ablation import ablation
from lenient.bench.report.tables.accuracy import table_3
from lenient.bench.report.tables.cells import status
from lenient.bench.report.tables.clock import by_the_clock
from lenient.bench.report.tables.cost import cost
from lenient.bench.report.tables.each_teacher import each_teacher
from lenient.bench.report.tables.features import fid_table
from lenient.bench.report.tables.gaps import gaps
from lenient.bench.report.tables.learning import learning
from lenient.bench.report.tables.noise import beyond
from lenient.bench.report.tables.notes import with_origins
from lenient.bench.report.tables.runs import runs
from lenient.bench.report.tables.steps import after_equal_steps
from lenient.bench.report.tables.table import Column, Row, Table, Value, marked, marks
from lenient.bench.report.tables.teachers import teachers
from lenient.bench.report.tables.verdicts import verdicts
from lenient.bench.report.tables.writers import comma_separated, latex, markdown
from lenient.cli import main
from lenient.core.errors import UsageError
from lenient.core.manifest import FORMAT, MARKER

PAPER = {  # Table 3 of TA-DFKD on CIFAR-10, first teacher: acc_last of made-up seeds, acc_max as printed
    "dafl": ([0.80, 0.86], 0.9207),
    "dfad": ([0.932, 0.9326], 0.9360),
    "ta-dfkd": ([0.9423, 0.9425], 0.9443),
}


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    lines = list(csv.DictReader(path.open(newline="")))
    return {line[next(iter(line))]: line for line in lines}


def grid_of(folder: Path, cells: list[dict[str, Any]]) -> Grid:
    """A grid of exactly these cells."""
    path = folder / "cells.json"
    path.write_text(json.dumps({"name": "few", "data": "digits", "wanted": [], "cells": cells, "failed": []}))
    return read_grid(path)


def one(row: str, seed: int, teacher: str = "T1", **changes: Any) -> dict[str, Any]:
    return record(row, teacher, seed, **changes)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid with its report."""
    folder = make_grid(tmp_path_factory.mktemp("grid") / "grid")
    write_bench_report(folder)
    return folder


# numbers


def test_table_3_by_hand(tmp_path: Path) -> None:
    cells = [
        one(row, seed, acc_last_k=value, acc_max=peak - 0.001 * (1 - seed), last=value, teacher_accuracy=0.9546)
        for row, (values, peak) in PAPER.items()
        for seed, value in enumerate(values)
    ]
    table = table_3(grid_of(tmp_path, cells), "table-3")
    texts = {row.name: [value.text for value in row.values[:4]] for row in table.rows}
    assert texts["dafl"] == ["83.00 ± 4.2", "92.07", "83.00", "83.00, T1"]
    assert texts["ta-dfkd"] == ["94.24 ± 0.0", "94.43", "94.24", "94.24, T1"]
    assert [c.title for c in table.columns[:2]] == ["T1 (95.46 %) acc_last[4]", "T1 (95.46 %) acc_max†"]
    marks_of = {row.name: [value.mark for value in row.values[:2]] for row in table.rows}
    assert marks_of == {"dafl": ["", ""], "dfad": ["second", "second"], "ta-dfkd": ["best", "best"]}
    dafl = next(row for row in table.rows if row.name == "dafl").values[0].numbers
    assert dafl == pytest.approx((83.0, 100 * statistics.stdev([0.80, 0.86]), 2))


def test_methods_are_held_against_the_better_of_the_untaught_students(tmp_path: Path) -> None:
    found = {"noise images": [0.5, 0.6], "frozen generator": [0.7, 0.4], "dafl": [0.75, 0.5], "real images": [0.9, 0.9]}
    cells = [one(row, seed, acc_last_k=value) for row, values in found.items() for seed, value in enumerate(values)]
    cells.append(one("dafl", 2, acc_last_k=0.99))  # nothing to hold it against
    table = beyond(grid_of(tmp_path, cells), "t")
    assert table is not None
    texts = {row.name: [value.text for value in row.values] for row in table.rows}
    assert texts == {"dafl": ["−2.50 (2/3)", "−2.50 (2/3)", "1 of 2"], "real images": ["+25.00", "+25.00", "2 of 2"]}
    assert [row.apart for row in table.rows] == [False, True]
    without = [cell for cell in cells if cell["row"] in ("dafl", "real images")]
    assert beyond(grid_of(tmp_path, without), "t") is None


def test_a_student_of_the_batchs_statistics_is_measured_twice_and_counted_once(tmp_path: Path) -> None:
    second = {"last": 0.8, "acc_last_k": 0.9, "acc_max": 0.95, "mean": 0.7, "variance": 0.01}
    second["curve"] = [[40 * n, 0.8] for n in range(1, 21)]
    cells = [
        one("noise images", 0, acc_last_k=0.4, transductive=second, estimated_on=1024),
        one("real images", 0, acc_last_k=0.99),
        one("dafl", 0, acc_last_k=0.6),
        one("mb-dfkd", 0, acc_last_k=0.7),
    ]
    grid = grid_of(tmp_path, cells)
    assert grid.rows == ["dafl", "mb-dfkd", "noise images", "real images"]
    names = ["dafl", "mb-dfkd", "noise images", "noise images, transductive", "real images"]
    table = table_3(grid, "t")
    assert [row.name for row in table.rows] == names
    said = {row.name: [value.text for value in row.values[:2]] for row in table.rows}
    assert said["noise images"][0] == "40.00"
    assert said["noise images, transductive"] == ["90.00", "95.00"]
    assert [row.apart for row in table.rows] == [False, False, True, True, True]
    assert table.rows[1].values[0].mark == "best"
    assert sum("transductive" in note for note in table.notes) == 1
    meta = learning(grid, "t")
    assert meta is not None
    found = {row.name: row.values for row in meta.rows}
    assert [value.text for value in found["noise images, transductive"]] == ["70.00", "100.00", "95.00", "1 of 1"]
    clocked = grid_of(tmp_path, [{**cell, "curve_seconds": [float(len(c)) for c in cell["curve"]]} for cell in cells])
    for others in (gaps(grid, "t", to_teacher=True), by_the_clock(clocked, "t")):
        assert others is not None
        assert "noise images, transductive" in [row.name for row in others.rows]
    above = beyond(grid, "t")
    assert above is not None
    assert above.rows[0].values[0].text == "+20.00"
    assert [row.name for row in status(grid, "t").rows] == grid.rows
    assert verdicts(grid, "t").rows[0].values[0].text == "2 + 2"
    assert [row.values[0].text for row in runs(grid, "t").rows].count("noise images") == 1
    foreign = grid_of(tmp_path, [cells[0] | {"foreign": ["pictures"]}, *cells[1:]])
    marked_rows = [row.name for row in with_origins(foreign, table_3(foreign, "t")).rows if row.foreign]
    assert marked_rows == ["noise images", "noise images, transductive"]
    (tmp_path / "again.json").write_text(json.dumps(grid.to_dict()))
    assert read_grid(tmp_path / "again.json").measured == grid.measured == names


def test_verdicts_are_held_against_the_accuracies_behind_them(tmp_path: Path) -> None:
    cells = [
        one("noise images", 0, acc_last_k=0.6, last=0.6, agreement=0.6, verdict="failed"),
        one("dafl", 0, acc_last_k=0.5, last=0.1, agreement=0.1, verdict="ok"),
        one("dfad", 0, acc_last_k=0.8, last=0.8, agreement=0.85, verdict="ok"),
        one("mb-dfkd", 0, acc_last_k=0.8, last=0.8, agreement=0.8, verdict="ok"),
        one("real images", 0, acc_last_k=0.9, last=0.9, agreement=0.95, verdict="ok"),
    ]
    table = verdicts(grid_of(tmp_path, cells), "t")
    assert {row.name: [value.text for value in row.values] for row in table.rows} == {
        "ok": ["3 + 1", "10.00", "82.50", "95.00", "1", "1 of 3"],
        "warning": ["0 + 0", "-", "-", "-", "0", "0 of 0"],
        "failed": ["0 + 1", "60.00", "60.00", "60.00", "0", "0 of 0"],
    }


def test_what_was_expected_is_held_against_the_agreement(tmp_path: Path) -> None:
    expected = {"prediction": {"low": 0.7, "expected": 0.8, "high": 0.9}}
    cells = [
        one("dafl", 0, agreement=0.65, verdict="ok", **expected),
        one("dfad", 0, agreement=0.85, verdict="ok", **expected),
        one("real images", 0, agreement=0.95, verdict="ok"),
    ]
    grid = grid_of(tmp_path, cells)
    table = verdicts(grid, "t")
    assert table.columns[-1].name == "as expected"
    assert [row.values[-1].text for row in table.rows] == ["1 of 2", "0 of 0", "0 of 0"]
    every = runs(grid, "t")
    place = [column.name for column in every.columns].index("expected agreement (%)")
    assert [(row.values[0].text, row.values[place].text) for row in every.rows] == [
        ("dafl", "70 to 90"),
        ("dfad", "70 to 90"),
        ("real images", "-"),
    ]
    silent = grid_of(tmp_path, cells[2:])
    assert not any("xpected" in column.name for t in (verdicts, runs) for column in t(silent, "t").columns)


def test_more_teachers_than_methods_are_told_one_by_one(tmp_path: Path) -> None:
    expected = {"prediction": {"low": 0.7, "expected": 0.8, "high": 0.9}}
    cells = [
        one("dafl", 0, last=0.80, agreement=0.65, verdict="ok", cost={"seconds": 10.0}, **expected),
        one("dafl", 1, last=0.85, agreement=0.85, verdict="warning", cost={"seconds": 30.0}, **expected),
        one("dafl", 2, last=0.86, agreement=0.86, verdict="ok", cost={"seconds": 20.0}),
    ]
    cells += [one("dafl", seed, "T2", last=last) for seed, last in ((0, 0.80), (1, 0.85))]
    table = each_teacher(grid_of(tmp_path, cells), "t")
    assert table is not None
    first, second = ([value.text for value in row.values] for row in table.rows)
    teacher = f"{100 * cells[0]['teacher']['accuracy']:.2f}"
    behind = f"{100 * cells[0]['teacher']['accuracy'] - 85:.2f}"
    verdicts_and_seconds = ["2 ok, 1 warning", "70 to 90", "1 of 2", "20\N{NARROW NO-BREAK SPACE}s"]
    assert first == ["dafl", "dafl", teacher, "80.00", "85.00", "86.00", behind, *verdicts_and_seconds]
    assert second[3:6] == ["80.00", "82.50", "85.00"]
    assert each_teacher(grid_of(tmp_path, cells[:3]), "t") is None  # one row, one teacher


def test_gaps_are_the_papers(tmp_path: Path) -> None:
    """Tables A3 and A4 print 1.03 and 0.19 for TA-DFKD's first teacher."""
    cells = [
        one("ta-dfkd", s, acc_last_k=v, acc_max=0.9443, teacher_accuracy=0.9546) for s, v in enumerate((0.9424,) * 2)
    ]
    grid = grid_of(tmp_path, cells)
    assert gaps(grid, "a3", to_teacher=True).rows[0].values[0].text == "1.03"
    assert gaps(grid, "a4", to_teacher=False).rows[0].values[0].text == "0.19"
    above = grid_of(tmp_path, [one("ta-dfkd", 0, acc_max=0.9602, teacher_accuracy=0.9601)])
    assert gaps(above, "a3", to_teacher=True).rows[0].values[0].text == "−0.01"


def test_over_teachers_mean_and_worst(made_up: Path) -> None:
    grid = read_grid(made_up)
    means = [statistics.fmean(c.number("acc_last_k") for c in grid.of("dfad", teacher)) for teacher in grid.teachers]
    row = next(row for row in table_3(grid, "t").rows if row.name == "dfad")
    assert row.values[-4].text == in_percent(statistics.fmean(means))
    assert row.values[-3].text == f"{in_percent(min(means))}, T3"
    lacking = next(row for row in table_3(grid, "t").rows if row.name == "pre-dfkd")
    assert lacking.values[-4].text.endswith("(6/9)")
    assert lacking.values[-4].rank is lacking.values[-3].rank is None


@pytest.fixture
def partial(tmp_path: Path) -> Grid:
    """Three rows, two teachers, two seeds; `dafl` has but one run, with the teacher that is easy."""
    cells = {
        (row, teacher, seed): one(row, seed, teacher, acc_last_k=level, acc_max=level, mean=level)
        for row, levels in {"noise images": (0.1, 0.1), "dafl": (0.9, 0.0), "ta-dfkd": (0.8, 0.7)}.items()
        for teacher, level in zip(("T1", "T2"), levels, strict=True)
        for seed in range(2)
    }
    planned = [
        {key: cell[key] for key in ("id", "row", "student", "seed")} | {"teacher": t}
        for (_, t, _), cell in cells.items()
    ]
    there = [cell for place, cell in cells.items() if place[0] != "dafl" or place[1:] == ("T1", 0)]
    path = tmp_path / "cells.json"
    path.write_text(json.dumps({"name": "part", "data": "digits", "wanted": planned, "cells": there, "failed": []}))
    return read_grid(path)


def shown(table: Table | None, name: str) -> list[tuple[str, str]]:
    assert table is not None
    return [(value.text, value.mark) for value in next(row for row in table.rows if row.name == name).values]


def test_values_on_fewer_runs_say_so_and_are_no_equals_over_teachers(partial: Grid) -> None:
    dafl = shown(table_3(partial, "t"), "dafl")
    assert dafl[:2] == [("90.00 (1/2)", "best"), ("90.00 (1/2)", "best")]
    assert dafl[4:6] == [("90.00 (1/4)", ""), ("90.00, T1 (1/2)", "")]
    assert shown(beyond(partial, "t"), "dafl")[-2] == ("+80.00 (1/4)", "")
    assert shown(ablation(partial, "t", ("dafl", "ta-dfkd")), "dafl")[-2:] == [("90.00 (1/4)", "")] * 2


def without(grid: Grid, row: str, *, teacher: str = "") -> Grid:
    """The grid before a row, or its runs with one teacher, had finished."""
    kept = [cell for cell in grid.cells if cell.row != row or teacher not in ("", cell.teacher)]
    return replace(grid, cells=tuple(kept))


def test_margins_over_part_of_the_untaught_students_say_so(partial: Grid) -> None:
    grid = without(partial, "noise images", teacher="T2")
    table = beyond(grid, "t")
    assert table is not None
    assert [text for text, _ in shown(table, "ta-dfkd")[:2]] == ["+70.00", "unknown"]
    assert [row.name for row in table.rows] == ["dafl", "ta-dfkd"]
    assert "Of the 4 runs of such students 2 are there" in table.caption
    assert "such students 4" not in getattr(beyond(partial, "t"), "caption", "")
    assert shown(beyond(without(partial, "dafl"), "t"), "dafl")[0] == ("missing", "")
    assert beyond(without(partial, "noise images"), "t") is None


def test_what_a_row_that_failed_costs_reads_failed(partial: Grid) -> None:
    grid = without(partial, "dafl")
    failed = tuple(Failure(wanted, "no") for wanted in grid.wanted if wanted.row == "dafl")
    assert shown(cost(replace(grid, failed=failed), "t"), "dafl")[0] == ("failed", "")
    assert shown(cost(grid, "t"), "dafl")[0] == ("missing", "")


def test_figure_1_leaves_out_a_teacher_that_few_methods_have_got_to(partial: Grid) -> None:
    assert two_teachers(partial, ()) == ["T1"]
    assert two_teachers(without(partial, "dafl"), ()) == ["T1", "T2"]


def test_features_measured_of_fewer_runs_say_so(partial: Grid) -> None:
    runs = partial.of("ta-dfkd", "T1")
    measured_once = replace(partial, features={"cells": {runs[0].wanted.id: {"fid": 5.0}}})
    assert shown(fid_table(measured_once, "t"), "ta-dfkd")[0] == ("5.00 (1/2)", "")


def test_a_baseline_is_not_marked_among_the_replays(tmp_path: Path) -> None:
    cells = [one("mb-dfkd", 0, mean=0.6), one("pre-dfkd", 0, mean=0.7), one("meta-dfkd", 0, mean=0.9)]
    cells[2]["settings"] = cells[2]["settings"] | {"generator_lr": 0}
    table = learning(grid_of(tmp_path, cells), "t")
    assert [shown(table, row)[0][1] for row in ("meta-dfkd", "pre-dfkd", "mb-dfkd")] == ["", "best", "second"]


def test_replays_are_ranked_where_they_have_met_every_teacher(tmp_path: Path) -> None:
    cells = [one("mb-dfkd", 0, teacher, mean=0.6) for teacher in ("T1", "T2")]
    cells += [one("pre-dfkd", 0, teacher, mean=0.7) for teacher in ("T1", "T2")] + [one("meta-dfkd", 0, mean=0.9)]
    table = learning(grid_of(tmp_path, cells), "t")
    assert [shown(table, row)[0][1] for row in ("meta-dfkd", "pre-dfkd", "mb-dfkd")] == ["", "best", "second"]
    cells[-1] = one("meta-dfkd", 0, steps=1600, mean=0.9)
    assert shown(learning(grid_of(tmp_path, cells), "t"), "meta-dfkd")[0] == ("other budget", "")


def test_pictures_name_every_teacher_and_seed(partial: Grid) -> None:
    png = io.BytesIO()
    Image.new("L", (8, 8)).save(png, "png")
    entry = {"png": base64.b64encode(png.getvalue()).decode(), "classes": ["0"], "class_prior_weight": 0.0}
    entries = [entry | {"row": "a", "teacher": "T1", "seed": 0}, entry | {"row": "b", "teacher": "T2", "seed": 1}]
    figure = image_grids(partial, "t", entries)
    assert figure is not None
    assert "T1, seed 0; T2, seed 1." in figure.text


def test_chance_is_known_of_data_of_ones_own(tmp_path: Path) -> None:
    cells = [
        one("dafl", s, data="imagefolder:shapes", num_classes=4, last=v, acc_max=0.4) for s, v in ((0, 0.34), (1, 0.36))
    ]
    assert [cell.seed for cell in catastrophic(grid_of(tmp_path, cells), "dafl")] == [0]


def test_figure_1_has_two_teachers_where_there_are_two(tmp_path: Path) -> None:
    assert two_teachers(grid_of(tmp_path, [one("dafl", 0, teacher) for teacher in ("T1", "T2", "T3")]), ()) == [
        "T1",
        "T3",
    ]


def test_whole_numbers_are_whole_in_csv() -> None:
    values = (Value("16 GiB", (2.0**34,)), Value("1.50", (1.5,)), Value("unknown", (math.nan,)))
    table = Table("t", "T", tuple(Column(name) for name in "abc"), (Row("r", values),))
    assert comma_separated(table).splitlines()[1] == "r,17179869184,1.5,"


@pytest.mark.parametrize(
    ("lasts", "peaks", "failing"),
    [
        ([0.9, 0.44], [0.9, 0.9], 1),  # below half of the row's peak
        ([0.9, 0.46], [0.9, 0.9], 0),
        ([0.31, 0.19], [0.31, 0.31], 1),  # above half, but below chance and ten points
        ([0.31, 0.21], [0.31, 0.31], 0),
    ],
)
def test_catastrophic_failures(tmp_path: Path, lasts: list[float], peaks: list[float], failing: int) -> None:
    cells = [one("dafl", s, last=v, acc_last_k=v, acc_max=p) for s, (v, p) in enumerate(zip(lasts, peaks, strict=True))]
    assert len(catastrophic(grid_of(tmp_path, cells), "dafl")) == failing


def test_learning_curves_table_in_percent_and_at_one_budget(tmp_path: Path) -> None:
    cells = [one("mb-dfkd", 0, mean=0.6605, variance=0.020729, acc_max=0.7614)]
    cells += [one("meta-dfkd", 0, mean=0.7, variance=0.01, acc_max=0.77), one("meta-dfkd", 1, steps=2 * 800, mean=0.9)]
    table = learning(grid_of(tmp_path, cells), "t")
    assert table is not None
    assert [v.text for v in table.rows[0].values] == ["66.05", "207.29", "76.14", "1 of 1"]
    assert [(v.text, v.mark) for v in table.rows[1].values[:2]] == [("70.00", "best"), ("100.00", "best")]
    assert table.rows[1].values[3].text == "1 of 2"
    assert "1 runs of another budget are left out" in table.caption


# marks


def test_marks_and_ties() -> None:
    assert marks([1.0, 3.0, 2.0], "high") == ["", "best", "second"]
    assert marks([1.0, 3.0, 2.0], "low") == ["best", "", "second"]
    assert marks([3.0, 3.0, 2.0, 1.0, 2.0], "high") == ["best", "best", "second", "", "second"]
    assert marks([2.0, None, 2.0], "high") == ["", "", ""]
    assert marks([1.0, 2.0], "") == ["", ""]


def test_equal_as_printed_is_equal(tmp_path: Path) -> None:
    cells = [one(row, 0, acc_last_k=value) for row, value in (("dafl", 0.90001), ("dfad", 0.89999), ("ta-dfkd", 0.8))]
    found = [row.values[0].mark for row in table_3(grid_of(tmp_path, cells), "t").rows]
    assert found == ["best", "best", "second"]


def test_baselines_stand_apart_and_are_not_marked(made_up: Path) -> None:
    table = table_3(read_grid(made_up), "t")
    apart = [row for row in table.rows if row.apart]
    assert (
        [row.name for row in apart]
        == ["noise images", "frozen generator", "real images"]
        == [row.name for row in table.rows[-3:]]
    )
    assert not any(value.mark for row in apart for value in row.values)
    real = apart[-1].values[0].rank
    best = next(row.values[0].rank for row in table.rows if row.values[0].mark == "best")
    assert real is not None
    assert best is not None
    assert real > best


# formats

TRICKY = Table(
    "tricky",
    "Rows & columns_1",
    (Column("acc_last[10]", "T1 (95 %)", ("mean", "std"), "high"), Column("note", words=True)),
    (
        Row("a|b_c, \"d\" <e>", (Value("1.00 ± 0.1", (1.0, 0.1), 1.0), Value("50% & {more}"))),
        Row("plain", (Value("missing"), Value("$x^2$ \\ ~#"))),
        Row("third", (Value("2.00", (2.0, math.nan), 2.0), Value(""))),
        Row("noise", (Value("3.00", (3.0, 0.0), 3.0), Value("")), apart=True),
    ),
    ("A note with 5 %.",),
    {"data": "digits", "commit": "abc"},
)  # fmt: skip


def test_csv_parses_and_carries_its_context() -> None:
    lines = list(csv.reader(comma_separated(TRICKY).splitlines()))
    assert lines[0] == ["row", "T1 (95 %) acc_last[10] mean", "T1 (95 %) acc_last[10] std", "note", "data", "commit"]
    assert lines[1] == ['a|b_c, "d" <e>', "1", "0.1", "50% & {more}", "digits", "abc"]
    assert lines[2][:3] == ["plain", "missing", ""]
    assert lines[3][:3] == ["third", "2", ""]
    assert {len(line) for line in lines} == {6}


def test_latex_escapes_marks_and_balances() -> None:
    text = latex(marked(TRICKY))
    assert r"a\textbar{}b\_c, ''d'' \textless{}e\textgreater{}" in text
    assert r"50\% \& \{more\}" in text
    assert r"\$x\textasciicircum{}2\$ \textbackslash{} \textasciitilde{}\#" in text
    assert r"\textbf{2.00}" in text
    assert r"\underline{1.00 $\pm$ 0.1}" in text
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 2 for line in lines if "multicolumn" not in line)
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert body.splitlines()[-2].startswith(r"\midrule")  # the baseline stands below a rule
    assert text.isascii()


def test_markdown_keeps_its_columns() -> None:
    lines = [line for line in markdown(marked(TRICKY)).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4}
    assert "**2.00**" in lines[4]
    assert "<u>1.00 ± 0.1</u>" in lines[2]
    assert "*noise*" in lines[5]


def test_every_file_says_on_what_it_was_measured(made_up: Path) -> None:
    for name, content in files(made_up / "report").items():
        text = re.sub("</text><text[^>]*>", " ", content.decode())  # a line of a picture goes on in the next one
        if not name.endswith("json"):
            for word in ("digits", "800", "A CPU &", "0123456789ab", "103 of 108"):
                assert word in text.replace(r"\&", "&").replace("&amp;", "&"), (name, word)


def test_the_copy_of_the_data_is_named_and_a_whole_grid_counts_no_runs(tmp_path: Path) -> None:
    cells = [record("noise images", "T1", 0, data="cifar10", data_title="CIFAR-10 (JPEG)")]
    assert context(grid_of(tmp_path, cells))["data"] == "CIFAR-10 (JPEG)"
    assert "runs" not in context(grid_of(tmp_path, cells))
    older = record("noise images", "T2", 0)
    assert context(grid_of(tmp_path, [older]))["data"] == "digits"


# cells without a result


def test_missing_and_failed_cells_are_shown(made_up: Path) -> None:
    table = rows_of(made_up / "report/tables/table-3.csv")
    assert table["pre-dfkd"]["T2 (96.94 %) acc_last[4] mean"] == "missing"
    assert table["dafl"]["runs catastrophic failures"] == "1"
    assert table["dafl"]["runs no result failed"] == "1"
    text = (made_up / "report/tables/table-3.md").read_text()
    assert "(2/3)" in text
    absent = rows_of(made_up / "report/tables/absent.csv")
    assert absent["dafl-T3-s2"]["what happened"] == "failed: out of memory: 50% & more_"
    assert absent["ta-dfkd-T1-s2"]["what happened"].startswith("missing")
    assert len(absent) == 5
    page = (made_up / "report/report.html").read_text()
    for name in absent:
        assert name in page
    assert "103 finished, 1 failed, 4 missing" in page


def test_a_cell_tried_again_is_no_failure(tmp_path: Path) -> None:
    folder = make_grid(tmp_path / "g", lambda *_: "failed", ("dafl",), 1)
    assert len(read_grid(folder).failed) == 3
    (folder / "cells/dafl-T1-s0/cell.json").write_text(json.dumps(record("dafl", "T1", 0)))
    assert [failure.wanted.teacher for failure in read_grid(folder).failed] == ["T2", "T3"]


def test_a_failure_in_a_file_may_stand_for_itself(tmp_path: Path) -> None:
    failed = {"id": "a", "row": "dafl", "teacher": "T1", "seed": 0, "reason": "no such\nfile"}
    (tmp_path / "cells.json").write_text(json.dumps({"cells": [one("dfad", 0)], "failed": [failed]}))
    (failure,) = read_grid(tmp_path / "cells.json").failed
    assert (failure.wanted.row, failure.wanted.teacher, failure.reason) == ("dafl", "T1", "no such file")


def test_cells_of_an_earlier_plan_are_left_out(tmp_path: Path) -> None:
    folder = make_grid(tmp_path / "g", rows=("dfad",), seeds=1)
    for name, cell in (("old", "cell"), ("older", "failed")):
        content = record("dafl", "T1", 0, id=name) | ({"reason": "no such file"} if cell == "failed" else {})
        (folder / "cells" / name).mkdir()
        (folder / "cells" / name / f"{cell}.json").write_text(json.dumps(content))
    grid = read_grid(folder)
    assert grid.rows == ["dfad"]
    assert (len(grid.cells), len(grid.failed), len(grid.missing)) == (3, 0, 0)
    (folder / "grid.json").unlink()
    assert sorted(read_grid(folder).rows) == ["dafl", "dfad"]


def test_a_row_without_any_result_keeps_its_place(tmp_path: Path) -> None:
    folder = make_grid(tmp_path / "g", lambda row, *_: "missing" if row == "dafl" else "finished", ("dafl", "dfad"), 1)
    write_bench_report(folder)
    assert rows_of(folder / "report/tables/table-3.csv")["dafl"]["acc_last[4] over teachers mean"] == "missing"
    assert rows_of(folder / "report/tables/cost.csv")["dafl"]["time seconds"] == "missing"


def test_a_grid_without_any_result_has_a_page(tmp_path: Path) -> None:
    folder = make_grid(tmp_path / "g", lambda *_: "missing", ("dafl", "dfad"), 1)
    page = write_bench_report(folder).read_text()
    assert "0 finished, 0 failed, 6 missing" in page
    assert "Figure 1: no curve" in page


def test_an_unmeasured_cell_counts_as_failed(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, [one("dafl", 0), one("dafl", 1, acc_max=None)])
    assert [cell.seed for cell in grid.cells] == [0]
    assert "not measured" in grid.failed[0].reason


def test_other_data_gets_tables_of_its_own(tmp_path: Path) -> None:
    cells = [one("dafl", 0), one("ta-dfkd", 0), one("dafl", 1, id="other", data="mnist")]
    path = tmp_path / "in"
    path.mkdir()
    grid = grid_of(path, cells)
    assert [panel.data for panel in panels(grid)] == ["digits", "mnist"]
    page = write_bench_report(path / "cells.json", tmp_path / "out").read_text()
    assert "Accuracy (mnist, lenient:resnet8-half)" in page
    assert (tmp_path / "out/tables/table-3-2.csv").is_file()


# the same again


def test_cells_json_makes_the_same_bytes(made_up: Path, tmp_path: Path) -> None:
    first = files(made_up / "report")
    shutil.copy(made_up / "report/cells.json", tmp_path / "cells.json")
    write_bench_report(tmp_path / "cells.json", tmp_path / "again")
    assert files(tmp_path / "again") == first
    write_bench_report(tmp_path / "again/cells.json")  # in its own place
    assert files(tmp_path / "again") == first
    assert {"figures/figure-1.svg", "figures/figure-7.svg", "tables/table-3.tex", "report.html"} <= first.keys()


@pytest.mark.parametrize("name", ["thesis.txt", "report.html", "cells.json", "tables/table-3.md", "figures/mine.svg"])
def test_a_report_does_not_write_among_somebodys_files(made_up: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("precious")
    with pytest.raises(UsageError, match=rf"^-o {tmp_path}: the folder holds other files; choose an empty one$"):
        write_bench_report(made_up / "report/cells.json", tmp_path)
    assert files(tmp_path) == {name: b"precious"}


def test_a_report_goes_on_where_reports_wrote_and_leaves_the_rest(tmp_path: Path) -> None:
    folder = make_grid(tmp_path / "g", lambda *_: "finished", ("ta-dfkd", "dafl"), 1)
    place = folder / "report"
    write_bench_report(folder)
    assert (place / "figures/kept.svg").exists()
    (place / "tables/mine.md").write_text("precious, and not named by figures/kept.svg")
    (place / "notes.md").write_text("precious")
    plan = json.loads((folder / "grid.json").read_text())
    plan["cells"] = [cell for cell in plan["cells"] if cell["row"] == "dafl"]
    (folder / "grid.json").write_text(json.dumps(plan))
    write_bench_report(folder)
    assert not (place / "figures/kept.svg").exists()  # of a figure that there is no more
    assert (place / "tables/mine.md").exists()
    assert (place / "notes.md").exists()
    named = json.loads((place / MARKER).read_text())["files"]
    assert set(named) == set(files(place)) - {MARKER, "tables/mine.md", "notes.md"}


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize("name", [MARKER, "report.html", "cells.json", "tables", "figures"])
def test_a_report_refuses_a_link_or_a_pipe_by_one_of_its_names(
    made_up: Path, tmp_path: Path, name: str, kind: str
) -> None:
    other, place = tmp_path / "other", tmp_path / "place"
    other.mkdir()
    place.mkdir()
    (place / name).symlink_to(other) if kind == "link" else os.mkfifo(place / name)
    with pytest.raises(UsageError, match=f"{name} is a {kind}"):
        write_bench_report(made_up / "report/cells.json", place)
    assert not list(other.iterdir())


def test_records_lose_what_tells_of_the_machine(made_up: Path) -> None:
    text = (made_up / "report/cells.json").read_text()
    assert "somewhere/else" not in text
    assert "lenient bench run" not in text
    assert '"T1.safetensors"' in text


def test_records_stand_one_a_line(made_up: Path) -> None:
    text = (made_up / "report/cells.json").read_text()
    cells = json.loads(text)["cells"]
    lines = [json.loads(line.rstrip(",")) for line in text.splitlines() if line.startswith('{"acc_last_k"')]
    assert lines == cells


def test_figures_are_valid_and_free_of_stand_ins(made_up: Path) -> None:
    found = list((made_up / "report/figures").glob("*.svg"))
    assert len(found) == 6
    for path in found:
        text = path.read_text()
        assert ET.fromstring(text).tag.endswith("svg")
        assert "#0a0b" not in text
        assert "var(--" not in text
        assert "unknown" not in text  # as an axis says where it is given no number


class Page(HTMLParser):
    """Ids, links inside of the page, and what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[key] for key in ("href", "src", "xlink:href") if key in values]
        assert tag not in {"script", "iframe", "object"}


def test_page_is_self_contained_and_its_contents_lead_somewhere(made_up: Path) -> None:
    page = Page()
    page.feed((made_up / "report/report.html").read_text())
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link.startswith("data:") or link.removeprefix("#") in page.ids, link


# choices


def test_figure_1_shows_the_closest_and_the_furthest_teacher(made_up: Path, tmp_path: Path) -> None:
    figure = (made_up / "report/figures/figure-1.svg").read_text()
    assert "T1 (98.33 %)" in figure
    assert "T3 (95.56 %)" in figure
    assert "T2 (96.94 %)" not in figure
    write_bench_report(made_up, tmp_path, choice=Choice(teachers=("T2",), ablation=("dafl", "dfad")))
    assert "T2 (96.94 %)" in (tmp_path / "figures/figure-1.svg").read_text()
    assert list(rows_of(tmp_path / "tables/table-4.csv"))[:-3] == ["dafl", "dfad"]
    assert list(rows_of(made_up / "report/tables/table-4.csv"))[:-3] == [
        "ta-dfkd, all three losses",
        "ta-dfkd, no selection",
        "ta-dfkd",
    ]


def test_many_methods_are_drawn_in_rows_of_at_most_six_beside_all_baselines(tmp_path: Path) -> None:
    methods = [f"method {n}" for n in range(8)]
    curves = {row: [[1, 0.1], [2, 0.5]] for row in (*methods, "noise images")}
    cells = [one("dafl", 0, id=row, curve=curve) | {"row": row} for row, curve in curves.items()]
    cells[-1]["method"] = "noise"
    grid = grid_of(tmp_path, cells)
    figure = training_curves(grid, "f", ["T1"])
    assert figure is not None
    axes = figure.drawing.split('<g id="axes_')[1:]
    assert len(axes) == 2
    assert [panel.count("PolyCollection_") for panel in axes] == [5, 5]
    assert len(figure.description.split("; ")) == 9  # the baseline once
    few = training_curves(grid_of(tmp_path, cells[:6]), "f", ["T1"])
    assert few is not None
    assert few.drawing.count('<g id="axes_') == 1


def test_no_two_of_many_methods_look_alike(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, [one("dafl", 0, id=f"method {n}") | {"row": f"method {n}"} for n in range(30)])
    assert len({str(style(grid, row)) for row in grid.rows}) == 30


def test_tables_of_some_methods_hold_the_baselines_too(made_up: Path) -> None:
    grid = read_grid(made_up)
    for table in (learning(grid, "t"), ablation(grid, "t", ())):
        assert table is not None
        baselines = table.rows[-3:]
        assert [row.name for row in baselines] == ["noise images", "frozen generator", "real images"]
        assert all(row.apart and not any(value.mark for value in row.values) for row in baselines)


def test_every_run_is_listed_with_its_cost(tmp_path: Path) -> None:
    cost = {"seconds": 75.0, "cpu_seconds": 70.0, "images": 1000, "teacher_forwards": 1200, "peak_bytes": 2**30}
    cells = [one("dafl", 0, last=0.5, acc_max=0.6, verdict="warning", cost=cost), one("dafl", 1, cost={})]
    grid_of(tmp_path, cells)
    write_bench_report(tmp_path / "cells.json", tmp_path)
    first, second = rows_of(tmp_path / "tables/runs.csv").values()
    assert (first["row"], first["teacher"], first["seed"], first["verdict"]) == ("dafl", "T1", "0", "warning")
    assert (first["last (%)"], first["acc_max† (%)"], first["time seconds"]) == ("50", "60", "75")
    assert first["peak memory peak_bytes"] == str(2**30)
    assert second["time seconds"] == "unknown"


def test_the_ablation_compares_what_differs_in_nothing_else(tmp_path: Path) -> None:
    none, papers = {"selection": {"name": "none"}}, {"beta": 1, "entropy_weight": 0}
    settings = {
        "ours": {}, "ours, none": none, "ours, all": none | {"class_prior_weight": 1}, "wider": {"gamma": 1},
        "paper, half": papers | none | {"class_prior_weight": 0.5},
        "paper, all": papers | none | {"class_prior_weight": 1},
        "paper": papers,
    }  # fmt: skip
    cells = [
        record("ta-dfkd", "T1", 0, id=row)
        | {"row": row, "settings": TA | own | ({} if "beta" in own else {"beta": 300})}
        for row, own in settings.items()
    ]
    grid = grid_of(tmp_path, cells)
    assert ablations(grid) == [("paper, all", None, "paper"), ("ours, all", "ours, none", "ours")]
    table = ablation(grid, "table-4", ())
    assert table is not None
    assert [row.name for row in table.rows] == ["paper, all", "paper", "ours, all", "ours, none", "ours"]
    cells[-1]["generator"] = {"output": "sigmoid"}
    assert ablations(grid_of(tmp_path, cells)) == [("ours, all", "ours, none", "ours")]


def test_teachers_are_told_apart_by_their_training(tmp_path: Path) -> None:
    recipes = {"T1": {"mixup": 0.0, "lr": 0.1}, "T2": {"mixup": 0.2, "lr": 0.1}, "T3": None}
    cells = []
    for label, recipe in recipes.items():
        cell = record("dafl", label, 0)
        cells.append(cell | {"teacher": cell["teacher"] | {"recipe": recipe}})
    table = teachers(grid_of(tmp_path, cells[:2]), "teachers")
    assert [[value.text for value in row.values] for row in table.rows] == [
        ["98.33", "lenient:wrn-10-2", "10", "mixup 0.0"],
        ["96.94", "lenient:wrn-10-2", "10", "mixup 0.2"],
    ]
    assert table.notes == ("Trained alike: lr 0.1.",)
    assert teachers(grid_of(tmp_path, cells[2:]), "teachers").notes == ("Nothing is known of their training.",)
    some = teachers(grid_of(tmp_path, cells[1:]), "teachers")  # a file beside a training
    assert [row.values[-1].text for row in some.rows] == ["as below", "unknown"]
    assert some.notes == ("Trained alike: lr 0.1, mixup 0.2.",)


def test_boxes_hold_what_the_tables_do(tmp_path: Path) -> None:
    cells = [record("dafl", teacher, seed) for teacher in ("T1", "T2", "T3") for seed in range(3)]
    grid = grid_of(tmp_path, cells)
    for to_teacher in (True, False):
        values = [value.numbers[0] for value in gaps(grid, "a", to_teacher=to_teacher).rows[0].values]
        figure = gap_boxes(grid, "figure", to_teacher=to_teacher)
        assert figure is not None
        assert figure.description == f"dafl: median {statistics.median(values):.2f}, most {max(values):.2f}."


def test_rows_that_differ_in_the_class_prior_alone(made_up: Path) -> None:
    grid = read_grid(made_up)
    (sweep,) = sweeps(grid)
    assert sweep.rows == ["ta-dfkd, all three losses", "ta-dfkd, no selection"]
    assert picture_rows(grid) == [*sweep.rows, "ta-dfkd"]
    assert picture_rows(grid, ("dafl",)) == ["dafl"]


def test_methods_compare_by_the_clock(tmp_path: Path) -> None:
    """The quickest row's time is the budget, and a time is that of the first evaluation that is good enough."""
    plan = {"dfad": ([10, 20], [0.5, 0.9]), "dafl": ([10, 20, 30, 40], [0.2, 0.4, 0.6, 0.99])}
    cells = [
        one(row, 0, "T1", curve=[[step, value] for step, value in enumerate(values)], curve_seconds=seconds)
        for row, (seconds, values) in plan.items()
    ]
    found = by_the_clock(grid_of(tmp_path, cells), "by-the-clock")
    assert found is not None
    texts = {row.name: [value.text.replace("\u202f", " ") for value in row.values] for row in found.rows}
    assert [column.name.replace("\u202f", " ") for column in found.columns[:3]] == ["5 s", "10 s", "20 s"]
    assert texts["dfad"] == ["not begun", "50.00", "90.00", "not reached", "20 s"]
    assert texts["dafl"] == ["not begun", "20.00", "40.00", "40 s", "40 s"]


def test_records_without_times_have_no_table_by_the_clock(partial: Grid) -> None:
    assert by_the_clock(partial, "by-the-clock") is None
    assert clock_curves(partial, "clock") is None


def test_accuracy_is_drawn_over_seconds(tmp_path: Path) -> None:
    """A line lies where the median run came to each step; seconds are logarithmic where rows differ much in them."""
    plan = {"dfad": [(0, 8.0), (1, 12.0)], "dafl": [(0, 39.0)]}
    cells = [
        one(row, seed, "T1", curve=[[1, 0.2], [2, 0.8 + seed / 10]], curve_seconds=[last / 2, last])
        for row, runs in plan.items()
        for seed, last in runs
    ]
    slow, alike = (clock_curves(grid_of(tmp_path, kept), "clock") for kept in (cells, cells[:2]))
    assert slow is not None
    assert alike is not None
    assert slow.description.replace("\u202f", " ") == "dfad ends at 85.0 % after 10 s; dafl ends at 80.0 % after 39 s."
    assert [">seconds<" in figure.drawing for figure in (slow, alike)] == [True, True]
    assert ["logarithmically" in figure.text for figure in (slow, alike)] == [True, False]


def test_rows_that_differ_in_steps_are_read_after_equal_ones(tmp_path: Path) -> None:
    """The shortest row's steps, an evaluation at or before them; of rows that do not differ there is no such table."""
    plan = {"dfad": [[20, 0.5], [40, 0.9]], "dafl": [[15, 0.3], [30, 0.4], [45, 0.6], [60, 0.99]]}
    cells = [one(row, 0, "T1", curve=curve) for row, curve in plan.items()]
    grid = grid_of(tmp_path, cells)
    found = after_equal_steps(grid, "equal-steps")
    assert found is not None
    assert found.columns[0].title == "after 40 steps"
    assert {row.name: [(value.text, value.mark) for value in row.values] for row in found.rows} == {
        "dfad": [("90.00", "best"), ("90.00", ""), ("40", "")],
        "dafl": [("40.00", "second"), ("99.00", ""), ("60", "")],
    }
    assert any("Rows differ in steps (40, 60)" in note for note in table_3(grid, "table-3").notes)
    alike = grid_of(tmp_path, cells[:1])
    assert after_equal_steps(alike, "equal-steps") is None
    assert not any("differ in steps" in note for note in table_3(alike, "table-3").notes)


def test_pictures_are_of_the_class_prior_alone_and_of_the_ablation_where_nothing_else_has_one(tmp_path: Path) -> None:
    def cell(name: str, **settings: Any) -> dict[str, Any]:
        return record("ta-dfkd", "T1", 0, id=name) | {"row": name, "settings": TA | settings}

    losses = cell("losses", class_prior_weight=1, selection={"name": "none"}, beta=1)
    whole, alone = cell("whole", beta=1), cell("alone", class_prior_weight=1, selection={"name": "none"}, beta=0)
    assert picture_rows(grid_of(tmp_path, [losses, whole])) == ["losses", "whole"]
    assert picture_rows(grid_of(tmp_path, [alone, whole])) == ["alone", "whole"]


def test_pictures_are_headed_by_their_row_and_its_class_prior() -> None:
    assert _picture_heading({"row": "ta-dfkd", "class_prior_weight": 0.0}, 30) == "ta-dfkd\nclass prior 0"
    assert _picture_heading({"row": "class prior 1", "class_prior_weight": 1.0}, 30) == "class prior 1"
    name = "paper, with all three losses and no class prior at all"
    assert _picture_heading({"row": name, "class_prior_weight": 0.0}, 30).split("\n") == [
        "paper, with all three losses",
        "and no class prior at all",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder or file"),
        (["{empty}"], "holds no grid"),
        (["{grid}", "--teachers", "T9"], "--teachers T9: not in this grid; there are T1; T2; T3"),
        (["{grid}", "--ablation", "dafl;x"], "--ablation x: not in this grid"),
        (["{grid}", "--features", "--rows", "x"], "--rows x: not in this grid"),
        (["{grid}", "--features", "--images", "1"], "--images 1: at least 2"),
        (["{grid}", "--map", "umap"], "--map umap: use tsne or pca"),
        (["{grid}", "--inception", "x"], "--inception: needs --features"),
        (["{grid}", "--rows", "dafl"], "--rows: needs --features"),
        (["{grid}", "--images", "10"], "--images: needs --features"),
        (["{grid}", "--map", "pca"], "--map: needs --features"),
        (["{grid}/report/cells.json", "--features"], "--features needs the folder"),
        (["{grid}/report/cells.json", "--records", "x"], "--records: needs the folder of a grid"),
        (["{grid}", "--records", "nowhere.json"], "--records nowhere.json: no such folder or file"),
        (["{empty}/broken.json"], "it is no JSON"),
        (["{empty}/list.json"], "holds no cells"),
        (["{empty}/lacking.json"], "cell a has no row"),
    ],
)
def test_errors_are_one_line(
    made_up: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text('{"cells": 3}')
    (tmp_path / "lacking.json").write_text('{"cells": [{"id": "a"}]}')
    filled = [text.format(empty=tmp_path, grid=made_up) for text in arguments]
    monkeypatch.setattr("sys.argv", ["lenient", "bench", "report", *filled])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == (5 if "JSON" in message else 2)  # a damaged file is no matter of usage
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# measures


def test_frechet_distance_of_equals_is_zero_and_of_shifted_gaussians_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=(500, 6))
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet(one, one + np.array([3, 4, 0, 0, 0, 0])) == pytest.approx(25)
    # diagonal covariances: the sum of (difference of means)^2 + (difference of deviations)^2
    exact = (one - one.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(one, rowvar=False))).T
    scales = np.array([1, 2, 3, 1, 0.5, 0])
    assert frechet(exact, exact * scales + 1) == pytest.approx(6 + ((scales - 1) ** 2).sum())
    assert frechet(one[:4], one[4:9]) >= 0  # fewer rows than features
    with pytest.raises(ValueError, match="two rows"):
        frechet(one[:1], one)


def test_frechet_distance_by_scipys_square_root() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(1)
    one, two = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5)), rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5))
    a, b = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    expected = ((one.mean(0) - two.mean(0)) ** 2).sum() + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert frechet(one, two) == pytest.approx(expected)


def test_outside_of_the_boundary_on_a_toy() -> None:
    """Class 0 lies at 0, 1, ..., 100 from its centre on either side; 95 % of it within 95."""
    line = np.concatenate([np.arange(101.0), -np.arange(101.0)])[:, None]
    real, labels = np.concatenate([line, [[500.0]]]), np.array([0] * 202 + [1])
    made = np.array([[94.0], [-94.0], [96.0], [-97.0], [9000.0]])
    found = outside(real, labels, made, np.array([0, 0, 0, 0, 1]))
    assert found.tolist() == [False, False, True, True, False]  # class 1 has one image, no boundary


def test_maps_keep_clusters_apart() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(0, 0.1, (20, 5)), rng.normal(5, 0.1, (20, 5))])
    for how in ("tsne", "pca"):
        found = project(points, how)  # type: ignore[arg-type]
        apart = np.linalg.norm(found[:20].mean(0) - found[20:].mean(0))
        assert apart > 3 * found[:20].std()
        assert np.array_equal(found, project(points, how))  # type: ignore[arg-type]


# features of real runs


@pytest.fixture(scope="module")
def with_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rows whose cells are run folders, and a cell without one; features measured. The runs are one and the same
    but for the settings that a generator has no weights for."""
    import lenient
    from lenient.models import save_network
    from toys import digits_like

    top = tmp_path_factory.mktemp("runs")
    teacher = top / "teacher.safetensors"
    save_network(teacher, digits_like())
    folder, first = top / "grid", top / "first"
    lenient.distill(
        str(teacher), "lenient:resnet8-half", method="ta-dfkd", output=first, steps=2, batch_size=16, device="cpu",
        settings={"generator": {"width": 8}, "precision": "32"},
    )  # fmt: skip
    rows = {"with prior": (1.0, "none"), "without prior": (0.0, "none"), "selecting": (0.0, "mixture")}
    wanted = []
    for row, (weight, selection) in rows.items():
        method = {"class_prior_weight": weight, "selection": {"name": selection}}
        cell = record("ta-dfkd", "T1", 0, id=row.replace(" ", "-")) | {"row": row}
        cell["settings"] = cell["settings"] | method
        run = folder / "cells" / cell["id"] / "run"
        shutil.copytree(first, run)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["method"] |= method
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        (run.parent / "cell.json").write_text(json.dumps(cell))
        wanted.append({key: cell[key] for key in ("id", "row", "student", "seed")} | {"teacher": "T1"})
    broken = record("dafl", "T1", 0)
    (folder / "cells" / broken["id"]).mkdir()
    (folder / "cells" / broken["id"] / "cell.json").write_text(json.dumps(broken))
    wanted.append({key: broken[key] for key in ("id", "row", "student", "seed")} | {"teacher": "T1"})
    (folder / "grid.json").write_text(json.dumps({"cells": wanted}))
    write_bench_report(folder, features=Options(images=40))
    return folder


def test_features_are_measured_and_drawn(with_runs: Path) -> None:
    content = json.loads((with_runs / "report/cells.json").read_text())["features"]
    assert set(content["cells"]) == {"with-prior", "without-prior", "selecting"}
    for entry in content["cells"].values():
        assert entry["fid"] >= 0
        assert 0 <= entry["outside"] <= 1
    assert content["images"] == {"real": 40, "synthetic": 40}
    assert "not a run folder" in content["skipped"]["dafl-T1-s0"]
    assert str(with_runs) not in content["skipped"]["dafl-T1-s0"]
    assert [entry["row"] for entry in content["maps"]] == ["with prior", "without prior", "selecting"]
    assert all(len(entry["synthetic"]) == len(entry["real"]) == 40 for entry in content["maps"])
    report = with_runs / "report"
    assert {f"figure-{name}.svg" for name in ("2", "3", "4-1", "4-2", "4-3")} <= {
        path.name for path in (report / "figures").glob("*")
    }
    assert list(rows_of(report / "tables/table-2.csv")) == ["with prior", "without prior", "selecting", "dafl"]
    boundary = rows_of(report / "tables/boundary.csv")
    assert boundary["with prior"]["T1 (98.33 %) after mean"] == "no selection"
    assert boundary["dafl"]["T1 (98.33 %) before mean"] == "not measured"


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception with random weights, as a file."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    import torch

    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        network = module.FeatureExtractorInceptionV3("inception", ["2048"], verbose=False)
    torch.save(network.state_dict(), path)
    return path


def test_inception_distances_stand_beside_the_teachers(
    with_runs: Path, inception_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one cell: a distance in 2048 dimensions takes seconds."""
    from lenient.bench.report import inception

    grid = shutil.copytree(with_runs, tmp_path / "grid", ignore=shutil.ignore_patterns("report"))
    for name in ("with-prior", "selecting"):
        shutil.rmtree(grid / "cells" / name / "run")
    out = tmp_path / "out"
    options = Options(images=4, inception=str(inception_weights))
    with pytest.raises(UsageError, match=r"--inception .*not the published weights"):
        write_bench_report(grid, out, features=options)
    digest = hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "SHA256", digest[:8])
    page = write_bench_report(grid, out, features=options).read_text()
    assert "in Inception" in page
    cells = json.loads((out / "cells.json").read_text())["features"]["cells"]
    (entry,) = cells.values()
    assert entry["fid_inception"] > 0
    assert entry["fid"] > 0
    write_bench_report(grid, out, features=Options(images=4))  # not asked for, and not lost
    assert json.loads((out / "cells.json").read_text())["features"]["cells"] == cells
    assert (out / "tables/table-2-inception.md").is_file()


def test_inception_sees_grey_images_as_coloured_ones(inception_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from lenient.bench.report import inception

    digest = hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "SHA256", digest[:8])
    features = inception.inception(str(inception_weights), "cpu")
    grey = torch.rand(3, 1, 8, 8)
    found = features([grey[:2], grey[2:]])
    assert found.shape == (3, 2048)
    assert np.allclose(found, features([grey.expand(-1, 3, -1, -1)]), atol=1e-5)
    assert not np.allclose(found[0], found[1])


@pytest.mark.parametrize("weights", ["nowhere.pth", "download"])
def test_inception_weights_that_cannot_be_had_are_named(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lenient.bench.report.inception import inception

    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(module, "load_state_dict_from_url", offline)
    with pytest.raises(UsageError, match=rf"--inception {weights}: .*file"):
        inception(weights, "cpu")


def test_features_need_nothing_but_their_file_afterwards(with_runs: Path, tmp_path: Path) -> None:
    first = files(with_runs / "report")
    shutil.copy(with_runs / "report/cells.json", tmp_path / "cells.json")
    write_bench_report(tmp_path / "cells.json", tmp_path / "again")
    assert files(tmp_path / "again") == first
    write_bench_report(with_runs)  # keeps what was measured
    assert files(with_runs / "report") == first


def test_what_an_earlier_report_had_and_this_one_has_not_is_removed(with_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(with_runs / "report", tmp_path / "out")
    for name in ("figures/mine.svg", "tables/mine.md"):
        (tmp_path / "out" / name).write_text("kept")
    content = json.loads((with_runs / "report/cells.json").read_text())
    (tmp_path / "bare.json").write_text(json.dumps(content | {"features": {}}))
    assert (tmp_path / "out/tables/table-2.tex").is_file()
    write_bench_report(tmp_path / "bare.json", tmp_path / "out")
    write_bench_report(tmp_path / "bare.json", tmp_path / "new")
    assert set(files(tmp_path / "out")) == {*files(tmp_path / "new"), "figures/mine.svg", "tables/mine.md"}


def test_features_of_cells_run_anew_are_forgotten(with_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(with_runs, tmp_path / "grid")
    path = tmp_path / "grid/cells/with-prior/cell.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "another"}))
    write_bench_report(tmp_path / "grid")
    content = json.loads((tmp_path / "grid/report/cells.json").read_text())["features"]
    assert set(content["cells"]) == {"without-prior", "selecting"}
    assert [entry["row"] for entry in content["pictures"]] == ["without prior", "selecting"]


def test_features_stay_when_rows_are_renamed(with_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(with_runs, tmp_path / "grid")
    path = tmp_path / "grid/cells/with-prior/cell.json"
    cell = json.loads(path.read_text())
    path.write_text(json.dumps(cell | {"row": "called anew", "teacher": cell["teacher"] | {"label": "U"}}))
    plan = tmp_path / "grid/grid.json"
    plan.write_text(plan.read_text().replace('"with prior", "student"', '"called anew", "student"'))
    write_bench_report(tmp_path / "grid")
    content = json.loads((tmp_path / "grid/report/cells.json").read_text())["features"]
    assert set(content["cells"]) == {"with-prior", "without-prior", "selecting"}
    assert [entry["row"] for entry in content["maps"]] == ["called anew", "without prior", "selecting"]


def test_features_of_runs_that_are_gone_stay_if_they_compare(with_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(with_runs, tmp_path / "grid")
    shutil.rmtree(tmp_path / "grid/cells/with-prior/run")
    before = json.loads((with_runs / "report/cells.json").read_text())["features"]
    write_bench_report(tmp_path / "grid", features=Options(images=40))
    assert json.loads((tmp_path / "grid/report/cells.json").read_text())["features"] == before
    write_bench_report(tmp_path / "grid", features=Options(images=20))
    content = json.loads((tmp_path / "grid/report/cells.json").read_text())["features"]
    assert set(content["cells"]) == {"without-prior", "selecting"}
    assert set(content["skipped"]) == {"with-prior", "dafl-T1-s0"}
    assert [entry["row"] for entry in content["maps"]] == ["without prior", "selecting"]


def test_features_of_cells_that_came_with_records_come_from_their_report(with_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(with_runs, tmp_path / "grid", ignore=shutil.ignore_patterns("report"))
    shutil.rmtree(tmp_path / "grid/cells/with-prior/run")
    records = with_runs / "report/cells.json"
    before = json.loads(records.read_text())["features"]
    write_bench_report(tmp_path / "grid", features=Options(images=40), records=records)
    assert json.loads((tmp_path / "grid/report/cells.json").read_text())["features"] == before
    shutil.rmtree(tmp_path / "grid/report")
    write_bench_report(tmp_path / "grid", records=records)
    assert json.loads((tmp_path / "grid/report/cells.json").read_text())["features"] == before


def test_features_from_two_reports_are_joined_where_they_compare(with_runs: Path, tmp_path: Path) -> None:
    whole = json.loads((with_runs / "report/cells.json").read_text())
    entries = whole["features"]
    for name, keep in (("one", {"with-prior"}), ("two", {"without-prior", "selecting"})):
        part = {"cells": {key: entry for key, entry in entries["cells"].items() if key in keep}}
        part |= {key: [entry for entry in entries[key] if entry["id"] in keep] for key in ("maps", "pictures")}
        part |= {"skipped": {key: "gone" for key in ("with-prior", "without-prior", "selecting") if key not in keep}}
        (tmp_path / f"{name}.json").write_text(json.dumps(whole | {"features": entries | part}))
    shutil.copytree(with_runs, tmp_path / "grid", ignore=shutil.ignore_patterns("report"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MARKER).write_text(json.dumps({"kind": "report", "format": FORMAT, "files": ["cells.json"]}))
    shutil.copy(tmp_path / "one.json", tmp_path / "out/cells.json")
    write_bench_report(tmp_path / "grid", tmp_path / "out", records=tmp_path / "two.json")
    joined = json.loads((tmp_path / "out/cells.json").read_text())["features"]
    assert joined == entries | {"skipped": {}}

    other = json.loads((tmp_path / "two.json").read_text())
    other["features"]["images"] = {"synthetic": 1, "real": 1}
    (tmp_path / "two.json").write_text(json.dumps(other))
    shutil.copy(tmp_path / "one.json", tmp_path / "out/cells.json")
    words: list[str] = []
    write_bench_report(tmp_path / "grid", tmp_path / "out", records=tmp_path / "two.json", say=words.append)
    assert set(json.loads((tmp_path / "out/cells.json").read_text())["features"]["cells"]) == {"with-prior"}
    assert words[0].startswith("--records: what it measured is left out, for it took other images: {")

    # one that could measure nothing is in nobody's way
    empty = entries | {"cells": {}, "images": {}, "maps": [], "pictures": [], "skipped": {"with-prior": "gone"}}
    (tmp_path / "out/cells.json").write_text(json.dumps(whole | {"features": empty}))
    write_bench_report(tmp_path / "grid", tmp_path / "out", records=tmp_path / "two.json")
    kept = json.loads((tmp_path / "out/cells.json").read_text())["features"]
    assert (set(kept["cells"]), kept["images"]["real"]) == ({"without-prior", "selecting"}, 1)


def test_real_images_that_are_not_there_are_one_error(with_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(with_runs, tmp_path / "grid")
    for path in tmp_path.glob("grid/cells/*/cell.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data": "mnist"}))
    with pytest.raises(UsageError, match=r"--features: .*--data-root"):
        write_bench_report(tmp_path / "grid", features=Options(data_root=str(tmp_path), images=10))


def test_k_is_the_records(made_up: Path) -> None:
    assert f"acc_last[{K}]" in (made_up / "report/report.html").read_text()
