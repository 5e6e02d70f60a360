"""What a GPU is to be measured by runs from end to end as a toy, keeps each part, and goes on from what is there."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lenient.models import build_student
from lenient.models.card import Card

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CPU = torch.device("cpu")
TESTS = """
import pytest
def test_good(): pass
@pytest.mark.parametrize("name", ["a, b"])
def test_bad(name): assert name == 3, "no"
@pytest.mark.skip(reason="no card")
def test_none(): pass
"""


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts import each other from their own folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)


def module(name: str) -> Any:
    return importlib.import_module(name)


@pytest.fixture
def toy_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tests" / "test_toy.py"
    file.parent.mkdir()
    file.write_text(TESTS.replace("def test", "@pytest.mark.gpu\ndef test"), encoding="utf-8")
    monkeypatch.setattr(module("gpu_tests"), "TESTS", file)


@pytest.mark.usefixtures("bare", "toy_tests")
def test_the_whole_at_toy_size_and_nothing_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu, out, page = module("gpu"), tmp_path / "out", tmp_path / "page.md"
    gpu.main(out, [], 540.0, None, False, "cpu", True, None)
    found = {name: json.loads((out / f"{name}.json").read_text()) for name in gpu.PIECES}
    assert {name: (known.get("done"), known.get("error")) for name, known in found.items()} == dict.fromkeys(
        gpu.PIECES, (True, None)
    )
    assert found["tests"]["outcomes"] == {"test_good": "passed", "test_bad[a, b]": "failed", "test_none": "skipped"}
    assert found["tests"]["code"] == 1
    rows = found["speed"]["batches"]["8"]
    assert list(rows) == list(module("gpu_speed").WAYS)
    assert all(row["images_per_second"] > 0 and row["share_of_limit"] > 0 for row in rows.values())
    assert found["speed"]["weights"] == "trained"
    assert [len(run["curve"]) for run in found["distil"]["runs"].values()] == [6, 6]
    gpu.main(out, [], 540.0, None, False, "cpu", True, page)
    text = page.read_text()
    assert text.count("measured, a toy") == 4
    assert "- `test_bad[a, b]`" in text
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("|"))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    later = tmp_path / "later"
    capsys.readouterr()
    gpu.main(later, [], 540.0, out, False, "cpu", True, None)
    assert {path.name: path.read_bytes() for path in later.iterdir()} == before
    assert capsys.readouterr().out == ""


def test_a_piece_that_fails_says_so_and_the_others_have_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = module("gpu")
    shares: list[float] = []

    def fails(found: dict[str, Any], keep: Any, until: float, *_: Any) -> None:
        shares.append(until - time.monotonic())
        found["part"] = 1
        keep()
        raise FileNotFoundError("no such data")

    def works(found: dict[str, Any], keep: Any, until: float, *_: Any) -> None:
        shares.append(until - time.monotonic())
        found["done"] = found.get("part", 0) == 0

    monkeypatch.setattr(gpu, "PIECES", {"teacher": (1.0, fails), "speed": (3.0, works)})
    sizes = module("gpu_sizes").TOY
    gpu.measure(tmp_path, ["teacher", "speed"], 400.0, sizes, CPU)
    assert shares == pytest.approx([100.0, 400.0], abs=5.0)
    known = gpu.read(tmp_path, "teacher")
    assert (known["part"], known["error"]) == (1, "FileNotFoundError: no such data")
    assert gpu.read(tmp_path, "speed")["done"]
    gpu.measure(tmp_path, ["teacher", "speed"], 400.0, sizes, CPU)
    assert len(shares) == 3
    assert shares[2] == pytest.approx(400.0, abs=5.0)


def test_weights_in_parts_come_back_as_they_were_to_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = module("gpu_teacher")
    monkeypatch.setattr(teacher, "PART_BYTES", 30_000)
    card = Card(None, (1, 8, 8), 10, (0.4,), (0.3,))
    network = build_student("lenient:resnet8-half", card, seed=0, role="teacher")
    teacher.write_parts(network, tmp_path)
    parts = sorted(tmp_path.iterdir())
    assert len(parts) > 1
    assert all(part.stat().st_size < 30_000 + 10_000 for part in parts)
    back = teacher.read_parts(tmp_path)
    for name, value in network.module.state_dict().items():
        kept = back.module.state_dict()[name]
        assert kept.dtype == value.dtype
        assert torch.equal(kept, value.half().float() if value.dim() > 1 else value)
    parts[0].unlink()
    assert teacher.read_parts(tmp_path) is None
    assert module("gpu").page({name: {} for name in module("gpu").PIECES}).count("| not measured |") == 4
