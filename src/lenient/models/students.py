"""Building a student behind the teacher's front door: random weights, or the teacher's own in few bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from torch import nn

from lenient.core.errors import TeacherError, UsageError
from lenient.models.card import Card, Network
from lenient.models.checking import check_classifier
from lenient.models.facts import Wanted
from lenient.models.lending import copied_module, drop_hooks
from lenient.models.loading import seeded
from lenient.models.low_bit import LowBit, rounded_layers, take_pixels
from lenient.models.names import parse_spec
from lenient.models.resnet import initialize
from lenient.models.sources import build, in_few_bits

Init = Literal["as-is", "he", "torch"]
"""How a student's weights are drawn: as its network draws them; convolutions after He et al. 2015 (normal, variance 2 /
fan-out), the rest as torch does; or all as torch does (uniform, variance 1 / (3 fan-in))."""
LABEL = "--student"
NAMELESS = (
    "nothing names the teacher's network, so that its safetensors load only for whoever has code that builds it; "
    "keep student.pt2"
)
"""Note of a copy whose teacher has no architecture: a file of ONNX, a pickled module, an object."""
_LEAK = (
    "WARNING: pretrained student weights were learned from real data, so this distillation is not data-free: "
    "its result cannot be compared with runs that start at random"
)


def build_student(
    spec: str, teacher_card: Card, *, seed: int, pretrained: bool = False, role: str = "student", init: Init = "as-is"
) -> Network:
    """Build the network `spec` for the teacher's input size, classes and normalisation, on the CPU.

    Weights are random, drawn from (seed, role) without touching the global random streams, so that a teacher and a
    student of one seed start differently. `init` says how the library's own nets draw them; others start as they are.
    `pretrained=True` takes published weights where shapes allow (timm and
    torchvision only) and says in the card's notes that real data leaks in.

    Raises UsageError where `spec` names no network, or one that cannot take the teacher's images.
    """
    parsed = parse_spec(spec, LABEL)
    if parsed.source == "path":
        raise UsageError(
            f"{LABEL} {spec}: names no network; write its source before it, for example lenient:resnet8 or "
            "timm:resnet18, or auto"
        )
    whole = parsed.whole
    published = whole.source in ("timm", "torchvision", "hf-hub", "local-dir")
    if pretrained and not published:
        raise UsageError(f"{LABEL} {spec}: has no published weights; pretrained=true is for timm and torchvision")
    channels, height, width = teacher_card.input_size
    wanted = Wanted(channels, (height, width), teacher_card.num_classes)
    with _refusing(spec):
        with seeded(seed, f"{role}/weights"):
            built = build(whole, wanted, pretrained=pretrained, new_head=True, label=LABEL)
            if whole.source == "lenient":
                _start(built.module, init)
            built = in_few_bits(built, parsed)
        origin = _LEAK if pretrained else f"random weights, seed {seed}"
        notes = ("size, classes and normalisation: the teacher's", origin)
        network = Network(built.module, replace(_student_card(teacher_card, built.arch), notes=notes))
        network = check_classifier(network, plain=role == "student")
        if isinstance(network.module, LowBit):
            take_pixels(network.module, network.card)
        return network


def is_copy(student: Network) -> bool:
    """Whether a student began as its teacher, see `copy_student`."""
    return isinstance(student.module, LowBit) and student.module.fixed


def copy_student(spec: str, teacher: Network) -> Network:
    """Build `intN:copy`: the teacher in few bits, from its weights on; its batch norms keep their statistics.

    The teacher stays as it is. The card's `arch` names the network at full precision, so that a file loads anywhere.

    Raises UsageError where the teacher is no module that can be trained, or in few bits already.
    """
    few = parse_spec(spec, LABEL)
    assert few.bits is not None, "a copy at full precision has nothing to learn"
    if isinstance(teacher.module, LowBit):
        raise UsageError(f"{LABEL} {spec}: the teacher is in {teacher.module.bits} bits itself; name a network")
    with _refusing(spec):
        rounded_layers(teacher.module)  # a program that a runtime holds has none, and cannot be copied
        module = copied_module(teacher.module)
        drop_hooks(module)
        for parameter in module.parameters():  # a teacher's may be frozen, as those of ONNX are
            parameter.requires_grad_(parameter.is_floating_point())
        arch = None if teacher.card.arch is None else f"{few.source}:{teacher.card.arch}"
        notes: tuple[str, ...] = ("the teacher's weights, and its batch norms' statistics for good",)
        if arch is None:
            notes += (NAMELESS,)
        card = replace(teacher.card, arch=arch, notes=notes)
        student = check_classifier(Network(LowBit(module, few.bits, fixed=True), card), plain=True)
        take_pixels(student.module, card)  # type: ignore[arg-type]
        return student


@contextmanager
def _refusing(spec: str) -> Iterator[None]:
    """Let what is wrong with a network be wrong with the flag that names it."""
    try:
        yield
    except TeacherError as error:
        text = str(error)
        raise UsageError(text if text.startswith(LABEL) else f"{LABEL} {spec}: {text}") from error


def _start(module: nn.Module, init: Init) -> None:
    """Draw an own net's weights anew where it does not draw them so by itself."""
    if init in ("as-is", module.start):
        return
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.reset_parameters()
    if init == "he":
        initialize(module)


def _student_card(teacher: Card, arch: str) -> Card:
    return replace(teacher, arch=arch, outputs="logits")
