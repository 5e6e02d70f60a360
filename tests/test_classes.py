"""Names of classes that a user gives: read from where they are, and with the student wherever it goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import lenient
from fuzzing import command
from lenient.core.errors import LenientError, TeacherError, UsageError
from lenient.models.classes import class_names
from lenient.models.stated import facts_of_stated
from toys import digits_like, write_pictures

NAMES = ["null", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine | ten"]
PLAN: dict[str, Any] = {"steps": 2, "batch_size": 8, "device": "cpu", "precision": "32"}


@pytest.fixture
def bare_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that says nothing of itself, and its names in a file."""
    monkeypatch.chdir(tmp_path)
    torch.save(digits_like().module.state_dict(), "w.pth")
    Path("names.txt").write_text("\n".join(NAMES) + "\n\n", encoding="utf-8")
    return Path("w.pth")


FACTS: dict[str, Any] = {"arch": "lenient:resnet8", "input_size": (1, 8, 8)}


def test_names_come_of_a_list_a_file_or_folders(tmp_path: Path) -> None:
    assert class_names(["b", "a"]) == ("b", "a")
    (tmp_path / "names.txt").write_bytes("\ufeffb\r\nä \r\nb\r\n\r\n".encode())
    assert class_names(tmp_path / "names.txt") == ("b", "ä", "b"), "some data sets have one twice"
    for name in ("10", "9", "a", ".git", "__MACOSX"):
        (tmp_path / "train" / name).mkdir(parents=True)
    (tmp_path / "train" / "readme.txt").touch()
    assert class_names(str(tmp_path / "train")) == ("10", "9", "a")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nowhere", r"--classes nowhere: cannot be read \(No such file"),
        ("empty", "--classes empty: holds no names"),
        ("blank.txt", "--classes blank.txt: line 2 has 0 characters"),
        ("long.txt", "--classes long.txt: line 1 has 201 characters; give 1 to 200"),
        ("bytes", "--classes bytes: cannot be read .*not text in UTF-8"),
        ("nothing.txt", "--classes nothing.txt: holds no names"),
        ([1, "b"], "--classes: name 1 is 1, and no text"),
    ],
)
def test_what_are_no_names_is_refused_in_a_line(
    given: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("blank.txt").write_text("a\n\nb", encoding="utf-8")
    Path("long.txt").write_text("a" * 201, encoding="utf-8")
    Path("bytes").write_bytes(b"\xff\xfe\x00")
    Path("nothing.txt").touch()
    with pytest.raises(UsageError, match=words):
        class_names(given)


def test_there_is_one_for_each_output(bare_weights: Path) -> None:
    wrong = r"^--classes: 3 names, and w.pth has 10 outputs; give one for each, in their order$"
    for function in (lenient.load, lenient.inspect, lenient.distill):
        with pytest.raises(TeacherError, match=wrong):
            function(bare_weights, **FACTS, classes=["a", "b", "c"])
    Path("names.txt").write_text("a", encoding="utf-8")
    ended = command("inspect", "w.pth", "--teacher-arch", "lenient:resnet8", "--input-size", "1,8,8",
                    "--classes", "names.txt")  # fmt: skip
    ended.check("--classes")
    assert ended.code == 3


def test_they_go_with_a_student(bare_weights: Path, bare: None) -> None:
    """From a checkpoint: the run's files, a picture's class, a folder for a hub, pictures of the run."""
    lenient.distill(bare_weights, "lenient:resnet8-half", **FACTS, classes="names.txt", output="run", **PLAN)
    assert json.loads(Path("run/student/config.json").read_text(encoding="utf-8"))["classes"] == NAMES
    Path("names.txt").unlink()  # what was read of it stands in the run
    write_pictures(Path("pictures"), 1)
    student = lenient.load("run")
    assert student.card.classes == tuple(NAMES)
    (found,) = student.predict("pictures")
    assert found.name in NAMES
    lenient.export("run", "hub", "hub")
    assert "10 class" in (page := Path("hub/README.md").read_text(encoding="utf-8"))
    assert ": null, one, two, three, four, five, six, seven, eight, nine \\| ten;" in page
    lenient.sample("run", "set", 4, format="safetensors")
    assert lenient.SyntheticImages.open("set").classes == tuple(NAMES)
    with pytest.raises(LenientError, match=r"--resume: the teacher's classes is .*; check --classes"):
        lenient.distill(bare_weights, "lenient:resnet8-half", **FACTS, output="run", resume=True, **PLAN)


@pytest.mark.parametrize("way", [{}, {"opset": 17}, {"int8": True, "calibrate": "images.safetensors"}])
def test_they_are_in_an_onnx_file(way: dict[str, Any], bare_weights: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    if "opset" in way:
        pytest.importorskip("onnx", "1.23", reason="earlier ones convert less")
    images = (torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).byte()
    save_file({"images": images}, "images.safetensors")
    lenient.export(bare_weights, "named.onnx", "onnx", **FACTS, classes=NAMES, **way)
    session = runtime.InferenceSession("named.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["lenient.classes"]) == NAMES
    read_back("named.onnx", tolerance=2e-2 if "int8" in way else 1e-4)


def test_an_onnx_file_of_unnamed_classes_has_no_names(bare_weights: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    lenient.export(bare_weights, "x.onnx", "onnx", **FACTS)
    session = runtime.InferenceSession("x.onnx", providers=["CPUExecutionProvider"])
    assert "lenient.classes" not in session.get_modelmeta().custom_metadata_map


def read_back(file: str, tolerance: float = 1e-4) -> None:
    """Names and normalisation are those that were exported, and nothing is assumed."""
    student = lenient.load(file, trust_code=True)
    assert student.card.classes == tuple(NAMES), file
    assert not [note for note in student.card.notes if "ASSUMED" in note], file
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    original = lenient.load("w.pth", **FACTS)
    torch.testing.assert_close(student(images), original(images), atol=tolerance, rtol=0)


def test_they_are_in_a_program(bare_weights: Path) -> None:
    lenient.export(bare_weights, "w.pt2", "pt2", **FACTS, classes=NAMES)
    read_back("w.pt2")
    lenient.export(bare_weights, "x.pt2", "pt2", **FACTS)
    assert lenient.inspect("x.pt2", trust_code=True).card.classes is None


@pytest.mark.parametrize("said", ["", "{", "[" * 10**5, "[]", '"ten"', '["a", 1]', '[""]', json.dumps(["x" * 201])])
def test_what_a_program_says_amiss_is_as_if_it_were_not_said(said: str) -> None:
    found = facts_of_stated({"lenient.classes": said, "lenient.pixels": "[0, 255]"})
    assert (found.classes, found.mean, found.std) == (None, None, None)


def test_names_of_data_that_is_measured_on_are_not_taken(bare_weights: Path, bare: None) -> None:
    for name in [*NAMES[:9], "ten"]:
        Path("data/test", name).mkdir(parents=True)
        write_pictures(Path("data/test", name), 1)
    lenient.distill(bare_weights, "lenient:resnet8-half", **FACTS, eval_data="imagefolder:data", output="run", **PLAN)
    assert lenient.load("run").card.classes is None
