"""One forward pass tells a classifier from what is none, and leaves it as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm.layers
import torch
import torchvision
from torch import Tensor, nn

from lenient.core.errors import TeacherError
from lenient.models import (
    Card,
    Network,
    PixelClassifier,
    batch_norm_layers,
    check_classifier,
    load_network,
    network_from_module,
)
from toys import TinyNet, tiny_card

CARD = Card(None, (3, 8, 8), 5, (0.5,) * 3, (0.5,) * 3)


class Returns(nn.Module):
    """A linear classifier whose output goes through `change`."""

    def __init__(self, change: object = lambda values: values) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 64, 5)
        self.change = change

    def forward(self, images: Tensor) -> object:
        return self.change(self.linear(images.flatten(1)))  # type: ignore[operator]


def refused(module: nn.Module, card: Card = CARD) -> str:
    with pytest.raises(TeacherError) as caught:
        check_classifier(Network(module, card))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values,
        lambda values: {"logits": values, "features": values},
        lambda values: SimpleNamespace(logits=values),
        lambda values: (values, values[:, :, None]),
        lambda values: {"scores": values},
    ],
)
def test_classifiers_pass_unchanged(change: object) -> None:
    network = Network(Returns(change), CARD)
    assert check_classifier(network).card == CARD


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda values: (values * 2, values * 3), "py: factory"),
        (lambda values: {"scores": values * 2, "features": values * 3}, "py: factory"),
        (lambda values: values * float("nan"), "NaN"),
        (lambda values: values / 0, "NaN or infinite"),
        (lambda values: values[:, :3], "--num-classes 3"),
        (lambda values: values[:, :, None, None], "--num-classes"),
        (lambda values: values[0], "--num-classes"),
        (lambda values: values.mean(), "--num-classes"),
    ],
)
def test_other_outputs_are_refused(change: object, words: str) -> None:
    assert words in refused(Returns(change))


def test_wrong_channels_and_sizes_name_the_flag() -> None:
    net = load_network("lenient:resnet8", input_size=(1, 8, 8), num_classes=5).module
    assert "--input-size" in refused(net)
    assert "3x8x8" in refused(net)
    assert "--input-size" in refused(Returns(), Card(None, (3, 9, 9), 5, (0.5,) * 3, (0.5,) * 3))


def test_a_single_class_is_no_classifier() -> None:
    card = Card(None, (3, 8, 8), 1, (0.5,) * 3, (0.5,) * 3)
    assert "--num-classes" in refused(nn.Sequential(nn.Flatten(), nn.Linear(192, 1)), card)


def test_probabilities_are_noticed_and_noted() -> None:
    card = check_classifier(Network(Returns(lambda values: (values * 1.1).softmax(1)), CARD)).card
    assert card.outputs == "probabilities"
    assert "probabilities" in card.notes[-1]
    assert check_classifier(Network(Returns(lambda values: values.relu()), CARD)).card.outputs == "logits"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_checked(dtype: torch.dtype) -> None:
    check_classifier(Network(Returns().to(dtype), CARD))


def test_the_module_is_left_as_it_was() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))
            self.inner = Returns()
            self.norm = nn.BatchNorm2d(3)
            self.norm.eval()

        def forward(self, images: Tensor) -> object:
            self.calls += 1
            torch.rand(1)
            return self.inner(self.norm(images))

    module = Counts()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    check_classifier(Network(module, CARD))
    assert torch.equal(torch.rand(3), expected)
    assert [part.training for part in (module, module.inner, module.norm)] == [True, True, False]
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_batch_norms_of_all_libraries_are_listed_and_no_others() -> None:
    module = nn.ModuleDict(
        {
            "one": nn.BatchNorm1d(2),
            "two": nn.BatchNorm2d(2),
            "three": nn.BatchNorm3d(2),
            "sync": nn.SyncBatchNorm(2),
            "act": timm.layers.BatchNormAct2d(2),
            "frozen": torchvision.ops.FrozenBatchNorm2d(2),
            "instance": nn.InstanceNorm2d(2, track_running_stats=True),
            "without": nn.BatchNorm2d(2, track_running_stats=False),
            "group": nn.GroupNorm(1, 2),
            "layer": nn.LayerNorm(2),
        }
    )
    names = [name for name, _ in batch_norm_layers(module)]
    assert names == ["one", "two", "three", "sync", "act", "frozen"]
    assert len(batch_norm_layers(load_network("lenient:resnet8", input_size=(1, 8, 8), num_classes=2).module)) == 9


def test_a_student_has_to_return_the_logits_themselves() -> None:
    class Holder(TinyNet):
        def forward(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            return {"logits": super().forward(images)}

    assert check_classifier(Network(Holder(), tiny_card())).card == tiny_card()
    with pytest.raises(TeacherError, match="it returns a dict with logits in it"):
        check_classifier(Network(Holder(), tiny_card()), plain=True)
    with pytest.raises(TeacherError, match="leave its softmax out"):
        check_classifier(Network(nn.Sequential(TinyNet(), nn.Softmax(1)), tiny_card()), plain=True)


def test_one_value_per_image_is_answered_with_what_to_do() -> None:
    with pytest.raises(TeacherError, match="as for a sigmoid: wrap it with a py: factory"):
        check_classifier(Network(TinyNet(classes=1), tiny_card(classes=2)))


class Several(nn.Module):
    """Makes features of 5 values an image, 3 logits and an embedding of 4, and returns what it is asked."""

    def __init__(self, change: Callable[[Tensor, Tensor, Tensor], object]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU())
        self.embed, self.head = nn.Linear(5, 4), nn.Linear(5, 3)
        self.change = change

    def forward(self, images: Tensor) -> object:
        features = self.body(images)
        return self.change(features, self.head(features), self.embed(features))


SEVERAL: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], object], int | None]] = {
    "features, logits": (lambda features, logits, _: (features, logits), None),
    "logits, features": (lambda features, logits, _: [logits, features], None),
    "a dictionary": (lambda features, logits, _: {"features": features, "out": logits}, None),
    "features cut off": (lambda features, logits, _: (features.detach(), logits), None),
    "with probabilities": (lambda features, logits, _: (features, logits, logits.softmax(1)), None),
    "what else features became": (lambda f, logits, _: (f, f.square(), logits, logits.softmax(1)), None),
    "an embedding": (lambda _, logits, embedding: (embedding, logits), 3),
    "an embedding and features": (lambda features, logits, embedding: (embedding, features, logits), 3),
}


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("name", SEVERAL)
def test_of_several_outputs_the_logits_are_taken(name: str, given: bool) -> None:
    change, needed = SEVERAL[name]
    module = Several(change)
    found = network_from_module(module, input_size=(3, 8, 8), num_classes=3 if given or needed else None)
    found = check_classifier(found)
    images = torch.rand(2, 3, 8, 8)
    wanted = module.head(module.body(images))
    torch.testing.assert_close(PixelClassifier(found.module, found.card)(images).softmax(1), wanted.softmax(1))
    assert any("is taken for the logits" in note for note in found.card.notes)


def test_of_several_outputs_that_nothing_tells_apart_the_number_of_classes_is_asked_for() -> None:
    module = Several(lambda _, logits, embedding: (embedding, logits))
    with pytest.raises(TeacherError, match=r"4 and 3 values per image.*--num-classes"):
        check_classifier(network_from_module(module, input_size=(3, 8, 8)))


@pytest.mark.parametrize("loud", [1, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_before_a_softmax_are_read_where_a_layer_makes_them(loud: int, dtype: torch.dtype) -> None:
    module = Returns(lambda values: {"scores": values.softmax(1), "none": None}).to(dtype)
    module.linear.weight.data *= loud
    state = {key: value.clone() for key, value in module.state_dict().items()}
    found = check_classifier(Network(module, CARD))
    assert found.card.outputs == "logits"
    assert "read at its layer 'linear'" in found.card.notes[-1]
    images = torch.rand(4, 3, 8, 8, requires_grad=True)
    logits = PixelClassifier(found.module, found.card)(images)
    torch.testing.assert_close(logits, module.linear(((images - 0.5) / 0.5).to(dtype).flatten(1)))
    (gradient,) = torch.autograd.grad(logits.float().sum(), images)
    assert bool(gradient.flatten(1).any(1).all())
    assert not module.linear._forward_hooks
    assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())
    assert check_classifier(found).module is found.module


def test_a_pooled_layer_before_a_softmax_is_read() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1))
    found = check_classifier(Network(module, CARD))
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(found.module(images), module[:3](images))


def test_probabilities_too_small_for_their_logarithm_are_warned_of() -> None:
    module = Returns(lambda values: (values * 1000).softmax(1))
    card = check_classifier(Network(module, CARD)).card
    assert card.outputs == "probabilities"
    assert any("WARNING" in note and "before the softmax" in note for note in card.notes)


def test_a_network_whose_softmax_is_left_out_is_exported_and_compiled(tmp_path: Path) -> None:
    found = check_classifier(Network(Returns(lambda values: values.softmax(1)), CARD))
    images = torch.rand(2, 3, 8, 8)
    wanted = found.module(images)
    program = torch.export.export(found.module, (images,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.testing.assert_close(program.module()(images), wanted)
    torch.testing.assert_close(torch.compile(found.module, backend="eager")(images), wanted)
