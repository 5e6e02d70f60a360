"""The commands that make the tables: they run, go on where they stopped, and write what they found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(*arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_family_command_fills_in_what_is_missing_and_writes_the_page(digits_file, tmp_path):
    teachers = tmp_path / "runs" / "family"
    teachers.mkdir(parents=True)
    (teachers / "digits-e3.safetensors").write_bytes(digits_file.read_bytes())
    common = [BENCHMARKS / "family.py", "cells.json", "--steps", 4, "--teachers", 1, "--seeds", 1]
    run(*common, "--only", "real images;noise images", cwd=tmp_path)
    first = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert [cell["row"] for cell in first] == ["real images", "noise images"]
    run(*common, "--only", "real images;mad", cwd=tmp_path)
    cells = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert [cell["row"] for cell in cells] == ["real images", "noise images", "mad"]
    assert cells[:2] == first
    assert all(0 <= cell["last"] <= cell["max"] <= 1 and len(cell["curve"]) == 4 for cell in cells)
    run(*common, "--table", "page.md", cwd=tmp_path)
    page = (tmp_path / "page.md").read_text()
    assert "| mad | " in page
    assert "3 runs." in page
