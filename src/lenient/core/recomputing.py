"""Memory for time: blocks of a network keep what goes into them, and compute the rest anew for the backward pass
(activation checkpointing; Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

ENOUGH = 8
"""Blocks from which on none is looked into for smaller ones."""
MOST_OF = 0.8
"""Share of a block's weights that smaller ones have to hold for them to stand in for it."""
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)

Within = Callable[[], AbstractContextManager[object]]


def blocks(module: nn.Module) -> list[nn.Module]:
    """Return parts of a network that have parts of their own, none within another: its residual blocks, say; of one
    that has few, what they are made of in turn. A row of plain layers counts as one."""
    found = list(_parts(module))
    while len(found) < ENOUGH:
        finer = [inner for block in found for inner in _finer(block)]
        if len(finer) == len(found):
            break
        found = finer
    return found


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    for part in module.children():
        if isinstance(part, _CONTAINERS) and any(_made_of_others(inner) for inner in part.children()):
            yield from _parts(part)
        elif _made_of_others(part) and not isinstance(part, (nn.ModuleList, nn.ModuleDict, torch.jit.ScriptModule)):
            yield part


def _finer(block: nn.Module) -> list[nn.Module]:
    inner = list(_parts(block))
    held = sum(_weights(part) for part in inner)
    return inner if len(inner) > 1 and held >= MOST_OF * _weights(block) else [block]


def _made_of_others(module: nn.Module) -> bool:
    return next(module.children(), None) is not None and not parametrize.is_parametrized(module)


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class Recomputed:
    """A network whose blocks can be told to compute their maps anew instead of keeping them.

    What comes of it is the same to the bit, at the cost of about one more forward: in the backward pass each block is
    in the modes, has the buffers and hooks, and draws the random numbers that it had in the forward pass.
    """

    def __init__(self, module: nn.Module, within: Within = nullcontext) -> None:
        """`within` opens what the network's forwards are made in, besides autocast, and so those that are made anew."""
        own = blocks(module) or [module] * _is_row(module)
        self._blocks = [_Block(block, within) for block in own if "forward" not in vars(block)]

    def __len__(self) -> int:
        return len(self._blocks)

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Do so in forwards while open; the network is left as it was."""
        for block in self._blocks:
            vars(block.module)["forward"] = block.forward
        try:
            yield
        finally:
            for block in self._blocks:
                del vars(block.module)["forward"]


def _is_row(module: nn.Module) -> bool:
    return type(module) is nn.Sequential and not any(map(_made_of_others, module.children()))


class _Block:
    """One block: what stands in for its forward."""

    def __init__(self, module: nn.Module, within: Within) -> None:
        self.module, self.within = module, within
        self.pieces: Sequence[_Piece] = (_Piece(module.forward),)
        if _is_row(module):  # of a row the root's share is kept
            layers = list(module.children())
            size = math.isqrt(len(layers) - 1) + 1
            self.pieces = [
                _Piece(partial(_through, layers[start : start + size])) for start in range(0, len(layers), size)
            ]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Answer as the block does."""
        first, *others = self.pieces
        values = first(self, *args, **kwargs)
        for piece in others:
            values = piece(self, values)
        return values


def _through(layers: Sequence[nn.Module], values: Any) -> Any:
    for layer in layers:
        values = layer(values)
    return values


class _Piece:
    """What is computed anew at one go."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward
        self.writes: bool | None = None
        """Whether it writes into what it is given, which is to be there still; None before it has run once."""

    def __call__(self, block: _Block, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        given = [value.copy() if isinstance(value, (list, dict)) else value for value in args]  # a dense block's grow
        state = _State(block.module, block.within)
        return checkpoint(self._run, *given, use_reentrant=False, preserve_rng_state=state.training,
                          context_fn=lambda: (nullcontext(), state), **kwargs)  # fmt: skip

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if self.writes is False:
            return self.forward(*args, **kwargs)
        given = [value.clone() if isinstance(value, Tensor) else value for value in args]
        found = self.forward(*given, **kwargs)
        self.writes = self.writes or any(isinstance(value, Tensor) and value._version > 0 for value in given)
        return found


class _State:
    """The state of a block in one forward. As a context, to be entered any number of times, it is the block's again."""

    def __init__(self, module: nn.Module, within: Within) -> None:
        parts = list(module.modules())
        self.module, self.within = module, within
        self.modes = [(part, part.training) for part in parts]
        self.training = any(training for _, training in self.modes)
        self.hooks = [(part, {name: vars(part)[name].copy() for name in _HOOKS}) for part in parts]
        self.buffers = self._buffers()
        self._entered: list[ExitStack] = []

    def __enter__(self) -> None:
        modes = [(part, part.training) for part, _ in self.modes]
        hooks = [(part, {name: vars(part)[name] for name in _HOOKS}) for part, _ in self.hooks]
        stack = ExitStack()
        stack.callback(_set, modes, hooks, self._buffers())
        _set(self.modes, self.hooks, self.buffers)
        stack.enter_context(self.within())
        self._entered.append(stack)

    def __exit__(self, *_: object) -> None:
        self._entered.pop().close()

    def _buffers(self) -> list[tuple[Tensor, Tensor]]:
        """Copies of what a forward in training mode may change."""
        return [(buffer, buffer.detach().clone()) for buffer in self.module.buffers()] if self.training else []


def _set(
    modes: Sequence[tuple[nn.Module, bool]],
    hooks: Sequence[tuple[nn.Module, dict[str, Any]]],
    buffers: Sequence[tuple[Tensor, Tensor]],
) -> None:
    for part, training in modes:
        part.training = training
    for part, own in hooks:
        vars(part).update(own)
    for buffer, values in buffers:
        buffer.data.copy_(values)  # of which autograd takes no note: what it has saved is as it was, or not read again
