"""ONNX in 8 bits without real data: ranges of synthetic images, and errors in one line."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lenient.core.errors import UsageError
from lenient.models import save_network
from lenient.models.students import copy_student
from lenient.runs.export import export
from lenient.runs.int8 import MOST, agreement, calibration_images, full_contrast, spread
from toys import digits_like, write_pictures

SIZE = (1, 8, 8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What of a run is read: its student, and the images that it kept."""
    run = tmp_path_factory.mktemp("run")
    save_network(run / "student" / "model.safetensors", digits_like())
    (run / "samples").mkdir()
    images = (torch.rand(40, *SIZE, generator=torch.Generator().manual_seed(0)) * 255).byte()
    save_file({"images": images}, run / "samples" / "images.safetensors")
    return run


def test_a_student_in_integers_answers_as_in_float(run: Path, tmp_path: Path) -> None:
    onnx, path, said = pytest.importorskip("onnx"), tmp_path / "s.onnx", []
    pytest.importorskip("onnxruntime")
    alike = export(run, "onnx", path, check=True, int8=True, tell=said.append)
    assert alike is not None
    assert alike >= 0.9
    agreed = f"the class is that of the float network on {100 * alike:.1f} % of 40 images"
    assert said == ["ranges of 40 images", agreed]
    graph = onnx.load(str(path)).graph
    kinds = [node.op_type for node in graph.node]
    assert "BatchNormalization" not in kinds
    large = [tensor for tensor in graph.initializer if math.prod(tensor.dims) > 256]
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.INT8}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in (node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in shapes):
        if len(shapes[node.input[0]]) == 4:
            assert shapes[node.input[1]] == shapes[node.input[0]][:1], "a scale for each output channel"


def test_accuracy_is_measured_where_there_is_data(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    said: list[str] = []
    right = export(run, "onnx", tmp_path / "s.onnx", check=True, int8=True, eval_data="digits", tell=said.append)
    assert right is not None
    assert said[1].startswith(f"accuracy on digits: {100 * right:.2f} %, in float ")


def test_a_file_that_rounding_does_not_explain_is_called_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges of black images cut everything off, and on these the classes agree all the same, so others are shown."""
    pytest.importorskip("onnxruntime")
    save_file({"images": torch.zeros(1, *SIZE, dtype=torch.uint8)}, tmp_path / "images.safetensors")
    said: list[str] = []
    shown = torch.rand(40, *SIZE, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("lenient.runs.export.agreement", lambda a, b, _: agreement(a, b, (shown * 255).byte()))
    export(run, "onnx", tmp_path / "s.onnx", check=True, int8=True, calibrate=tmp_path, tell=said.append)
    assert said[1].endswith("; rounding to 8 bits does not explain this: give --calibrate DIR with other images")
    monkeypatch.setattr("lenient.runs.export.accuracies", lambda *_: (0.98, 0.92))
    export(run, "onnx", tmp_path / "t.onnx", check=True, int8=True, eval_data="digits", tell=said.append)
    assert said[3].startswith("accuracy on digits: 92.00 %, in float 98.00 %; rounding to 8 bits does not explain")
    monkeypatch.setattr("lenient.runs.export.accuracies", lambda *_: (0.98, 0.97))
    export(run, "onnx", tmp_path / "u.onnx", check=True, int8=True, eval_data="digits", tell=said.append)
    assert said[5] == "accuracy on digits: 97.00 %, in float 98.00 %"


def test_images_come_from_where_one_says(run: Path, tmp_path: Path) -> None:
    assert calibration_images(run, None, SIZE).images.shape == (40, *SIZE)
    write_pictures(tmp_path / "pictures", 5)
    assert calibration_images(run, tmp_path / "pictures", SIZE).images.shape == (5, *SIZE)
    save_file({"images": torch.zeros(MOST + 3, *SIZE, dtype=torch.uint8)}, tmp_path / "images.safetensors")
    assert len(calibration_images(run, tmp_path / "images.safetensors", SIZE).images) == MOST
    assert len(calibration_images(run, tmp_path, SIZE).images) == MOST, "a folder of ours"


def test_of_many_images_some_are_taken_from_everywhere(run: Path, tmp_path: Path) -> None:
    """Two classes of 1,100 each, first all black ones and then all white ones; or in turns, ten of each."""
    for name, value in {"black": 0, "white": 255}.items():
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8), value).save(first := tmp_path / name / "0000.png")
        for number in range(1, 1100):
            os.link(first, tmp_path / name / f"{number:04d}.png")
    found = calibration_images(run, tmp_path, SIZE)
    assert found.told() == "ranges of 1,024 of 2,200 images"
    assert torch.equal(found.images, calibration_images(run, tmp_path, SIZE).images)
    assert found.images.float().mean() == pytest.approx(127.5, abs=1)
    for turn in (1100, 10, 1):
        images = (torch.arange(20480) // turn % 2 * 255).byte().view(-1, 1, 1, 1).expand(-1, *SIZE).contiguous()
        save_file({"images": images}, tmp_path / "images.safetensors")
        found = calibration_images(run, tmp_path / "images.safetensors", SIZE)
        assert found.told() == "ranges of 1,024 of 20,480 images"
        assert found.images.float().mean() == pytest.approx(127.5, abs=16)


def test_places_are_different_ones_in_order() -> None:
    assert spread(MOST) == list(range(MOST))
    for count in (MOST + 1, 2 * MOST - 1, 2 * MOST, 10**6 + 7):
        places = spread(count)
        assert len(places) == MOST
        assert places == sorted(set(places))
        assert places[0] < count / MOST
        assert count - count / MOST - 1 <= places[-1] < count


def test_ranges_are_also_of_images_from_black_to_white() -> None:
    grey = (torch.rand(3, *SIZE) * 60 + 100).byte()
    full = full_contrast(grey)
    assert full.flatten(1).amin(dim=1).tolist() == [0] * 3
    assert full.flatten(1).amax(dim=1).tolist() == [255] * 3
    assert torch.equal(full_contrast(full), full)
    assert not full_contrast(torch.full((1, *SIZE), 7, dtype=torch.uint8)).any(), "of one value: nothing to stretch"


def test_what_does_not_go_is_refused_in_a_line(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "s.onnx"
    bare, few = tmp_path / "bare.safetensors", tmp_path / "few.safetensors"
    save_network(bare, digits_like())
    save_network(few, copy_student("int8:copy", digits_like()))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"--int8: .*bare\.safetensors keeps no images .*; give --calibrate DIR"):
        export(bare, "onnx", out, int8=True)
    with pytest.raises(UsageError, match=r"--calibrate .*nowhere: no such file or folder"):
        export(bare, "onnx", out, int8=True, calibrate=tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"--calibrate .*empty: holds no pictures"):
        export(bare, "onnx", out, int8=True, calibrate=tmp_path / "empty")
    with pytest.raises(UsageError, match=r"--calibrate .*: holds no images of ours"):
        export(bare, "onnx", out, int8=True, calibrate=bare)
    with pytest.raises(UsageError, match=r"40 images of 1x8x8, and the network takes 3x8x8"):
        calibration_images(run, None, (3, 8, 8))
    with pytest.raises(UsageError, match="computes in 8 bits by itself; leave it out"):
        export(few, "onnx", out, int8=True)
    with pytest.raises(UsageError, match="--int8: is for --format onnx"):
        export(run, "pt2", out, int8=True)
    with pytest.raises(UsageError, match=r"--calibrate .*: is for --int8"):
        export(run, "onnx", out, calibrate=tmp_path)
    with pytest.raises(UsageError, match="--eval-data digits: is for --int8 --check"):
        export(run, "onnx", out, int8=True, eval_data="digits")
    assert not out.exists()


def test_without_the_extra_it_says_what_to_install(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lenient.runs.export.find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"needs onnx, onnxscript, onnxruntime; pip install onnx onnxscript onnxruntime$"
    ):
        export(run, "onnx", tmp_path / "s.onnx", int8=True)
