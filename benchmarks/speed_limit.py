"""The limit: how long an outer iteration would take if its convolutions and linear layers were all there is.

**Work.** The fewest passes that the mathematics of one iteration (S student steps, one generator step, batch B, kept
share k, V views) asks for, in images:

| network | pass | images |
|---|---|---|
| generator | forward | S B / k: accepted images left over go to the next step; fewer where fewer were drawn in fact |
| teacher | forward | the same, and with two views S B more for the view that the student learns from |
| student | forward, gradients of weights and inputs | S B |
| generator | forward, gradients of weights and inputs | B |
| teacher | forward, gradient of the images | B; with two views k B more: only accepted images face the adversary |
| student | forward, gradient of the images | k B |

The first layer's input gradient belongs to the work only where images want gradients. Floating-point operations are
those that torch's `FlopCounterMode` counts in one such pass of each network.

**Rate.** Each distinct layer is timed alone in the same process: the same shapes, batch, data type and layout (channels
last), forward only or forward and the gradients that the pass needs. On a CPU with several threads a layer is timed
both ways, split over all of them and as one stream for each thread, and in bfloat16 as torch's convolution and as the
library's product where that takes it; the best counts. A layer's time is weighed by how often the work uses it, in
images. The sum is the limit; no sum of the same layers at their own measured speed can take less.
Everything else (batch norm, activations, statistics, the mixture, optimizers, memory) counts as zero.

**Share of the limit** = limit / measured time.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import torch
from speed_ways import clock
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lenient.core.conv_cpu import SmallMaps
from lenient.core.runtime import Runtime

Mode = Literal["forward", "inputs", "train"]
"""A forward alone; with the gradient of the images; with the gradients of weights and inner inputs."""
MODES: tuple[Mode, ...] = ("forward", "inputs", "train")


class Layer(NamedTuple):
    """A distinct layer: what it is, the shape of one sample that goes in, whether it is the network's first."""

    text: str
    shape: tuple[int, ...]
    first: bool


class Pass(NamedTuple):
    """Images that go through a network in one mode."""

    network: str
    mode: Mode
    images: float


def needed(batch: int, steps: int, kept: float, views: int, drawn: float = math.inf) -> list[Pass]:
    """Return the fewest passes of one outer iteration, see the table above; `drawn` is what the student steps drew.

    A plan that falls short fills up with rejected images: work that was not done must not raise the limit.
    """
    learned = float(steps * batch)
    drawn = min(learned / kept, drawn)
    two = views == 2
    return [
        Pass("generator", "forward", drawn),
        Pass("teacher", "forward", drawn + two * learned),
        Pass("student", "train", learned),
        Pass("generator", "train", float(batch)),
        Pass("teacher", "inputs", batch + two * kept * batch),
        Pass("student", "inputs", kept * batch),
    ]


class Limits:
    """Counts operations once and times each layer once for each data type, both when first asked for."""

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        examples: Mapping[str, tuple[int, ...]],
        batch: int,
        device: torch.device,
        patience: float = 0.2,
    ) -> None:
        self.batch, self.device, self.patience = batch, device, patience
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        self.streams = [ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) for _ in range(threads)]
        self.modules: dict[Layer, nn.Module] = {}
        self.timed: dict[tuple[Layer, Mode, torch.dtype], float] = {}
        self.uses: dict[str, Counter[Layer]] = {}
        self.flops: dict[tuple[str, Mode], float] = {}
        for name, network in networks.items():
            plain = copy.deepcopy(network).cpu().float().eval()
            example = torch.zeros(2, *examples[name])
            self.uses[name] = self._layers(plain, example)
            for mode in MODES:
                self.flops[name, mode] = _flops(plain, example, mode)

    def _layers(self, network: nn.Module, example: Tensor) -> Counter[Layer]:
        found: Counter[Layer] = Counter()

        def note(module: nn.Module, inputs: tuple[Any, ...], _: object) -> None:
            layer = Layer(str(module), tuple(inputs[0].shape[1:]), first=not found)
            self.modules[layer] = module
            found[layer] += 1

        kinds = (nn.Conv2d, nn.Linear)
        handles = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, kinds)]
        with torch.no_grad():
            network(example)
        for handle in handles:
            handle.remove()
        return found

    def operations(self, passes: list[Pass]) -> float:
        """Return the floating-point operations of the passes."""
        return sum(self.flops[network, mode] * images for network, mode, images in passes)

    def seconds(self, passes: list[Pass], precision: str) -> float:
        """Return the limit of the passes."""
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        total = 0.0
        for network, mode, images in passes:
            alone = sum(count * self._time(layer, mode, dtype) for layer, count in self.uses[network].items())
            total += alone * images / self.batch
        return total

    def _time(self, layer: Layer, mode: Mode, dtype: torch.dtype) -> float:
        """Seconds of one batch through one layer, the median of five stretches."""
        key = (layer, mode, dtype)
        if key not in self.timed:
            self.timed[key] = min(self._alone(work) for work in self._works(layer, mode, dtype))
        return self.timed[key]

    def _alone(self, work: Callable[[], object]) -> float:
        """Seconds of one batch, split over the threads or as a stream for each."""
        work()
        once, _ = clock(work, self.device)
        repeats = max(1, round(self.patience / 5 / max(once, 1e-7)))

        def stretch() -> None:
            for _ in range(repeats):
                work()

        seconds = self._median(stretch) / repeats
        if len(self.streams) > 1:
            seconds = min(seconds, self._side_by_side(stretch) / repeats / len(self.streams))
        return seconds

    def _median(self, work: Callable[[], object]) -> float:
        return statistics.median(clock(work, self.device)[0] for _ in range(5))

    def _side_by_side(self, stretch: Callable[[], object]) -> float:
        """Seconds of one stretch on each thread at the same time."""

        def all_at_once() -> None:
            for future in [stream.submit(stretch) for stream in self.streams]:
                future.result()

        return self._median(all_at_once)

    def _works(self, layer: Layer, mode: Mode, dtype: torch.dtype) -> Iterator[Callable[[], object]]:
        """The layer as torch takes it, and as the library does where that is another way."""
        module = copy.deepcopy(self.modules[layer]).to(self.device, dtype)
        inputs = torch.randn(self.batch, *layer.shape).to(self.device, dtype)
        if inputs.dim() == 4:
            module, inputs = module.to(memory_format=torch.channels_last), inputs.to(memory_format=torch.channels_last)
        targets: list[Tensor] = [] if mode == "forward" else _targets(module, inputs, mode, layer.first)
        if not targets:
            module.requires_grad_(False)
        gradient = torch.ones_like(module(inputs))

        def work() -> object:
            output = module(inputs)
            return torch.autograd.grad(output, targets, gradient) if targets else output

        yield work
        runtime = Runtime(self.device, "bf16" if dtype == torch.bfloat16 else "32")
        small = SmallMaps(module, runtime)
        if small.layers:

            def product() -> object:
                with runtime.autocast():
                    return work()

            with small.products():
                yield product

    def layers(self) -> list[dict[str, Any]]:
        """Return every layer timed so far, for the record."""
        return [
            {"layer": layer.text, "input": list(layer.shape), "mode": mode, "dtype": str(dtype), "seconds": seconds}
            for (layer, mode, dtype), seconds in self.timed.items()
        ]


def _targets(module: nn.Module, inputs: Tensor, mode: Mode, first: bool) -> list[Tensor]:
    """Say whose gradients a mode wants, and let only them be had."""
    module.requires_grad_(mode == "train")
    inputs.requires_grad_(mode == "inputs" or not first)
    weights = list(module.parameters()) if mode == "train" else []
    return [*weights, *([inputs] if inputs.requires_grad else [])]


def _flops(network: nn.Module, example: Tensor, mode: Mode) -> float:
    """Operations for one sample; a multiplication and an addition are two."""
    example = example.clone()
    if mode != "forward":
        _targets(network, example, mode, first=True)
    with torch.set_grad_enabled(mode != "forward"), FlopCounterMode(display=False) as counter:
        output = network(example)
        if mode != "forward":
            output.sum().backward()  # the counter refuses `autograd.grad`
    return float(counter.get_total_flops()) / len(example)
