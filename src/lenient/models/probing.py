"""Reading layers inside a network: which ones matter, and what goes in and comes out in one forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
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


def batch_norm_layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the layers that hold running statistics of the batch, with their names, in the order of registration.

    That is any module with tensors `running_mean` and `running_var`: torch's BatchNorm and SyncBatchNorm, timm's fused
    ones, torchvision's frozen one; not InstanceNorm, which normalises each image by itself, nor layers that only
    programs (TorchScript, torch.export) run, in which no hook is called.
    """
    others = (nn.modules.instancenorm._InstanceNorm, torch.jit.ScriptModule)
    return [
        (name, part)
        for name, part in module.named_modules()
        if isinstance(getattr(part, "running_mean", None), Tensor)
        and isinstance(getattr(part, "running_var", None), Tensor)
        and not isinstance(part, others)
        and type(part) is not nn.Module
    ]


def convolutions(module: nn.Module, example: Tensor) -> list[str]:
    """Return the names of the layers that convolve two dimensions, in the order in which `example` comes to them.

    They are known by their type, whatever they are called. Left out are transposed ones, layers that `example` does not
    come to, and those that only programs run. A layer that runs twice stands where it ran last.
    """
    names: dict[nn.Module, str] = {
        part: name
        for name, part in module.named_modules()
        if isinstance(part, nn.modules.conv._ConvNd)
        and not isinstance(part, nn.modules.conv._ConvTransposeNd)
        and part.weight.dim() == 4
    }
    seen: dict[nn.Module, None] = {}

    def note(layer: nn.Module, *_: Any) -> None:
        seen.pop(layer, None)
        seen[layer] = None

    with torch.no_grad(), hooked(list(names), note):
        module(example)
    return [names[layer] for layer in seen]


def map_sizes(module: nn.Module, example: Tensor, layers: Sequence[nn.Module]) -> dict[nn.Module, tuple[int, int]]:
    """Return those of `layers` that maps go into on the way of `example` (1, C, H, W), in the order in which they ran
    last, each with the size of these maps."""
    found: dict[nn.Module, tuple[int, int]] = {}

    def note(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        found.pop(layer, None)
        if inputs[0].dim() == 4:
            found[layer] = (inputs[0].shape[2], inputs[0].shape[3])

    with torch.no_grad(), hooked(layers, note):
        module(example)
    return found


def classifying_layer(module: nn.Module, example: Tensor, num_classes: int) -> nn.Module | None:
    """Return the linear layer or 1x1 convolution whose output, pooled, is the logits on `example` (1, C, H, W).

    Its input is what the field calls penultimate features. None where the network ends in another way.
    """
    answer, found = linear_outputs(module, example)
    logits = next((value for value in _tensors(answer) if value.shape[-1] == num_classes), None)
    for layer, output in reversed(found):
        if logits is not None and same_but_for_a_last_function(output, logits):
            return layer
    return None


def linear_outputs(module: nn.Module, images: Tensor) -> tuple[Any, list[tuple[nn.Module, Tensor]]]:
    """Return the answer to `images`, and each linear layer or 1x1 convolution with its output, pooled, as they ran."""
    found: list[tuple[nn.Module, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() >= 2:
            found.append((layer, pooled(output)))

    layers = [
        layer
        for layer in module.modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1))
    ]
    with torch.no_grad(), hooked(layers, note):
        return module(images), found


def pooled(features: Tensor) -> Tensor:
    """Turn the classifying layer's input into (N, d): maps and tokens are averaged over their positions."""
    if features.dim() == 3:
        return features.mean(dim=1)
    return features.flatten(2).mean(dim=2) if features.dim() > 3 else features


def last_block_by_size(module: nn.Module, example: Tensor) -> dict[tuple[int, int], nn.Module]:
    """Return, for each map size met on the way of `example` (1, C, H, W), the last outermost block of that size.

    Blocks are modules with parts (stages, residual blocks); a network without them is probed layer by layer. For wide
    residual networks these are its groups, before the last batch norm. Left out are layers that run
    more than once, and maps of another shape than the image's (attention matrices).
    """
    height, width = example.shape[2:]
    sizes: dict[nn.Module, tuple[int, int] | None] = {}

    def note(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        map_like = isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) > 1
        size = (output.shape[2], output.shape[3]) if map_like else None
        if size and abs(size[0] * width - size[1] * height) > 2 * max(height, width):
            size = None
        sizes[layer] = None if layer in sizes else size

    parts = [(name, part) for name, part in module.named_modules() if part is not module]
    within = tuple(f"{name}." for name, part in parts if isinstance(part, _LAYERS))  # what computes a layer's weights
    depth = {part: name.count(".") for name, part in parts if not name.startswith(within)}
    blocks = [
        part
        for part in depth
        if next(part.children(), None) is not None and not _is_norm(part) and not isinstance(part, _LAYERS)
    ]
    for layers in (blocks, list(depth)):
        sizes.clear()
        with torch.no_grad(), hooked(layers, note):
            module(example)
        found: dict[tuple[int, int], nn.Module] = {}
        for layer, size in sizes.items():  # in the order in which they ended
            if size and (size not in found or depth[layer] <= depth[found[size]]):
                found[size] = layer
        if found:
            return dict(sorted(found.items(), reverse=True))
    return {}


def _is_norm(part: nn.Module) -> bool:
    return "norm" in type(part).__name__.lower()


def _tensors(answer: Any) -> list[Tensor]:
    if isinstance(answer, Tensor):
        return [answer]
    values = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, (tuple, list)) else ()
    return [value for value in values if isinstance(value, Tensor)]


def same_but_for_a_last_function(output: Tensor, answer: Tensor) -> bool:
    """Whether `answer` is `output`, or its softmax or log-softmax, up to rounding."""
    if not answer.is_floating_point() or answer.shape != output.shape:
        return False  # whole numbers, as argmax makes them, have lost what a layer said
    answer = answer.to(output.dtype)
    forms = (output, output.softmax(dim=1), output.log_softmax(dim=1))
    return any(torch.allclose(form, answer, atol=1e-4, rtol=1e-3) for form in forms)
