"""Our results regenerate byte for byte from the records of their cells; no table, picture or page of them is edited."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from lenient.bench.report import write_bench_report

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
GRIDS = sorted(path.parent for path in RESULTS.glob("*/cells.json"))


@pytest.mark.parametrize("folder", GRIDS, ids=lambda folder: folder.name)
def test_tables_pictures_and_page_follow_from_the_records(folder: Path, tmp_path: Path) -> None:
    write_bench_report(folder / "cells.json", tmp_path)
    made, kept = (
        {path.relative_to(top) for path in top.rglob("*") if path.is_file() and path.name != "report.html"}
        for top in (tmp_path, folder)
    )
    assert made == kept
    for name in sorted(made):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_the_speed_page_and_its_picture_follow_from_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    written = json.loads((ROOT / "benchmarks/results/speed.json").read_text())
    page = importlib.import_module("speed_page").page(written, "speed.json")
    assert (ROOT / "docs/performance.md").read_text() == page
    module = importlib.import_module("speed_curves")
    assert (ROOT / "docs" / module.FILE).read_text() == module.curves(written["growth"])


def test_the_precision_page_follows_from_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    written = json.loads((ROOT / "benchmarks/results/accuracy.json").read_text())
    assert (RESULTS / "precision.md").read_text() == importlib.import_module("accuracy").page(written)


@pytest.mark.parametrize("name", ["bn-shift", "loss-balance"])
def test_pages_on_runs_follow_from_what_was_measured(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    written = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
    page = importlib.import_module(name.replace("-", "_")).page(written, f"{name}.json")
    assert (RESULTS / f"{name}.md").read_text() == page


@pytest.mark.parametrize("name", ["ta-dfkd-digits", "ta-dfkd-digits-rates", "ta-dfkd-mnist-rates"])
def test_pages_on_settings_follow_from_their_runs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    cells = ROOT / "benchmarks/results" / f"{name}.json"
    page = importlib.import_module("compare_settings").page(json.loads(cells.read_text()), cells)
    assert (RESULTS / f"{name}.md").read_text() == page


def test_the_claims_page_follows_from_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    assert (RESULTS / "README.md").read_text() == importlib.import_module("claims").read(RESULTS, ROOT / "grids")
