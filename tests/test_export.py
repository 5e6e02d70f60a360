"""Exports: ONNX with the operators asked for; what is there is replaced when asked for, whole or not at all."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from fuzzing import command
from lenient.core import files
from lenient.core.errors import MachineError, TeacherError, UsageError
from lenient.models import load_network, save_network
from lenient.runs.export import HUB, OPSETS, _convertible, export, opset_of, write_student
from lenient.runs.folder import fingerprint
from toys import digits_like


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
    pytest.importorskip("onnx", "1.23")
    assert written(student, 13) == 13


@pytest.mark.parametrize(
    ("version", "advice"), [("1.22.0", "install onnx 1.23 or newer, for 1.22.0 "), ("1.23.0rc1", "")]
)
def test_an_onnx_that_cannot_convert_is_named(version: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    with pytest.raises(UsageError, match=r"^--opset 13: .* No Adapter") as caught, _convertible(13):
        raise RuntimeError("No Adapter From Version $15 for Shape")
    assert ("onnx 1.23" in str(caught.value)) == bool(advice)
    assert advice in str(caught.value)
    assert str(caught.value).endswith("give 18 or leave it out")


@pytest.mark.slow
def test_every_opset_gives_the_same_outputs(student: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx", "1.23")
    for opset in range(OPSETS[0], OPSETS[1] + 1):
        assert written(student, opset) == opset
        student.with_suffix(".onnx").unlink()


def test_opsets_that_nobody_writes_are_refused(student: Path) -> None:
    pytest.importorskip("onnx")
    for opset in (-1, 12, OPSETS[1] + 1, 10**9):
        with pytest.raises(UsageError, match=f"--opset {opset}: give 13 to 23"):
            export(student, "onnx", student.with_suffix(".onnx"), opset=opset)
    with pytest.raises(UsageError, match="--opset 13: is for --format onnx"):
        export(student, "pt2", student.with_suffix(".pt2"), opset=13)
    assert not student.with_suffix(".onnx").exists()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    write_student(run / "student", digits_like())
    return run


def test_which_network_of_a_checkpoint_is_exported_can_be_said(tmp_path: Path) -> None:
    networks = {key: digits_like(seed) for seed, key in enumerate(("model", "model_ema"))}
    torch.save({key: network.module.state_dict() for key, network in networks.items()}, tmp_path / "both.pt")
    export(
        tmp_path / "both.pt",
        "safetensors",
        tmp_path / "x.safetensors",
        arch="lenient:resnet8",
        checkpoint_key="model_ema",
        input_size=(1, 8, 8),
    )
    assert fingerprint(load_network(tmp_path / "x.safetensors").module) == fingerprint(networks["model_ema"].module)


def test_a_teacher_is_exported_as_one_says_that_it_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of timm's says nothing of size and normalisation: what is given is in the file, what is assumed is
    told."""
    runtime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = timm.create_model("test_resnet", num_classes=5, in_chans=1).eval()
    torch.save({"state_dict": module.state_dict()}, "checkpoint.pth")
    plan = "export checkpoint.pth --format onnx -o t.onnx --teacher-arch timm:test_resnet"
    ended = command(*plan.split(), "--input-size", "1,24,32", "--mean", "0.2", "--std", "0.4", "--check")
    assert ended.code == 0, ended
    session = runtime.InferenceSession("t.onnx", providers=["CPUExecutionProvider"])
    (takes,) = session.get_inputs()
    assert takes.shape[1:] == [1, 24, 32]
    images = torch.rand(2, 1, 24, 32)
    with torch.no_grad():
        expected = module((images - 0.2) / 0.4).numpy()
    assert np.allclose(session.run(None, {"images": images.numpy()})[0], expected, atol=1e-4)
    assert "  - mean 0.2 and std 0.4: from --mean/--std\n" in ended.printed
    assert "ASSUMED" not in ended.printed
    ended = command(*plan.split(), "--input-size", "1,24,32", "--overwrite")
    assert ended.code == 0, ended
    assert re.search("  - mean .*: ASSUMED.*; .*--mean and --std", ended.printed)


def test_facts_that_do_not_fit_are_refused_in_a_line(student: Path, tmp_path: Path) -> None:
    """Those given go before what a file says of itself, as everywhere, and the notes tell."""
    out, notes = tmp_path / "x.safetensors", list[str]()
    with pytest.raises(TeacherError, match=r"correct --teacher-arch, --num-classes or --input-size$"):
        export(student, "safetensors", out, num_classes=7)
    with pytest.raises(TeacherError, match="--input-size"):
        export(student, "safetensors", out, input_size=(1, 8, 8))
    with pytest.raises(UsageError, match="--mean and --std go together"):
        export(student, "safetensors", out, mean=(0.5,))
    assert not out.exists()
    export(student, "safetensors", out, input_size=(3, 16, 16), mean=(0.5,), std=(0.25,), note=notes.append)
    card = load_network(out).card
    assert (card.input_size, card.mean, card.std) == ((3, 16, 16), (0.5,) * 3, (0.25,) * 3)
    assert any(note.endswith("from --input-size (the file's metadata says (8, 8))") for note in notes)
    assert any(note.endswith("from --mean/--std (the file's metadata says mean 0,0,0 and std 1,1,1)") for note in notes)


@pytest.mark.parametrize("kind", ["safetensors", "pt2", "onnx"])
@pytest.mark.parametrize("there", ["a file", "a link", "a folder", "a pipe or a device"])
def test_what_is_there_is_not_replaced_unasked(source: Path, tmp_path: Path, kind: str, there: str) -> None:
    other = tmp_path / "other"
    other.write_text("precious")
    path = tmp_path / "out"
    {"a file": path.touch, "a folder": path.mkdir, "a link": lambda: path.symlink_to(other)}.get(
        there, lambda: os.mkfifo(path)
    )()
    with pytest.raises(UsageError, match=r"exists; choose another name, or replace|is a (folder|pipe)"):
        export(source, kind, path)
    if there in ("a folder", "a pipe or a device"):
        with pytest.raises(UsageError, match=f"is {there}; choose another name"):
            export(source, kind, path, overwrite=True)
    assert files.kind_of(path) == there
    assert other.read_text() == "precious"


def test_with_overwrite_a_file_is_replaced_and_a_link_is_not_followed(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("precious")
    (tmp_path / "out").symlink_to(other)
    export(source, "safetensors", tmp_path / "out", overwrite=True)
    assert other.read_text() == "precious"
    assert (tmp_path / "out").read_bytes() == (source / "student" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["", "student", "student/model.safetensors", "student/new", "checkpoints/last.pt"])
@pytest.mark.parametrize("kind", ["safetensors", "hub"])
def test_the_runs_own_files_are_never_a_destination(source: Path, name: str, kind: str) -> None:
    with pytest.raises(UsageError, match="belongs to"):
        export(source, kind, source / name, overwrite=True)


def test_a_folder_for_a_hub_keeps_what_we_do_not_write(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UsageError, match="holds files"):
        export(source, "hub", tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    export(source, "hub", tmp_path, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", *HUB} - {"report.json"}
    (tmp_path / "README.md").unlink()
    (tmp_path / "README.md").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(UsageError, match=r"README\.md is a link"):
        export(source, "hub", tmp_path, overwrite=True)


@pytest.mark.parametrize("kind", ["safetensors", "pt2"])
def test_a_full_disk_leaves_the_file_that_was_there(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "out"
    path.write_text("before")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(MachineError):
        export(source, kind, path, overwrite=True)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
