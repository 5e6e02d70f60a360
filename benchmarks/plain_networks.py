"""Classifiers of other families, small enough to train here: for `compare_settings.py` and `grids/teachers.yaml`.

    --teachers py:benchmarks/plain_networks.py:plain_cnn,py:benchmarks/plain_networks.py:vit

Each takes images of 28 or 32 pixels, `mixer` of 28 alone, `flat_*` of 8 too. What normalises, where anything does:
`plain_cnn`, `loud_cnn` and `plain_vgg` nothing, `group_norm` groups of channels, `vit`, `mixer` and `convnext` each
image or place by itself (layer norm), `depthwise`, `mobile` and `flat_*` batches; the latter flatten their last maps
instead of averaging them.
"""

from __future__ import annotations

from itertools import pairwise

import timm
from torch import Tensor, nn
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3


def plain_cnn(num_classes: int, in_chans: int) -> nn.Module:
    """Three convolutions with pooling and two linear layers: the plainest of published classifiers."""
    widths = (in_chans, 32, 64, 64)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(64 * 9, 128), nn.ReLU(),
                         nn.Linear(128, num_classes))  # fmt: skip


class Loud(nn.Sequential):
    """A network whose logits are so many times larger once it is trained."""

    times = 20.0

    def forward(self, x: Tensor) -> Tensor:
        """Return its logits."""
        logits: Tensor = super().forward(x)
        return logits if self.training else self.times * logits


def loud_cnn(num_classes: int, in_chans: int) -> nn.Module:
    """The plain one with logits of a spread of some 200, as published classifiers have that were trained for long."""
    return Loud(*plain_cnn(num_classes, in_chans))


def plain_vgg(num_classes: int, in_chans: int) -> nn.Module:
    """Six convolutions in pairs, pooled after each, as VGG has them without batch norm."""
    widths, layers = (in_chans, 24, 48, 96), []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, num_classes))


def depthwise(num_classes: int, in_chans: int) -> nn.Module:
    """Depthwise and pointwise convolutions in turn, each with its batch norm, as in MobileNet."""
    layers: list[nn.Module] = [nn.Conv2d(in_chans, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for before, after, stride in ((16, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)):
        for layer in (nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False),
                      nn.Conv2d(before, after, 1, bias=False)):  # fmt: skip
            layers += [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, num_classes))


def mobile(num_classes: int, in_chans: int) -> nn.Module:
    """A MobileNetV3 of five blocks: depthwise convolutions, hard swish, channels weighed by what an image shows."""
    blocks = ((16, 48, 16, "RE", 1), (16, 64, 24, "RE", 2), (24, 96, 24, "HS", 1), (24, 96, 40, "HS", 2),
              (40, 160, 40, "HS", 1))  # fmt: skip
    settings = [
        InvertedResidualConfig(before, 3, inner, after, use_se=after != 16, activation=activation, stride=stride,
                               dilation=1, width_mult=1.0)
        for before, inner, after, activation, stride in blocks
    ]  # fmt: skip
    network = MobileNetV3(settings, last_channel=128, num_classes=num_classes, dropout=0.0)
    network.features[0][0] = nn.Conv2d(in_chans, 16, 3, stride=2, padding=1, bias=False)
    return network


def flat_cnn(num_classes: int, in_chans: int) -> nn.Module:
    """Three convolutions with batch norm, and one linear layer that sees where in the image its features are."""
    return nn.Sequential(*_normalised(in_chans, (16, 32, 32)), nn.AdaptiveMaxPool2d(4), nn.Flatten(),
                         nn.Linear(32 * 16, num_classes))  # fmt: skip


def flat_vgg(num_classes: int, in_chans: int) -> nn.Module:
    """Four convolutions with batch norm, pooled after two, and two linear layers on the flattened maps, as in VGG."""
    return nn.Sequential(*_normalised(in_chans, (24, 24)), nn.MaxPool2d(2), *_normalised(24, (48, 48)),
                         nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(48 * 4, 64), nn.ReLU(),
                         nn.Linear(64, num_classes))  # fmt: skip


def flat_wide(num_classes: int, in_chans: int) -> nn.Module:
    """Two wide convolutions with batch norm and 8x8 maps flattened, the linear layers normalised as well."""
    return nn.Sequential(*_normalised(in_chans, (32, 64)), nn.AdaptiveAvgPool2d(8), nn.Flatten(),
                         nn.Linear(64 * 64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(),
                         nn.Linear(64, num_classes))  # fmt: skip


def _normalised(before: int, widths: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return layers


def group_norm(num_classes: int, in_chans: int) -> nn.Module:
    """A residual network of eight layers, normalised over groups of channels."""
    return nn.Sequential(
        nn.Conv2d(in_chans, 16, 3, padding=1, bias=False),
        _Block(16, 16, 1),
        _Block(16, 32, 2),
        _Block(32, 64, 2),
        nn.GroupNorm(8, 64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(8, before), nn.ReLU(), nn.Conv2d(before, after, 3, stride, 1, bias=False)
        )
        self.second = nn.Sequential(nn.GroupNorm(8, after), nn.ReLU(), nn.Conv2d(after, after, 3, 1, 1, bias=False))
        self.short = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's maps."""
        return self.short(x) + self.second(self.first(x))


def vit(num_classes: int, in_chans: int) -> nn.Module:
    """A vision transformer of four blocks on patches of 4 pixels."""
    return timm.models.VisionTransformer(
        img_size=28, patch_size=4, in_chans=in_chans, num_classes=num_classes, embed_dim=64, depth=4, num_heads=4,
        dynamic_img_size=True,
    )  # fmt: skip


def mixer(num_classes: int, in_chans: int) -> nn.Module:
    """An MLP-Mixer of four blocks on patches of 4 pixels; of 28 pixels only."""
    return timm.models.MlpMixer(
        img_size=28, patch_size=4, in_chans=in_chans, num_classes=num_classes, embed_dim=64, num_blocks=4
    )


def convnext(num_classes: int, in_chans: int) -> nn.Module:
    """A ConvNeXt of four stages."""
    return timm.models.ConvNeXt(
        in_chans=in_chans,
        num_classes=num_classes,
        depths=(1, 1, 1, 1),
        dims=(24, 48, 64, 96),
        patch_size=2,
        output_stride=8,
    )
