"""The report in a real browser: it asks the network for nothing, and every picture is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lenient.reporting import write_report
from report_fixtures import make_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1280,2000"),
    *("--virtual-time-budget=5000", "--dump-dom"),
)

# Written into a copy of the page: opens all folds, then reports what the browser fetched and drew.
PROBE = """
<script>
document.querySelectorAll("details").forEach(fold => { fold.open = true });
addEventListener("load", () => {
  const drawn = node => { const box = node.getBoundingClientRect(); return box.width > 0 && box.height > 0 };
  const images = [...document.images], figures = [...document.querySelectorAll("svg")];
  const found = {
    fetched: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")),
    images: images.length, figures: figures.length, width: document.documentElement.scrollWidth - innerWidth,
    missing: images.filter(i => !i.naturalWidth || !drawn(i)).length,
    empty: figures.filter(f => !drawn(f) || !f.getBBox().width || !f.getBBox().height).length,
    colours: [...new Set([...document.querySelectorAll("svg path")].map(p => getComputedStyle(p).stroke))].length,
  };
  document.body.innerHTML = "<pre id='found'></pre>";
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
def test_page_is_whole_and_asks_for_nothing(tmp_path: Path) -> None:
    assert BROWSER is not None
    run = make_run(tmp_path / "run")
    write_report(run)
    html = (run / "report.html").read_text(encoding="utf-8")
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)  # it would refuse the probe
    copy = tmp_path / "probe.html"
    copy.write_text(html.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [BROWSER, *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", copy.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    match = re.search(r'<pre id="found">(.*?)</pre>', result.stdout, flags=re.DOTALL)
    assert match is not None, result.stderr[-2000:]
    found = json.loads(match.group(1))
    assert found["fetched"] == []
    assert found["images"] == 10
    assert found["figures"] >= 12
    assert (found["missing"], found["empty"]) == (0, 0)
    assert found["width"] <= 0  # nothing sticks out sideways
    assert found["colours"] > 3  # the page's variables reach the figures
