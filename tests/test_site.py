"""The documentation and our own reports in a browser, on a phone and at a desk, as readers have them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from browser import DESK, PHONE, Browser, Seen, target
from commands import lenient

ROOT = Path(__file__).parents[1]
GRID = """
name: compared
data: digits
teachers: [{file: digits.safetensors}]
students: ["lenient:resnet8-half"]
seeds: 1
settings: {steps: 20, batch_size: 16, steps_per_epoch: 4, device: cpu}
rows:
  real images: real
  noise images: {method: noise, recipe: digits}
  ta-dfkd: {method: ta-dfkd, recipe: digits}
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as `make docs` makes them, tutorials run at a small size: minutes. Without a browser none are made."""
    for name in ("furo", "myst_nb", "onnxruntime"):
        pytest.importorskip(name)
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-W", "--keep-going", "-c", "docs", ".", str(out)]
    subprocess.run(command, cwd=ROOT, check=True)
    return out


@pytest.fixture(scope="module")
def seen(browser: Browser, site: Path) -> list[Seen]:
    pages = [page for page in sorted(site.rglob("*.html")) if "_static" not in page.parts]
    assert len(pages) > 100
    # widths and colours have nothing to do with one another: each is seen once
    return [browser.look(page, width, dark=width == DESK) for width in (PHONE, DESK) for page in pages]


def test_every_page_fits_its_window_and_asks_for_nothing(seen: list[Seen]) -> None:
    assert {f"{one.page}, {one.width} pixels": one.faults for one in seen if one.faults} == {}
    assert [one.page for one in seen if (one.found["ground"] < 0.2) != (one.width == DESK)] == []


def test_every_link_leads_somewhere(site: Path, seen: list[Seen]) -> None:
    places = {one.page: {"", *one.found["anchors"]} for one in seen}
    lost = []
    for one in seen:
        for url in (url for url in one.found["links"] if url.startswith("file:")):
            file, place = target(url)
            if not file.is_relative_to(site) or not file.is_file() or place not in places.get(file, {place}):
                lost.append((str(one.page), url))
    assert lost == []


def test_the_search_finds_pages(browser: Browser, site: Path) -> None:
    found = browser.look(
        site / "search.html",
        PHONE,
        query="?q=teacher",
        until="document.querySelectorAll('#search-results li').length > 9",
    )
    assert found.faults == []


@pytest.fixture(scope="module")
def reports(browser: Browser, digits_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pages of two runs, of both side by side, and of a grid."""
    folder = tmp_path_factory.mktemp("reports")
    (folder / "digits.safetensors").write_bytes(digits_file.read_bytes())
    (folder / "grid.yaml").write_text(GRID, encoding="utf-8")
    small = ("distill", "digits.safetensors", "--preset", "smoke", "--eval-data", "digits", "--device", "cpu")
    for name in ("bn-adv", "noise"):
        lenient(*small, "--method", name, "-o", name, cwd=folder, code=(0, 4))
    lenient("report", "bn-adv", "noise", "-o", "both", cwd=folder)
    lenient("bench", "run", "grid.yaml", cwd=folder)
    lenient("bench", "report", "runs/compared", "--features", "--images", 50, cwd=folder)
    return folder


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("name", ["bn-adv", "noise", "both", "runs/compared/report"])
def test_a_report_fits_its_window_and_asks_for_nothing(name: str, width: int, browser: Browser, reports: Path) -> None:
    page = reports / name / "report.html"
    found = browser.look(page, width, dark=width == DESK)
    assert found.faults == []
    assert [url for url in found.requests if not url.startswith("data:")] == [page.as_uri()]
    assert found.found["images"] + found.found["figures"] > 3
