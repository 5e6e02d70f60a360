"""Listening to layers inside a network: which ones matter, and what goes in and comes out in one forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Hook = Callable[[nn.Module, tuple[Any, ...], Any], None]


@contextmanager
def hooked(layers: Sequence[nn.Module], hook: Hook) -> Iterator[None]:
    """Call `hook(layer, inputs, output)` after each of `layers` while the context is open."""
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def classifying_layer(module: nn.Module, example: Tensor, num_classes: int) -> nn.Module | None:
    """Return the last linear layer or 1x1 convolution that ran on `example` (1, C, H, W) and has `num_classes` outputs.

    Its input is what the field calls penultimate features. None where the network ends in another way.
    """
    found: list[nn.Module] = []

    def note(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() >= 2 and output.shape[1] == num_classes:
            found.append(layer)

    layers = [
        layer
        for layer in module.modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1))
    ]
    with torch.no_grad(), hooked(layers, note):
        module(example)
    return found[-1] if found else None


def pooled(features: Tensor) -> Tensor:
    """Turn the classifying layer's input into (N, d): maps are averaged over their positions."""
    return features.flatten(2).mean(dim=2) if features.dim() > 2 else features


def last_block_by_size(module: nn.Module, example: Tensor) -> dict[tuple[int, int], nn.Module]:
    """Return, for each map size met on the way of `example` (1, C, H, W), the last block that put such a map out.

    Blocks are modules with parts (residual blocks, stages); a network without them is heard layer by layer. For wide
    residual networks these are the outputs of its groups, before the last batch norm.
    """
    found: dict[tuple[int, int], nn.Module] = {}

    def note(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) > 1:
            found[(output.shape[2], output.shape[3])] = layer

    parts = [part for part in module.modules() if part is not module]
    blocks = [part for part in parts if next(part.children(), None) is not None]
    for layers in (blocks, parts):
        found.clear()
        with torch.no_grad(), hooked(layers, note):
            module(example)
        if found:
            break
    return found
