"""Constants that a network applies itself are measured, applied once, and said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import Normalize

from lenient.models import PixelClassifier, check_classifier, load_network, network_from_module

SIZE, MEAN, STD = (3, 8, 8), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def body() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


class Around(nn.Module):
    """Does something to its images first; `mean` and `std` are buffers."""

    def __init__(self, first: Callable[[Around, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.net = first, body()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.first(self, images))  # type: ignore[no-any-return]


INSIDE: dict[str, Callable[[Around, Tensor], Tensor]] = {
    "buffers": lambda self, x: (x - self.mean) / self.std,
    "in place": lambda self, x: x.sub_(self.mean).div_(self.std),
    "bytes": lambda self, x: (x * 255 - 255 * self.mean) / (255 * self.std),
}


@pytest.mark.parametrize("name", [*INSIDE, "layer"])
@pytest.mark.parametrize("said", [True, False])
def test_constants_inside_are_applied_once(name: str, said: bool) -> None:
    module = nn.Sequential(Normalize(MEAN, STD), body()) if name == "layer" else Around(INSIDE[name])
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
