"""LeNet-5 without batch norm, and the one of half width, as used for digits in DAFL (Chen et al. 2019)."""

from __future__ import annotations

from torch import Tensor, nn

from lenient.models.card import Size


class LeNet(nn.Module):
    """Three 5x5 convolutions, 2x2 max-pools after the first two, two linear layers; made for 32x32 pixels.

    On smaller images a convolution is padded by 2 wherever its map would otherwise come out smaller than it does at
    32x32 (at 28x28 that is the first one); what is left after the third is averaged. Any size from 4x4 works.
    """

    start = "torch"
    """How its weights are drawn."""

    def __init__(self, input_size: Size, num_classes: int, widths: tuple[int, int, int, int]) -> None:
        """Build the net; `widths` are the channels of the convolutions and the width of the hidden linear layer."""
        super().__init__()
        channels, side = input_size[0], min(input_size[1:])
        one, two, three, hidden = widths
        self.conv1, side = _convolution(channels, one, side, pool=2, wanted=14)
        self.conv2, side = _convolution(one, two, side, pool=2, wanted=5)
        self.conv3, _ = _convolution(two, three, side, pool=1, wanted=1)
        self.pool = nn.MaxPool2d(2)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.relu = nn.ReLU()
        self.hidden = nn.Linear(three, hidden)
        self.classifier = nn.Linear(hidden, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for normalised images (N, C, H, W)."""
        maps = self.pool(self.relu(self.conv1(images)))
        maps = self.pool(self.relu(self.conv2(maps)))
        features = self.average(self.relu(self.conv3(maps))).flatten(1)
        logits: Tensor = self.classifier(self.relu(self.hidden(features)))
        return logits


def _convolution(inputs: int, outputs: int, side: int, *, pool: int, wanted: int) -> tuple[nn.Conv2d, int]:
    """Return a 5x5 convolution and the shorter side of its map after pooling, padded where that is below `wanted`."""
    bare = (side - 4) // pool
    padding, side = (0, bare) if bare >= wanted else (2, side // pool)
    return nn.Conv2d(inputs, outputs, 5, padding=padding), side


def lenet5(input_size: Size, num_classes: int) -> LeNet:
    """Return LeNet-5: convolutions of 6, 16 and 120 channels, then 84 units."""
    return LeNet(input_size, num_classes, (6, 16, 120, 84))


def lenet5_half(input_size: Size, num_classes: int) -> LeNet:
    """Return LeNet-5 of half width: convolutions of 3, 8 and 60 channels, then 42 units."""
    return LeNet(input_size, num_classes, (3, 8, 60, 42))
