"""ONNX files with the operators asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from lenient.errors import UsageError
from lenient.export import OPSETS, export, opset_of
from lenient.models import load_network, save_network


@pytest.fixture
def student(tmp_path: Path) -> Path:
    path = tmp_path / "s.safetensors"
    save_network(path, load_network("lenient:resnet8-half", num_classes=4, input_size=(3, 8, 8), seed=1))
    return path


def written(student: Path, opset: int | None) -> int:
    path = student.with_suffix(".onnx")
    difference = export(student, "onnx", path, check=True, opset=opset)
    assert difference is not None
    assert difference < 1e-5
    return opset_of(path)


def test_an_older_opset_gives_the_same_outputs(student: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert written(student, 13) == 13


@pytest.mark.slow
def test_every_opset_gives_the_same_outputs_or_a_line(student: Path) -> None:
    pytest.importorskip("onnxruntime")
    refused = []
    for opset in range(OPSETS[0], OPSETS[1] + 1):
        words = ""
        try:
            assert written(student, opset) == opset
        except UsageError as error:
            words = str(error)
            refused.append(opset)
        assert not words or f"--opset {opset}: this network cannot be written so" in words
    print(f"refused: {refused}")
    assert not refused


def test_opsets_that_nobody_writes_are_refused(student: Path) -> None:
    pytest.importorskip("onnx")
    for opset in (-1, 12, OPSETS[1] + 1, 10**9):
        with pytest.raises(UsageError, match=f"--opset {opset}: give 13 to 23"):
            export(student, "onnx", student.with_suffix(".onnx"), opset=opset)
    with pytest.raises(UsageError, match="--opset 13: is for --format onnx"):
        export(student, "pt2", student.with_suffix(".pt2"), opset=13)
    assert not student.with_suffix(".onnx").exists()
