"""Choosing a student: a smaller sibling of the teacher's family, else one of our own small residual nets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from lenient.core.errors import LenientError
from lenient.models.card import Network, parameters, tensors_of
from lenient.models.facts import Wanted
from lenient.models.loading import seeded
from lenient.models.names import WIDE, Spec, parse_spec
from lenient.models.programs import Answers
from lenient.models.sources import build

MOST = 0.6
"""A sibling has at most this share of the teacher's parameters (ResNet-18 has 0.54 of ResNet-34's)."""
QUARTER = 0.25
_SMALL = 64
"""Below this many pixels nets for phones, which shrink images at once, stand in for their own families only."""
_MOBILE = ("mobilenet", "shufflenet", "mnasnet", "efficientnet", "tf_efficientnet", "ghostnet")

_OWN = {
    "lenet5": ("lenet5-half",),
    "resnet34": ("resnet18",),
    "resnet20": ("resnet8",),
    "resnet14": ("resnet8",),
    "resnet8": ("resnet8-half",),
}

_TORCHVISION = (
    ("alexnet", "mobilenet_v3_small mobilenet_v3_large resnet18 resnet34"),
    ("convnext", "mobilenet_v3_large resnet18 resnet34 convnext_*"),
    ("densenet", "mobilenet_v3_small mobilenet_v3_large densenet*"),
    ("efficientnet_v2", "efficientnet_{b0,b2} efficientnet_v2_*"),
    ("efficientnet", "mobilenet_v3_small efficientnet_b?"),
    ("googlenet", "mobilenet_v3_small mobilenet_v3_large"),
    ("inception", "mobilenet_v3_small mobilenet_v3_large resnet18"),
    ("maxvit", "mobilenet_v3_large resnet18 resnet34"),
    ("mnasnet", "shufflenet_v2_x0_5 mnasnet*"),
    ("mobilenet", "shufflenet_v2_x0_5 mobilenet_*"),
    ("regnet_x", "regnet_x_*"),
    ("regnet_y", "regnet_y_*"),
    ("resnext", "mobilenet_v3_large resnet18 resnet34 resnext*"),
    ("resnet", "mobilenet_v3_small mobilenet_v3_large resnet*"),
    ("shufflenet", "shufflenet_*"),
    ("swin_v2", "mobilenet_v3_large resnet18 resnet34 swin_v2_*"),
    ("swin", "mobilenet_v3_large resnet18 resnet34 swin_?"),
    ("vgg", "mobilenet_v3_large resnet18 vgg??"),
    ("vit", "resnet18 resnet34 resnet50 vit_?_1?"),
    ("wide_resnet", "resnet18 resnet34 resnet50 wide_resnet*"),
)
"""(beginning of the teacher's name, candidates from small to large); the first row that fits is used.

{a,b} stands for each of a and b in turn; a pattern with * or ? for what the library has of such names, so that it knows
its families itself. Written out are nets of other families, which go before a family's own smallest, and families whose
names hold variants beside the plain sizes.
"""

_TIMM = (
    ("convnextv2", "mobilenetv3_small_075 convnextv2_{atto,femto,pico,nano,tiny,base,large,huge}"),
    ("convnext", "mobilenetv3_small_075 convnext_{atto,femto,pico,nano,tiny,small,base,large,xlarge}"),
    ("deit", "mobilenetv3_small_100 deit_{tiny,small,base}_patch16_224"),
    ("densenet", "mobilenetv3_small_100 mobilenetv3_large_100 densenet{121,169,201,161}"),
    ("efficientnetv2", "efficientnet_{b0,b2} efficientnetv2_{s,m,l}"),
    ("efficientnet", "mobilenetv3_small_100 efficientnet_b?"),
    ("ghostnet", "ghostnet_*"),
    ("mixer", "mobilenetv3_large_100 mixer_{s16,b16,l16}_224"),
    ("mobilenetv1", "mobilenetv2_{035,050,075} mobilenetv1_???"),
    ("mobilenetv2", "mobilenetv2_???"),
    ("mobilenetv3", "mobilenetv3_small_??? mobilenetv3_large_???"),
    ("mobilenetv4", "mobilenetv4_conv_{small_035,small_050,small,medium,large}"),
    ("regnetx", "regnetx_???"),
    ("regnet", "regnety_???"),
    ("repvgg", "repvgg_??"),
    ("resnetv2", "resnetv2_{18,34,50,101,152}"),
    ("resne", "mobilenetv3_small_100 resnet{10t,18,34,50,101,152,200}"),
    ("seresne", "mobilenetv3_small_100 seresnet{18,34,50,101,152}"),
    ("swin", "mobilenetv3_large_100 resnet{18,34} swin_{tiny,small,base,large}_patch4_window7_224"),
    ("tf_efficientnet", "mobilenetv3_small_100 tf_efficientnet_b?"),
    ("vgg", "mobilenetv3_large_100 resnet18 vgg??_bn"),
    ("vit", "mobilenetv3_small_100 vit_{tiny,small,base,large}_patch16_224"),
    ("wide_resnet", "resnet{18,34,50} wide_resnet*_2"),
)
"""Like the table above."""


@dataclass(frozen=True)
class _Teacher:
    spec: Spec | None
    parameters: int
    wanted: Wanted


def choose_student(teacher: Network) -> tuple[str, str]:
    """Return the SPEC of a student for `teacher`, and the reason in one sentence with both parameter counts.

    The largest sibling of the teacher's family with at most 0.6 of its parameters that can take images of its size;
    where there is none, the largest of lenient:resnet20, 14, 8, 8-half with at most a quarter of them, else the last.
    Of a teacher that shows no parameters all that it holds is counted; where nothing can be, it is lenient:resnet20.
    """
    channels, height, width = teacher.card.input_size
    wanted = Wanted(channels, (height, width), teacher.card.num_classes)
    arch = teacher.card.arch
    known = _Teacher(None if arch is None else parse_spec(arch).whole, _held(teacher.module), wanted)
    for name in _siblings(known.spec, min(height, width)) if known.spec else ():
        size = _size_of(name, wanted)
        if size is not None and size <= MOST * known.parameters:
            return name, (
                f"{name} ({size:,} parameters) is the largest network listed for the family of "
                f"{_words(known)} with at most {MOST:g} of its parameters."
            )
    name, size = "", 0
    for name in ("lenient:resnet20", "lenient:resnet14", "lenient:resnet8", "lenient:resnet8-half"):
        size = _size_of(name, wanted) or 0
        if not known.parameters:
            return name, (
                f"{name} ({size:,} parameters) is the largest of our small networks; how many parameters "
                "the teacher has cannot be seen. A smaller teacher needs --student SPEC."
            )
        if size <= QUARTER * known.parameters:
            return name, (
                f"{name} ({size:,} parameters) is the largest of our small networks with at most a quarter of the "
                f"parameters of {_words(known)}, for whose family no smaller network is listed."
            )
    compared = "smaller than" if size < known.parameters else "NOT smaller than"
    return name, (
        f"no network of ours has at most a quarter of the parameters of {_words(known)}: {name} ({size:,} parameters) "
        f"is our smallest residual one, and {compared} the teacher."
    )


def _held(module: nn.Module) -> int:
    """Return how many numbers a network has learned, as far as that can be seen: 0 where it cannot."""
    state = sum(tensor.numel() for _, tensor in tensors_of(module.state_dict()))
    return parameters(module) or state or sum(part.values for part in module.modules() if isinstance(part, Answers))


def _words(teacher: _Teacher) -> str:
    name = f", {teacher.spec}" if teacher.spec else ""
    return f"the teacher{name} ({teacher.parameters:,} parameters)"


def _siblings(spec: Spec, side: int) -> Iterator[str]:
    """Yield candidates from large to small for images of that shorter side; how small is for the caller to say."""
    name = spec.name.partition(".")[0]
    if spec.source == "lenient":
        yield from (f"lenient:{other}" for other in _OWN.get(name, ()))
        if wide := WIDE.fullmatch(name):
            depth, width = int(wide[1]), int(wide[2])
            yield from (f"lenient:wrn-16-{k}" for k in range(width, 0, -1) if (depth, width) != (16, k))
            yield "lenient:wrn-10-1"
        return
    table = {"torchvision": _TORCHVISION, "timm": _TIMM}.get(spec.source, ())
    for beginning, candidates in table:
        if name.startswith(beginning):
            names = [other for pattern in candidates.split() for other in _expand(spec.source, pattern)]
            smaller = names[: names.index(name)] if name in names else names
            strides = side < _SMALL and not name.startswith(_MOBILE)
            fitting = [other for other in reversed(smaller) if not (strides and other.startswith(_MOBILE))]
            yield from (f"{spec.source}:{other}" for other in fitting)
            return


def _expand(source: str, pattern: str) -> list[str]:
    """Return the names that a pattern such as "vgg{11,13}_bn" or "vgg??_bn" stands for, from small to large."""
    head, opened, rest = pattern.partition("{")
    if opened:
        middle, _, tail = rest.partition("}")
        return [f"{head}{part}{tail}" for part in middle.split(",")]
    if not {*"*?"} & {*pattern}:
        return [pattern]
    if source == "timm":
        import timm

        return list(timm.list_models(pattern))  # by the numbers in their names, which in these families rise
    from torchvision import models

    names = models.list_models(module=models, include=pattern)
    return sorted(names, key=lambda name: int(models.get_model_weights(name).DEFAULT.meta["num_params"]))


def _size_of(spec: str, wanted: Wanted) -> int | None:
    """Return the parameters of a network in a shape, or None where it cannot be built or cannot take such images.

    Nothing is computed: weights and images have shapes only.
    """
    try:
        with seeded(0, "size"), torch.device("meta"), torch.no_grad():
            module = build(parse_spec(spec), wanted, label="--student").module.eval()
            module(torch.empty(2, wanted.channels or 3, *(wanted.size or (32, 32))))
    except (LenientError, RuntimeError, ValueError, AssertionError, TypeError, NotImplementedError):
        return None
    return parameters(module)
