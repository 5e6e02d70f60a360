"""Residual networks for small images (He et al. 2016): no pooling in the stem, so that 8x8 pixels still work."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lenient.models.card import Size


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution without bias that keeps height and width, divided by `stride`."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def initialize(network: nn.Module) -> None:
    """Draw convolution weights after He et al. 2015: normal, variance 2 / fan-out; the rest keeps torch's defaults."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the input (or to its 1x1 convolution where shapes differ)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (N, outputs, H / stride, W / stride) for maps (N, inputs, H, W)."""
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps)))))
        result: Tensor = self.relu(inner + self.shortcut(maps))
        return result


class ResNet(nn.Module):
    """A 3x3 stem, stages of basic blocks (strides 1, 2, 2, ...), global average pool and a linear layer."""

    start = "he"
    """How its weights are drawn."""

    def __init__(self, input_size: Size, num_classes: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        """Build the net; `widths` and `blocks` have one entry per stage."""
        super().__init__()
        self.conv = conv3x3(input_size[0], widths[0])
        self.bn = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        stages: list[nn.Module] = []
        inputs = widths[0]
        for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            first = BasicBlock(inputs, width, stride=1 if index == 0 else 2)
            stages.append(nn.Sequential(first, *(BasicBlock(width, width, stride=1) for _ in range(count - 1))))
            inputs = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, num_classes)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for normalised images (N, C, H, W)."""
        maps = self.stages(self.relu(self.bn(self.conv(images))))
        logits: Tensor = self.classifier(self.pool(maps).flatten(1))
        return logits


def _small(input_size: Size, num_classes: int, blocks: int) -> ResNet:
    return ResNet(input_size, num_classes, (16, 32, 64), (blocks,) * 3)


def resnet8(input_size: Size, num_classes: int) -> ResNet:
    """Return a ResNet of depth 8: one block in each stage of 16, 32 and 64 channels."""
    return _small(input_size, num_classes, 1)


def resnet8_half(input_size: Size, num_classes: int) -> ResNet:
    """Return a ResNet of depth 8 with half the channels: 8, 16 and 32."""
    return ResNet(input_size, num_classes, (8, 16, 32), (1, 1, 1))


def resnet14(input_size: Size, num_classes: int) -> ResNet:
    """Return a ResNet of depth 14: two blocks in each stage of 16, 32 and 64 channels."""
    return _small(input_size, num_classes, 2)


def resnet20(input_size: Size, num_classes: int) -> ResNet:
    """Return a ResNet of depth 20: three blocks in each stage of 16, 32 and 64 channels."""
    return _small(input_size, num_classes, 3)


def resnet18(input_size: Size, num_classes: int) -> ResNet:
    """Return ResNet-18 in CIFAR style: two blocks in each stage of 64, 128, 256 and 512 channels."""
    return ResNet(input_size, num_classes, (64, 128, 256, 512), (2, 2, 2, 2))


def resnet34(input_size: Size, num_classes: int) -> ResNet:
    """Return ResNet-34 in CIFAR style: 3, 4, 6 and 3 blocks of 64, 128, 256 and 512 channels."""
    return ResNet(input_size, num_classes, (64, 128, 256, 512), (3, 4, 6, 3))
