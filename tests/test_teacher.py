"""The frozen teacher answers, and comes back as it was."""

from __future__ import annotations

import pytest
import torch
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
        assert not teacher.respond(inputs).heard
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
