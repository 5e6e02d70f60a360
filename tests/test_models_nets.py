"""The own nets have the published sizes and take any channels, pixels and number of classes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lenient.core.errors import TeacherError, UsageError
from lenient.models import Card, PixelClassifier, load_network, to_logits
from lenient.models.names import NETS, SOURCES, did_you_mean, parse_spec

ALL = (*NETS, "wrn-10-1", "wrn-16-2")


def built(name: str, input_size: tuple[int, int, int] = (3, 32, 32), num_classes: int = 10) -> nn.Module:
    return load_network(f"lenient:{name}", input_size=input_size, num_classes=num_classes).module


@pytest.mark.parametrize(
    ("name", "channels", "parameters"),
    [
        ("lenet5", 1, 61_706),  # LeCun et al. 1998, with full connections between the maps
        ("lenet5-half", 1, 15_738),
        ("resnet8", 3, 78_042),
        ("resnet14", 3, 175_258),
        ("resnet20", 3, 272_474),
        ("resnet18", 3, 11_173_962),
        ("resnet34", 3, 21_282_122),
        ("wrn-16-1", 3, 175_066),
        ("wrn-16-2", 3, 691_674),
        ("wrn-40-2", 3, 2_243_546),
    ],
)
def test_nets_have_as_many_parameters_as_in_the_papers(name: str, channels: int, parameters: int) -> None:
    net = built(name, (channels, 32, 32))
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (26, 30)])
def test_nets_take_small_and_oblong_images(name: str, size: tuple[int, int]) -> None:
    for channels, num_classes in ((1, 2), (5, 11)):
        if name in ("resnet18", "resnet34") and (channels == 5 or size[0] in (28, 32)):
            continue
        net = built(name, (channels, *size), num_classes).eval()
        with torch.no_grad():
            assert net(torch.rand(2, channels, *size)).shape == (2, num_classes)


@pytest.mark.parametrize("name", ["lenet5", "lenet5-half", "resnet20", "wrn-10-1"])
def test_nets_take_photographs(name: str) -> None:
    with torch.no_grad():
        assert built(name, (3, 224, 224), 7).eval()(torch.rand(1, 3, 224, 224)).shape == (1, 7)


@settings(max_examples=20, deadline=None)
@given(height=st.integers(8, 70), width=st.integers(8, 70), channels=st.integers(1, 4))
def test_lenet_takes_every_size_from_eight_pixels(height: int, width: int, channels: int) -> None:
    with torch.no_grad():
        assert built("lenet5", (channels, height, width), 3)(torch.rand(1, channels, height, width)).shape == (1, 3)


def test_lenet_pads_only_what_is_too_small() -> None:
    paddings = {
        size: tuple(
            part.padding[0] for part in built("lenet5", (1, size, size)).modules() if isinstance(part, nn.Conv2d)
        )
        for size in (32, 28, 8)
    }
    assert paddings == {32: (0, 0, 0), 28: (2, 0, 0), 8: (2, 2, 2)}


@pytest.mark.parametrize("name", ["resnet18", "resnet8", "wrn-16-2"])
def test_nets_keep_pixels_until_the_stages(name: str) -> None:
    net = built(name)
    first = next(part for part in net.modules() if isinstance(part, nn.Conv2d))
    assert first.stride == (1, 1)
    assert first.bias is None
    assert not any(isinstance(part, nn.MaxPool2d) for part in net.modules())


@pytest.mark.parametrize("name", ["wrn-12-1", "wrn-4-1", "wrn-16-0"])
def test_impossible_wide_nets_are_usage_errors(name: str) -> None:
    with pytest.raises(UsageError, match="6n \\+ 4"):
        built(name)


def test_names_of_networks_are_read_without_torch() -> None:
    code = (
        "import sys; from lenient.models.names import parse_spec; parse_spec('py:a.b:c'); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.parametrize(
    ("text", "source", "name"),
    [
        ("lenient:resnet8", "lenient", "resnet8"),
        ("timm:resnet18.a1_in1k", "timm", "resnet18.a1_in1k"),
        ("hf-hub:org/repo", "hf-hub", "org/repo"),
        ("local-dir:/a/b", "local-dir", "/a/b"),
        ("py:a.b:c", "py", "a.b:c"),
        ("py:C:/nets/a.py:c", "py", "C:/nets/a.py:c"),
        ("nets/teacher.pt", "path", "nets/teacher.pt"),
        ("C:\\nets\\teacher.pt", "path", "C:\\nets\\teacher.pt"),
    ],
)
def test_specs_are_split(text: str, source: str, name: str) -> None:
    spec = parse_spec(text)
    assert (spec.source, spec.name, str(spec)) == (source, name, text)


@pytest.mark.parametrize(
    "text", ["", "  ", "lenient:", "tmm:resnet18", "py:factory", "py::f", "py:a:", "timm:a/b", "timm:a:b"]
)
def test_malformed_specs_are_usage_errors_of_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_spec(text, "--student")
    assert str(caught.value).startswith("--student")
    assert "\n" not in str(caught.value)


def test_an_unknown_source_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'timm'"):
        parse_spec("tmm:resnet18")
    assert did_you_mean("qqqqqq", SOURCES) == ""


CARD = Card("lenient:resnet8", (2, 8, 9), 3, (0.5, 0.25), (0.5, 2.0), ("a", "b", "c"), notes=("one",))


def test_a_card_survives_json() -> None:
    import json

    assert Card.from_dict(json.loads(json.dumps(CARD.to_dict()))) == CARD


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"mean": [0.5]}, "--mean"),
        ({"mean": [123.7, 116.3]}, "--mean"),
        ({"std": [0.5, 0.0]}, "--std"),
        ({"std": [58.4, 57.1]}, "--std"),
        ({"mean": [float("nan"), 0.0]}, "--mean"),
        ({"input_size": [2, 0, 9]}, "--input-size"),
        ({"num_classes": 0, "classes": None}, "--num-classes"),
        ({"num_classes": 4}, "--num-classes"),
        ({"outputs": "scores"}, "outputs"),
        ({"input_size": "32"}, "damaged"),
        ({"mean": None}, "damaged"),
    ],
)
def test_a_card_refuses_what_no_network_can_have(change: dict[str, object], flag: str) -> None:
    with pytest.raises(TeacherError, match=flag):
        Card.from_dict(CARD.to_dict() | change)


def test_a_pixel_classifier_normalises_and_takes_logarithms() -> None:
    card = Card(None, (2, 1, 1), 2, (0.5, 0.25), (0.5, 2.0))
    images = torch.tensor([[1.0, 0.25], [0.0, 2.25]]).view(2, 2, 1, 1)
    assert torch.equal(PixelClassifier(nn.Flatten(), card)(images), torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    assert PixelClassifier(nn.Flatten(), card).mean.shape == (1, 2, 1, 1)


def test_logits_are_found_in_what_classifiers_return() -> None:
    class Output:
        logits = torch.ones(2, 3)

    assert torch.equal(to_logits({"logits": Output.logits}, "logits"), Output.logits)
    assert torch.equal(to_logits(Output(), "logits"), Output.logits)
    maps = torch.ones(2, 4, 1, 1)
    for alone in ((Output.logits, None), [maps, Output.logits], {"scores": Output.logits, "maps": maps}):
        assert to_logits(alone, "logits") is Output.logits
    for strange in ((Output.logits, Output.logits), [maps], None, {"scores": Output.logits, "tokens": Output.logits}):
        with pytest.raises(TeacherError, match=r"py: factory"):
            to_logits(strange, "logits")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=2, max_size=6))
def test_logarithms_of_probabilities_give_the_probabilities_again(values: list[float]) -> None:
    probabilities = torch.tensor([values], dtype=torch.float64).softmax(dim=1)
    assert torch.allclose(to_logits(probabilities, "probabilities").softmax(dim=1), probabilities, atol=1e-9)
    certain = to_logits(torch.tensor([[1.0, 0.0]]), "probabilities")
    assert bool(torch.isfinite(certain).all())
