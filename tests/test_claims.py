"""The page of claims says what the records say, and `not tested` where they say nothing."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

from bench_fixtures import ROWS, TEACHERS, make_grid
from lenient.bench.report.records import Failure, Grid, read_grid

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def claims():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("claims")


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Every cell finished: TA-DFKD is the best, without class prior by design, META-DFKD above its replay."""
    folder = make_grid(tmp_path_factory.mktemp("grid"), lambda *_: "finished")
    found = read_grid(folder)
    assert len(found.cells) == len(ROWS) * len(TEACHERS) * 3
    return found


def verdicts(claims, grid):
    return {claim.rule: {finding.verdict for finding in claim.rule(grid)} for claim in claims.CLAIMS}


def changed(grid: Grid, change) -> Grid:
    """The grid with other records: `change(cell)` returns what is new in one."""
    return replace(grid, cells=tuple(replace(cell, raw={**cell.raw, **change(cell)}) for cell in grid.cells))


def test_what_the_records_show_is_confirmed(claims, grid):
    found = verdicts(claims, grid)
    for rule in (claims.converging, claims.peaking, claims.robust, claims.teaching, claims.leading, claims.aligned):
        assert found[rule] == {claims.CONFIRMED}
    assert found[claims.selecting] == found[claims.without_prior] == {claims.CONFIRMED}
    assert found[claims.failing] == found[claims.splitting] == {claims.NOT_CONFIRMED}  # nothing fails here
    assert found[claims.distance] == found[claims.rising] == found[claims.alone] == set()  # no features


def test_what_was_not_run_was_not_tested(claims, grid):
    found = verdicts(claims, replace(grid, cells=tuple(c for c in grid.cells if c.method in ("noise", "real"))))
    assert set().union(*found.values()) == set()


def test_a_run_or_two_are_no_verdict(claims, grid):
    one = replace(grid, wanted=grid.wanted[:0], cells=tuple(c for c in grid.cells if (c.teacher, c.seed) == ("T1", 0)))
    one = replace(one, wanted=tuple(cell.wanted for cell in one.cells))
    found = verdicts(claims, one)
    for rule in (claims.teaching, claims.leading, claims.converging, claims.peaking, claims.close, claims.selecting):
        assert found[rule] == {claims.FEW}


def test_a_tie_is_no_win(claims, grid):
    even = changed(grid, lambda cell: {"acc_max": 0.9})
    assert verdicts(claims, even)[claims.peaking] == {claims.NOT_CONFIRMED}


def test_each_form_of_ta_dfkd_is_judged_by_its_weights(claims, grid):
    papers = changed(
        grid, lambda cell: {"settings": {**cell.method_settings, "beta": 1}} if cell.method == "ta-dfkd" else {}
    )
    assert claims.converging(grid)[0].subject == "ta-dfkd (our weights)"
    assert claims.converging(papers)[0].subject == "ta-dfkd (the paper's weights)"


def test_the_opposite_is_told(claims, grid):
    swapped = {"ta-dfkd": "ta-dfkd, no selection", "ta-dfkd, no selection": "ta-dfkd"}

    def other(cell):
        twins = grid.of(swapped.get(cell.row, ""), cell.teacher)
        return {"acc_last_k": next((c.raw["acc_last_k"] for c in twins if c.seed == cell.seed), cell.raw["acc_last_k"])}

    worse = changed(grid, other)
    assert claims.leading(worse)[0].verdict == claims.NOT_CONFIRMED
    (finding,) = claims.selecting(worse)
    assert finding.verdict == claims.CONTRADICTED
    assert "of 9 pairs, p = " in finding.figures
    assert "median −" in finding.figures


@pytest.mark.parametrize(("more", "verdict"), [(0.1, "CONFIRMED"), (0.0, "NOT_CONFIRMED")])
def test_a_class_prior_alone_stands_beside_none(claims, grid, more, verdict):
    forms = {
        "ta-dfkd, all three losses": {"beta": 0, "class_prior_weight": 1, "selection": "none"},
        "ta-dfkd, no selection": {"beta": 1, "class_prior_weight": 0, "selection": "none"},
    }
    other = changed(grid, lambda cell: {"settings": {**cell.method_settings, **forms.get(cell.row, {})}})
    shares = {c.wanted.id: {"outside": 0.2 + (more if "all three" in c.row else 0)} for c in other.cells}
    (finding,) = claims.alone(replace(other, features={"cells": shares}))
    assert finding.verdict == getattr(claims, verdict)
    assert finding.figures.startswith(f"outside of their class: {20 + 100 * more:.1f} %, real images 5 %; ")


def test_what_else_two_rows_differ_in_is_said(claims, grid):
    clipped = changed(
        grid, lambda cell: {"settings": {**cell.method_settings, "clip": 5.0 if cell.method == "meta-dfkd" else None}}
    )
    for finding in next(c.rule for c in claims.CLAIMS if "higher mean" in c.words)(clipped):
        assert finding.figures.endswith("; they differ in clip 5.0 against None, too")


def test_a_runs_result_is_its_failure_too(claims, grid):
    lost = next(cell for cell in grid.of("dafl", "T2"))
    less = replace(
        grid,
        cells=tuple(cell for cell in grid.cells if cell is not lost),
        failed=(Failure(lost.wanted, "non-finite numbers"),),
    )
    assert claims.failing(less)[0].verdict == claims.CONFIRMED
    (finding,) = claims.splitting(less)
    assert finding.verdict == claims.CONFIRMED
    assert "dafl: T1 0 of 3, T2 1 of 3, T3 0 of 3" in finding.figures


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"a": [1.0] * 3, "b": [2.0] * 3}, "confirmed"),
        ({"a": [-1.0] * 3, "b": [-2.0] * 3}, "**the opposite holds**"),
        ({"a": [1.0] * 5, "b": [1.0]}, "confirmed"),
        ({"a": [1.0] * 14, "b": [-1.0]}, "not confirmed"),  # p = 0.001, but one teacher says no
        ({"a": [1.0] * 6 + [0.0] * 9}, "confirmed"),  # ties are neither
        ({"a": [1.0] * 5}, "too few runs to tell"),
    ],
)
def test_runs_and_teachers_have_to_agree(claims, values, verdict):
    assert claims.judged(values, 1)[0] == verdict


def test_frechet_distances_against_the_class_prior(claims, grid):
    weights = {"ta-dfkd, all three losses": 1.0, "ta-dfkd, no selection": 0.0, "dafl": 0.5}
    sweep = changed(
        replace(grid, cells=tuple(cell for cell in grid.cells if cell.row in weights)),
        lambda cell: {
            "method": "ta-dfkd",
            "settings": {"name": "ta-dfkd", "selection": "none", "class_prior_weight": weights[cell.row]},
        },
    )
    fids = {cell.wanted.id: {"fid": 5 + 3 * weights[cell.row]} for cell in sweep.cells}
    (finding,) = claims.rising(replace(sweep, features={"cells": fids}))
    assert finding.verdict == claims.CONFIRMED
    assert "rising in 9 of 9 series, p = 0.0039, median rank correlation 1.00, weights 0, 0.5, 1" in finding.figures
    assert [finding.verdict for finding in claims.distance(replace(sweep, features={"cells": fids}))] == ["confirmed"]


@pytest.mark.parametrize(("values", "chance"), [([1.0] * 6, 2 / 64), ([1.0, -1.0], 1.0), ([0.0, 0.0], 1.0)])
def test_the_sign_test_is_the_binomial_one(claims, values, chance):
    assert claims.sign_test(values) == pytest.approx(chance)


def test_the_page_has_every_claim_and_every_grid(claims, grid, tmp_path):
    text = claims.page([("one", grid), ("two", replace(grid, cells=()))], ["| three |"])
    assert "| three |\n" in text
    for claim in claims.CLAIMS:
        assert f"## {claim.words}" in text
    heads = {f"#{claims.anchor(line[3:])}" for line in text.splitlines() if line.startswith("## ")}
    links = [line for line in text.splitlines() if line.startswith("| [") and "](#" in line]
    assert {link.split("](")[1].split(")")[0] for link in links} == heads
    assert sum("| not tested |" in link for link in links) == len(links) == len(claims.CLAIMS)
    assert text.count("- two: not tested.") == len(claims.CLAIMS)
    assert text.count("\n- one") == sum(max(1, len(claim.rule(grid))) for claim in claims.CLAIMS)


def test_grids_without_records_are_listed_as_not_run(claims):
    lines = claims.waiting(Path(__file__).parents[1] / "grids", ["digits"])
    assert "| [cifar10](../../grids/cifar10.yaml) | cifar10 | `lenient:resnet18` |" in "\n".join(lines)
    assert not any("[digits](" in line for line in lines)
    assert all("| 0 of " in line for line in lines)
