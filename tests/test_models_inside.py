"""Constants that a network applies itself are measured, applied once, and said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms import Normalize

import lenient
from lenient.core.errors import TeacherError
from lenient.models import (
    Card,
    Network,
    PixelClassifier,
    build_student,
    check_classifier,
    load_network,
    network_from_module,
    save_network,
)
from lenient.models.students import copy_student
from lenient.runs.request import pick_student
from lenient.runs.student import Student

SIZE, MEAN, STD = (3, 8, 8), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def body() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


class Around(nn.Module):
    """Does something to its images first; `mean` and `std` are buffers, and the network has a parameter of its own."""

    def __init__(self, first: Callable[[Around, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.net = first, body()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.first(self, images))  # type: ignore[no-any-return]


class Held(nn.Module):
    """Normalises by parameters."""

    def __init__(self, scale: float = 1) -> None:
        super().__init__()
        self.mean = nn.Parameter(scale * torch.tensor(MEAN).view(1, 3, 1, 1), requires_grad=False)
        self.std = nn.Parameter(scale * torch.tensor(STD).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class Whole(Held):
    """The same, as the network itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = body()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(super().forward(images))  # type: ignore[no-any-return]


MODULES: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: nn.Sequential(Normalize(MEAN, STD), body()),
    "parameters of a part": lambda: nn.Sequential(Held(), body()),
    "parameters of the network": Whole,
}
INSIDE: dict[str, Callable[[Around, Tensor], Tensor]] = {
    "buffers": lambda self, x: (x - self.mean) / self.std,
    "in place": lambda self, x: x.sub_(self.mean).div_(self.std),
    "bytes": lambda self, x: (x * 255 - 255 * self.mean) / (255 * self.std),
}


@pytest.mark.parametrize("name", [*INSIDE, *MODULES])
@pytest.mark.parametrize("said", [True, False])
def test_constants_inside_are_applied_once(name: str, said: bool) -> None:
    module = MODULES[name]() if name in MODULES else Around(INSIDE[name])
    flags = {"mean": MEAN, "std": STD} if said else {}
    found = network_from_module(module, input_size=SIZE, **flags)  # type: ignore[arg-type]
    assert found.card.mean == pytest.approx(MEAN, abs=1e-4)
    assert found.card.std == pytest.approx(STD, abs=1e-4)
    assert any("measured inside" in note for note in found.card.notes)
    images = torch.rand(4, *SIZE)
    expected = module(images.clone())
    assert torch.allclose(PixelClassifier(found.module, found.card).eval()(images), expected, atol=1e-5)


def test_other_constants_by_flag_stay_with_a_warning() -> None:
    module = nn.Sequential(Normalize(MEAN, STD), body())
    found = network_from_module(module, input_size=SIZE, mean=[0.1] * 3, std=[0.9] * 3)
    assert found.module is module
    assert found.card.mean == (0.1,) * 3
    assert any("WARNING" in note and "--mean" in note for note in found.card.notes)


def test_a_network_that_takes_plain_images_comes_back_as_it_was() -> None:
    module = body().train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    found = network_from_module(module, input_size=SIZE)
    assert found.module is module
    assert module.training
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert not any(len(part._forward_pre_hooks) for part in module.modules())


def test_scales_that_are_no_statistics_stay_inside() -> None:
    module = Around(lambda self, x: x * 255)
    found = network_from_module(module, input_size=SIZE)
    assert found.module is module
    assert any("stay inside" in note for note in found.card.notes)


def test_what_googlenet_does_to_its_images_is_taken_outside(tmp_path: Path) -> None:
    from torchvision.models import googlenet

    torch.manual_seed(0)
    net = googlenet(weights=None, init_weights=False, aux_logits=True, transform_input=True, num_classes=4).eval()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    found = load_network(tmp_path / "net.pt", arch="torchvision:googlenet", input_size=(3, 32, 32))
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    given = PixelClassifier(found.module, found.card).eval()(images)
    assert torch.allclose(given, net((images - mean) / std), atol=1e-5)
    assert any("transform_input" in note for note in found.card.notes)


def test_a_network_that_says_the_same_of_all_images_is_noted() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    nn.init.zeros_(net[1].weight)
    found = check_classifier(network_from_module(net, input_size=(1, 4, 4), num_classes=3))
    assert any("gives different images the very same answer" in note for note in found.card.notes)
    assert not any("sigmoid" in note for note in found.card.notes)
    nn.init.normal_(net[1].weight)
    found = check_classifier(network_from_module(net, input_size=(1, 4, 4), num_classes=3))
    assert not any("very same answer" in note for note in found.card.notes)


def test_outputs_of_a_sigmoid_are_noted() -> None:
    found = check_classifier(network_from_module(nn.Sequential(body(), nn.Sigmoid()), input_size=SIZE))
    assert any("sigmoid" in note for note in found.card.notes)
    assert found.card.outputs == "logits"


OF_BYTES: dict[str, tuple[Callable[[Around, Tensor], Tensor], tuple[float, ...], tuple[float, ...]]] = {
    "to [0, 1]": (lambda self, x: x / 255, (0.0,) * 3, (1.0,) * 3),
    "to [-1, 1]": (lambda self, x: x / 127.5 - 1, (0.5,) * 3, (0.5,) * 3),
    "by channel": (lambda self, x: (x / 255 - self.mean) / self.std, MEAN, STD),
    "a mean alone": (lambda self, x: x - 255 * self.mean, (0.0,) * 3, (1.0,) * 3),
}


@pytest.mark.parametrize("flags", ["none", "pixels of bytes", "statistics"])
@pytest.mark.parametrize("name", OF_BYTES)
def test_a_network_of_pixels_up_to_255_is_given_them(name: str, flags: str) -> None:
    first, mean, std = OF_BYTES[name]
    module = Around(first)
    said = {"none": {}, "pixels of bytes": {"mean": [0.0], "std": [0.00392]}, "statistics": {"mean": mean, "std": std}}
    found = network_from_module(module, input_size=SIZE, **said[flags])  # type: ignore[arg-type]
    assert found.card.mean == pytest.approx(mean, abs=1e-4)
    assert found.card.std == pytest.approx(std, abs=1e-4)
    assert sum("pixels of 0 to 255" in note for note in found.card.notes) == 1
    assert not any("WARNING" in note or "ASSUMED" in note for note in found.card.notes)
    images = torch.rand(4, *SIZE)
    given = PixelClassifier(found.module, found.card).eval()(images)
    assert torch.allclose(given, module(images * 255), atol=1e-3)


def test_parameters_for_pixels_up_to_255_are_found() -> None:
    module = nn.Sequential(Held(255), body())
    found = network_from_module(module, input_size=SIZE)
    assert (found.card.mean, found.card.std) == (pytest.approx(MEAN, abs=1e-4), pytest.approx(STD, abs=1e-4))
    images = torch.rand(4, *SIZE)
    given = PixelClassifier(found.module, found.card).eval()(images)
    assert torch.allclose(given, module(images * 255), atol=1e-3)


def test_weights_of_a_layer_of_ones_own_are_no_constants() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(3) * 4)

        def forward(self, images: Tensor) -> Tensor:
            return torch.einsum("oc,nchw->nohw", self.weight, images)

    module = nn.Sequential(Mixing(), body())
    assert network_from_module(module, input_size=SIZE).module is module


def test_other_constants_by_flag_for_pixels_up_to_255_stay_with_a_warning() -> None:
    module = Around(OF_BYTES["to [-1, 1]"][0])
    found = network_from_module(module, input_size=SIZE, mean=[0.1] * 3, std=[0.9] * 3)
    assert found.module is module
    assert any("WARNING" in note and "127.5" in note for note in found.card.notes)


def test_pixels_up_to_255_are_found_in_half_precision() -> None:
    module = Around(OF_BYTES["to [-1, 1]"][0]).bfloat16()
    found = network_from_module(module, input_size=(3, 8, 8))
    assert found.card.std == pytest.approx((0.5,) * 3, abs=5e-3)


def test_constants_are_found_before_a_border() -> None:
    module = nn.Sequential(Normalize(MEAN, STD), nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2), nn.Flatten())
    found = network_from_module(nn.Sequential(module, nn.Linear(64, 3)), input_size=SIZE)
    assert found.card.std == pytest.approx(STD, abs=1e-4)


OWN = """
import torch
from torch import nn

num_classes, input_size = 3, (3, 8, 8)

class Normalize(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1))

    def forward(self, images):
        return (images - self.mean) / 0.25

def build(*last):
    return nn.Sequential(
        Normalize(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3), *last
    )

def sure():
    return build(nn.Softmax(1))

class Features(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = build()

    def forward(self, images):
        found = self.net[:5](images)
        return found, self.net[5](found)

def features():
    return Features()
"""
GREY = Card(None, SIZE, 3, (0.5,) * 3, (0.3,) * 3)


@pytest.fixture
def own(tmp_path: Path) -> str:
    """Name of a user's own code, whose networks normalise inside."""
    (tmp_path / "net.py").write_text(OWN, encoding="utf-8")
    return f"py:{tmp_path / 'net.py'}"


def answers(network: Network | Student) -> Tensor:
    images = torch.rand(4, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return PixelClassifier(network.module, network.card).eval()(images)  # type: ignore[no-any-return]


def written(network: Network, path: Path, arch: str | None = None, *, old: bool = False) -> Network:
    """Return what is read of a network's file; an `old` one does not say what is undone."""
    save_network(path, network)
    if old:
        with safe_open(path, framework="pt") as file:
            said = json.loads(file.metadata()["lenient"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        del said["undone"]
        save_file(tensors, path, {"lenient": json.dumps(said)})
    return check_classifier(load_network(path, arch=arch, trust_code=True))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", ["student", "teacher", "int8", "module", "network"])
def test_a_network_that_a_run_trained_is_read_as_it_was_trained(own: str, tmp_path: Path, kind: str, old: bool) -> None:
    arch = f"{own}:build"
    if kind == "module":
        made, _ = pick_student(load_network(arch).module.module, Network(body(), GREY), 0)
    elif kind == "network":  # its own normalisation is undone, and the teacher's is another one
        made, _ = pick_student(load_network(arch), Network(body(), GREY), 0)
    else:
        role = "teacher" if kind == "teacher" else "student"
        made = build_student(f"int8:{arch}" if kind == "int8" else arch, GREY, seed=0, role=role)
    found = written(made, tmp_path / "net.safetensors", arch if kind == "module" else None, old=old)
    assert torch.equal(answers(found), answers(made))
    assert found.card.mean == GREY.mean


def test_a_network_behind_a_softmax_is_read_as_it_was_trained(own: str, tmp_path: Path) -> None:
    made = build_student(f"{own}:sure", GREY, seed=0, role="teacher")
    assert torch.equal(answers(written(made, tmp_path / "net.safetensors")), answers(made))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", ["build", "sure"])
def test_a_network_whose_own_constants_are_undone_is_read_so(own: str, tmp_path: Path, name: str, old: bool) -> None:
    teacher = check_classifier(load_network(f"{own}:{name}"))
    assert torch.equal(answers(written(teacher, tmp_path / "net.safetensors", old=old)), answers(teacher))


@pytest.mark.parametrize("old", [False, True])
def test_a_copy_in_few_bits_undoes_what_its_teacher_did(own: str, tmp_path: Path, old: bool) -> None:
    made = copy_student("int8:copy", check_classifier(load_network(f"{own}:build")))
    made.module.train()(torch.rand(8, *SIZE))  # from then on what comes to a layer is rounded
    made.module.network.module[0].mean += 0.0 if old else 0.01  # type: ignore[union-attr, index, operator]
    assert torch.equal(answers(written(made, tmp_path / "net.safetensors", old=old)), answers(made))


@pytest.mark.parametrize("said", [0, [[0.5] * 3], [[0.5] * 3, ["a"] * 3], [[0.5], [0.5]], {"mean": 1}])
def test_damaged_words_on_what_is_undone_are_refused(own: str, tmp_path: Path, said: object) -> None:
    made = load_network(f"{own}:build")
    text = json.dumps(made.card.to_dict() | {"undone": said})
    save_file(made.module.state_dict(), tmp_path / "net.safetensors", {"lenient": text})
    with pytest.raises(TeacherError, match=r"net\.safetensors: .* damaged \(undone\)"):
        load_network(tmp_path / "net.safetensors", trust_code=True)


@pytest.mark.parametrize("name", ["build", "sure", "features"])
def test_what_is_loaded_answers_in_logits(own: str, tmp_path: Path, name: str) -> None:
    teacher = check_classifier(load_network(f"{own}:{name}"))
    assert torch.equal(answers(lenient.load(f"{own}:{name}")), answers(teacher))
    for made in (teacher, copy_student("int8:copy", teacher)):
        save_network(tmp_path / "net.safetensors", made)
        found = lenient.load(tmp_path / "net.safetensors", trust_code=True)
        assert torch.equal(answers(found), answers(made))
        assert type(found.module) is type(made.module), "one in few bits is written as a program of such"
        found.save_pretrained(tmp_path / "folder", overwrite=True)
        again = Student.from_pretrained(tmp_path / "folder", trust_code=True)
        assert torch.equal(answers(again), answers(made))


def test_a_card_of_ones_own_code_holds(own: str, tmp_path: Path) -> None:
    made = build_student(f"{own}:build", GREY, seed=0)
    save_network(tmp_path / "net.safetensors", made)
    torch.save(made.module.state_dict(), tmp_path / "bare.pt")
    text = f"""
import lenient

def build():
    return lenient.load({str(tmp_path / "net.safetensors")!r}, trust_code=True)
"""
    (tmp_path / "loads.py").write_text(text, encoding="utf-8")
    arch = f"py:{tmp_path / 'loads.py'}:build"
    for found in (load_network(arch), load_network(tmp_path / "bare.pt", arch=arch)):
        assert torch.equal(answers(found), answers(made))
        assert found.card.mean == GREY.mean
