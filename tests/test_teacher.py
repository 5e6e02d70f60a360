"""The frozen teacher answers, and comes back as it was."""

from __future__ import annotations

import copy

import pytest
import timm.layers
import torch
import torchvision.ops
from torch import nn

from lenient.core.errors import TeacherError
from lenient.core.runtime import Runtime
from lenient.models.card import Network
from lenient.teacher.frozen import FrozenTeacher
from lenient.teacher.probes import BatchNorms
from toys import CPU, tiny_card, tiny_teacher


def portrait(module: nn.Module) -> list[object]:
    """Everything that must be the same afterwards."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [
        [
            (name, t.device, t.dtype, t.stride(), t.requires_grad, t.data_ptr(), t.detach().clone())
            for name, t in tensors
        ],
        [(name, m.training) for name, m in module.named_modules()],
        [(len(m._forward_pre_hooks), len(m._forward_hooks), len(m._backward_hooks)) for m in module.modules()],
    ]


def assert_same(before: list[object], after: list[object]) -> None:
    for (*facts, value), (*now, value_now) in zip(before[0], after[0], strict=True):
        assert facts == now
        assert torch.equal(value, value_now)
    assert before[1:] == after[1:]


@pytest.mark.parametrize("crash", [False, True])
def test_the_module_comes_back_untouched(crash):
    network = tiny_teacher()
    network.module.norm1.train()
    network.module.conv1.weight.requires_grad_(False)
    network.module.register_forward_hook(lambda *_: None)
    before = portrait(network.module)

    def use() -> None:
        with FrozenTeacher(network, Runtime(torch.device("cpu"), "bf16")) as teacher:
            images = torch.rand(4, 1, 6, 5, requires_grad=True)
            teacher.respond(teacher.normalize(images), (BatchNorms(),)).logits.sum().backward()
            assert not any(p.requires_grad for p in network.module.parameters())
            if crash:
                raise RuntimeError("in the middle")

    if crash:
        with pytest.raises(RuntimeError, match="in the middle"):
            use()
    else:
        use()
    assert_same(before, portrait(network.module))


def test_it_answers_like_the_module_and_counts():
    network = tiny_teacher()
    images = torch.rand(5, 1, 6, 5)
    expected = network.module((images - 0.4) / 0.3)
    with FrozenTeacher(network, CPU) as teacher:
        torch.testing.assert_close(teacher.respond(teacher.normalize(images)).logits, expected)
        assert teacher.forwards == 5


def test_statistics_are_those_of_each_layers_input():
    network = tiny_teacher()
    seen: list[torch.Tensor] = []
    with FrozenTeacher(network, CPU) as teacher:
        inputs = teacher.normalize(torch.rand(5, 1, 6, 5))
        handles = [
            layer.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for layer in teacher.batch_norms
        ]
        found = teacher.respond(inputs, (BatchNorms(),)).of(BatchNorms)
        for handle in handles:
            handle.remove()
        assert not teacher.respond(inputs).probed
    assert len(found) == 2
    for layer, values, norm in zip(found, seen, (network.module.norm1, network.module.norm2), strict=True):
        flat = values.transpose(0, 1).flatten(1)
        torch.testing.assert_close(layer.mean, flat.mean(dim=1))
        torch.testing.assert_close(layer.variance, flat.var(dim=1, correction=0))
        torch.testing.assert_close(layer.running_mean, norm.running_mean)
        torch.testing.assert_close(layer.running_variance, norm.running_var)


def test_weighted_statistics_are_those_of_the_accepted_images():
    with FrozenTeacher(tiny_teacher(), CPU) as teacher:
        inputs = teacher.normalize(torch.rand(6, 1, 6, 5))
        weight = torch.tensor([1.0, 0, 1, 0, 1, 1])
        part = teacher.respond(inputs[weight > 0], (BatchNorms(),)).of(BatchNorms)
        weighed = teacher.respond(inputs, (BatchNorms(),), weight=weight).of(BatchNorms)
    for a, b in zip(part, weighed, strict=True):
        torch.testing.assert_close(a.mean, b.mean)
        torch.testing.assert_close(a.variance, b.variance)


def test_no_statistics_is_an_error_that_says_what_to_do():
    module = nn.Sequential(nn.Flatten(), nn.Linear(30, 4))
    with (
        FrozenTeacher(Network(module, tiny_card()), CPU) as teacher,
        pytest.raises(TeacherError, match=r"-s method\.bn_weight=0"),
    ):
        teacher.respond(torch.rand(2, 1, 6, 5), (BatchNorms(),))


def test_gradients_reach_the_images():
    with FrozenTeacher(tiny_teacher(), CPU) as teacher:
        images = torch.rand(4, 1, 6, 5, requires_grad=True)
        teacher.respond(teacher.normalize(images)).logits.sum().backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_precisions_are_asked_in_float32_and_come_back(dtype):
    teacher = tiny_teacher()
    teacher.module.to(dtype)
    with FrozenTeacher(teacher, CPU) as frozen:
        assert frozen.respond(torch.rand(2, 1, 6, 5)).logits.dtype == torch.float32
    assert {tensor.dtype for tensor in teacher.module.parameters()} == {dtype}


def test_a_failure_on_the_way_in_leaves_the_module_as_it_was(monkeypatch):
    teacher = tiny_teacher()
    teacher.module.train()
    monkeypatch.setattr("lenient.teacher.frozen.batch_norm_layers", lambda module: 1 / 0)
    with pytest.raises(ZeroDivisionError), FrozenTeacher(teacher, CPU):
        pass
    assert teacher.module.training
    assert all(parameter.requires_grad for parameter in teacher.module.parameters())


BF16 = Runtime(torch.device("cpu"), "bf16")


def test_weights_stay_in_bfloat16_without_a_change_of_the_answer():
    network = tiny_teacher()
    images = torch.randn(8, 1, 6, 5)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = network.module(images)
    with FrozenTeacher(network, BF16) as teacher:
        assert network.module.conv1.weight.dtype == torch.bfloat16
        assert network.module.norm1.weight.dtype == torch.float32
        assert torch.equal(teacher.respond(images).logits, expected)
        assert teacher.classifier is network.module.head  # found by forwards without autocast
        assert teacher.blocks()
        assert network.module.conv1.weight.dtype == torch.bfloat16
    assert network.module.conv1.weight.dtype == torch.float32


class OnTheSphere(nn.Module):
    """Its head's weight is used outside of the head, in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.head = nn.Linear(8, 4, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.conv(images).float().mean(dim=(2, 3))
        directions = self.head.weight / self.head.weight.norm(dim=1, keepdim=True)
        return (features[:, None, :] * directions).sum(dim=2)


def test_weights_used_outside_of_their_layer_keep_their_precision():
    network = Network(OnTheSphere().eval(), tiny_card())
    with FrozenTeacher(network, BF16):
        assert network.module.head.weight.dtype == torch.float32
        assert network.module.conv.weight.dtype == torch.float32


# statistics of the batch


def in_training(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """The answer of a copy whose batch norms alone are in training mode, as torch has it."""
    copied = copy.deepcopy(module).eval()
    for part in copied.modules():
        part.train(isinstance(part, nn.modules.batchnorm._BatchNorm))
    return copied(inputs)


def test_an_images_logits_depend_on_the_others_by_statistics_of_the_batch_alone():
    with FrozenTeacher(tiny_teacher(), CPU) as teacher:
        one = torch.rand(8, 1, 6, 5)
        other = torch.cat([one[:1], one[1:2] + 1, one[2:]])
        view = teacher.by("batch")
        assert torch.equal(*(teacher.respond(images).logits[0] for images in (one, other)))
        assert not torch.allclose(*(view.respond(images).logits[0] for images in (one, other)))
        assert teacher.forwards == view.forwards == 32


class Dropping(nn.Module):
    """A net with dropout, and a norm of its own for the features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.features, self.drop, self.head = nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.norm(self.conv(images)).relu()
        return self.head(self.drop(self.features(maps.mean(dim=(2, 3)))))


def test_by_statistics_of_the_batch_it_answers_and_has_gradients_as_batch_norms_in_training_have_and_no_dropout():
    network = Network(Dropping().double().eval(), tiny_card())
    before = portrait(network.module)
    images = torch.rand(5, 1, 6, 5, dtype=torch.float64)
    seen = []
    with FrozenTeacher(network, Runtime(torch.device("cpu"), "64")) as teacher:
        view, stored = teacher.by("batch"), {k: v.clone() for k, v in network.module.state_dict().items()}
        for answer in (lambda inputs: in_training(network.module, inputs), lambda inputs: view.respond(inputs).logits):
            inputs = images.clone().requires_grad_()
            logits = answer(inputs)
            (first,) = torch.autograd.grad(logits.tanh().sum(), inputs, create_graph=True)
            seen.append((logits, first, *torch.autograd.grad(first.square().sum(), inputs)))
        assert all(torch.equal(stored[key], value) for key, value in network.module.state_dict().items())
        with torch.no_grad():
            torch.testing.assert_close(view.respond(images).logits, seen[0][0])
    torch.testing.assert_close(*seen)
    assert_same(before, portrait(network.module))


@pytest.mark.parametrize("norm", [nn.SyncBatchNorm, torchvision.ops.FrozenBatchNorm2d, timm.layers.BatchNormAct2d])
def test_whatever_counts_as_batch_norm_normalises_by_the_batch(norm):
    layer = norm(3)
    layer.load_state_dict({"running_mean": torch.ones(3), "running_var": torch.full((3,), 4.0)}, strict=False)
    network = Network(nn.Sequential(layer, nn.Flatten(), nn.Linear(36, 4)).eval(), tiny_card(3, (4, 3)))
    inputs = torch.randn(6, 3, 4, 3, requires_grad=True)
    with FrozenTeacher(network, CPU) as teacher:
        given = {}
        layer.register_forward_hook(lambda _, args, output: given.update(output=output))
        teacher.by("batch").respond(inputs)
        plain = torch.nn.functional.batch_norm(inputs, None, None, layer.weight, layer.bias, training=True)
        wanted = plain.relu() if norm is timm.layers.BatchNormAct2d else plain
        torch.testing.assert_close(given["output"], wanted)
        torch.testing.assert_close(
            *(
                torch.autograd.grad(output.square().sum() / 2 + output[0].sum(), inputs)
                for output in (*given.values(), wanted)
            )
        )
    assert torch.equal(layer.running_mean, torch.ones(3))


def test_a_probe_finds_what_is_stored_beside_what_the_batch_has():
    network = tiny_teacher()
    with FrozenTeacher(network, CPU) as teacher:
        images = torch.rand(5, 1, 6, 5)
        found = teacher.by("batch").respond(images, (BatchNorms(),)).of(BatchNorms)
        assert torch.equal(found[1].running_mean, network.module.norm2.running_mean)
        assert torch.equal(found[0].mean, teacher.respond(images, (BatchNorms(),)).of(BatchNorms)[0].mean)
        assert not torch.equal(found[1].mean, teacher.respond(images, (BatchNorms(),)).of(BatchNorms)[1].mean)


def test_a_compiled_forward_is_never_asked_by_statistics_of_the_batch():
    with FrozenTeacher(tiny_teacher(), CPU) as teacher:
        teacher._plain = lambda inputs: pytest.fail("its batch norms are folded into its weights")
        teacher.by("batch").respond(torch.rand(3, 1, 6, 5))


def test_weights_in_bfloat16_answer_by_statistics_of_the_batch_as_casts_would():
    network = tiny_teacher()
    images = torch.randn(8, 1, 6, 5)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = in_training(network.module, images)
    with FrozenTeacher(network, BF16) as teacher, torch.no_grad():
        assert network.module.conv1.weight.dtype == torch.bfloat16
        assert (teacher.by("batch").respond(images).logits - expected).abs().max() < 0.02 * expected.abs().max()


def test_a_forward_that_fails_leaves_the_stored_statistics_in_their_place():
    network = tiny_teacher()
    before = portrait(network.module)
    with FrozenTeacher(network, CPU) as teacher:
        network.module.norm1.eps = None
        with pytest.raises(TypeError):
            teacher.by("batch").respond(torch.rand(3, 1, 6, 5))
        network.module.norm1.eps = 1e-5
        assert "running_mean" not in vars(network.module.norm1)
    assert_same(before, portrait(network.module))


class Computed(nn.BatchNorm2d):
    """What it has stored is no attribute that another could stand before."""

    @property
    def running_mean(self) -> torch.Tensor:
        return torch.zeros(6)

    @running_mean.setter
    def running_mean(self, value: torch.Tensor) -> None:
        pass


def test_a_teacher_to_which_the_batch_makes_no_difference_is_refused():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(30, 4))
    said = pytest.raises(TeacherError, match=r"0 batch-norm layers.*-s method\.statistics=running")
    with FrozenTeacher(Network(plain, tiny_card()), CPU) as teacher, said:
        teacher.by("batch")
    network = tiny_teacher()
    network.module.norm1.__class__ = Computed
    with FrozenTeacher(network, CPU) as teacher, pytest.raises(TeacherError, match="Computed layers compute"):
        teacher.by("batch").respond(torch.rand(3, 1, 6, 5))
