"""The parts of the report: readable numbers, thinned lines, figures that the page can colour."""

from __future__ import annotations

import math
import sys
from subprocess import run

import numpy as np
import pytest

from lenient.core.numbers import duration, exact, figures, milliseconds, percent, ratio, scaled
from lenient.reporting.figures import MAX_POINTS, Series, class_bars, curves, mixture, thin
from report_fixtures import mixture_event


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (scaled(77_562), "77.6 k"),
        (scaled(11_173_962), "11.2 M"),
        (scaled(999), "999"),
        (scaled(999_900), "1 M"),
        (scaled(318_211, unit="B"), "318 kB"),
        (scaled(0), "0"),
        (scaled(None), "unknown"),
        (exact(12_800), "12 800"),
        (exact(123_456_789), "123 M"),
        (percent(0.978), "97.8 %"),
        (percent(1), "100 %"),
        (percent(math.nan), "unknown"),
        (milliseconds(1.17), "1.2 ms"),
        (milliseconds(0.034), "0.034 ms"),
        (milliseconds(1530), "1.53 s"),
        (duration(0.42), "0.42 s"),
        (duration(42), "42 s"),
        (duration(59.97), "60 s"),
        (duration(102.4), "1 min 42 s"),
        (duration(7500), "2 h 5 min"),
        (duration(172_800), "2 d"),
        (figures(0.01234), "0.0123"),
        (figures(-1200), "-1 200"),
        (figures(3e-9), "3.00e-09"),
        (ratio(271_682, 77_562, ("smaller", "larger")), "3.5× smaller"),
        (ratio(1, 2, ("smaller", "larger")), "2× larger"),
        (ratio(None, 2, ("smaller", "larger")), ""),
        (ratio(1, 0, ("smaller", "larger")), ""),
    ],
)
def test_numbers_read_well(text: str, expected: str) -> None:
    assert text.replace("\u202f", " ") == expected


def test_thin_keeps_spikes_ends_and_gaps() -> None:
    values = np.sin(np.arange(10_000) / 500)
    values[4321], values[777], values[5000:5200] = 50, -50, math.nan
    line = thin(Series("loss", np.arange(10_000.0), values))
    assert len(line.steps) <= MAX_POINTS
    assert float(np.nanmax(line.values)) == 50
    assert float(np.nanmin(line.values)) == -50
    assert (line.steps[0], line.steps[-1]) == (0, 9999)
    assert (np.diff(line.steps) > 0).all()
    assert np.isnan(line.values).any()


def test_thin_leaves_short_lines_alone() -> None:
    line = Series("loss", np.arange(MAX_POINTS, dtype=float), np.ones(MAX_POINTS))
    assert thin(line) is line


def test_figures_take_their_colours_from_the_page_and_say_what_they_show() -> None:
    line = Series("kept", np.array([0.0, 10.0]), np.array([0.6, 0.93]))
    drawn = [
        curves("kept", "Kept", [line], fraction=True, levels=[("teacher", 0.98)], alarms=[5.0]),
        curves("bns", "bns", [Series("bns", np.array([1.0, 2.0]), np.array([1000.0, 1.0]))]),
        mixture("early", "Early", mixture_event(40, 0.62)),
        class_bars("classes", "Classes", np.array([3.0, 0.0, 1.0]), ["a", "b", "a very long class name"]),
        class_bars("many", "Classes", np.ones(1000), [str(label) for label in range(1000)]),
    ]
    assert 'aria-label="Kept: kept from 60.0\u202f% to 93.0\u202f%; teacher 98.0\u202f%."' in drawn[0]
    assert "62.0\u202f% accepted" in drawn[2]
    assert "2 of 3 classes seen" in drawn[3]
    for svg in drawn:
        assert svg.startswith("<svg viewBox=")
        assert "var(--" in svg
        assert "#0a0b" not in svg
        assert "<metadata" not in svg


def test_importing_the_report_is_light() -> None:
    code = "import sys, lenient.reporting; print([m for m in ('matplotlib', 'PIL', 'safetensors') if m in sys.modules])"
    result = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
