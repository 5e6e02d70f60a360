"""Students as objects: what they say of pictures, arrays and tensors, and the folders that bring them back."""

from __future__ import annotations

import builtins
import inspect
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import lenient
from lenient.core.errors import TeacherError, UsageError
from lenient.models import Card, build_student, save_network
from lenient.models.card import Network, PixelClassifier
from lenient.runs.export import HUB, export
from lenient.runs.student import Predicted, Student
from toys import tiny_card

COLOURS = ("red", "green", "blue")


class Mean(nn.Module):
    """Logits that are the mean of each channel, after normalisation."""

    def __init__(self, factor: float = 4.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.factor * inputs.mean(dim=(2, 3))


@pytest.fixture
def student() -> Student:
    """Names the channel that is brightest, of colour pictures of 4x6 pixels."""
    card = Card(None, (3, 4, 6), 3, (0.5, 0.5, 0.5), (0.5, 0.25, 0.5), classes=COLOURS)
    return Student(Mean(), card).eval()


def picture(*rgb: int, size: tuple[int, int] = (6, 4)) -> Image.Image:
    return Image.new("RGB", size, rgb)


def test_one_image_in_every_form_is_given_the_same_answer(student: Student, tmp_path: Path) -> None:
    red = picture(200, 100, 50)
    red.save(tmp_path / "red.png")
    array = np.asarray(red)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    forms: list[Any] = [red, tmp_path / "red.png", str(tmp_path / "red.png"), array, array / 255, tensor, tensor / 255]
    expected = (tensor / 255).mean(dim=(1, 2)).double()
    logits = 4 * (expected - 0.5) / torch.tensor([0.5, 0.25, 0.5], dtype=torch.float64)  # by its own card
    for form in forms:
        found = student.predict(form)
        assert isinstance(found, Predicted)
        assert (found.name, found.label, found.classes) == ("red", 0, COLOURS)
        assert found.probabilities == pytest.approx(logits.softmax(dim=0).tolist(), abs=1e-5)
        assert found.probability == max(found.probabilities)
        assert found.top(2) == [("red", found.probabilities[0]), ("green", found.probabilities[1])]
    assert [student.predict(form).source for form in forms[:3]] == [None, *[str(tmp_path / "red.png")] * 2]


def test_several_give_a_list_in_their_order(student: Student, tmp_path: Path) -> None:
    for name, rgb in (("b", (0, 0, 255)), ("a", (255, 0, 0)), ("sub/c", (0, 255, 0))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(*rgb, size=(60, 20)).save(tmp_path / f"{name}.png")
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    paths = [tmp_path / "b.png", tmp_path / "a.png"]
    assert [found.name for found in student.predict(paths)] == ["blue", "red"]
    whole = student.predict(tmp_path)
    assert [(found.name, Path(found.source).name) for found in whole] == [
        ("red", "a.png"), ("blue", "b.png"), ("green", "c.png"),
    ]  # fmt: skip
    many = torch.zeros(70, 3, 4, 6)
    many[:, 1] = 1
    assert [found.name for found in student.predict(many)] == ["green"] * 70, "more than a batch"
    assert [found.name for found in student.predict(many.permute(0, 2, 3, 1).numpy())] == ["green"] * 70
    assert student.predict([]) == []


def test_another_size_is_covered_and_cropped_at_the_centre(student: Student) -> None:
    """Of 8x24 pixels the middle 8x12 are seen, whatever the form."""
    wide = picture(255, 0, 0, size=(24, 8))
    wide.paste(picture(0, 0, 255, size=(12, 8)), (6, 0))
    array = np.asarray(wide)
    for form in (wide, array, torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255):
        assert student.predict(form).name == "blue"
    grey = Student(nn.Sequential(nn.Flatten(), nn.Linear(24, 2)), Card(None, (1, 4, 6), 2, (0.0,), (1.0,))).eval()
    for image in (wide, array[:, :, 0], picture(9, 9, 9)):
        assert grey.predict(image).name in ("0", "1"), "colours become grey, classes without names are numbers"


def test_it_answers_in_eval_mode_and_stays_as_it_was(student: Student) -> None:
    student.module = nn.Sequential(nn.Dropout(0.5), student.module)
    student.train()
    image = torch.rand(3, 4, 6)
    assert student.predict(image) == student.predict(image)
    assert student.training
    assert all(part.training for part in student.modules())
    assert student(image[None].requires_grad_()).requires_grad


def test_what_is_no_image_for_it_is_refused_in_a_line(student: Student, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    many = Student(nn.Flatten(), replace(student.card, input_size=(13, 1, 1), mean=(0.5,) * 13, std=(0.5,) * 13))
    cases: dict[str, tuple[Student, Any]] = {
        r"a tensor \(C, H, W\) of shape \(1, 4, 6\): this student takes 3 channel": (student, torch.rand(1, 4, 6)),
        r"of shape \(3, 4, 6\): .* 3 channel\(s\); channels come last in an": (student, np.zeros((3, 4, 6), np.uint8)),
        r"of shape \(4, 6, 3\): .*; channels come last in an array and first in": (student, torch.rand(4, 6, 3)),
        r"an array \(H, W, C\) of shape \(4, 6, 1\)": (student, np.zeros((4, 6), np.uint8)),
        r"of shape \(4, 6, 4\)": (student, np.zeros((4, 6, 4))),
        r"of int64: give uint8": (student, torch.zeros(3, 4, 6, dtype=torch.int64)),
        r"values from 0 to 255: give pixels in \[0, 1\]": (student, torch.tensor([0.0, 255]).expand(3, 4, 2)),
        r"values from nan": (student, torch.full((3, 4, 6), torch.nan)),
        r"bad\.png: not a readable image": (student, tmp_path / "bad.png"),
        r"none\.png: not a readable image \(No such file": (student, [tmp_path / "none.png"]),
        r"empty: holds no pictures": (student, tmp_path / "empty"),
        r"pictures have 1 or 3 channels, this student takes 13": (many, picture(1, 2, 3)),
        r"int: is no image": (student, [1, 2]),
    }
    for message, (who, what) in cases.items():
        with pytest.raises(UsageError, match=message) as caught:
            who.predict(what)
        assert "\n" not in str(caught.value)


@pytest.fixture
def network() -> Network:
    return build_student("lenient:resnet8-half", replace(tiny_card(size=(8, 8), classes=3), classes=COLOURS), seed=0)


def test_a_folder_brings_it_back_and_is_that_of_the_export(network: Network, tmp_path: Path) -> None:
    student = Student.of(network)
    student.save_pretrained(tmp_path / "mine")
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {*HUB} - {"report.json"}
    again = Student.from_pretrained(tmp_path / "mine")
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(again(images), student(images))
    assert again.card.classes == COLOURS
    assert json.loads((tmp_path / "mine/config.json").read_text(encoding="utf-8"))["classes"] == list(COLOURS)
    save_network(tmp_path / "net.safetensors", network)
    export(tmp_path / "net.safetensors", "hub", tmp_path / "theirs")
    for name in ("model.safetensors", "config.json", "README.md"):
        ours, theirs = ((tmp_path / folder / name).read_bytes() for folder in ("mine", "theirs"))
        assert ours == theirs or name == "config.json", "only the card's notes say where it was read"
    loaded = lenient.load(tmp_path / "mine")
    assert isinstance(loaded, PixelClassifier)
    assert torch.equal(loaded(images), student(images))


def test_a_folder_with_files_is_left_alone(network: Network, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("mine", encoding="utf-8")
    student = Student.of(network)
    with pytest.raises(UsageError, match="holds files"):
        student.save_pretrained(tmp_path)
    student.save_pretrained(tmp_path, overwrite=True)
    assert (tmp_path / "other.txt").read_text(encoding="utf-8") == "mine"


def test_a_repository_is_fetched_by_the_hubs_own_library(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    Student.of(network).save_pretrained(tmp_path / "cache")
    asked: list[tuple[str, dict[str, Any]]] = []

    def fetch(name: str, *, allow_patterns: list[str], **options: Any) -> str:
        assert "model.safetensors" in allow_patterns
        asked.append((name, options))
        if name == "org/none":
            raise OSError("401 Client Error.\nRepository Not Found")
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert Student.from_pretrained("org/mine", revision="v1").card.classes == COLOURS
    plain = {"token": None, "cache_dir": None, "force_download": False, "local_files_only": False}
    assert asked == [("org/mine", plain | {"revision": "v1"})]
    given = {"revision": "v1", "token": "t", "cache_dir": tmp_path, "force_download": True, "local_files_only": True}
    Student.from_pretrained("org/mine", **given)
    assert asked[1:] == [("org/mine", given)]
    ours, theirs = (
        inspect.signature(kind.from_pretrained).parameters for kind in (Student, huggingface_hub.PyTorchModelHubMixin)
    )
    assert [ours[name].default for name in given] == [theirs[name].default for name in given], "as the Hub's users know"
    with pytest.raises(UsageError, match=r"org/none: no such folder, and the Hub does not give it .*401") as caught:
        Student.from_pretrained("org/none")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="no such folder, and a repository is called ORG/NAME"):
        Student.from_pretrained(tmp_path / "nothing")
    with pytest.raises(UsageError, match="is of a repository"):
        Student.from_pretrained(tmp_path / "cache", revision="v1")
    (tmp_path / "void").mkdir()
    with pytest.raises(TeacherError):
        Student.from_pretrained(tmp_path / "void")


def test_a_repository_that_is_taken_for_a_file_is_answered_with_who_reads_it() -> None:
    with pytest.raises(
        TeacherError, match=r"^org/mine: no such .*; a repository .*Student.from_pretrained\('org/mine'\)"
    ):
        lenient.load("org/mine")
    with pytest.raises(TeacherError, match=r"^nets/mine.pth: no such file or folder$"):
        lenient.load("nets/mine.pth")


@pytest.mark.parametrize("only", [True, False])
def test_without_a_network_one_line_says_so(only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library itself looks into its cache, and is refused every way out."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    why = "no copy of such a repository is kept; leave local_files_only out" if only else "the Hub was not reached, nor"
    with pytest.raises(UsageError, match=f"^org/mine: no such folder, and {why}") as caught:
        Student.from_pretrained("org/mine", cache_dir=tmp_path, local_files_only=only)
    assert "\n" not in str(caught.value)


def test_without_the_hubs_library_folders_still_load(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        assert not name.startswith("huggingface_hub")
        return own(name, *rest, **more)

    monkeypatch.setattr("lenient.runs.student.find_spec", lambda name: None)
    for name in [name for name in sys.modules if name.startswith("huggingface_hub")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    Student.of(network).save_pretrained(tmp_path / "mine")
    assert Student.from_pretrained(tmp_path / "mine").card.num_classes == 3
    with pytest.raises(UsageError, match=r"needs huggingface_hub; pip install huggingface_hub$"):
        Student.from_pretrained("org/mine")
