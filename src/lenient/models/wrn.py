"""Wide residual networks (Zagoruyko and Komodakis 2016): batch norm and ReLU come before each convolution."""

from __future__ import annotations

from torch import Tensor, nn

from lenient.core.errors import UsageError
from lenient.models.card import Size
from lenient.models.resnet import conv3x3, initialize

MAX_DEPTH, MAX_WIDTH = 202, 32


class WideBlock(nn.Module):
    """BN, ReLU, 3x3 convolution, twice; the shortcut is a 1x1 convolution of the activated input if shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (N, outputs, H / stride, W / stride) for maps (N, inputs, H, W)."""
        active = self.relu(self.bn1(maps))
        kept = maps if self.shortcut is None else self.shortcut(active)
        result: Tensor = self.conv2(self.relu(self.bn2(self.conv1(active)))) + kept
        return result


class WideResNet(nn.Module):
    """A stem of 16 channels, three stages of 16k, 32k and 64k (strides 1, 2, 2), BN, ReLU, global pool, linear."""

    start = "he"
    """How its weights are drawn."""

    def __init__(self, input_size: Size, num_classes: int, depth: int, width: int) -> None:
        """Build the net of `depth` 6n + 4 (10, 16, 22, 28, 40, ...) and widening factor `width` (k, from 1).

        Raises UsageError for other numbers.
        """
        super().__init__()
        if not 10 <= depth <= MAX_DEPTH or depth % 6 != 4 or not 1 <= width <= MAX_WIDTH:
            raise UsageError(
                f"lenient:wrn-{depth}-{width}: depth must be 6n + 4 (10, 16, 22, 28, 40) up to {MAX_DEPTH}, "
                f"width from 1 to {MAX_WIDTH}"
            )
        self.conv = conv3x3(input_size[0], 16)
        stages: list[nn.Module] = []
        inputs = 16
        for outputs, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            first = WideBlock(inputs, outputs, stride)
            stages.append(nn.Sequential(first, *(WideBlock(outputs, outputs, 1) for _ in range((depth - 10) // 6))))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, num_classes)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for normalised images (N, C, H, W)."""
        maps = self.relu(self.bn(self.stages(self.conv(images))))
        logits: Tensor = self.classifier(self.pool(maps).flatten(1))
        return logits
