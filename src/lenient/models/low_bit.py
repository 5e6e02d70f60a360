"""Networks in few bits: weights and inputs of convolutions and linear layers on grids, by torch's fake quantisation.

A weight is rounded to 2^b - 1 levels around 0, the outermost of which is the largest weight of its output channel. What
a layer takes is rounded to 2^b levels between two numbers for the whole tensor, which follow the extremes of the first
batches and stay from then on. Gradients pass rounding as if it were not there. ONNX has operators for just that
(`runs/low_bit.py`), so that a runtime computes in integers what was trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lenient.core.batch_norm import extremes
from lenient.core.errors import TeacherError
from lenient.core.modes import mode
from lenient.core.reductions import full
from lenient.models.behaviour import example_images
from lenient.models.card import Card, precision_of
from lenient.models.probing import batch_norm_layers

OBSERVED = 800
"""Forwards in training mode in which ranges follow what comes (AdaDFQ's code: 4 epochs of 200)."""
KEPT = 0.9
"""Share of a range that one of them keeps (released code)."""
IMAGE_BITS = 8
"""Of what the first layer takes: pixels come with as many."""
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_SMALLEST = 1e-12
"""The least scale: of a channel whose weights are all 0."""


class LowBit(nn.Module):
    """A network whose layers compute in `bits` bits; with `fixed` its batch norms keep the statistics that they have,
    also in training mode, while their factors and offsets learn."""

    def __init__(self, network: nn.Module, bits: int, *, fixed: bool = False) -> None:
        super().__init__()
        layers = rounded_layers(network)
        for number, (name, layer) in enumerate(layers.items()):
            if not isinstance(layer.weight, nn.Parameter) and not parametrize.is_parametrized(layer, "weight"):
                raise TeacherError(f"the weight of {name} is computed by a hook, as torch's older weight_norm does; "
                                   "take that of torch.nn.utils.parametrizations, or remove it")  # fmt: skip
            parametrize.register_parametrization(layer, "weight", WeightGrid(bits))
            layer.input_grid = InputGrid(bits if number else IMAGE_BITS)
            layer.register_forward_pre_hook(_on_grid)
        self.network, self.bits, self.fixed = network, bits, fixed
        self._fixed = tuple(part for _, part in batch_norm_layers(network)) if fixed else ()

    def forward(self, images: Tensor) -> Any:
        """Answer what the network answers."""
        return self.network(images)

    def train(self, mode: bool = True) -> LowBit:
        """Change the mode of all but batch norms that are fixed."""
        super().train(mode)
        for layer in self._fixed:
            layer.eval()
        return self


def rounded_layers(network: nn.Module) -> dict[str, Any]:
    """Return the layers of a network that few bits are for, by name; raises TeacherError where it has none."""
    layers = {name: part for name, part in network.named_modules() if isinstance(part, _LAYERS)}
    if not layers:
        raise TeacherError(f"there is no convolution or linear layer in a {type(network).__name__}")
    return layers


def around(module: nn.Module, wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Return what `wrap` makes of a network; one in few bits stays so, and it goes around the network in these bits."""
    if not isinstance(module, LowBit):
        return wrap(module)
    made = copy.copy(module)
    made._modules = {**module._modules, "network": wrap(module.network)}
    return made


def inner_of(module: nn.Module) -> nn.Module:
    """Return what `around` goes around."""
    return module.network if isinstance(module, LowBit) else module


class WeightGrid(nn.Module):
    """Rounds weights (out, ...) to multiples of each output channel's largest value / (2^(bits - 1) - 1)."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.most: int = 2 ** (bits - 1) - 1

    def scale(self, weight: Tensor) -> Tensor:
        """Return the distance of two levels, (out,), float32."""
        largest = weight.detach().flatten(1).abs().amax(dim=1)
        return (largest.float() / self.most).clamp_min(_SMALLEST)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the rounded weights."""
        scale = self.scale(weight)
        zeros = torch.zeros_like(scale)  # integers would be read by the host, to be checked
        return torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -self.most, self.most)

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights as whole numbers, int8, and the scales (out,) that they are multiples of."""
        scale = self.scale(weight)
        shaped = scale.view(-1, *[1] * (weight.dim() - 1))
        return (self(weight) / shaped).round().to(torch.int8), scale


class InputGrid(nn.Module):
    """Rounds what a layer takes to 2^bits levels between `low` and `high`, one of which is 0."""

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.most = 2**bits - 1
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, values: Tensor) -> Tensor:
        """Return the rounded values; in training mode the first ones move the range. Nothing is rounded before that."""
        if self.training:
            self._follow(values.detach())
        scale, zero = self.scale_and_zero()
        rounded = torch.fake_quantize_per_tensor_affine(full(values), scale, zero, 0, self.most).to(values.dtype)
        return rounded if self.training else torch.where(self.seen > 0, rounded, values)

    def scale_and_zero(self) -> tuple[Tensor, Tensor]:
        """Return the distance of two levels, float32, and which level 0 is, int32."""
        low, high = self.low.float(), self.high.float()
        scale = ((high - low) / self.most).clamp_min(_SMALLEST)
        return scale, (-low / scale).round().to(torch.int32)

    @torch.no_grad()
    def _follow(self, values: Tensor) -> None:
        low, high = extremes(values)
        moving = (self.seen < OBSERVED).to(self.low.dtype)
        share = torch.where(self.seen == 0, torch.ones_like(moving), (1 - KEPT) * moving)
        self.low.lerp_(low.clamp_max(0).to(self.low.dtype), share)
        self.high.lerp_(high.clamp_min(0).to(self.high.dtype), share)
        self.seen += self.seen < OBSERVED


def take_pixels(module: LowBit, card: Card) -> None:
    """Let the layer that takes the images round between black and white for good, whatever images it sees.

    What a generator draws need not use that room, and what is beyond a range is cut off. A network that changes images
    before its first layer learns the range of that as of any.
    """
    images = example_images(card.input_size).to(precision_of(module))
    seen: list[tuple[InputGrid, Tensor]] = []
    with torch.no_grad(), mode(module, "eval"), ExitStack() as hooks:
        for _, _, grid in low_bit_layers(module):
            hook = grid.register_forward_pre_hook(lambda own, given: seen.append((own, given[0])))
            hooks.callback(hook.remove)
        module(images)
    if seen and torch.equal(seen[0][1], images):
        grid, ends = seen[0][0], [(side - m) / s for side in (0, 1) for m, s in zip(card.mean, card.std, strict=True)]
        grid.low.fill_(min(*ends, 0.0)), grid.high.fill_(max(*ends, 0.0))
        grid.seen.fill_(OBSERVED)


def low_bit_layers(module: nn.Module) -> Iterator[tuple[nn.Module, WeightGrid, InputGrid]]:
    """Yield the layers of a network in few bits, with the grids of their weights and of what they take."""
    for layer in module.modules():
        if isinstance(grid := getattr(layer, "input_grid", None), InputGrid):
            weights: Any = layer.parametrizations
            yield layer, weights.weight[-1], grid


def _on_grid(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    grid: Any = layer.input_grid
    return (grid(given[0]), *given[1:]) if given else given
