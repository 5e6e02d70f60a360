"""The tutorials lead on as a reader would follow them; `make docs` runs them at a small size, the slow test whole."""

from __future__ import annotations

import json
import os
import re
import sysconfig
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from lenient.models import Network
from lenient.runs.export import export_onnx
from lenient.runs.student import Student
from toys import tiny_card, write_pictures

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


def test_the_lines_for_a_device_see_a_picture_as_we_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not square, grey and in colours: squashed, or cut elsewhere, the answer is another one."""
    runtime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "tutorials" / "int8.md").read_text(encoding="utf-8")
    imports, *cells = re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (cell,) = (cell for cell in cells if "def logits_of_picture" in cell)
    names: dict[str, Any] = {"images": np.zeros((1, 1, 8, 8)), "digits": SimpleNamespace(target=[0])}
    exec("\n".join(line for line in imports.splitlines() if line.startswith(("import ", "from "))), names)
    for size in ((3, 24, 16), (1, 8, 8)):
        means = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Flatten()
        )  # whose answers are colours of parts of the picture
        card = tiny_card(size[0], size[1:], 16 * size[0])
        network = Network(means, replace(card, classes=tuple(map(str, range(card.num_classes)))))
        export_onnx(network, tmp_path / "student-int8.onnx")
        exec(cell if size[0] == 1 else cell.partition("\n\n\n")[0], names)
        session = runtime.InferenceSession("student-int8.onnx", providers=["CPUExecutionProvider"])
        for wide in ((90, 61), (40, 120)):
            write_pictures(tmp_path, 3, size=wide)
            for path in tmp_path.glob("0*.png"):
                logits = names["logits_of_picture"](session, path)
                found = np.exp(logits) / np.exp(logits).sum()
                assert np.allclose(found, Student.of(network).predict(path).probabilities, rtol=0.02, atol=0), path


@pytest.mark.slow  # minutes each
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_it_runs_whole(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As whoever downloads it runs it; what a run folder says afterwards is a success."""
    client = pytest.importorskip("nbclient", reason="pip install '.[docs]' brings Jupyter")
    read = pytest.importorskip("myst_nb.core.read", reason="pip install '.[docs]' brings MyST-NB")
    if page.stem in ("int8", "timm-teacher"):
        pytest.importorskip("onnxruntime", reason="pip install '.[onnx]'")
    monkeypatch.delenv("LENIENT_SMOKE", raising=False)
    monkeypatch.setenv("PATH", os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"])))
    notebook = read.read_myst_markdown_notebook(page.read_text(encoding="utf-8"))
    client.NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for report in tmp_path.glob("runs/*/report.json"):
        assert json.loads(report.read_text(encoding="utf-8"))["health"]["verdict"] != "failed"
