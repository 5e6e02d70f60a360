"""Borrowing a module: it runs in the way that is wanted, and comes back as it came."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lenient.core.modes import modes_kept
from lenient.core.runtime import Runtime

SMALL = 4096
"""Up to so many values a parameter may be a counter that a forward moves; it is put back, too."""


@contextmanager
def as_it_was(module: nn.Module) -> Iterator[None]:
    """Give the module back as it came, whatever happens inside.

    That is: each parameter and buffer with its device, type, strides and `requires_grad`, the values of buffers and
    small parameters, and the mode of each submodule. Inside, what `torch.compile` has wrapped runs as plain code, so
    that hooks are called.
    """
    with modes_kept(module), _tensors_kept(module):
        yield


@contextmanager
def _tensors_kept(module: nn.Module) -> Iterator[None]:
    parts = list(module.modules())
    tensors = [(part, name, tensor, tensor.data, tensor.requires_grad) for part, name, tensor in _tensors(parts)]
    small = [*module.buffers(), *(tensor for tensor in module.parameters() if tensor.numel() <= SMALL)]
    values = [(tensor.data, tensor.detach().clone()) for tensor in small]
    compiled = [(part, name, child) for part in parts for name, child in _compiled_children(part)]
    calls = [(part, vars(part)["_compiled_call_impl"]) for part in parts if vars(part).get("_compiled_call_impl")]
    try:
        for part, name, child in compiled:
            part._modules[name] = uncompiled(child)
        for part, _ in calls:
            part._compiled_call_impl = None
        yield
    finally:
        for part, call in calls:
            part._compiled_call_impl = call
        for part, name, child in compiled:
            part._modules[name] = child
        for part, name, tensor, data, requires_grad in tensors:
            if getattr(part, name, None) is not tensor:
                setattr(part, name, tensor)
            tensor.data = data
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
        with torch.no_grad():
            for data, value in values:
                data.copy_(value)


@contextmanager
def frozen(module: nn.Module, runtime: Runtime) -> Iterator[None]:
    """Lend the module to a run: in eval mode, in place, without gradients to its weights; see `as_it_was`.

    Observers of quantisation-aware training, which go on learning in eval mode, rest.
    """
    with as_it_was(module):
        in_eval_mode(module)
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.data = runtime.placed(tensor.data)
            if tensor.is_leaf:
                tensor.requires_grad_(False)
        for name, buffer in module.named_buffers():
            if name.rpartition(".")[2] == "observer_enabled":
                buffer.zero_()
        yield


@contextmanager
def unchanged(module: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Let a forward write into copies of the tensors named: what it made of them is forgotten afterwards.

    The tensors themselves are not touched, so that gradients can still go through what was computed with the copies.
    """
    places = [(module.get_submodule(path), leaf) for path, _, leaf in (name.rpartition(".") for name in names)]
    before = [(part, leaf, getattr(part, leaf)) for part, leaf in places]
    try:
        for part, leaf, tensor in before:
            copied = tensor.detach().clone()
            is_weight = isinstance(tensor, nn.Parameter)
            setattr(part, leaf, nn.Parameter(copied, tensor.requires_grad) if is_weight else copied)
        yield
    finally:
        for part, leaf, tensor in before:
            setattr(part, leaf, tensor)


@contextmanager
def own_grad_mode() -> Iterator[None]:
    """Keep what a forward does to torch's global gradient mode to the forward."""
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        yield


def in_eval_mode(module: nn.Module) -> None:
    """Put a module into eval mode; an exported program, which has no modes, stays what it is."""
    try:
        module.eval()
    except NotImplementedError:
        nn.Module.train(module, False)


def copied_module(module: nn.Module) -> nn.Module:
    """Return a deep copy, also of modules with computed weights (`weight_norm`), which torch's own does not copy."""
    computed = [
        (vars(part), name, value)
        for part in module.modules()
        for name, value in vars(part).items()
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    try:
        for attributes, name, value in computed:
            attributes[name] = value.detach()
        return copy.deepcopy(module)
    finally:
        for attributes, name, value in computed:
            attributes[name] = value


def drop_hooks(module: nn.Module) -> None:
    """Take all hooks off a module and its parts, but those of torch's older `weight_norm` and `spectral_norm`, which
    compute weights."""
    computing = (WeightNorm, SpectralNorm)
    for part in module.modules():
        for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks):
            for key in [key for key, hook in hooks.items() if not isinstance(hook, computing)]:
                del hooks[key]


def replace_weight(layer: nn.Module, weight: Tensor) -> None:
    """Give a layer of one's own a plain parameter `weight`, be it one already or computed (`weight_norm`)."""
    values = {name: getattr(layer, name).detach() for name in getattr(layer, "parametrizations", {})}
    if values:  # torch's own removal works on the class, which a copy shares with what it was copied from
        layer.__class__ = parametrize.type_before_parametrizations(layer)
        del layer._modules["parametrizations"]
    layer._forward_pre_hooks.clear()  # `weight_norm` of the older kind, which would compute it anew
    vars(layer).pop("weight", None)
    for name, value in {**values, "weight": weight}.items():
        layer.register_parameter(name, nn.Parameter(value))


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` has wrapped, or the module itself."""
    while _is_compiled(module):
        module = module.get_submodule("_orig_mod")
    return module


def _is_compiled(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule"  # torch._dynamo, which knows the class, takes seconds to import


def _tensors(parts: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for part in parts:
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            yield part, name, tensor


def _compiled_children(part: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, child) for name, child in part.named_children() if _is_compiled(child)]
