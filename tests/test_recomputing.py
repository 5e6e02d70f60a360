"""Blocks that compute their maps anew for the backward pass: the same to the bit, with less kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from lenient.core.modes import mode
from lenient.core.recomputing import Recomputed, blocks
from lenient.core.runtime import Runtime
from lenient.models import Network, build_student
from lenient.models.card import Card
from lenient.models.low_bit import LowBit
from lenient.student.update import LiveStudent
from lenient.teacher.frozen import FrozenTeacher
from lenient.teacher.probes import BatchNorms, Pooled

CARD = Card(None, (3, 32, 32), 10, (0.4,) * 3, (0.3,) * 3)
CPU = torch.device("cpu")


def own(name: str) -> nn.Module:
    return build_student(f"lenient:{name}", CARD, seed=0).module


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 8), (8, 8), (8, 16), (16, 16)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": lambda: own("resnet8"),
    "wide": lambda: own("wrn-10-1"),
    "a row of layers": vgg,
    "dense": lambda: torchvision.models.DenseNet(8, (2, 2), 8, num_classes=10),
    "mobile": lambda: torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.25),
    "transformer": lambda: timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=10, drop_path_rate=0.3
    ),
    "in few bits": lambda: LowBit(own("resnet8"), 8),
    "without blocks": lambda: own("lenet5"),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    torch.manual_seed(1)
    return network


@contextmanager
def counted() -> Iterator[list[int]]:
    """Say how many bytes are kept for the backward pass while open."""
    kept: dict[int, int] = {}
    total: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield total
    total.append(sum(kept.values()))


def learned(network: nn.Module, *, anew: bool, precision: str = "32") -> tuple[list[Tensor], int]:
    """Return gradients and buffers after two passes of a student's update and of one that images learn from; and the
    bytes kept of the first."""
    runtime = Runtime(CPU, precision, recompute=anew)
    student, images = LiveStudent(network.train(), runtime), torch.rand(6, 3, 32, 32)
    with counted() as kept:
        logits = student.respond(images).logits.float()
    logits.square().sum().backward()
    student.respond(images.flip(3)).logits.float().square().sum().backward()
    images.requires_grad_(True)
    with mode(network, "eval"):
        answer = student.respond(images).logits.float().square().sum()
    (gradient,) = torch.autograd.grad(answer, [images])
    found = [p.grad for p in network.parameters() if p.grad is not None]
    assert "forward" not in {name for part in network.modules() for name in vars(part)}
    return [*found, *(b.clone() for b in network.buffers()), gradient, torch.rand(1)], kept[0]


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_student_learns_the_same_with_less_kept(name: str, precision: str) -> None:
    usual, kept = learned(made(name), anew=False, precision=precision)
    other, less = learned(made(name), anew=True, precision=precision)
    assert len(usual) == len(other)
    for one, two in zip(usual, other, strict=True):
        assert torch.equal(one, two)
    if name != "without blocks":
        assert less < 0.75 * kept


@pytest.mark.parametrize("name", ["residual", "a row of layers", "dense", "mobile"])
def test_what_is_read_of_a_teacher_gets_the_same_gradient(name: str) -> None:
    found: list[list[Tensor]] = []
    for anew in (False, True):
        network = made(name).eval()
        with FrozenTeacher(Network(network, CARD), Runtime(CPU, recompute=anew)) as teacher:
            images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(2)).requires_grad_(True)
            probes = (BatchNorms(), Pooled(tuple(teacher.batch_norms)))
            answer = teacher.respond(teacher.normalize(images), probes)
            apart = sum((s.mean - s.running_mean).norm() + s.variance.sum() for s in answer.of(BatchNorms))
            total = apart + answer.logits.square().sum() + answer.of(Pooled).square().mean()
            again = teacher.respond(teacher.normalize(images)).logits  # the hooks of before are gone in this one
            (gradient,) = torch.autograd.grad(total + again.square().sum(), [images], create_graph=True)
            (second,) = torch.autograd.grad(gradient.square().sum(), [images])
            found.append([gradient.detach(), second])
        assert not any(hooks for part in network.modules() for hooks in (part._forward_hooks, part._forward_pre_hooks))
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_other_weights_and_the_statistics_of_a_batch_are_answered_as_usual() -> None:
    network = made("residual").eval()
    weights = {name: value.detach() * 0.9 for name, value in network.named_parameters()}
    images = torch.rand(4, 3, 32, 32).requires_grad_(True)
    found = []
    for anew in (False, True):
        runtime = Runtime(CPU, recompute=anew)
        with FrozenTeacher(Network(network, CARD), runtime) as teacher:
            logits = (
                LiveStudent(network, runtime).respond(images, weights).logits
                + teacher.by("batch").respond(images).logits
            )
            found.append(torch.autograd.grad(logits.square().sum(), [images])[0])
    assert torch.equal(*found)


def test_blocks_are_what_repeats() -> None:
    assert [type(block).__name__ for block in blocks(own("resnet20"))] == ["BasicBlock"] * 9
    assert len(blocks(torchvision.models.vit_b_16(num_classes=10))) == 13
    inside = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()))
    wrapped = nn.ModuleDict({"model": inside})
    assert blocks(wrapped) == list(inside)
    assert blocks(nn.Sequential(nn.Conv2d(3, 4, 1))) == []


def test_nothing_is_done_without_gradient() -> None:
    network, calls = made("residual"), []
    block = blocks(network)[0]
    block.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    recomputed: Any = Recomputed(network)
    with torch.no_grad(), recomputed.armed() if len(recomputed) else nullcontext():
        network(torch.rand(2, 3, 32, 32))
    assert calls == [False]
