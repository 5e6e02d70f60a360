"""Our results regenerate byte for byte from the records of their cells; no table, picture or page of them is edited."""

from __future__ import annotations

import importlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from lenient.bench.cells import cells_of
from lenient.bench.grid import load_grid
from lenient.bench.report import write_bench_report
from lenient.methods import recipes
from lenient.methods.expected import expected, measured

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
GRIDS = sorted(path.parent for path in RESULTS.glob("*/cells.json"))
IMAGES: dict[str, dict[str, Any]] = {
    "digits": {"input_size": [1, 8, 8], "mean": [0.3055], "std": [0.376]},
    "mnist": {"input_size": [1, 28, 28], "mean": [0.1307], "std": [0.3081]},
    "cifar10": {"input_size": [3, 32, 32], "mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.201]},
}
"""How the teachers of the grids take images; records do not say it, ids do."""
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line)
drawn_as_stored = pytest.mark.skipif(
    metadata.version("matplotlib") != PINS["matplotlib"], reason="another matplotlib draws other bytes"
)


@drawn_as_stored
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


@pytest.mark.parametrize("folder", GRIDS, ids=lambda folder: folder.name)
def test_records_are_those_of_the_grid_beside_them(folder: Path) -> None:
    """So `--records` finds them. Where a new setting of all methods breaks this: the ids must leave it out at the value
    that does what was done before it was there."""
    records = json.loads((folder / "cells.json").read_text())
    card = {"num_classes": 10, "outputs": "logits", **IMAGES[records["data"]]}
    teachers = {cell["teacher"]["label"]: cell["teacher"] | {"card": card, "path": ""} for cell in records["cells"]}
    cells = cells_of(load_grid(ROOT / "grids" / f"{folder.name}.yaml"), list(teachers.values()), None)
    rows = {wanted["row"] for wanted in records["wanted"]}  # one that came later waits for its runs
    assert [cell.id for cell in cells if cell.row in rows] == [wanted["id"] for wanted in records["wanted"]]


@pytest.mark.parametrize("grid", ["digits-families", "mnist-families"])
def test_pages_of_methods_that_lead_to_a_table_of_the_families_lead_to_its_curves(grid: str) -> None:
    pages = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs/methods").glob("*.md")}
    led = {name for name, text in pages.items() if f"results/{grid}/tables/" in text}
    assert len(led) > 8
    assert {name for name in led if f"results/{grid}/figures/clock.svg" not in pages[name]} == set()


def test_no_recipe_that_has_results_says_that_it_was_not_measured() -> None:
    rows = yaml.safe_load((ROOT / "grids/mnist-families.yaml").read_text())["rows"].values()
    run = {row["method"] for row in rows if isinstance(row, dict) and row.get("recipe") == "mnist"}
    assert {method for method in run if "not measured" in recipes(method)["mnist"].read_text()} == set()


@drawn_as_stored
def test_the_speed_page_and_its_picture_follow_from_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    written = json.loads((ROOT / "benchmarks/results/speed.json").read_text())
    page = importlib.import_module("speed_page").page(written, "speed.json")
    assert (RESULTS / "performance.md").read_text() == page
    module = importlib.import_module("speed_curves")
    assert (RESULTS / module.FILE).read_text() == module.curves(written["growth"])


def test_the_page_on_gpus_follows_from_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    gpu = importlib.import_module("gpu")
    found = {name: gpu.read(ROOT / "benchmarks/results/gpu", name) for name in gpu.PIECES}
    assert (RESULTS / "gpu.md").read_text() == gpu.page(found)


def test_the_precision_page_follows_from_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    written = json.loads((ROOT / "benchmarks/results/accuracy.json").read_text())
    assert (RESULTS / "precision.md").read_text() == importlib.import_module("accuracy").page(written)


def test_the_page_on_runs_that_no_table_was_fitted_to_follows_from_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    written = json.loads((ROOT / "benchmarks/results/prediction-families.json").read_text())
    page = importlib.import_module("prediction").checked(written, "prediction-families.json")
    assert (RESULTS / "prediction-families.md").read_text() == page


@pytest.mark.parametrize(
    "name",
    [
        "bn-shift",
        "constants",
        "crowded",
        "loss-balance",
        "sabotage",
        "virtual-step",
        "fallback",
        "trials-digits",
        "int8-table",
        "large-images",
        "low-bit",
    ],
)
def test_pages_on_runs_follow_from_what_was_measured(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    written = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
    page = importlib.import_module(name.removesuffix("-digits").replace("-", "_")).page(written, f"{name}.json")
    assert (RESULTS / f"{name}.md").read_text() == page


@pytest.mark.parametrize(
    "name",
    [
        "ta-dfkd-digits",
        "ta-dfkd-digits-rates",
        "ta-dfkd-mnist-rates",
        "ta-dfkd-default-digits",
        "ta-dfkd-default-flat",
        "ta-dfkd-finalists-digits",
        "ta-dfkd-finalists-mnist",
        "ta-dfkd-default-mnist",
        "meta-dfkd-alpha",
        "no-statistics-mnist",
        "prior-view-mnist",
        "nayer-codes",
    ],
)
def test_pages_on_settings_follow_from_their_runs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    cells = ROOT / "benchmarks/results" / f"{name}.json"
    page = importlib.import_module("compare_settings").page(json.loads(cells.read_text()), cells)
    assert (RESULTS / f"{name}.md").read_text() == page


def test_the_claims_page_follows_from_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    assert (RESULTS / "README.md").read_text() == importlib.import_module("claims").read(RESULTS, ROOT / "grids")


def test_the_figures_of_the_page_on_choosing_follow_from_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    text = (ROOT / "docs/choosing.md").read_text(encoding="utf-8")
    assert importlib.import_module("choosing").filled(text) == text, "python benchmarks/choosing.py"
    assert text.count("\n| ta-dfkd") > 3  # its blocks are filled


def test_what_inspect_tells_to_expect_follows_from_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    page = importlib.import_module("choosing")
    found = page.expected(page.places(page.grids()))
    assert page.HELD.read_text(encoding="utf-8") == page.written(found), "python benchmarks/choosing.py"
    assert measured() == tuple(found)
    assert {one.data for one in expected("bn-adv", True)} >= {"digits", "mnist"}
