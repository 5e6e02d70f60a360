"""The page of claims says what the records say, and `not tested` where they say nothing."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

from bench_fixtures import ROWS, TEACHERS, make_grid
from lenient.bench.report.records import Grid, read_grid

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
    return {claim.rule: finding and finding.verdict for claim in claims.CLAIMS for finding in [claim.rule(grid)]}


def test_what_the_records_show_is_confirmed(claims, grid):
    found = verdicts(claims, grid)
    assert found[claims.converging] == found[claims.peaking] == found[claims.robust] == claims.CONFIRMED
    assert found[claims.teaching] == found[claims.leading] == claims.CONFIRMED
    assert found[claims.selecting] == found[claims.without_prior] == claims.CONFIRMED
    assert found[claims.failing] == claims.NOT_CONFIRMED  # DAFL does not fail here


def test_what_was_not_run_was_not_tested(claims, grid):
    found = verdicts(claims, replace(grid, cells=tuple(c for c in grid.cells if c.method in ("noise", "real"))))
    assert set(found.values()) == {None}


def test_the_opposite_is_told(claims, grid):
    swapped = {"ta-dfkd": "ta-dfkd, no selection", "ta-dfkd, no selection": "ta-dfkd"}
    worse = []
    for cell in grid.cells:
        other = swapped.get(cell.row)
        twin = next((c for c in grid.of(other, cell.teacher) if c.seed == cell.seed), None) if other else None
        raw = cell.raw | {"acc_last_k": twin.raw["acc_last_k"]} if twin else cell.raw
        worse.append(replace(cell, raw=raw))
    assert claims.leading(replace(grid, cells=tuple(worse))).verdict == claims.NOT_CONFIRMED
    finding = claims.selecting(replace(grid, cells=tuple(worse)))
    assert finding.verdict == claims.CONTRADICTED
    assert "of 9 pairs, median −" in finding.figures


@pytest.mark.parametrize(("values", "chance"), [([1.0] * 6, 2 / 64), ([1.0, -1.0], 1.0), ([0.0, 0.0], 1.0)])
def test_the_sign_test_is_the_binomial_one(claims, values, chance):
    assert claims.sign_test(values) == pytest.approx(chance)


def test_the_page_has_every_claim_and_every_grid(claims, grid, tmp_path):
    text = claims.page([("one", grid), ("two", replace(grid, cells=()))], ["| three |"])
    assert "| three |\n" in text
    for claim in claims.CLAIMS:
        assert f"## {claim.words}" in text
    assert text.count("- one: ") == text.count("- two: not tested.") == len(claims.CLAIMS)


def test_grids_without_records_are_listed_as_not_run(claims):
    lines = claims.waiting(Path(__file__).parents[1] / "grids", ["digits"])
    assert "| [cifar10](../../grids/cifar10.yaml) | cifar10 | `lenient:resnet18` |" in "\n".join(lines)
    assert not any("digits" in line for line in lines)
    assert all("| 0 of " in line for line in lines)
