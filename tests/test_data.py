"""Real data: names, splits, readers, batches."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands import python
from lenient.core.errors import UsageError
from lenient.data import DATA_NAMES, ImageSet, cifar, load_data
from lenient.data.folder import FolderImages
from lenient.data.images import fitted
from lenient.data.splits import held_out, scrambled


def picture(colour: int, size: tuple[int, int] = (32, 32), suffix: str = "png") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, (colour, 10, 250)).save(content, "JPEG" if suffix == "jpg" else "PNG")
    return content.getvalue()


def class_tree(folder: Path, classes: dict[str, int], size: tuple[int, int] = (32, 32), suffix: str = "png") -> None:
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number:03d}.{suffix}").write_bytes(picture(10 * number, size, suffix))


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def splitmix64(counter: int) -> int:
    bits = counter * 0x9E3779B97F4A7C15 % 2**64
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % 2**64
    return bits ^ bits >> 31


# --- names, splits, errors ---


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("MNIST", "mnist"), ("cifar", "cifar10"), ("digit", "digits"), ("imagefolder", "imagefolder:DIR")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"--data {name}: unknown; the nearest is {nearest}") as caught:
        load_data(name, split="test")
    assert "\n" not in str(caught.value)


def test_a_folder_given_as_a_name_is_answered_with_how_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"the nearest is imagefolder:{tmp_path} "):
        load_data(str(tmp_path), split="test")


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_missing_files_are_named_with_the_flag(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--data-root") as caught:
        load_data(name, split="train", root=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_split_and_bad_size_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="train, fit, holdout, test"):
        load_data("digits", split="val")
    with pytest.raises(UsageError, match="--input-size 2,8,8"):
        load_data("digits", split="test", input_size=(2, 8, 8))


def test_root_falls_back_to_the_environment_then_to_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LENIENT_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(UsageError, match="elsewhere"):
        load_data("mnist", split="test")
    monkeypatch.delenv("LENIENT_DATA")
    with pytest.raises(UsageError, match="under data;"):
        load_data("mnist", split="test")


def test_the_scramble_is_a_permutation_that_never_changes() -> None:
    assert sorted(scrambled(1000, 1).tolist()) == list(range(1000))
    assert scrambled(200, 1).tolist() == sorted(range(200), key=lambda position: splitmix64(position + 1 + 2**32))
    assert scrambled(10, 1).tolist() == [6, 3, 0, 7, 4, 5, 2, 9, 8, 1]
    assert not np.array_equal(scrambled(1000, 0), scrambled(1000, 1))


def test_held_out_takes_its_share_of_every_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 36 + [2] * 4)
    marked = held_out(labels, 0.1, 1)
    assert labels[marked].bincount(minlength=3).tolist() == [5, 4, 0]
    assert torch.equal(marked, held_out(labels, 0.1, 1))


# --- digits ---


def test_digits_split_into_disjoint_parts_with_every_class() -> None:
    parts = {split: load_data("digits", split=split) for split in ("train", "fit", "holdout", "test")}
    sizes = {split: len(part) for split, part in parts.items()}
    assert sizes["train"] + sizes["test"] == 1797
    assert sizes["fit"] + sizes["holdout"] == sizes["train"]
    assert abs(sizes["test"] - 0.2 * 1797) < 6
    assert abs(sizes["holdout"] - 0.1 * sizes["train"]) < 6
    for part in parts.values():
        assert part.labels.bincount(minlength=10).min() >= 12 * len(part) / 143
    together = torch.cat([parts["fit"].images, parts["holdout"].images]).flatten(1)  # type: ignore[list-item]
    whole = parts["train"].images.flatten(1)  # type: ignore[union-attr]
    assert sorted(together.tolist()) == sorted(whole.tolist())


def test_digits_fill_the_range_and_carry_the_statistics_of_the_training_part() -> None:
    train, test = load_data("digits", split="train"), load_data("digits", split="test")
    assert isinstance(train.images, torch.Tensor)
    assert train.images.dtype == torch.uint8
    assert (int(train.images.min()), int(train.images.max())) == (0, 255)
    assert train.input_size == (1, 8, 8)
    values = train.images.double() / 255
    assert train.mean[0] == pytest.approx(float(values.mean()), abs=1e-4)
    assert train.std[0] == pytest.approx(float(values.std()), abs=1e-3)
    assert (test.mean, test.std) == (train.mean, train.std)


# --- mnist ---


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_reads_idx_files_plain_or_gzipped(tmp_path: Path, suffix: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    labels = np.arange(12, dtype=np.uint8) % 10
    write_idx(tmp_path / f"MNIST/raw/t10k-images-idx3-ubyte{suffix}", images)
    write_idx(tmp_path / f"MNIST/raw/t10k-labels-idx1-ubyte{suffix}", labels)
    data = load_data("mnist", split="test", root=tmp_path)
    assert np.array_equal(data.images[torch.arange(12)][:, 0].numpy(), images)
    assert data.labels.tolist() == labels.tolist()
    assert (data.mean, data.std, data.input_size) == ((0.1307,), (0.3081,), (1, 28, 28))


def test_a_cut_off_idx_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "MNIST/raw/t10k-images-idx3-ubyte"
    write_idx(path, np.zeros((3, 28, 28), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UsageError, match="t10k-images-idx3-ubyte: not a whole IDX file"):
        load_data("mnist", split="test", root=tmp_path)


def labelled(root: Path, images: bytes | np.ndarray, labels: np.ndarray | None = None, suffix: str = "") -> None:
    path = root / f"MNIST/raw/t10k-images-idx3-ubyte{suffix}"
    if isinstance(images, bytes):
        path.parent.mkdir(parents=True)
        path.write_bytes(gzip.compress(images) if suffix else images)
    else:
        write_idx(path, images)
    write_idx(root / "MNIST/raw/t10k-labels-idx1-ubyte", np.zeros(3, np.uint8) if labels is None else labels)


SQUARES = np.zeros((3, 28, 28), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("head", "words"),
    [
        (struct.pack(">4I", 0x803, 2**31, 28, 28), "2147483648x28x28 values are more than 256 MiB"),
        (struct.pack(">4I", 0x803, *[2**32 - 1] * 3), "are more than 256 MiB"),
        (struct.pack(">4I", 0x803, 10000, 28, 28) + bytes(99), "7839901 bytes are missing"),
        (struct.pack(">4I", 0x803, 1, 28, 28) + bytes(785), "goes on after its last value"),
        (struct.pack(">4I", 0x803, 3, 0, 28), "3x0x28 values are none"),
        (struct.pack(">4I", 0xD03, 3, 28, 28) + bytes(9408), "its head"),
        (b"\0\0\x08", "its head"),
    ],
)
def test_the_head_of_an_idx_file_is_not_believed(head: bytes, words: str, suffix: str, tmp_path: Path) -> None:
    labelled(tmp_path, head, suffix=suffix)
    with pytest.raises(UsageError, match=f"t10k-images-idx3-ubyte{suffix}: not a whole IDX file .*{words}"):
        load_data("mnist", split="test", root=tmp_path)


def test_what_a_gzipped_file_unpacks_to_is_limited(tmp_path: Path) -> None:
    labelled(tmp_path, struct.pack(">4I", 0x803, 2, 28, 28) + bytes(2**24), suffix=".gz")
    with pytest.raises(UsageError, match="goes on after its last value"):
        load_data("mnist", split="test", root=tmp_path)


def test_labels_that_do_not_go_with_the_images_are_refused(tmp_path: Path) -> None:
    labelled(tmp_path / "count", SQUARES, np.zeros(2, np.uint8))
    with pytest.raises(UsageError, match="labels-idx1-ubyte: has 2 labels for 3 images"):
        load_data("mnist", split="test", root=tmp_path / "count")
    labelled(tmp_path / "range", SQUARES, np.array([1, 2, 10], np.uint8))
    with pytest.raises(UsageError, match="labels-idx1-ubyte: has the label 10, not only 0 to 9"):
        load_data("mnist", split="test", root=tmp_path / "range")


def test_pipes_and_devices_are_no_data_files(tmp_path: Path) -> None:
    for name in ("MNIST/raw/t10k-images-idx3-ubyte", "cifar10/test.tar.xz", "cifar-100-python/meta"):
        (tmp_path / name).parent.mkdir(parents=True)
        os.mkfifo(tmp_path / name)
    for data in ("mnist", "cifar10", "cifar100"):
        with pytest.raises(UsageError, match="it is a pipe or a device"):
            load_data(data, split="test", root=tmp_path)


def real_root() -> Path:
    root = os.environ.get("LENIENT_DATA")
    if not root:
        pytest.skip("LENIENT_DATA does not name a folder with real data")
    return Path(root)


def test_real_mnist_has_its_known_size_and_statistics() -> None:
    if not (real_root() / "MNIST").is_dir():
        pytest.skip("no MNIST under LENIENT_DATA")
    train = load_data("mnist", split="train")
    assert len(train) == 60000
    assert train.images[torch.arange(60000)].float().mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_real_cifar10_is_balanced_and_says_that_it_is_jpeg() -> None:
    if not (real_root() / "cifar10" / "test.tar.xz").is_file():
        pytest.skip("no cifar10/test.tar.xz under LENIENT_DATA")
    test = load_data("cifar10", split="test")
    assert test.labels.bincount().tolist() == [1000] * 10
    assert test.classes[0] == "airplane"
    assert test.title == "CIFAR-10 (JPEG)"


# --- cifar ---


def cifar_archive(root: Path, suffix: str = "png") -> None:
    (root / "cifar10").mkdir(parents=True)
    with tarfile.open(root / "cifar10" / "test.tar.xz", "w:xz") as archive:
        for name in ("truck", "bird"):
            for number in range(3):
                content = picture(10 * number + (100 if name == "truck" else 0), suffix=suffix)
                member = tarfile.TarInfo(f"test/{name}/{number:04d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def test_cifar10_from_an_archive_equals_the_unpacked_folders(tmp_path: Path) -> None:
    cifar_archive(tmp_path / "packed")
    with tarfile.open(tmp_path / "packed/cifar10/test.tar.xz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)  # from 3.11.4 on
        archive.extractall(tmp_path / "plain/cifar10")
    packed, plain = (load_data("cifar10", split="test", root=tmp_path / kind) for kind in ("packed", "plain"))
    assert packed.classes == plain.classes == ("bird", "truck")
    assert packed.labels.tolist() == plain.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert isinstance(packed.images, torch.Tensor)
    assert isinstance(plain.images, torch.Tensor)
    assert torch.equal(packed.images, plain.images)
    assert packed.images[:, :, 5, 7].tolist() == [[red, 10, 250] for red in (0, 10, 20, 100, 110, 120)]


def test_lossless_and_lossy_cifar10_have_different_titles(tmp_path: Path) -> None:
    cifar_archive(tmp_path / "lossless")
    cifar_archive(tmp_path / "lossy", "jpg")
    assert load_data("cifar10", split="test", root=tmp_path / "lossless").title == "CIFAR-10"
    assert load_data("cifar10", split="test", root=tmp_path / "lossy").title == "CIFAR-10 (JPEG)"


def test_cifar_batches_are_read_plane_by_plane(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    ten, hundred = tmp_path / "cifar-10-batches-py", tmp_path / "cifar-100-python"
    ten.mkdir()
    hundred.mkdir()
    (ten / "test_batch").write_bytes(pickle.dumps({"data": rows, "labels": [3, 1, 0, 9]}, protocol=2))
    for number in range(1, 6):
        (ten / f"data_batch_{number}").write_bytes(pickle.dumps({"data": rows, "labels": [number] * 4}, protocol=2))
    names = [f"class{number}" for number in range(100)]
    (hundred / "test").write_bytes(pickle.dumps({"data": rows, "fine_labels": [99, 1, 0, 9]}, protocol=2))
    (hundred / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, protocol=2))
    data = load_data("cifar10", split="test", root=tmp_path)
    assert np.array_equal(data.images[torch.tensor([2])][0, 1].numpy(), rows[2, 1024:2048].reshape(32, 32))
    assert data.labels.tolist() == [3, 1, 0, 9]
    assert load_data("cifar10", split="train", root=tmp_path).labels.tolist() == [
        n for n in range(1, 6) for _ in "four"
    ]
    fine = load_data("cifar100", split="test", root=tmp_path)
    assert fine.labels.tolist() == [99, 1, 0, 9]
    assert fine.classes == tuple(names)
    assert fine.mean == data.mean == (0.4914, 0.4822, 0.4465)


class Intruder:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("intruder-was-here",)


def test_a_cifar_batch_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps({"data": Intruder(), "labels": []}))
    with pytest.raises(UsageError, match="not part of a CIFAR batch"):
        load_data("cifar10", split="test", root=tmp_path)
    assert not (tmp_path / "intruder-was-here").exists()


ROWS = np.zeros((2, 3072), dtype=np.uint8)


def memo(number: int) -> bytes:
    return b"}r" + struct.pack("<I", number) + b"."


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"data": ROWS}, "does not have a label for each of its 2 images"),
        ({"data": ROWS, "labels": [1]}, "a label for each"),
        ({"data": ROWS, "labels": [1, 10]}, "not numbers from 0 to 9"),
        ({"data": ROWS, "labels": [1, -1]}, "not numbers from 0 to 9"),
        ({"data": ROWS, "labels": [1, "2"]}, "not numbers from 0 to 9"),
        ({"data": ROWS[:, :3000], "labels": [1, 2]}, "not rows of 3 x 32 x 32 bytes"),
        ({"data": ROWS.astype(np.float64), "labels": [1, 2]}, "of type 'f8' are not part"),
        ({"data": [[1, 2]], "labels": [1]}, "not rows of"),
        ({}, "not rows of"),
        ([1, 2], "holds no table"),
        (b"", "not a CIFAR batch"),
        (b"\x80\x02}q", "not a CIFAR batch"),
        (memo(2**31), "not a CIFAR batch .*remembers value 2147483648"),
        (b"\x80\x04\x96" + struct.pack("<Q", 2**40) + b"a.", "not a CIFAR batch"),
        (b"cnumpy\nndarray\n(J\0\0\0\x7ftR.", "not a CIFAR batch"),
    ],
)
def test_damaged_cifar_batches_are_named_in_one_line(content: object, words: str, tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-batches-py/test_batch"
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=2))
    with pytest.raises(UsageError, match=f"test_batch: .*{words}") as caught:
        load_data("cifar10", split="test", root=tmp_path)
    assert "\n" not in str(caught.value)


def packed(root: Path, content: bytes) -> None:
    (root / "cifar10").mkdir(parents=True)
    (root / "cifar10/test.tar.xz").write_bytes(lzma.compress(content, preset=0))


def member(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (member("test/cat/0.png", 2**33) + bytes(2**20), "test/cat/0.png has 8589934592 bytes"),
        (member("test/cat/0.txt", 2**33) + bytes(2**20), "unpacks to more than 256 MiB"),
        (member("x", 2**33, tarfile.XHDTYPE) + bytes(2**20), "a head of"),
        (member("x", 2**33, tarfile.GNUTYPE_LONGNAME) + bytes(2**20), "a head of"),
        (member("test/cat/0.txt", 2**24) + bytes(2**23), "not a readable tar.xz"),
        (member("test/.cat/0.png", 4) + bytes(2**12), "holds no images in class folders"),
        (bytes(2**16), "holds no images|not a readable tar.xz"),
        (b"no tar", "not a readable tar.xz"),
    ],
)
def test_damaged_archives_are_named_in_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    packed(tmp_path, content)
    with pytest.raises(UsageError, match=words) as caught:
        load_data("cifar10", split="test", root=tmp_path)
    assert "test.tar.xz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_archive_has_a_limit_unpacked_and_of_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar_archive(tmp_path)
    monkeypatch.setattr(cifar, "MEMBERS", 5)
    with pytest.raises(UsageError, match=r"test\.tar\.xz: .*more than 5 entries"):
        load_data("cifar10", split="test", root=tmp_path)
    monkeypatch.setattr(cifar, "LIMIT", 2000)
    with pytest.raises(UsageError, match=r"test\.tar\.xz: .*unpacks to more than"):
        load_data("cifar10", split="test", root=tmp_path)


@pytest.mark.slow
def test_no_bomb_takes_a_gibibyte(tmp_path: Path) -> None:
    """Four archives that unpack to 4 GiB and say that they may."""
    zeros = bytes(2**24)
    labelled(tmp_path / "idx", SQUARES)
    with gzip.open(tmp_path / "idx/MNIST/raw/t10k-images-idx3-ubyte", "wb") as plain:
        plain.write(b"")
    path = tmp_path / "idx/MNIST/raw/t10k-images-idx3-ubyte"
    path.unlink()
    with gzip.open(f"{path}.gz", "wb", compresslevel=1) as bomb:
        bomb.write(struct.pack(">4I", 0x803, 2**28 // 784, 28, 28))
        for _ in range(2**8):
            bomb.write(zeros)
    for place, head in (
        ("text", member("test/cat/0.txt", 2**32)),
        ("pax", member("x", 2**32, tarfile.XHDTYPE)),
        ("picture", member("test/cat/0.png", 2**32)),
    ):
        (tmp_path / place / "cifar10").mkdir(parents=True)
        with lzma.open(tmp_path / place / "cifar10/test.tar.xz", "wb", preset=0) as bomb:
            bomb.write(head)
            for _ in range(2**8):
                bomb.write(zeros)
    program = tmp_path / "measure.py"
    program.write_text(
        "import resource, sys; from lenient.data import load_data; from lenient.core.errors import UsageError\n"
        "def most(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = most()\n"
        "try: load_data(sys.argv[2], split='test', root=sys.argv[1])\n"
        "except UsageError: print(most() - before)"
    )
    places = {"idx": "mnist", "text": "cifar10", "pax": "cifar10", "picture": "cifar10"}
    taken = {p: int(python(program, tmp_path / p, name, cwd=tmp_path).stdout) / 2**30 for p, name in places.items()}
    print({place: round(value, 3) for place, value in taken.items()})
    assert max(taken.values()) < 1


def test_pictures_of_another_size_are_refused_as_cifar(tmp_path: Path) -> None:
    class_tree(tmp_path / "cifar10/test", {"cat": 1}, size=(40, 30))
    with pytest.raises(UsageError, match=r"000\.png: is 40x30 pixels"):
        load_data("cifar10", split="test", root=tmp_path)


# --- image folders ---


def test_an_image_folder_is_listed_first_and_decoded_when_asked(tmp_path: Path) -> None:
    class_tree(tmp_path / "train", {"cat": 3, "ant": 2}, size=(50, 40))
    class_tree(tmp_path / "val", {"cat": 1, "ant": 1}, size=(20, 60))
    train = load_data(f"imagefolder:{tmp_path}", split="train", input_size=(3, 24, 32))
    test = load_data(f"imagefolder:{tmp_path}", split="test", input_size=(3, 24, 32))
    assert isinstance(train.images, FolderImages)
    assert train.classes == test.classes == ("ant", "cat")
    assert train.labels.tolist() == [0, 0, 1, 1, 1]
    images, labels = next(test.batches(2))
    assert images.shape == (2, 3, 24, 32)
    assert labels.tolist() == [0, 1]
    assert images[0, :, 3, 4] * 255 == pytest.approx([0, 10, 250], abs=1)
    assert train.mean == (0.485, 0.456, 0.406)


def test_lazy_batches_are_those_of_the_decoded_images(tmp_path: Path) -> None:
    class_tree(tmp_path / "train", {"a": 9, "b": 4})
    lazy = load_data(f"imagefolder:{tmp_path}", split="train", input_size=(3, 32, 32))
    held = ImageSet(**{**vars(lazy), "images": lazy.images[torch.arange(len(lazy))]})
    for one, other in zip(
        lazy.batches(4, generator=torch.Generator().manual_seed(1), augment="crop-flip"),
        held.batches(4, generator=torch.Generator().manual_seed(1), augment="crop-flip"),
        strict=True,
    ):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    part = lazy.subset(torch.tensor([12, 0]))
    assert part.labels.tolist() == [1, 0]
    assert torch.equal(next(part.batches(2))[0][0], next(held.subset(torch.tensor([12])).batches(1))[0][0])


def test_class_folders_right_in_the_folder_serve_every_split(tmp_path: Path) -> None:
    class_tree(tmp_path, {"a": 10, "b": 10}, size=(8, 8))
    sizes = [len(load_data(f"imagefolder:{tmp_path}", split=split)) for split in ("train", "test", "fit", "holdout")]
    assert sizes == [20, 20, 18, 2]


def test_stray_images_beside_the_class_folders_are_no_class(tmp_path: Path) -> None:
    for part in ("train", "test"):
        class_tree(tmp_path / part, {"a": 2, "b": 2}, size=(8, 8))
        Image.new("L", (8, 8)).save(tmp_path / part / "overview.png")
    assert load_data(f"imagefolder:{tmp_path}", split="test").classes == ("a", "b")


def test_pixels_of_sixteen_bits_are_scaled_and_others_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    values = np.array([[0, 257 * 100], [257 * 200 + 100, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a" / "deep.png")
    data = load_data(f"imagefolder:{tmp_path}", split="test", input_size=(1, 2, 2))
    images, _ = next(data.batches(1))
    assert (images[0, 0] * 255).round().tolist() == [[0, 100], [200, 255]]
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "a" / "deep.tif")
    with pytest.raises(UsageError, match=r"deep\.tif: .*pixels are neither of 8 nor of 16 bits"):
        list(load_data(f"imagefolder:{tmp_path}", split="test", input_size=(1, 2, 2)).batches(2))


def test_images_are_scaled_to_cover_and_cropped_at_the_centre(tmp_path: Path) -> None:
    wide = Image.new("L", (60, 20))
    wide.paste(200, (20, 0, 40, 20))
    (tmp_path / "test/one").mkdir(parents=True)
    wide.save(tmp_path / "test/one/wide.png")
    data = load_data(f"imagefolder:{tmp_path}", split="test", input_size=(1, 10, 10))
    images, _ = next(data.batches(1))
    assert images.shape == (1, 1, 10, 10)
    assert float(images[0, 0, :, 1:-1].min()) * 255 == pytest.approx(200, abs=1)


def test_image_folder_errors_say_what_is_expected(tmp_path: Path) -> None:
    class_tree(tmp_path / "train", {"a": 2})
    with pytest.raises(UsageError, match="no such folder"):
        load_data(f"imagefolder:{tmp_path}/nowhere", split="test")
    with pytest.raises(UsageError, match=r"no images for split 'test'; expected .*test/<class>"):
        load_data(f"imagefolder:{tmp_path}", split="test")
    with pytest.raises(UsageError, match="too few training images"):
        load_data(f"imagefolder:{tmp_path}", split="fit")
    class_tree(tmp_path / "test", {"zebra": 1})
    with pytest.raises(UsageError, match="'zebra' is no training class"):
        load_data(f"imagefolder:{tmp_path}", split="test")
    (tmp_path / "train/a/000.png").write_bytes(b"not an image")
    with pytest.raises(UsageError, match=r"000\.png: not a readable image"):
        next(load_data(f"imagefolder:{tmp_path}", split="train").batches(1))


def test_sub_folders_count_and_what_no_image_is_is_left_out_with_a_count(tmp_path: Path) -> None:
    class_tree(tmp_path / "test", {"cat": 2, "dog": 1}, size=(8, 8))
    class_tree(tmp_path / "test/cat", {"more/deep": 2}, size=(8, 8))
    class_tree(tmp_path / "test/fox/only", {"deeper": 1}, size=(8, 8))
    (tmp_path / "test/notes").mkdir()
    for name in ("cat/list.txt", "cat/more/list.TXT", "dog/README", "overview.png"):
        (tmp_path / "test" / name).write_bytes(picture(1))
    os.mkfifo(tmp_path / "test/dog/pipe.png")
    (tmp_path / "test/dog/zero.png").symlink_to("/dev/zero")
    (tmp_path / "test/dog/round.png").symlink_to("round.png")
    for suffix in ("gif", "JFIF", "pgm", "tiff"):
        Image.new("L", (8, 8)).save(
            tmp_path / f"test/dog/z.{suffix}", {"JFIF": "jpeg", "pgm": "ppm"}.get(suffix, suffix)
        )
    data = load_data(f"imagefolder:{tmp_path}", split="test", input_size=(3, 8, 8))
    assert data.classes == ("cat", "dog", "fox")
    assert data.labels.bincount().tolist() == [4, 5, 1]
    assert len(next(data.batches(99))[0]) == 10
    (note,) = data.notes
    assert "8 of its entries left out (no regular files: 3, .txt: 2" in note
    for kind in ("outside of the class folders: 1", "others"):
        assert kind in note


def test_hidden_names_and_files_of_desktops_are_no_data_and_no_news(tmp_path: Path) -> None:
    class_tree(
        tmp_path / "train", {"cat": 2, "dog": 1, ".ipynb_checkpoints": 1, "__MACOSX": 1, "@eaDir": 1}, size=(8, 8)
    )
    class_tree(tmp_path / "train/cat", {".thumbnails": 3}, size=(8, 8))
    for name in (".DS_Store", "cat/Thumbs.db", "cat/._000.png", "dog/desktop.ini"):
        (tmp_path / "train" / name).write_bytes(b"no picture")
    data = load_data(f"imagefolder:{tmp_path}", split="train")
    assert data.classes == ("cat", "dog")
    assert (len(data), data.notes) == (3, ())


def test_only_links_to_files_and_to_whole_classes_are_followed(tmp_path: Path) -> None:
    store, test = tmp_path / "store", tmp_path / "data/test"
    class_tree(store, {"cat": 2}, size=(8, 8))
    class_tree(store / "cat", {"deeper": 1}, size=(8, 8))
    class_tree(test, {"dog": 1}, size=(8, 8))
    (test / "cat").symlink_to(store / "cat")
    (test / "dog/linked.png").symlink_to(store / "cat/000.png")
    for name, target in (("round", ".."), ("out", store), ("itself", "itself"), ("gone", "nowhere")):
        (test / "dog" / name).symlink_to(target)
    data = load_data(f"imagefolder:{tmp_path / 'data'}", split="test")
    assert data.labels.bincount().tolist() == [2, 2]
    assert "5 of its entries left out (linked folders: 3, no regular files: 2)" in data.notes[0]


def test_a_class_folder_is_no_class_in_itself_where_only_test_images_are(tmp_path: Path) -> None:
    class_tree(tmp_path / "test", {"a": 1, "b": 1}, size=(8, 8))
    assert load_data(f"imagefolder:{tmp_path}", split="test").classes == ("a", "b")
    with pytest.raises(UsageError, match=r"no images for split 'train'; expected .*train/<class>"):
        load_data(f"imagefolder:{tmp_path}", split="train")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([str(number) for number in range(12)], "output 2 stands for '10'; if it stands for '2'"),
        (["class9", "class10"], "output 0 stands for 'class10'; if it stands for 'class9'"),
        (["09", "10"], None),
        (["9", "10", "cat"], None),
        (["a9", "b10"], None),
    ],
)
def test_folders_with_numbers_that_sort_as_text_are_noticed(
    names: list[str], words: str | None, tmp_path: Path
) -> None:
    class_tree(tmp_path, dict.fromkeys(names, 1), size=(8, 8))
    data = load_data(f"imagefolder:{tmp_path}", split="test")
    assert data.classes == tuple(sorted(names))
    assert [words in note for note in data.notes] == ([True] if words else [])  # type: ignore[operator]


def test_odd_names_of_folders_are_read(tmp_path: Path) -> None:
    odd = ["-n", "a b", "gr\u00fcn", "\u65e5\u672c", "two\nlines", "\U0001f600", "a:b", "\udcff"]
    class_tree(tmp_path / "a folder\nwith\u00e9", dict.fromkeys(odd, 1), size=(8, 8))
    data = load_data(f"imagefolder:{tmp_path}/a folder\nwith\u00e9", split="test", input_size=(3, 8, 8))
    assert data.classes == tuple(sorted(odd))
    assert len(next(data.batches(20))[0]) == len(odd)


# --- batches ---


def numbered(count: int = 10, size: tuple[int, int, int] = (1, 4, 4)) -> ImageSet:
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, *size).contiguous()
    labels = torch.arange(count) % 3
    channels = size[0]
    return ImageSet("toy", "toy", "train", images, labels, ("a", "b", "c"), (0.5,) * channels, (0.5,) * channels, size)


def test_batches_hand_out_every_image_once_in_pixel_units() -> None:
    batches = list(numbered().batches(4))
    assert [len(images) for images, _ in batches] == [4, 4, 2]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert torch.allclose(images[:, 0, 0, 0] * 255, torch.arange(10.0))
    assert [len(images) for images, _ in numbered().batches(4, drop_last=True)] == [4, 4]
    assert [len(images) for images, _ in numbered().batches(40, drop_last=True)] == [10]


def test_a_generator_shuffles_images_together_with_labels() -> None:
    first, second = (next(numbered().batches(10, generator=torch.Generator().manual_seed(seed))) for seed in (1, 2))
    numbers = (first[0][:, 0, 0, 0] * 255).round().long()
    assert sorted(numbers.tolist()) == list(range(10))
    assert torch.equal(numbers % 3, first[1])
    assert not torch.equal(first[0], second[0])


def test_batches_resize_and_change_channels_on_the_way_out() -> None:
    data = load_data("digits", split="test", input_size=(3, 12, 16))
    images, _ = next(data.batches(5))
    assert images.shape == (5, 3, 12, 16)
    assert torch.equal(images[:, 0], images[:, 2])
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert len(data.mean) == len(data.std) == 3
    same = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    assert fitted(same, (3, 4, 4)) is same
    stripes = torch.tensor([200, 0, 0, 200] * 4, dtype=torch.uint8).expand(1, 1, 16, 16)
    assert float(fitted(stripes, (1, 4, 4)).min()) > 50  # without antialiasing the stripes would fall between samples
    grey = fitted(torch.full((1, 3, 4, 4), 100, dtype=torch.uint8), (1, 4, 4))
    assert torch.allclose(grey, torch.full((1, 1, 4, 4), 100.0))


def test_bad_batch_size_and_unknown_augment_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        next(numbered().batches(0))
    with pytest.raises(UsageError, match="none, shift, crop-flip"):
        next(numbered().batches(2, augment="rotate"))


@pytest.mark.parametrize("name", [name for name in DATA_NAMES if name != "digits"])
def test_all_documented_names_are_known(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing found|no such folder"):
        load_data(name, split="test", root=tmp_path)
