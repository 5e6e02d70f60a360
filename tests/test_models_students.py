"""Students start at random behind the teacher's front door; `auto` finds a smaller one and says why."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from lenient.core.errors import UsageError
from lenient.evaluation import num_bytes
from lenient.models import Card, Network, build_student, choose_student, load_network, network_from_module
from lenient.models.card import parameters
from lenient.models.students import Init

TEACHER = Card("lenient:resnet34", (1, 12, 10), 4, (0.3,), (0.2,), ("a", "b", "c", "d"), "probabilities", ("old",))
PHOTOS = Card("timm:resnet50", (3, 64, 64), 4, (0.3,) * 3, (0.2,) * 3)


@pytest.mark.parametrize(
    "spec",
    ["lenient:resnet8", "lenient:lenet5-half", "lenient:wrn-10-1", "timm:resnet10t", "torchvision:mobilenet_v3_small"],
)
def test_students_take_what_the_teacher_takes(spec: str) -> None:
    student = build_student(spec, TEACHER, seed=1)
    assert student.module.eval()(torch.rand(2, 1, 12, 10)).shape == (2, 4)
    card = student.card
    assert (card.arch, card.outputs) == (spec, "logits")
    assert (card.input_size, card.num_classes, card.mean, card.std, card.classes) == (
        TEACHER.input_size,
        TEACHER.num_classes,
        TEACHER.mean,
        TEACHER.std,
        TEACHER.classes,
    )
    assert "old" not in card.notes


def test_transformers_get_the_image_size() -> None:
    card = Card("timm:test_vit2", (3, 32, 32), 4, (0.3,) * 3, (0.2,) * 3)
    student = build_student("timm:test_vit", card, seed=1)
    assert student.module(torch.rand(2, 3, 32, 32)).shape == (2, 4)


def test_weights_depend_on_seed_and_role_alone() -> None:
    def first(seed: int, role: str = "student") -> torch.Tensor:
        return next(build_student("lenient:resnet8", TEACHER, seed=seed, role=role).module.parameters())

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(first(1), first(1))
    assert torch.equal(torch.rand(3), expected)
    assert not torch.equal(first(1), first(2))
    assert not torch.equal(first(1), first(1, "teacher"))


@pytest.mark.parametrize(("spec", "own"), [("resnet8", "he"), ("wrn-10-1", "he"), ("lenet5-half", "torch")])
def test_weights_start_as_the_net_is_built_or_as_asked_for(spec: str, own: str) -> None:
    def weights(init: Init) -> dict[str, torch.Tensor]:
        module = build_student(f"lenient:{spec}", TEACHER, seed=1, init=init).module
        return {name: layer.weight.detach() for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)}

    drawn = {init: weights(init) for init in ("as-is", "he", "torch")}
    assert all(torch.equal(weight, drawn["as-is"][name]) for name, weight in drawn[own].items())
    for name, weight in drawn["torch"].items():
        outputs, inputs, *kernel = weight.shape
        fan_in, fan_out = (count * math.prod(kernel) for count in (inputs, outputs))
        bound = fan_in**-0.5
        assert 0.9 * bound < weight.abs().max() <= bound, name
        assert float(drawn["he"][name].std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.25), name
        assert not torch.equal(weight, drawn["he"][name])


def test_students_of_others_start_as_they_are() -> None:
    plain, asked = (
        build_student("torchvision:mobilenet_v3_small", PHOTOS, seed=1, init=init) for init in ("as-is", "torch")
    )
    for first, second in zip(plain.module.parameters(), asked.module.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    "spec",
    [
        "lenient:resnt8",
        "timm:resnet188",
        "no/such/file.pt",
        "lenient:",
        "py:nowhere.py:build",
        "torchvision:squeezenet1_0",
    ],
)
def test_students_that_cannot_be_had_are_usage_errors(spec: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_student(spec, TEACHER, seed=1)
    assert str(caught.value).startswith("--student")
    assert "\n" not in str(caught.value)


def test_pretrained_students_warn_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_small

    state = mobilenet_v3_small().state_dict()
    monkeypatch.setattr(MobileNet_V3_Small_Weights, "get_state_dict", lambda *_, **__: state)
    student = build_student("torchvision:mobilenet_v3_small", PHOTOS, seed=1, pretrained=True)
    assert any("WARNING" in note and "real data" in note for note in student.card.notes)
    assert torch.equal(student.module.features[0][0].weight, state["features.0.0.weight"])
    assert student.module.classifier[-1].out_features == 4
    with pytest.raises(UsageError, match="pretrained"):
        build_student("lenient:resnet8", TEACHER, seed=1, pretrained=True)


def teacher(arch: str, input_size: tuple[int, int, int] = (3, 32, 32)) -> Network:
    with torch.device("meta"):
        return load_network(arch, input_size=input_size, num_classes=10, pretrained=False)


@pytest.mark.parametrize(
    ("arch", "spec"),
    [
        ("lenient:lenet5", "lenient:lenet5-half"),
        ("lenient:resnet34", "lenient:resnet18"),
        ("lenient:resnet20", "lenient:resnet8"),
        ("lenient:wrn-40-2", "lenient:wrn-16-2"),
        ("lenient:wrn-16-2", "lenient:wrn-16-1"),
        ("lenient:resnet18", "lenient:resnet20"),
        ("torchvision:resnet34", "torchvision:resnet18"),
        ("torchvision:resnext50_32x4d", "torchvision:resnet18"),
        ("torchvision:efficientnet_b2", "torchvision:efficientnet_b0"),
        ("timm:resnet50", "timm:resnet18"),
        ("timm:convnext_pico", "timm:convnext_femto"),
        ("timm:vit_small_patch16_224", "timm:vit_tiny_patch16_224"),
        ("timm:mobilenetv3_large_100", "timm:mobilenetv3_small_100"),
    ],
)
def test_auto_takes_a_smaller_sibling_and_counts_both(arch: str, spec: str) -> None:
    network = teacher(arch)
    chosen, reason = choose_student(network)
    assert chosen == spec
    student = teacher(chosen)
    counts = [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) parameters", reason)]
    assert sorted(counts) == sorted([parameters(student.module), parameters(network.module)])
    assert parameters(student.module) <= 0.6 * parameters(network.module)


def test_auto_falls_back_on_our_small_nets() -> None:
    def unknown(width: int) -> Network:
        module = nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.ReLU(), nn.Linear(width, 5))
        return network_from_module(module, input_size=(3, 8, 8))

    for width, spec, words in (
        (6000, "lenient:resnet20", "at most a quarter"),
        (4000, "lenient:resnet14", "at most a quarter"),
        (2000, "lenient:resnet8", "at most a quarter"),
        (800, "lenient:resnet8-half", "at most a quarter"),
        (300, "lenient:resnet8-half", "no network of ours has at most a quarter"),
        (20, "lenient:resnet8-half", "NOT smaller"),
    ):
        chosen, reason = choose_student(unknown(width))
        assert chosen == spec
        assert words in reason
        assert reason.count("parameters)") == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_auto_counts_what_quantised_layers_and_buffers_hold() -> None:
    ao = torch.ao.quantization
    layers = [nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, 4000), nn.ReLU(), nn.Linear(4000, 5)]
    module = nn.Sequential(ao.QuantStub(), *layers, ao.DeQuantStub()).eval()
    count = parameters(module)
    module.qconfig = ao.get_default_qconfig(torch.backends.quantized.engine)
    observed = ao.prepare(module)
    observed(torch.rand(8, 3, 8, 8))
    quantised = network_from_module(ao.convert(observed), input_size=(3, 8, 8), num_classes=5)
    assert count <= parameters(quantised.module) <= count + 20, "with scales and zero points"
    assert count < num_bytes(quantised.module) < 1.2 * count
    assert choose_student(quantised)[0] == "lenient:resnet14"
    buffers = nn.Module()
    buffers.register_buffer("weight", torch.rand(192, 4000))
    assert choose_student(Network(buffers, quantised.card))[0] == "lenient:resnet14"
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert parameters(tied) == 24


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_auto_says_that_a_size_cannot_be_seen(tmp_path: Path) -> None:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).eval()
    torch.jit.freeze(torch.jit.trace(layers, torch.rand(2, 3, 8, 8))).save(tmp_path / "p.pt")
    frozen = load_network(tmp_path / "p.pt", trust_code=True, input_size=(3, 8, 8), num_classes=5)
    chosen, reason = choose_student(frozen)
    assert chosen == "lenient:resnet20"
    assert "how many parameters the teacher has cannot be seen" in reason


def test_auto_never_offers_what_cannot_take_the_images() -> None:
    """VGG pools five times: 8x8 images vanish in it, and in its siblings, but not in a residual net."""
    network = teacher("torchvision:vgg11")
    small = Network(network.module, Card("torchvision:vgg11", (3, 8, 8), 10, (0.5,) * 3, (0.5,) * 3))
    build_student(choose_student(small)[0], small.card, seed=0)


def test_every_name_in_the_tables_exists() -> None:
    import timm
    from torchvision.models import list_models

    from lenient.models.families import _TIMM, _TORCHVISION, _expand

    for source, table, known in (("timm", _TIMM, timm.list_models()), ("torchvision", _TORCHVISION, list_models())):
        for pattern in {pattern for _, text in table for pattern in text.split()}:
            names = _expand(source, pattern)
            assert names, pattern
            assert not set(names) - set(known)


def test_the_families_of_torchvision_are_its_own_from_small_to_large() -> None:
    from torchvision.models import get_model_weights

    from lenient.models.families import _TORCHVISION, _expand

    rows = {start: [n for text in row.split() for n in _expand("torchvision", text)] for start, row in _TORCHVISION}
    for names in rows.values():
        sizes = [get_model_weights(name).DEFAULT.meta["num_params"] for name in names]
        assert sizes == sorted(sizes), names
    assert rows["densenet"][-4:] == ["densenet121", "densenet169", "densenet201", "densenet161"]
    assert rows["swin"][-3:] == ["swin_t", "swin_s", "swin_b"]
    assert rows["vit"][-3:] == ["vit_b_16", "vit_l_16", "vit_h_14"]
    assert rows["regnet_x"][:2] == ["regnet_x_400mf", "regnet_x_800mf"]
