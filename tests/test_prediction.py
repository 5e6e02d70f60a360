"""What is expected of a student on real images: the line, its interval, and where it is said."""

from __future__ import annotations

import json
import math
import random
import re
import sys
from pathlib import Path
from subprocess import run
from typing import Any

import pytest

import lenient
from lenient.core.text import expected
from lenient.reporting import write_report
from lenient.training import prediction
from lenient.training.prediction import Prediction, features, fitted, predicted
from lenient.training.verdict import Check, HealthSettings, informed, judged, of_images
from report_fixtures import make_run, summary_with
from toys import QUICK, tiny_student, tiny_teacher

FIT = Path(__file__).parents[1] / "benchmarks" / "prediction.py"


def answers(agreement: float, divergence: float = 0.4, spread: float = 0.9) -> dict[str, dict[str, float]]:
    given = {"agreement": agreement, "distance": 0.4, "divergence": divergence, "images": 128, "chance": 0.1}
    return {"inverted": given | {"dispersion": 3.0, "student_dispersion": 3.0 * spread}}


def test_nothing_is_expected_where_nothing_tells() -> None:
    assert predicted(None, 0.1, 10) is None
    assert predicted({"fresh": answers(0.9)["inverted"]}, 0.1, 10) is None
    assert predicted(answers(0.9, math.nan), 0.1, 10) is None
    assert predicted(answers(0.9), None, 10) is None
    assert predicted(answers(0.9), 0.1, 1000) is None, "no run of the table had so many classes"
    assert predicted(answers(0.9), 0.1, 13) is not None


def test_the_interval_follows_the_images_and_holds_what_is_expected() -> None:
    found = [predicted(answers(0.5, divergence), 0.1, 10) for divergence in (3.0, 1.0, 0.6, 0.3)]
    assert all(one is not None and 0 < one.low < one.expected < one.high < 1 for one in found)
    middles = [one.expected for one in found if one is not None]
    assert middles == sorted(middles)
    nearer, farther = predicted(answers(0.6), 0.05, 10), predicted(answers(0.6), 0.4, 10)
    assert nearer is not None
    assert farther is not None
    assert nearer.expected > farther.expected
    bold, shy = predicted(answers(0.6, spread=0.95), 0.1, 10), predicted(answers(0.6, spread=0.7), 0.1, 10)
    assert bold is not None
    assert shy is not None
    assert bold.expected > shy.expected
    assert predicted(answers(0.6, 1e6), 1e6, 10) == predicted(answers(0.6, 1e9), 1e9, 10), "beyond its range, the edge"


def test_it_is_the_line_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        "intercept": 0.5,
        "weights": {"agreement": 2.0, "divergence": -1.0, "shift": -0.5},
        "ranges": {"agreement": [-9.0, 9.0], "divergence": [-9.0, 9.0], "shift": [math.log(0.1), 9.0]},
        "margin": 1.0,
        "classes": [10, 10],
        **{"level": 0.9, "runs": 7, "teachers": 2, "data": ["digits"]},
    }
    monkeypatch.setattr(prediction, "fitted", lambda: table)
    found = predicted(answers(0.7, 0.5), 0.05, 10)
    middle = 0.5 + 2 * math.log(0.7 / 0.3) - math.log(0.5) - 0.5 * math.log(0.1)
    assert found is not None
    for value, at in ((found.low, middle - 1), (found.expected, middle), (found.high, middle + 1)):
        assert value == pytest.approx(1 / (1 + math.exp(-at)))
    assert (found.level, found.runs, found.teachers, found.data) == (0.9, 7, 2, ("digits",))


def test_the_table_rests_on_something() -> None:
    table = fitted()
    own = features(answers(0.5), 0.1)
    assert own is not None
    assert set(table["weights"]) <= set(own)
    assert table["runs"] > 50
    assert table["teachers"] >= 6
    assert len(table["data"]) >= 2


def test_it_is_said_in_a_line_and_on_the_page(tmp_path: Path) -> None:
    assert expected(None) == ""
    prediction = {
        "low": 0.81,
        "expected": 0.9,
        "high": 0.955,
        "level": 0.9,
        "runs": 200,
        "teachers": 12,
        "data": ["digits"],
    }
    line = expected(prediction)
    assert line.startswith("agreement with the teacher on 81% to 96% of real images")
    assert "200 runs of 12 teachers on digits" in line
    held = {kind: {"images": 8.0, "agreement": 0.5, "chance": 0.2} for kind in ("fresh", "inverted")}
    folder = make_run(tmp_path / "run", summary=summary_with(answers=held, prediction=prediction))
    assert write_report(folder)["prediction"] == prediction
    assert "81% to 96% of real images" in (folder / "report.html").read_text()


def fit(tmp_path: Path, cells: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    held, table, page = (tmp_path / name for name in ("measured.json", "table.json", "page.md"))
    held.write_text(json.dumps({"cells": cells, "machine": {"device_name": "a machine"}}))
    run([sys.executable, FIT, "fit", held, "-o", table, "--table", page], check=True, capture_output=True)
    return json.loads(table.read_text()), page.read_text()


def test_what_is_fitted_is_what_the_runs_say(tmp_path: Path) -> None:
    chance = random.Random(0)
    cells = []
    for number in range(60):
        inverted = answers(chance.uniform(0.2, 0.9), chance.uniform(0.2, 1.0), chance.uniform(0.7, 1.2))
        shift = chance.uniform(0.02, 0.4)
        own = features(inverted, shift)
        assert own is not None
        value = 1.0 - 0.8 * own["shift"] - 0.4 * own["divergence"] + 2 * own["dispersion"] + chance.gauss(0, 0.05)
        others = {kind: inverted["inverted"] for kind in ("fresh", "augmented", "interpolated", "photo")}
        cells.append(
            {
                "classes": 10,
                **{"teacher": f"t{number % 4}", "data": f"d{number % 2}", "row": "r", "seed": number, "shift": shift},
                **{"answers": others | inverted, "agreement": 1 / (1 + math.exp(-value))},
            }
        )
    table, page = fit(tmp_path, cells)
    assert table["intercept"] == pytest.approx(1.0, abs=0.1)
    assert table["weights"]["shift"] == pytest.approx(-0.8, abs=0.06)
    assert table["weights"]["divergence"] == pytest.approx(-0.4, abs=0.06)
    assert table["weights"]["dispersion"] == pytest.approx(2, abs=0.2)
    assert 0.05 < table["margin"] < 0.15
    assert 0.8 < table["level"] <= 1
    assert table["classes"] == [10, 10]
    assert table["ranges"]["shift"] == pytest.approx([math.log(0.02), math.log(0.4)], abs=0.3)
    assert (table["runs"], table["teachers"], table["data"]) == (60, 4, ["d0", "d1"])
    assert re.search(r"\| divergence, dispersion and shift \| a teacher \| (1\.00|0\.99) \|", page)
    assert "60 runs of 4 teachers on d0 and d1" in page


def expecting(low: float, high: float) -> Prediction:
    return Prediction((low + high) / 2, low, high, 0.9, 200, 12, ("digits",))


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.6, 0.9, "ok"), (0.4, 0.9, "warning"), (0.1, 0.4, "warning"), (0.5, 0.5, "ok")]
)
def test_the_verdict_is_of_what_is_expected_and_no_more_of_the_shift(low: float, high: float, verdict: str) -> None:
    settings = HealthSettings()
    shift = Check("batch-norm shift", 0.3, 0.15, "warning", "far away")
    others = [Check("duplicates", 0.1, 0.5, "ok", "few")]
    plain = judged([shift, *others])
    assert informed(plain, None, settings) is plain
    found = informed(plain, expecting(low, high), settings)
    assert found.verdict == verdict
    assert [check.name for check in found.checks] == ["batch-norm shift", "duplicates", "expected agreement"]
    if verdict != "ok":
        share = f"{low:.0%} to {high:.0%} of real images"
        assert found.reasons == ["far away", f"the student is expected to agree with the teacher on {share}"]
    assert of_images(found).verdict == "warning", "the images are as far away as before"
    assert [check.name for check in of_images(found).checks] == ["batch-norm shift", "duplicates"]
    farther = judged([Check("batch-norm shift", 0.6, 0.15, "warning", "far away"), *others])
    assert informed(farther, expecting(0.9, 0.95), settings).reasons == ["far away"]
    worse = judged([shift, Check("duplicates", 0.9, 0.5, "warning", "many")])
    assert informed(worse, expecting(0.9, 0.95), settings).verdict == "warning"


def test_a_run_is_judged_by_it_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lenient.runs.job.predicted", lambda *_: expecting(0.1, 0.3))
    result = lenient.distill(tiny_teacher(), tiny_student(), output=tmp_path / "run", settings=QUICK)
    assert result.summary.prediction == expecting(0.1, 0.3)
    assert any("10% to 30% of real images" in reason for reason in result.health.reasons)
    assert result.health.verdict != "ok"
    stored = json.loads((tmp_path / "run" / "report.json").read_text())
    assert stored["prediction"]["high"] == 0.3
    assert stored["health"]["checks"][-1]["name"] == "expected agreement"
    assert "10% to 30% of real images" in (tmp_path / "run" / "report.html").read_text()
