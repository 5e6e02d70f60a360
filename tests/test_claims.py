"""The page of claims says what the records say, and `not tested` where they say nothing."""

from __future__ import annotations

import importlib
import re
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


def with_settings(grid: Grid, **settings) -> Grid:
    """The grid with other settings of all methods."""
    return changed(grid, lambda cell: {"settings": {**cell.method_settings, **settings}})


CONVERGES, PEAK = "TA-DFKD converges higher than the methods", "It has the higher peak."
SELECTION = "Selection by the teacher"


def claim(claims, words):
    return next(claim.rule for claim in claims.CLAIMS if claim.words.startswith(words))


def test_what_the_records_show_is_confirmed(claims, grid):
    found = verdicts(claims, with_settings(grid, student_schedule="constant"))
    for rule in (claims.teaching, claims.leading, claims.aligned, claims.all_three):
        assert found[rule] == {claims.CONFIRMED}
    for words in (CONVERGES, PEAK, SELECTION, "Students are better", "TA-DFKD does better"):
        assert found[claim(claims, words)] == {claims.CONFIRMED}
    assert found[claims.robust] == {claims.SO}
    assert found[claims.failing] == found[claims.splitting] == {claims.NOT_SO}  # nothing fails here
    assert found[claims.distance] == found[claims.rising] == found[claims.alone] == set()  # no features


def test_what_was_not_run_was_not_tested(claims, grid):
    found = verdicts(claims, replace(grid, cells=tuple(c for c in grid.cells if c.method in ("noise", "real"))))
    assert set().union(*found.values()) == set()


def test_a_run_or_two_are_no_verdict(claims, grid):
    one = replace(grid, wanted=grid.wanted[:0], cells=tuple(c for c in grid.cells if (c.teacher, c.seed) == ("T1", 0)))
    one = replace(one, wanted=tuple(cell.wanted for cell in one.cells))
    found = verdicts(claims, one)
    for rule in (claims.teaching, claims.leading, claims.close, claims.failing):
        assert found[rule] == {claims.FEW}
    for words in (CONVERGES, PEAK, SELECTION):
        assert found[claim(claims, words)] == {claims.FEW}


def test_a_tie_is_no_win(claims, grid):
    even = changed(grid, lambda cell: {"acc_max": 0.9})
    assert verdicts(claims, even)[claim(claims, PEAK)] == {claims.NOT_CONFIRMED}


def test_each_form_of_ta_dfkd_is_judged_by_its_weights(claims, grid):
    papers = changed(
        grid, lambda cell: {"settings": {**cell.method_settings, "beta": 1}} if cell.method == "ta-dfkd" else {}
    )
    assert claim(claims, CONVERGES)(grid)[0].subject == "ta-dfkd (our weights)"
    assert claim(claims, CONVERGES)(papers)[0].subject == "ta-dfkd (the paper's weights)"


def test_the_opposite_is_told(claims, grid):
    swapped = {"ta-dfkd": "ta-dfkd, no selection", "ta-dfkd, no selection": "ta-dfkd"}

    def other(cell):
        twins = grid.of(swapped.get(cell.row, ""), cell.teacher)
        return {"acc_last_k": next((c.raw["acc_last_k"] for c in twins if c.seed == cell.seed), cell.raw["acc_last_k"])}

    worse = changed(grid, other)
    (finding,) = claims.leading(worse)
    assert finding.verdict == claims.OPPOSITE
    assert finding.figures.startswith("clearly so for 7 of 8 other rows; ta-dfkd above ta-dfkd, no selection in 1 of 9")
    peaks, converged = claim(claims, SELECTION)(worse)
    assert (peaks.verdict, converged.verdict) == (claims.CONFIRMED, claims.OPPOSITE)  # of the peaks nothing changed
    assert "of 9 pairs, p = " in converged.figures
    assert "median −" in converged.figures


def test_without_a_frozen_generator_nothing_is_said_of_teaching(claims, grid):
    assert claims.teaching(replace(grid, cells=tuple(c for c in grid.cells if c.row != "frozen generator"))) == []


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        (["CONFIRMED", "CONFIRMED"], "CONFIRMED"),
        (["CONFIRMED", "NOT_CONFIRMED"], "NOT_CONFIRMED"),
        (["FEW", "NOT_CONFIRMED"], "FEW"),
        (["FEW", "CONFIRMED", "OPPOSITE"], "OPPOSITE"),
        ([], "FEW"),
    ],
)
def test_a_claim_on_several_comparisons_needs_all_of_them(claims, verdicts, word):
    assert claims.combined([getattr(claims, one) for one in verdicts]) == getattr(claims, word)


def test_runs_that_two_grids_share_are_told_once(claims, grid):
    text = claims.page([("one", grid), ("two", grid)], [])
    (pairs,) = (line for line in text.splitlines() if "ta-dfkd above ta-dfkd, no selection" in line and "peaks" in line)
    assert pairs.startswith("- one, our weights, peaks: ")
    assert "- two, our weights, peaks: the runs of one.\n" in text


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(0.3, "CONFIRMED"), (0.2, "NOT_CONFIRMED"), (0.1, "OPPOSITE"), (0.01, "OPPOSITE")],
)
def test_a_class_prior_alone_stands_beside_real_images_and_none(claims, grid, share, verdict):
    forms = {
        "ta-dfkd, all three losses": {"beta": 0, "class_prior_weight": 1, "selection": {"name": "none"}},
        "ta-dfkd, no selection": {"beta": 1, "class_prior_weight": 0, "selection": {"name": "none"}},
    }
    other = changed(grid, lambda cell: {"settings": {**cell.method_settings, **forms.get(cell.row, {})}})
    shares = {c.wanted.id: {"outside": share if "all three" in c.row else 0.2} for c in other.cells}
    (finding,) = claims.alone(replace(other, features={"cells": shares}))
    assert finding.verdict == getattr(claims, verdict)
    assert finding.figures.startswith(f"{100 * share:.1f} % outside, more than the real 5 % in ")
    chance = "9 equal, p = 1" if share == 0.2 else "p = 0.0039"
    assert f"pairs, {chance}, median {100 * share - 20:+.2f}".replace("-", "−") in finding.figures


def test_what_else_two_rows_differ_in_is_said(claims, grid):
    clipped = changed(
        grid, lambda cell: {"settings": {**cell.method_settings, "clip": 5.0 if cell.method == "meta-dfkd" else None}}
    )
    for finding in next(c.rule for c in claims.CLAIMS if "higher mean" in c.words)(clipped):
        assert finding.figures.endswith("; they differ in clip 5.0 against None, too")


@pytest.mark.parametrize(("lost", "runs", "verdict"), [(1, 3, "NOT_SO"), (1, 2, "NOT_SO"), (2, 3, "SO")])
def test_a_run_without_result_is_a_failure_and_most_of_them_make_a_teacher_one(claims, grid, lost, runs, verdict):
    gone = [cell for cell in grid.of("dafl", "T2")][:lost]
    less = replace(
        grid,
        cells=tuple(cell for cell in grid.cells if cell not in gone and cell.seed < runs),
        failed=tuple(Failure(cell.wanted, "non-finite numbers") for cell in gone),
    )
    (failing,) = claims.failing(less)
    dafl, dfad, _ = claims.splitting(less)
    assert dafl.figures == f"catastrophic runs: {lost} of {3 * runs} (T2 {lost} of {runs})"
    assert f"dafl {lost} of {3 * runs} (T2 {lost} of {runs})" in failing.figures
    assert dfad.verdict == claims.NOT_SO
    assert dafl.verdict == failing.verdict == getattr(claims, verdict)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"a": [1.0] * 3, "b": [2.0] * 3}, "confirmed"),
        ({"a": [-1.0] * 3, "b": [-2.0] * 3}, "not so at this budget"),
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
            "settings": {"name": "ta-dfkd", "selection": {"name": "none"}, "class_prior_weight": weights[cell.row]},
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
    assert "| [cifar10](../grids/cifar10.yaml) | cifar10 | 5 of 1 training | 1 | `lenient:resnet18` |" in "\n".join(
        lines
    )
    assert not any("[digits](" in line for line in lines)
    assert all("| 0 of " in line for line in lines)


def test_the_page_leads_to_what_is_there_and_says_what_made_it(claims, grid, tmp_path):
    (tmp_path / "one/tables").mkdir(parents=True)
    (tmp_path / "one/tables/table-3.md").write_text("")
    grids = tmp_path / "one.yaml"
    grids.write_text("# lenient bench run one.yaml\n# lenient bench report runs/one\n# What it is about.\nname: one\n")
    made_by = claims.commands(grids)
    assert made_by == ["lenient bench run one.yaml", "lenient bench report runs/one"]
    text = claims.page([("one", grid)], [], tmp_path, made_by)
    assert "```\nlenient bench run one.yaml\nlenient bench report runs/one\n```" in text
    assert "\n| [one](one/tables/table-3.md) | digits |" in text
    assert "\n- [one](one/tables/table-3.md), ta-dfkd" in text
    assert "table-a3.md" not in text


@pytest.mark.parametrize("fixed", [{"student_schedule": "constant"}, {"update": {"name": "retain", "alpha": 0.1}}])
@pytest.mark.parametrize("end", [0.1, -0.1])
def test_gradients_are_judged_by_the_end_of_a_run_whose_virtual_step_has_a_length(claims, grid, end, fixed):
    ending = changed(grid, lambda cell: {"log": {"step": list(range(20)), "gradient_cosine": [0.5] * 18 + [end] * 2}})
    assert {finding.verdict for finding in claims.aligned(ending)} == {claims.NOT_TESTABLE}
    ending = with_settings(ending, **fixed)
    bank, generative = claims.aligned(ending)
    assert bank.verdict == generative.verdict == (claims.CONFIRMED if end > 0 else claims.OPPOSITE)
    assert bank.figures.startswith("over the second half above 0 in 9 of 9 runs, p = 0.0039, median +0.")


@pytest.mark.parametrize("schedule", ["constant", "drops", "cosine", "cosine-early"])
def test_how_steady_students_are_is_judged_where_they_move(claims, grid, schedule):
    found = verdicts(claims, with_settings(grid, student_schedule=schedule))
    stays = claim(claims, "Its converging accuracy stays closer")
    for rule in (stays, claims.repeatable):
        assert (found[rule] == {claims.NOT_TESTABLE}) == schedule.startswith("cosine")
    assert found[claim(claims, CONVERGES)] == {claims.CONFIRMED}


def test_rows_that_learned_nothing_are_not_compared(claims, grid):
    """Selection is ahead in all pairs, and the claim void where neither row is ahead of a frozen generator."""
    none = changed(
        grid, lambda cell: {"acc_last_k": cell.raw["acc_last_k"] + 0.5} if grid.is_untaught(cell.row) else {}
    )
    for words in (SELECTION, "META-DFKD's learning curve"):
        assert {finding.verdict for finding in claim(claims, words)(none)} == {claims.VOID}
    assert {finding.verdict for finding in claims.close(none)} == {claims.VOID}
    assert verdicts(claims, none)[claims.teaching] == {claims.OPPOSITE}
    rows = ("ta-dfkd", "ta-dfkd, no selection")
    one = changed(none, lambda cell: {"acc_last_k": cell.raw["acc_last_k"] + 0.9} if cell.row == rows[0] else {})
    assert claim(claims, SELECTION)(one)[1].verdict == claims.CONFIRMED  # one of them did


@pytest.mark.parametrize(
    ("chances", "clear"),
    [
        ([0.01, 0.04, 0.03, 0.005], 0.01),  # Holm 1979: 0.005 * 4, 0.01 * 3 below 0.05, 0.03 * 2 not
        ([0.03], 0.03),
        ([0.03, 0.03], 0.0),
        ([0.001, 0.02, 0.03], 0.03),
        ([], 0.0),
    ],
)
def test_many_tests_share_one_chance_to_be_mistaken(claims, chances, clear):
    assert claims.holm(chances) == clear


def test_what_is_clear_by_itself_can_be_chance_among_many(claims, grid):
    values = {"a": [1.0] * 6}
    assert claims.judged(values, 1, grid).verdict == claims.CONFIRMED
    assert claims.judged(values, 1, claims.leveled(grid, 0.01)).verdict == claims.NOT_CONFIRMED
    tests = claims.chances(claims.findings([("one", grid)]))
    assert len(tests) > 20
    assert claims.holm(tests) < claims.LEVEL
    assert f"Clear, by Holm's procedure: {claims.clear(tests)}.\n" in claims.page([("one", grid)], [])
    assert claims.clear([0.03, 0.04]) == "none, of 2 tests"
    assert claims.clear([0.002, 0.04]) == "p up to 0.04, of 2 tests"
    twice = claims.chances(claims.findings([("one", grid), ("two", grid)]))
    assert len(twice) < 2 * len(tests), "runs that two grids share are tested once"


def test_every_finding_says_its_budget_beside_the_papers(claims, grid):
    budgeted = with_settings(grid, student_steps=5, generator_steps=1)
    ta, meta = ("ta-dfkd",), ("meta-dfkd",)
    assert claims.spent(grid, ta) == ""  # not known
    budget = "160 of 7,200 generator steps and 0.10 of 73.7 M images"
    assert claims.spent(budgeted, ta) == budget
    assert claims.spent(budgeted, meta) == "160 of 28,800 generator steps and 0.10 of 147.5 M images"
    dafl = "160 of 240,000 generator steps and 0.10 of 245.8 M images"
    assert claims.spent(budgeted, ("ta-dfkd", "dafl")) == f"ta-dfkd {budget}; dafl {dafl}"
    assert claims.spent(budgeted, ()) == "160 generator steps and 0.10 M images"
    lines = [line for line in claims.page([("one", budgeted)], []).splitlines() if line.startswith("- one, ")]
    assert lines
    assert all(re.search(r", at .*160 (of [0-9,]+ )?generator steps and 0\.10", line) for line in lines)
    mixed = changed(budgeted, lambda cell: {"steps": 400} if cell.seed else {})
    assert claims.spent(mixed, ta) == "80 to 160 of 7,200 generator steps and 0.05 to 0.10 of 73.7 M images"
