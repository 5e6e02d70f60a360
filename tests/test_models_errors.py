"""What cannot be loaded ends in one line that names the flag, and no code of a file runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lenient.core.errors import TeacherError
from lenient.models import load_network, save_network

SIZE = (1, 8, 8)


def message(spec: str | Path, **flags: object) -> str:
    with pytest.raises(TeacherError) as caught:
        load_network(spec, **flags)  # type: ignore[arg-type]
    return str(caught.value)


def one_line(spec: str | Path, **flags: object) -> str:
    text = message(spec, **flags)
    assert "\n" not in text
    assert len(text) < 500
    return text


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    module = load_network("lenient:resnet8", input_size=SIZE, num_classes=3).module
    torch.save(module.state_dict(), tmp_path / "teacher.pt")
    return tmp_path / "teacher.pt"


def test_a_missing_file_names_its_neighbour(weights: Path) -> None:
    assert f"did you mean '{weights}'" in one_line(weights.with_name("teachr.pt"))
    assert "timm:resnet18" in one_line("resnet18")


@pytest.mark.parametrize("name", ["teacher.pt", "teacher.safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.05, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, name: str, keep: float) -> None:
    made = load_network("lenient:resnet8", input_size=SIZE, num_classes=3)
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save(made.module.state_dict(), path)
    else:
        save_network(path, made)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    assert "damaged" in one_line(path, arch="lenient:resnet8", input_size=SIZE)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
def test_garbage_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"teacher{suffix}"
    path.write_bytes(bytes(range(256)) * 8)
    assert "damaged" in one_line(path, arch="lenient:resnet8", input_size=SIZE)


def test_damaged_descriptions_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for text in ("{", "[]", "{}", '{"input_size": 3}'):
        save_file({"a": torch.zeros(1)}, tmp_path / "net.safetensors", {"lenient": text})
        assert "damaged" in one_line(tmp_path / "net.safetensors")


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], {"epoch": 3}, {"state_dict": {}}])
def test_files_without_named_weights_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "net.pt")
    assert "no weights by name" in one_line(tmp_path / "net.pt", arch="lenient:resnet8", input_size=SIZE)


def test_programs_are_refused_with_a_reason(tmp_path: Path) -> None:
    net, image = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), torch.zeros(1, *SIZE)
    torch.export.save(torch.export.export(net, (image,)), tmp_path / "net.pt2")
    (tmp_path / "net2.pt").write_bytes((tmp_path / "net.pt2").read_bytes())
    (tmp_path / "net.onnx").write_bytes(b"")
    for name in ("net.pt2", "net2.pt", "net.onnx"):
        text = one_line(tmp_path / name, arch="lenient:resnet8")
        assert "program" in text
        assert "--teacher-arch" in text


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused_with_a_reason(tmp_path: Path) -> None:
    torch.jit.trace(nn.Linear(2, 3), torch.zeros(1, 2)).save(str(tmp_path / "net.pt"))
    assert "TorchScript" in one_line(tmp_path / "net.pt", arch="lenient:resnet8")


def test_unknown_endings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "net.xyz").write_bytes(b"abc")
    assert ".safetensors" in one_line(tmp_path / "net.xyz", arch="lenient:resnet8")


def test_weights_without_architecture_ask_for_it(weights: Path) -> None:
    assert "--teacher-arch" in one_line(weights)


def test_weights_without_size_ask_for_it(weights: Path) -> None:
    assert "--input-size 1,H,W" in one_line(weights, arch="lenient:resnet8")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"arch": "lenient:resnet14"}, "missing from the file (first 'stages.0.1.conv1.weight')"),
        ({"arch": "lenient:resnet8", "num_classes": 4}, "'classifier.weight' is [3, 64] in the file, [4, 64]"),
        ({"arch": "lenient:resnet8", "input_size": (3, 8, 8)}, "'conv.weight' is [16, 1, 3, 3] in the file"),
        ({"arch": "lenient:wrn-10-1"}, "12 not in the network (first 'stages.1.0.shortcut.0.weight')"),
        ({"arch": "lenient:lenet5"}, "missing from the file (first 'conv1.weight')"),
    ],
)
def test_weights_that_do_not_fit_show_the_first_names(weights: Path, flags: dict[str, object], words: str) -> None:
    text = one_line(weights, **({"input_size": SIZE} | flags))
    assert words in text
    assert "does not fit" in text
    assert "--teacher-arch, --num-classes or --input-size" in text


@pytest.mark.parametrize(
    ("arch", "close"),
    [
        ("lenient:resnt8", "resnet8"),
        ("lenient:wrn-16", "wrn-16-1"),
        ("timm:resnet188", "resnet18"),
        ("torchvision:resnet188", "resnet18"),
    ],
)
def test_unknown_names_show_the_nearest(weights: Path, arch: str, close: str) -> None:
    assert f"did you mean '{close}'" in one_line(arch, input_size=SIZE, num_classes=3)
    text = one_line(weights, arch=arch, input_size=SIZE)
    assert "--teacher-arch" in text
    assert f"'{close}'" in text


def test_published_teachers_keep_their_classes_and_channels() -> None:
    """Else a head, or a first layer, of random weights would pass for a teacher."""
    for spec in ("torchvision:resnet18", "timm:resnet18"):
        assert "--num-classes" in one_line(spec, num_classes=10)
    assert "--input-size" in one_line("torchvision:resnet18", input_size=(1, 32, 32))
    assert "IMAGENET1K_V1" in one_line("torchvision:resnet18.IMAGENET1K_V9")


def test_untrained_nets_ask_for_size_and_classes() -> None:
    assert "--num-classes" in one_line("lenient:resnet8", input_size=SIZE)
    assert "--input-size" in one_line("lenient:resnet8", num_classes=3)


def test_folders_that_hold_no_network_are_refused(tmp_path: Path) -> None:
    assert "model.safetensors" in one_line(tmp_path)
    assert "config.json" in one_line(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert "model.safetensors: no such file" in one_line(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "damaged" in one_line(tmp_path)
