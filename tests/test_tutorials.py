"""The tutorials lead on as a reader would follow them; `make docs` runs them at a small size, the slow test whole."""

from __future__ import annotations

import json
import os
import re
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
LEADING = ("README.md", "docs/conf.py", "CHANGELOG.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_small_only_where_it_is_told_to_and_fails_with_its_commands(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert all(f"docs/tutorials/{page.stem}" in (ROOT / name).read_text(encoding="utf-8") for name in LEADING)
    assert text.count('SMOKE = bool(os.environ.get("LENIENT_SMOKE"))') == 1
    cells = re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(cells) > 3
    assert not [cell for cell in cells if re.search(r"^\s*!|^%%bash --no-raise-error", cell, re.MULTILINE)]


@pytest.mark.slow  # minutes each
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_it_runs_whole(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As whoever downloads it runs it; what a run folder says afterwards is a success."""
    client = pytest.importorskip("nbclient", reason="pip install '.[docs]' brings Jupyter")
    read = pytest.importorskip("myst_nb.core.read", reason="pip install '.[docs]' brings MyST-NB")
    if page.stem == "int8":
        pytest.importorskip("onnxruntime", reason="pip install '.[onnx]'")
    monkeypatch.delenv("LENIENT_SMOKE", raising=False)
    monkeypatch.setenv("PATH", os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"])))
    notebook = read.read_myst_markdown_notebook(page.read_text(encoding="utf-8"))
    client.NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for report in tmp_path.glob("runs/*/report.json"):
        assert json.loads(report.read_text(encoding="utf-8"))["health"]["verdict"] != "failed"
