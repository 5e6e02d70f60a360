"""A teacher that nobody here has seen: strided convolutions, ELU, its own normalisation, 26x30 images."""

from torch import nn

pretrained_cfg = {"input_size": (1, 26, 30), "num_classes": 10, "mean": (0.2,), "std": (0.35,)}


def make(num_classes: int = 10) -> nn.Module:
    def stage(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ELU()]

    layers = [*stage(1, 32, 1), *stage(32, 64, 2), *stage(64, 96, 2), *stage(96, 128, 2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(128 * 4 * 4, num_classes))
