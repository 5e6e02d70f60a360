"""Asking a network in every way that a run will: what it does with images beside answering.

In both orders of dimensions, with gradient to the images, twice the same, one image alone, few and all together.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lenient.core.errors import TeacherError
from lenient.core.memory import out_of_memory
from lenient.core.reductions import full
from lenient.core.runtime import Runtime
from lenient.core.seeding import derive, untouched_global_rng
from lenient.models.card import Behaviour, Network, to_logits
from lenient.models.lending import SMALL, frozen, own_grad_mode
from lenient.models.names import one_line
from lenient.models.probing import batch_norm_layers

log = logging.getLogger("lenient")

IMAGES = 4
"""Images that a network is asked about when it is loaded."""
SECONDS = 4.0
"""When asking has taken so long, the questions that are left are not asked."""
BUILT_IN = "the size of a batch is built in; let it take any number"
TOLERANCE = 1e-3
"""Difference of two answers, as a share of their largest value, up to which it is rounding."""


def ask(network: Network, runtime: Runtime) -> Behaviour:
    """Ask a network on the runtime's device and in its precision; it is afterwards as it was.

    Raises whatever its forward raises on a few contiguous images, TeacherError where it takes just so many.
    """
    with untouched_global_rng():
        return _Questions(network, runtime).behaviour()


def failure(network: Network, runtime: Runtime, count: int, *, training: bool = False) -> str | None:
    """Return in one line why a step of a run with `count` images is impossible, None where it is possible.

    The step is a forward and backward pass in eval mode; with `training` as a student makes it, in training mode with
    gradients to the weights. Where `count` images take too long or do not fit into memory, fewer are tried.
    """
    runtime = network.behaviour.applied(runtime)
    start = time.monotonic()
    with untouched_global_rng():
        wrong = _step(network, runtime, min(IMAGES, count), training)
        per_image = (time.monotonic() - start) / IMAGES
        tried = min(count, max(IMAGES, int(SECONDS / 2 / per_image)))
        while wrong is None and tried > IMAGES:
            try:
                wrong = _step(network, runtime, tried, training)
                break
            except (RuntimeError, MemoryError):  # out of memory: all else is an answer
                torch.cuda.empty_cache()
                tried //= 2
    if wrong is None and tried < count:
        log.info(
            "asked %s with %d images instead of %d, for time or memory", network.card.arch or "a module", tried, count
        )
    return wrong


def example_images(input_size: tuple[int, int, int], count: int = IMAGES) -> Tensor:
    """Return the same images of noise in [0, 1] each time: coarse, fine, dark and bright."""
    generator = torch.Generator().manual_seed(derive(0, "check_classifier"))
    images = torch.rand((IMAGES, *input_size), generator=generator)
    images[2] *= 0.1
    images[3] = 1 - 0.1 * images[3]
    coarse = torch.rand((1, input_size[0], 4, 4), generator=generator)
    images[:1] = nn.functional.interpolate(coarse, size=input_size[1:])
    return images.repeat(-(-count // IMAGES), 1, 1, 1)[:count]


@dataclass(frozen=True)
class _Answer:
    """What one forward left behind besides `logits`, (N, classes), detached and in float32."""

    logits: Tensor
    writes: bool
    changes: tuple[str, ...]
    blocked: str
    by_batch: tuple[str, ...]
    """Batch-norm layers that normalised by the batch."""
    silent: bool


class _Questions:
    def __init__(self, network: Network, runtime: Runtime) -> None:
        self.network = network
        self.usual = replace(runtime, layout=torch.channels_last)
        self.contiguous = replace(runtime, layout=torch.contiguous_format)
        self.started = time.monotonic()

    def behaviour(self) -> Behaviour:
        """Ask the most important questions first."""
        first = self._asked(self.contiguous, IMAGES, gradient=True)
        reordered = self._reordered(first)
        again = None if self._late else self._asked(self.contiguous, IMAGES).logits
        few = None if self._late else self._few()
        alone, single = self._alone()
        random = again is not None and _differ(again, first.logits)
        parts = [part for part in (few, alone) if part is not None]
        depends = not random and any(_differ(part, first.logits[: len(part)]) for part in parts)
        return Behaviour(
            contiguous=reordered and not random,
            writes=first.writes,
            changes=first.changes,
            single=single,
            random=random,
            depends=depends,
            batch_norms=first.by_batch,
            silent=first.silent,
            blocked=first.blocked,
            unasked=self._late,
        )

    @property
    def _late(self) -> bool:
        return time.monotonic() - self.started > SECONDS

    def _few(self) -> Tensor:
        try:
            return self._asked(self.contiguous, 2).logits
        except Exception as error:
            if out_of_memory(error):
                raise
            raise TeacherError(f"it takes batches of {IMAGES} only ({one_line(error, 100)}): {BUILT_IN}") from error

    def _alone(self) -> tuple[Tensor | None, bool]:
        """Return the answer to one image, and whether there is one."""
        if self._late:
            return None, True
        try:
            return self._asked(self.contiguous, 1).logits, True
        except Exception as error:
            if out_of_memory(error):
                raise
            return None, False

    def _reordered(self, first: _Answer) -> bool:
        """Whether images and weights in channels-last order make it fail, or answer otherwise."""
        try:
            other = self._asked(self.usual, IMAGES, gradient=not self._late)
        except Exception as error:
            if out_of_memory(error):
                raise
            return True
        return _differ(other.logits, first.logits) or bool(other.blocked and not first.blocked)

    def _asked(self, runtime: Runtime, count: int, *, gradient: bool = False) -> _Answer:
        """Ask about the first `count` images."""
        module = self.network.module
        with frozen(module, runtime), torch.set_grad_enabled(gradient), _Watched(module) as watched:
            images = _normalised(self.network, runtime, count).requires_grad_(gradient)
            inputs = images * 1  # no leaf, so that it may be written into
            before, version, state = inputs.detach().clone(), inputs._version, _state(module)
            with own_grad_mode():
                output = module(inputs)
            logits = to_logits(output, self.network.card.outputs)
            writes = inputs._version != version or not torch.equal(inputs.detach(), before)
            changes = _changes(state, module)
            blocked = _blocked(logits, images) if gradient else ""
        silent = watched.layers > 0 and not watched.called
        return _Answer(logits.detach().float(), writes, changes, blocked, tuple(watched.by_batch), silent)


class _Watched:
    """Notes which batch-norm layers are called, and how they normalise."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.layers, self.called = 0, False
        self.by_batch: dict[str, None] = {}

    def __enter__(self) -> _Watched:
        with_statistics = dict(batch_norm_layers(self.module))
        self.layers = len(with_statistics)
        kind = nn.modules.batchnorm._BatchNorm
        layers = {name: part for name, part in self.module.named_modules() if isinstance(part, kind)} | with_statistics
        self._handles = [
            part.register_forward_pre_hook(self._hook(name, name in with_statistics)) for name, part in layers.items()
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str, statistics: bool) -> Callable[[nn.Module, Any], None]:
        def note(layer: nn.Module, _: Any) -> None:
            self.called |= statistics
            if layer.training or getattr(layer, "running_mean", None) is None:
                self.by_batch[name] = None

        return note


def _normalised(network: Network, runtime: Runtime, count: int) -> Tensor:
    card = network.card
    pixels = runtime.images(example_images(card.input_size, count))
    mean, std = (
        torch.tensor(values, device=runtime.device, dtype=runtime.dtype).view(1, -1, 1, 1)
        for values in (card.mean, card.std)
    )
    return (pixels - mean) / std


def _state(module: nn.Module) -> dict[str, tuple[Tensor, int, Tensor | None]]:
    """Return each parameter and buffer with its version, and a copy where it is small enough to be a counter."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: (t, t._version, t.detach().clone() if t.numel() <= SMALL else None) for name, t in named}


def _changes(before: dict[str, tuple[Tensor, int, Tensor | None]], module: nn.Module) -> tuple[str, ...]:
    now = {**dict(module.named_parameters()), **dict(module.named_buffers())}

    def changed(name: str) -> bool:
        tensor, version, copied = before[name]
        if now.get(name) is not tensor:
            return True
        if copied is None:
            return tensor._version != version
        return not torch.equal(tensor.detach(), copied)

    return tuple(name for name in before if changed(name))


def _blocked(logits: Tensor, images: Tensor) -> str:
    """Return why no gradient goes from logits to images, in words; empty where it does."""
    if not logits.requires_grad:
        return "its answers have no gradient"
    direction = torch.linspace(-1, 1, logits.numel(), device=logits.device, dtype=logits.dtype).view_as(logits)
    try:
        (gradient,) = torch.autograd.grad((logits * direction).sum(), images, allow_unused=True)
    except Exception as error:
        if out_of_memory(error):
            raise
        return f"the backward pass fails ({one_line(error, 90)})"
    if gradient is None or not bool(gradient.count_nonzero()):
        if bool((logits == logits[0]).all()):  # a last layer of zeros, as many networks start with: no word yet
            return ""
        return "the gradient of its answers with respect to the images is zero"
    return "" if bool(gradient.isfinite().all()) else "the gradient with respect to the images is not finite"


def _step(network: Network, runtime: Runtime, count: int, training: bool) -> str | None:
    module = network.module
    try:
        with frozen(module, runtime):
            weights = [tensor for tensor in module.parameters() if tensor.is_floating_point()] if training else []
            if training:
                module.train()
                for weight in weights:
                    weight.requires_grad_(True)
            images = _normalised(network, runtime, count).requires_grad_(True)
            with runtime.autocast(), own_grad_mode():
                output = module(runtime.inputs(images * 1))
            logits = full(to_logits(output, network.card.outputs))
            if len(logits) != count:
                return f"it returns {len(logits)} rows for {count} images"
            if not bool(logits.isfinite().all()):
                return "its answers are not finite"
            if logits.requires_grad:
                torch.autograd.grad(logits.square().sum(), [images, *weights], allow_unused=True)
    except Exception as error:
        if out_of_memory(error):
            raise
        return one_line(error, 160)
    return None


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether two answers differ by more than rounding."""
    if one.shape != other.shape:
        return True
    limit = TOLERANCE * float(other.abs().max())
    return not float((one - other).abs().max()) <= limit
