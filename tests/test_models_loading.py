"""Teachers come from files, folders, collections and factories, and the card says where each value is from."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lenient.core.errors import LenientError, TeacherError, UsageError
from lenient.models import (
    Card,
    Network,
    check_classifier,
    load_network,
    network_from_module,
    read_card,
    save_network,
)

SIZE = (1, 8, 8)
LEFTOVERS = {"epoch": 3, "args": argparse.Namespace(lr=0.1, folder=Path("runs")), "best": np.float64(0.9)}


def network(name: str = "resnet8", seed: int = 1, num_classes: int = 3) -> Network:
    made = load_network(f"lenient:{name}", input_size=SIZE, num_classes=num_classes, mean=[0.2], std=[0.3], seed=seed)
    for module in made.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))
    return made


def same_weights(left: nn.Module, right: nn.Module) -> bool:
    mine, yours = left.state_dict(), right.state_dict()
    return mine.keys() == yours.keys() and all(torch.equal(mine[key], yours[key]) for key in mine)


@pytest.mark.parametrize(
    ("mean", "std", "flag"),
    [
        ([math.nan], [1], "--mean"),
        ([math.inf], [1], "--mean"),
        ([1e7], [1], "--mean"),
        (["x"], [1], "--mean"),
        (0.5, [1], "--mean"),
        ([], [1], "--mean"),
        ([0], [0], "--std"),
        ([0], [-1], "--std"),
        ([0], [math.nan], "--std"),
        ([0], [1e-7], "--std"),
        ([0], [10**400], "--std"),
        ([0.1, 0.2], [1, 1], "--mean"),
    ],
)
def test_a_normalisation_given_from_python_has_the_bounds_of_the_flags(mean, std, flag) -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    for call in (
        lambda: network_from_module(module, input_size=(1, 8, 8), mean=mean, std=std),
        lambda: load_network("lenient:lenet5", input_size=(1, 8, 8), num_classes=10, mean=mean, std=std),
    ):
        with pytest.raises(LenientError, match=flag) as said:
            call()
        assert len(str(said.value)) <= 300
        assert "\n" not in str(said.value)


@pytest.mark.parametrize("name", ["lenet5", "resnet8", "wrn-10-1"])
def test_saving_and_loading_is_bit_identical(name: str, tmp_path: Path) -> None:
    before = network(name)
    save_network(tmp_path / "deep" / "net.safetensors", before)
    after = load_network(tmp_path / "deep" / "net.safetensors")
    assert same_weights(before.module, after.module)
    assert after.card == before.card
    assert read_card(tmp_path / "deep" / "net.safetensors") == before.card


def test_double_precision_stays_double(tmp_path: Path) -> None:
    before = network()
    before.module.double()
    save_network(tmp_path / "net.safetensors", before)
    assert same_weights(before.module, load_network(tmp_path / "net.safetensors").module)


def test_equal_networks_give_equal_files_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_network(tmp_path / f"{name}.safetensors", network())
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    save_network(path, network(seed=1))
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Exception, match="No space left") as caught:
        save_network(path, network(seed=2))
    assert getattr(caught.value, "exit_code", None) == 5
    assert path.read_bytes() == before
    assert [other.name for other in tmp_path.iterdir()] == ["net.safetensors"]


def test_tied_weights_can_be_saved(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3))
    module[1].weight = module[2].weight
    save_network(tmp_path / "net.safetensors", Network(module, Card(None, SIZE, 3, (0.0,), (1.0,))))


def test_a_network_without_architecture_asks_for_it(tmp_path: Path) -> None:
    before = network()
    save_network(tmp_path / "net.safetensors", Network(before.module, Card(None, SIZE, 3, (0.2,), (0.3,))))
    with pytest.raises(TeacherError, match="--teacher-arch"):
        load_network(tmp_path / "net.safetensors")
    after = load_network(tmp_path / "net.safetensors", arch="lenient:resnet8")
    assert same_weights(before.module, after.module)
    assert after.card.mean == (0.2,)
    assert after.card.arch == "lenient:resnet8"


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "backbone."])
def test_state_dicts_are_unwrapped(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    before = network()
    state = {f"{prefix}{key}": value for key, value in before.module.state_dict().items()}
    content = state if wrapper is None else {wrapper: state} | LEFTOVERS
    torch.save(content, tmp_path / "net.pth")
    after = load_network(tmp_path / "net.pth", arch="lenient:resnet8", input_size=SIZE, mean=[0.2], std=[0.3])
    assert same_weights(before.module, after.module)
    assert after.card.num_classes == 3
    assert any("classes 3" in note and "tensors" in note for note in after.card.notes)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
def test_every_kind_of_weights_file_is_read(tmp_path: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    before, path = network("lenet5"), tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        save_file(before.module.state_dict(), path)
    else:
        torch.save(before.module.state_dict(), path)
    after = load_network(path, arch="lenient:lenet5", input_size=SIZE)
    assert same_weights(before.module, after.module)


def test_auxiliary_heads_are_left_out(tmp_path: Path) -> None:
    """GoogLeNet and Inception carry heads that serve in training only."""
    before = network("lenet5")
    torch.save(before.module.state_dict() | {"aux1.fc.weight": torch.ones(2, 2)}, tmp_path / "net.pt")
    after = load_network(tmp_path / "net.pt", arch="lenient:lenet5", input_size=SIZE)
    assert same_weights(before.module, after.module)


def test_old_pickles_are_read(tmp_path: Path) -> None:
    before = network()
    torch.save(before.module.state_dict(), tmp_path / "net.pt", _use_new_zipfile_serialization=False)
    after = load_network(tmp_path / "net.pt", arch="lenient:resnet8", input_size=SIZE)
    assert same_weights(before.module, after.module)


@pytest.mark.parametrize("arch", ["timm:mobilenetv3_small_050", "torchvision:mobilenet_v3_small", "timm:test_vit"])
def test_fine_tuned_weights_of_published_architectures_are_fitted(tmp_path: Path, arch: str) -> None:
    """Channels and classes come from the file's tensors, not from what the architecture was published with."""
    from lenient.models.facts import Wanted
    from lenient.models.names import parse_spec
    from lenient.models.sources import build

    before = build(parse_spec(arch), Wanted(1, (32, 32), 7), label="test").module
    torch.save(before.state_dict(), tmp_path / "net.pt")
    after = load_network(tmp_path / "net.pt", arch=arch, input_size=(1, 32, 32))
    assert same_weights(before, after.module)
    assert (after.card.num_classes, after.card.input_size) == (7, (1, 32, 32))
    assert after.card.mean == (0.0,)
    check_classifier(after)


def test_normalisation_of_a_published_architecture_is_an_assumption_for_other_weights(tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v3_small

    torch.save(mobilenet_v3_small(num_classes=7).state_dict(), tmp_path / "net.pt")
    card = load_network(tmp_path / "net.pt", arch="torchvision:mobilenet_v3_small").card
    assert card.mean == (0.485, 0.456, 0.406)
    assert card.classes is None
    assert any(note.startswith("mean 0.485") and "ASSUMED" in note and "--mean" in note for note in card.notes)
    given = load_network(
        tmp_path / "net.pt", arch="torchvision:mobilenet_v3_small", mean=[0.5] * 3, std=[0.25] * 3
    ).card
    assert given.mean == (0.5, 0.5, 0.5)
    assert any(note == "mean 0.5,0.5,0.5 and std 0.25,0.25,0.25: from --mean/--std" for note in given.notes)


def test_flags_go_before_metadata(tmp_path: Path) -> None:
    save_network(tmp_path / "net.safetensors", network())
    card = load_network(tmp_path / "net.safetensors", mean=[0.9], std=[0.8], input_size=(1, 16, 8)).card
    assert (card.mean, card.std, card.input_size) == ((0.9,), (0.8,), (1, 16, 8))
    assert any("16x8: from --input-size" in note and "(8, 8)" in note for note in card.notes)


def test_unknown_normalisation_is_assumed_aloud(tmp_path: Path) -> None:
    torch.save(network().module.state_dict(), tmp_path / "net.pt")
    card = load_network(tmp_path / "net.pt", arch="lenient:resnet8", input_size=SIZE).card
    assert (card.mean, card.std) == ((0.0,), (1.0,))
    assert any("ASSUMED" in note and "--mean" in note for note in card.notes)


def test_one_mean_serves_all_channels() -> None:
    card = load_network("lenient:resnet8", input_size=(3, 8, 8), num_classes=2, mean=[0.5], std=[0.5]).card
    assert card.mean == (0.5, 0.5, 0.5)


def test_a_run_and_its_student_folder_are_networks(tmp_path: Path) -> None:
    before = network()
    save_network(tmp_path / "student" / "model.safetensors", before)
    (tmp_path / "student" / "config.json").write_text(json.dumps({"classes": ["a", "b", "c"]}))
    for folder in (tmp_path, tmp_path / "student"):
        assert same_weights(before.module, load_network(folder).module)


def test_config_beside_plain_weights_is_their_card(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    before = network()
    save_file(before.module.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(before.card.to_dict()))
    after = load_network(tmp_path)
    assert same_weights(before.module, after.module)
    assert after.card == before.card


@pytest.mark.parametrize("direct", [True, False])
def test_a_folder_of_timm_is_loaded_whole(tmp_path: Path, direct: bool) -> None:
    import timm
    from timm.models import save_for_hf

    before = timm.create_model("mobilenetv3_small_050", num_classes=7)
    save_for_hf(before, str(tmp_path), model_config={"num_classes": 7}, safe_serialization=True)
    after = load_network(str(tmp_path) if direct else f"local-dir:{tmp_path}")
    assert same_weights(before, after.module)
    assert after.card.num_classes == 7
    assert after.card.input_size == (3, 224, 224)
    assert any(note.startswith("mean 0.485") and "ASSUMED" not in note for note in after.card.notes)
    with pytest.raises(TeacherError, match="--num-classes"):
        load_network(f"local-dir:{tmp_path}", num_classes=5)


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    one, again, other = (network(seed=seed) for seed in (1, 1, 2))
    first = next(iter(one.module.parameters()))
    assert torch.equal(first, next(iter(again.module.parameters())))
    assert not torch.equal(first, next(iter(other.module.parameters())))
    torch.manual_seed(3)
    load_network("lenient:lenet5", input_size=SIZE, num_classes=2)
    assert torch.equal(torch.rand(4), expected)


FACTORY = """
import torch
from helper_of_factory import WIDTH

mean, std, classes = [0.1], [0.2], ["cat", "dog", "eel"]
input_size = (1, 8, 8)
calls = []

class Net(torch.nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, WIDTH, 3)
        self.head = torch.nn.Linear(WIDTH, num_classes)

    def forward(self, images):
        return self.head(self.conv(images).mean((2, 3)))

def build(num_classes=3):
    return Net(num_classes)

def with_config():
    net = Net()
    net.default_cfg = {"input_size": (1, 9, 9), "mean": (0.3,), "std": (0.4,), "num_classes": 1000}
    return net

def inside():
    net = Net()
    net.register_buffer("mean", torch.tensor([0.5]))
    net.register_buffer("std", torch.tensor([0.5]))
    return net

def weights():
    return {"state_dict": Net().state_dict()}

def raises(): raise ValueError("no such disk\\nsecond line")
def needs(depth): return Net()
def needs_classes(num_classes): return Net(num_classes)
def text(): return "net"
value = 3
"""


@pytest.fixture
def factory(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(FACTORY)
    (tmp_path / "helper_of_factory.py").write_text("WIDTH = 4\n")
    return f"py:{tmp_path / 'nets.py'}"


def test_a_factory_and_what_its_file_says_make_a_network(factory: str) -> None:
    card = check_classifier(load_network(f"{factory}:build")).card
    assert card.arch == f"{factory}:build"
    assert (card.input_size, card.num_classes) == (SIZE, 3)
    assert (card.mean, card.std, card.classes) == ((0.1,), (0.2,), ("cat", "dog", "eel"))
    assert any("nets.py" in note and note.startswith("mean 0.1") for note in card.notes)


def test_a_factory_gets_the_arguments_it_names(factory: str) -> None:
    assert load_network(f"{factory}:build", num_classes=5).card.num_classes == 5
    assert load_network(f"{factory}:needs_classes", num_classes=5).module.head.out_features == 5
    with pytest.raises(TeacherError, match=r"num_classes.*--num-classes"):
        load_network(f"{factory}:needs_classes")


def test_a_module_speaks_before_its_file_and_shapes_before_a_config(factory: str) -> None:
    card = load_network(f"{factory}:with_config", input_size=(1, 9, 9)).card
    assert card.num_classes == 3
    assert load_network(f"{factory}:inside").card.mean == (0.0,)


def test_weights_from_a_factory_fill_an_architecture(factory: str) -> None:
    made = load_network(f"{factory}:weights", arch=f"{factory}:build", input_size=SIZE)
    assert made.card.arch == f"{factory}:build"
    with pytest.raises(TeacherError, match="--teacher-arch"):
        load_network(f"{factory}:weights")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("raises", "ValueError: no such disk"),
        ("needs", "'depth'"),
        ("text", "returned a str"),
        ("value", "not callable"),
        ("biuld", "did you mean 'build'"),
    ],
)
def test_what_is_wrong_with_a_factory_is_said_in_one_line(factory: str, function: str, words: str) -> None:
    with pytest.raises(TeacherError, match=words) as caught:
        load_network(f"{factory}:{function}")
    assert "\n" not in str(caught.value)


def test_factories_of_installed_packages_are_found() -> None:
    card = load_network("py:torchvision.models:squeezenet1_1", input_size=(3, 64, 64), num_classes=4).card
    assert card.num_classes == 4
    for spec in ("py:no_such_package.nets:build", "py:nets/missing.py:build"):
        with pytest.raises(TeacherError, match="no"):
            load_network(spec)


def test_the_import_path_is_as_before(factory: str) -> None:
    import sys

    before = list(sys.path)
    load_network(f"{factory}:build")
    assert sys.path == before


def test_a_file_cannot_name_code_to_run(tmp_path: Path, factory: str) -> None:
    save_network(tmp_path / "net.safetensors", load_network(f"{factory}:build"))
    with pytest.raises(
        TeacherError,
        match=r"would run build\(\) of .*nets.py: to allow that, give --teacher-arch py:.*, or --trust-code",
    ):
        load_network(tmp_path / "net.safetensors")
    load_network(tmp_path / "net.safetensors", arch=f"{factory}:build")


@pytest.mark.parametrize(
    "arch",
    ["lenient:resnet8x", "timm:resnet8x", "torchvision:resnet8x", "hf:x", "lenient:wrn-11-1", "torchvision:maxvit_t"],
)
def test_a_file_is_named_that_names_a_network_nobody_has(tmp_path: Path, arch: str) -> None:
    path = tmp_path / "net.safetensors"
    save_network(path, Network(network().module, Card(arch, SIZE, 3, (0.2,), (0.3,))))
    with pytest.raises(LenientError) as raised:
        load_network(path)
    assert str(path) in str(raised.value)
    assert not str(raised.value).startswith("--teacher-arch")


def test_a_module_at_hand_is_described() -> None:
    made = network_from_module(network().module, input_size=SIZE, mean=[0.2], std=[0.3])
    assert (made.card.arch, made.card.num_classes) == (None, 3)
    check_classifier(made)
    with pytest.raises(TeacherError, match="--input-size 1,H,W"):
        network_from_module(network().module)


def test_flags_that_make_no_sense_are_usage_errors(tmp_path: Path) -> None:
    save_network(tmp_path / "net.safetensors", network())
    for flags, name in (
        ({"mean": [0.5]}, "--std"),
        ({"input_size": (8, 8)}, "--input-size"),
        ({"num_classes": 1}, "--num-classes"),
        ({"arch": "net.pt"}, "--teacher-arch"),
    ):
        with pytest.raises(UsageError, match=name):
            load_network(tmp_path / "net.safetensors", **flags)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--teacher-arch"):
        load_network("lenient:resnet8", arch="lenient:resnet8")
