"""Which tensor of a forward the logits are: one of several outputs, or what a layer gives before a softmax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lenient.models.card import flat_outputs
from lenient.models.lending import own_grad_mode
from lenient.models.probing import hooked, linear_outputs, pooled, same_but_for_a_last_function

_CLEAR = 1e-4
"""A probability above it tells a softmax from one of other logits, in half precision as well."""


class OneOutput(nn.Module):
    """A network that returns several tensors, of which one is handed on."""

    def __init__(self, module: nn.Module, key: Any) -> None:
        super().__init__()
        self.module, self.key = module, key

    def forward(self, images: Tensor) -> Any:
        """Return the one output for images (N, C, H, W)."""
        return self.module(images)[self.key]


class BeforeSoftmax(nn.Module):
    """A network that ends in a softmax, of which the logits are read where a layer makes them.

    The logarithm of its probabilities is no substitute: of a network that is very sure most are zero in float32.
    """

    def __init__(self, module: nn.Module, layer: str) -> None:
        super().__init__()
        self.module, self.layer = module, layer

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, C) for images (N, C, H, W)."""
        found: list[Tensor] = []
        with hooked([self.module.get_submodule(self.layer)], lambda layer, inputs, output: found.append(output)):
            self.module(images)
        return pooled(found[-1])


def layer_before_softmax(module: nn.Module, images: Tensor, probabilities: Tensor) -> str | None:
    """Return the name of the linear layer of whose output, pooled, `probabilities` (N, C), the answer to `images`, are
    the softmax; None where there is none.

    The module has to be lent (`as_it_was`), and in eval mode.
    """
    _, layers = linear_outputs(module, images.clone())
    names: dict[nn.Module, str] = {part: name for name, part in module.named_modules()}
    for layer, output in reversed(layers):
        if output.shape == probabilities.shape and _softmax_of(output, probabilities):
            return names[layer]
    return None


def _softmax_of(output: Tensor, probabilities: Tensor) -> bool:
    """Whether `probabilities` are the softmax of `output`; by their logarithms, too, where rounding leaves any."""
    clear = probabilities > _CLEAR
    logs = (output.float().log_softmax(dim=1)[clear], probabilities.float()[clear].log())
    same = same_but_for_a_last_function(output, probabilities)
    return same and torch.allclose(*logs, atol=2e-2, rtol=1e-3)


def logits_among(module: nn.Module, images: Tensor, num_classes: int | None) -> Any:
    """Return the place or key of the logits where a network returns several tensors of two dimensions.

    They are those with `num_classes` columns, where that is given and tells them apart; else those that are computed
    from all the others, as logits are from features; else the only ones that a linear layer makes. None where none of
    that tells. The module has to be lent (`as_it_was`), and in eval mode.
    """
    with torch.enable_grad(), own_grad_mode():
        outputs = flat_outputs(module(images.clone().requires_grad_(True) * 1))
    wide = {key: value for key, value in outputs.items() if value.shape[1] == num_classes}
    outputs = wide or outputs
    if len(outputs) == 1:
        return next(iter(outputs))
    last = [key for key, value in outputs.items() if _computed_from(value, outputs)]
    if len(last) == 1:
        return last[0]
    _, layers = linear_outputs(module, images.clone())
    linear = {
        key: layer
        for key, value in outputs.items()
        for layer, output in layers
        if same_but_for_a_last_function(output, value.detach())
    }
    return next(iter(linear)) if len({*linear.values()}) == 1 else None


def _computed_from(value: Tensor, outputs: Mapping[Any, Tensor]) -> bool:
    """Whether all the other outputs went into this one."""
    others = [other for other in outputs.values() if other is not value]
    if not others:  # the same tensor twice, of which torch 2.8 cannot be asked
        return True
    try:
        gradients = torch.autograd.grad(value.sum(), others, allow_unused=True, retain_graph=True)
    except RuntimeError:  # one of them has no gradient, or its backward pass fails
        return False
    return all(gradient is not None for gradient in gradients)
