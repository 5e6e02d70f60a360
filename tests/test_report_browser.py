"""The report in a real browser: it asks the network for nothing, and every picture is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from browser import DESK, PHONE, Browser
from lenient.reporting import write_report
from report_fixtures import make_run


@pytest.mark.optional
@pytest.mark.parametrize(("width", "dark"), [(PHONE, False), (DESK, False), (DESK, True)])
def test_page_is_whole_and_asks_for_nothing(browser: Browser, width: int, dark: bool, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_report(run)
    seen = browser.look(run / "report.html", width, dark=dark)
    assert seen.faults == []
    assert (seen.found["ground"] < 0.2) == dark
    assert [url for url in seen.requests if not url.startswith("data:")] == [(run / "report.html").as_uri()]
    assert seen.found["images"] == 10
    assert seen.found["figures"] >= 12
    assert len(seen.found["colours"]) > 3  # the page's variables reach the figures
