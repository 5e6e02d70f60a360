"""Data sets as files: others read them, crops are made again from what is stored, a folder is whole or absent."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import hflip, resized_crop

import lenient
from lenient.core.errors import MachineError, UsageError
from lenient.models import save_network
from lenient.models.card import PixelClassifier
from lenient.runs import formats
from lenient.runs.crops import Cropping
from lenient.runs.formats.pictures import class_folders
from lenient.runs.gathered import Gathered
from toys import QUICK, digits_like, quick, tiny_student, tiny_teacher

pytestmark = pytest.mark.usefixtures("bare_module")

PLAN = {key: value for key, value in QUICK.items() if key not in ("seed", "generator")}
POOL = quick("deepinversion", PLAN) | {
    "batch_size": 8,
    "method": {"iterations": 3, "first_batches": 1, "student_steps": 2},
}
NOTEBOOK = (Path(__file__).parents[1] / "docs" / "tutorials" / "data-set.md").read_text(encoding="utf-8")
KINDS = ["png", "imagefolder", "webdataset", "npz", "safetensors"]


@pytest.fixture(scope="module")
def made() -> lenient.SyntheticImages:
    """Twenty images with three crops each."""
    return lenient.synthesize(tiny_teacher(), 20, student=tiny_student(), settings=POOL, crops=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a generator."""
    home = tmp_path_factory.mktemp("run")
    save_network(home / "t.safetensors", digits_like())
    settings = PLAN | {"generator": QUICK["generator"], "steps": 3, "batch_size": 8}
    lenient.distill(home / "t.safetensors", "lenient:lenet5-half", method="dfad", settings=settings, output=home / "r")
    return home / "r"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# crops


def test_a_crop_is_made_again_from_what_is_stored(made: lenient.SyntheticImages, tmp_path: Path) -> None:
    """By torchvision alone, to the bit; and the teacher's answer to it is the stored one, rounded to 16 bits."""
    made.save(tmp_path)
    held = lenient.SyntheticImages.open(tmp_path)
    assert held.crops is not None
    teacher = tiny_teacher()
    ask = PixelClassifier(teacher.module, teacher.card).eval()
    for index in range(20):
        for number in range(3):
            box = held.crops.boxes[index, number].tolist()
            again = resized_crop(held.images[index].float() / 255, *box, [6, 5], antialias=True)
            again = hflip(again) if held.crops.flips[index, number] else again
            image, soft = held.crop(index, number)
            assert torch.equal(image, again)
            with torch.no_grad():
                logits = ask(again[None])[0]
            torch.testing.assert_close(held.crops.logits[index, number].float(), logits, rtol=2e-3, atol=2e-3)
            torch.testing.assert_close(soft, held.crops.logits[index, number].float().softmax(dim=0))


def test_boxes_are_as_was_asked_for() -> None:
    boxes, flips = Cropping(2000, area=0.25, flip=0.2).draw(64, 48, 0, 0)
    top, left, height, width = boxes.T
    assert ((top >= 0) & (left >= 0) & (top + height <= 64) & (left + width <= 48)).all()
    share = height * width / (64 * 48)
    assert 0.23 < share.min() < 0.3
    assert share.max() > 0.9
    assert 0.72 < (height / width).min() < (height / width).max() < 1.4
    assert abs(float(flips.float().mean()) - 0.2) < 0.05
    assert torch.equal(Cropping(3).draw(9, 9, 1, 5)[0], Cropping(3).draw(9, 9, 1, 5)[0])
    assert not torch.equal(Cropping(9).draw(99, 99, 1, 5)[0], Cropping(9).draw(99, 99, 1, 6)[0])
    assert Cropping(2, area=1.0).draw(1, 50, 0, 0)[0].tolist() == [[0, 0, 1, 50]] * 2, "nothing else fits"


@pytest.mark.parametrize(
    ("crops", "message"),
    [
        ({"crops": -1}, "--crops -1: "),
        ({"crops": 1, "crop_area": 0.0}, "--crop-area 0: "),
        ({"crop_area": 0.5}, "--crop-area 0.5: goes with --crops N"),
        ({"crop_flip": 0.0}, "--crop-flip 0: goes with --crops N"),
        ({"crops": 1, "crop_flip": 2.0}, "--crop-flip 2: "),
    ],
)
def test_crops_that_cannot_be_are_one_line(crops: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        lenient.sample(tmp_path / "nowhere", tmp_path / "s", 3, **crops)


def test_images_without_crops_have_none(run: Path) -> None:
    with pytest.raises(UsageError, match="have no crops; make them with crops=10"):
        lenient.synthesize(run, 2).crop(0, 0)


# formats


def test_torchvision_reads_an_image_folder(made: lenient.SyntheticImages, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    made.save(tmp_path, "imagefolder")
    found, soft = ImageFolder(tmp_path / "train", allow_empty=True), load_file(tmp_path / "soft_labels.safetensors")
    assert (len(found), found.classes) == (20, list(made.classes))
    for path, label in found.samples:
        number = int(Path(path).stem)
        assert label == made.labels[number] == soft["labels"][number]
        assert torch.equal(torch.from_numpy(np.array(Image.open(path))), made.images[number, 0])
    assert made.crops is not None
    assert torch.equal(soft["logits"], made.logits)
    for name in ("boxes", "flips", "logits"):
        assert torch.equal(soft[f"crop_{name}"], getattr(made.crops, name))


def test_numpy_reads_arrays(made: lenient.SyntheticImages, tmp_path: Path) -> None:
    made.save(tmp_path, "npz")
    with np.load(tmp_path / "images.npz") as found:
        assert found["classes"].tolist() == list(made.classes)
        for part in made.parts():
            for name, rows in part.columns().items():
                assert found[name].dtype == rows.dtype
                assert np.array_equal(found[name], rows)


@pytest.mark.optional
def test_webdataset_reads_shards(
    made: lenient.SyntheticImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    webdataset = pytest.importorskip("webdataset")
    monkeypatch.setattr(formats.shards, "LARGE", 30_000)
    made.save(tmp_path, "webdataset")
    shards = sorted(str(path) for path in tmp_path.glob("train-*.tar"))
    assert len(shards) > 1
    assert made.crops is not None
    found = list(webdataset.WebDataset(shards, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in found] == [f"{number:06d}" for number in range(20)]
    for number, sample in enumerate(found):
        assert sample["cls"] == made.labels[number]
        assert np.array_equal(np.array(Image.open(io.BytesIO(sample["png"]))) if isinstance(sample["png"], bytes)
                              else sample["png"], made.images[number, 0].numpy())  # fmt: skip
        assert np.array_equal(sample["logits.npy"], made.logits[number].numpy())
        assert np.array_equal(sample["crop_boxes.npy"], made.crops.boxes[number].numpy())
        assert np.array_equal(sample["crop_logits.npy"], made.crops.logits[number].numpy())


@pytest.mark.optional
@pytest.mark.parametrize("kind", ["imagefolder", "webdataset"])
def test_hugging_face_reads_the_folder(made: lenient.SyntheticImages, tmp_path: Path, kind: str) -> None:
    datasets = pytest.importorskip("datasets")
    made.save(tmp_path / "d", kind)
    found = datasets.load_dataset(str(tmp_path / "d"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(found) == 20
    for row in found:
        number = row["number"] if kind == "imagefolder" else int(row["__key__"])
        assert row["label" if kind == "imagefolder" else "cls"] == made.labels[number]
        image = row["image" if kind == "imagefolder" else "png"]
        assert np.array_equal(np.array(image), made.images[number, 0].numpy())
        if kind == "webdataset":
            assert np.allclose(row["logits.npy"], made.logits[number].numpy())


def test_folders_are_in_the_order_of_the_classes() -> None:
    assert class_folders(("ant", "bee")) == ["ant", "bee"]
    for names in (("bee", "ant"), ("a/b", "c"), ("..", "a"), ("Ant", "ant"), ("a", "con"), ("é", "f")):
        assert class_folders(names) == ["0", "1"]
    numbers = class_folders(tuple(str(number) for number in range(11)))
    assert numbers == sorted(numbers)
    assert numbers[-1] == "10"


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_and_a_description_are_with_each(made: lenient.SyntheticImages, tmp_path: Path, kind: str) -> None:
    (made if kind != "png" else replace(made, crops=None, cropping=None)).save(tmp_path, kind)
    stored = json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8"))
    assert (stored["format"], stored["images"], stored["method"], stored["classes"]) == (
        kind,
        20,
        "deepinversion",
        [*"0123"],
    )
    assert stored["files"] == len(tree(tmp_path))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "can resemble the private data" in text
    assert ("float16" in text) == (kind != "png")


@pytest.mark.parametrize(
    "kind", [*(kind for kind in KINDS if kind != "webdataset"), pytest.param("webdataset", marks=pytest.mark.optional)]
)
def test_the_program_on_a_card_reads_the_data_set(
    made: lenient.SyntheticImages, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "webdataset":
        pytest.importorskip("webdataset", reason="needs the extra readers")
    replace(made, crops=None, cropping=None).save(tmp_path, kind)
    (program,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(program, found)
    if kind == "png":
        assert int(found["row"]["label"]) == made.labels[19]
    elif kind == "safetensors":
        torch.testing.assert_close(found["soft_labels"], made.logits[0].softmax(dim=0))
    else:
        logits = torch.as_tensor(found["logits"])
        assert (made.logits == logits.reshape(-1, 4)[0]).all(dim=1).any()


def test_a_data_set_is_replaced_where_that_is_asked_for(
    made: lenient.SyntheticImages, run: Path, tmp_path: Path
) -> None:
    made.save(tmp_path)
    with pytest.raises(UsageError, match="--overwrite"):
        lenient.synthesize(run, 2, output=tmp_path)
    assert len(lenient.synthesize(run, 2, output=tmp_path, overwrite=True)) == 2
    assert len(lenient.SyntheticImages.open(tmp_path)) == 2


def test_what_a_format_cannot_hold_is_refused_before_anything_is_made(
    made: lenient.SyntheticImages, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"^--format jpeg: unknown; there are png, imagefolder, "):
        lenient.synthesize(tmp_path / "no-such-teacher.safetensors", 3, output=tmp_path / "s", format="jpeg")
    with pytest.raises(UsageError, match=r"^--crops 3: --format png has no place for them"):
        lenient.synthesize(tiny_teacher(), 10**6, output=tmp_path / "s", format="png", crops=3)
    with pytest.raises(UsageError, match=r"^--format webdataset: pictures have 1 or 3 channels, not 2; take npz"):
        lenient.synthesize(tiny_teacher(channels=2), 10**6, output=tmp_path / "s", format="webdataset")
    assert not (tmp_path / "s").exists()


# from a run, as they are drawn


def test_a_sample_is_what_synthesize_makes(run: Path, tmp_path: Path) -> None:
    counts: list[int] = []
    written = lenient.sample(run, tmp_path, 19, format="safetensors", crops=2, seed=3, on_progress=counts.append)
    held, made = lenient.SyntheticImages.open(tmp_path), lenient.synthesize(run, 19, seed=3, crops=2)
    assert (written.images, written.clipped, counts) == (19, made.clipped, [8, 16, 19])
    assert torch.equal(held.images, made.images)
    assert torch.equal(held.logits, made.logits)
    assert held.crops is not None
    assert made.crops is not None
    assert torch.equal(held.crops.logits, made.crops.logits)
    assert (held.seed, held.cropping, held.health) == (3, Cropping(2), made.health)


def test_equal_seeds_write_equal_files(run: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        lenient.sample(run, tmp_path / name, 9, format="imagefolder", crops=1, seed=seed)
    first, again, other = ({name: content for name, content in tree(tmp_path / folder).items() if "json" not in name}
                           for folder in "abc")  # fmt: skip
    assert first == again
    assert first["soft_labels.safetensors"] != other["soft_labels.safetensors"]


# the folder


@pytest.mark.parametrize("kind", KINDS)
def test_what_ends_halfway_leaves_nothing(
    run: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = Gathered._part

    def stopped(self: Gathered, drawn: torch.Tensor) -> Any:
        if self.made >= 8:
            raise KeyboardInterrupt
        return true(self, drawn)

    monkeypatch.setattr(Gathered, "_part", stopped)
    with pytest.raises(KeyboardInterrupt):
        lenient.sample(run, tmp_path / "s", 20, format=kind)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_one_before(
    made: lenient.SyntheticImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.save(tmp_path / "s", "imagefolder")
    before = tree(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(formats.card, "readme", full)
    with pytest.raises(MachineError, match="the disk is full"):
        made.save(tmp_path / "s", "npz", overwrite=True)
    assert tree(tmp_path) == before


def test_another_data_set_is_replaced_as_a_whole(made: lenient.SyntheticImages, tmp_path: Path) -> None:
    made.save(tmp_path / "s", "imagefolder")
    with pytest.raises(UsageError, match="no empty folder; choose another, or --overwrite a data set there"):
        made.save(tmp_path / "s", "npz")
    made.save(tmp_path / "s", "npz", overwrite=True)
    assert set(tree(tmp_path)) == {f"s/{name}" for name in ("README.md", "dataset.json", "images.npz")}


@pytest.mark.parametrize("name", ["notes.txt", "train/0/notes.txt", "000999.png", "link.png", "config.yaml"])
def test_what_is_not_of_it_is_never_removed(made: lenient.SyntheticImages, tmp_path: Path, name: str) -> None:
    made.save(tmp_path / "s", "imagefolder")
    if name == "link.png":
        (tmp_path / "s" / name).symlink_to(tmp_path)
    else:
        (tmp_path / "s" / name).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=r"is not of the data set there|files, and \d+ were written"):
        made.save(tmp_path / "s", overwrite=True)
    assert tree(tmp_path) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.png").write_text("mine")
    with pytest.raises(UsageError, match=r"is no data set of lenient's, for dataset\.json is missing"):
        made.save(tmp_path / "other", overwrite=True)


def test_a_link_to_a_folder_stays_one(made: lenient.SyntheticImages, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    made.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert len(lenient.SyntheticImages.open(tmp_path / "real")) == 20


# the notebook


def test_another_trainer_learns_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notebook's loop as it stands there; its loss falls."""
    monkeypatch.chdir(tmp_path)
    made = lenient.synthesize(tiny_teacher(), 24, student=tiny_student(), settings=POOL, crops=4)
    made.save("data", "imagefolder")
    imports, *cells = re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```", NOTEBOOK, re.DOTALL | re.MULTILINE)
    read, loop = (next(cell for cell in cells if words in cell) for words in ("soft = load_file", "def crop"))
    torch.manual_seed(0)
    names: dict[str, Any] = {"student": tiny_student().module, "EPOCHS": 12}
    for part in (imports.partition("SMOKE")[0], read.partition("plt.")[0], loop):
        exec(compile(part, "data-set.md", "exec"), names)
    losses = names["losses"]
    assert len(losses) == 12
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
