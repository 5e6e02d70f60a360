"""An outer iteration of TA-DFKD on one card: ours beside the procedure as released, and beside the card's own
convolutions."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import torch
from gpu_sizes import Sizes
from gpu_teacher import read_parts
from published import STUDENT_STEPS
from speed import spread
from speed_limit import Limits, needed
from speed_ways import NETWORKS, RANDOM, RECIPE, Made, Way, clock, ours, published, random_teacher, settings_of
from torch.profiler import ProfilerActivity, profile

from lenient.core import memory
from lenient.core.runtime import cudnn_algorithms, repeatable
from lenient.generators.upsampling import UpsamplingGenerator
from lenient.models import Network, build_student

RELEASED = "published"
WAYS: dict[str, tuple[str, str, str]] = {
    RELEASED: ("32", "crop-flip", "as torch"),
    "bf16/crop-flip": ("bf16", "crop-flip", ""),
    "bf16/none": ("bf16", "none", ""),
    "bf16, tried/crop-flip": ("bf16", "crop-flip", "tried"),
    "32/crop-flip": ("32", "crop-flip", ""),
}
"""Way -> precision, augmentation, and how cuDNN's algorithms are chosen, where not as the library's loop does."""
COMPILED = {"bf16, compiled/crop-flip": ("bf16", "crop-flip", "compiled")}
"""Compiling takes a minute by itself."""
PROFILED = ("bf16/crop-flip", *COMPILED)


def speed(
    found: dict[str, Any], keep: Callable[[], None], until: float, out: Path, sizes: Sizes, device: torch.device
) -> None:
    """Time each way at each batch size, one after the other, then the layers alone, and in the end what is compiled,
    for as long as there is time."""
    network = read_parts(out)
    found["weights"] = RANDOM if network is None else "trained"
    network = network or random_teacher(sizes.teacher, sizes.size, 10, 0)
    student = build_student(sizes.student, network.card, seed=0)
    found |= {"recipe": RECIPE, "teacher": sizes.teacher, "student": sizes.student, "size": list(sizes.size)}
    known = found.setdefault("batches", {})
    limits = {batch: _limits(network, student, batch, device, sizes) for batch in sizes.batches}
    compiled = COMPILED if device.type == "cuda" else {}
    for ways in (WAYS, compiled):
        for name, batch in product(ways, sizes.batches):
            rows = known.setdefault(str(batch), {})
            if name not in rows and time.monotonic() < until:
                rows[name] = _measured(name, ways[name], network, student, batch, until, sizes, device)
                keep()
                print(f"  {name}, batch {batch}: {rows[name]}"[:300], flush=True)
        for name, batch in product(ways, sizes.batches):
            row = known[str(batch)].get(name, {})
            if "seconds" in row and "limit_seconds" not in row and time.monotonic() < until:
                row |= _limit(row, ways[name], batch, limits[batch])
                keep()
    rows = [known[str(batch)].get(name, {}) for name, batch in product([*WAYS, *compiled], sizes.batches)]
    found["done"] = all("limit_seconds" in row or "error" in row for row in rows)


def _measured(
    name: str,
    how: tuple[str, str, str],
    network: Network,
    student: Network,
    batch: int,
    until: float,
    sizes: Sizes,
    device: torch.device,
) -> dict[str, Any]:
    """Time one way by itself; a way that the card has no memory for says so."""
    precision, views, what = how
    settings = settings_of(batch, precision, views, device, compiled=what == "compiled")
    settings = settings.model_copy(update={"generator": settings.generator.model_copy(update=sizes.generator)})
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    try:
        with ExitStack() as stack, _algorithms(what, device):
            way = published(network, student, settings) if name == RELEASED else ours(stack, network, student, settings)
            memory.reset_peak(device)
            first, _ = clock(way.iterate, device)
            seconds, made = list[float](), list[Made]()
            while len(seconds) < sizes.rounds and (not seconds or time.monotonic() < until):
                taken, done = clock(way.iterate, device)
                seconds.append(taken)
                made.append(done)
            most = memory.peak(device) or before
            row = {"first_seconds": first, "seconds": spread(seconds), "peak_bytes": most - before}
            row |= _facts(made) | (_profiled(way, device) if name in PROFILED else {})
    except torch.OutOfMemoryError:
        return {"error": "the card has too little memory"}
    return row | {"images_per_second": STUDENT_STEPS * batch / row["seconds"]["median"]}


def _limit(row: dict[str, Any], how: tuple[str, str, str], batch: int, limits: Limits) -> dict[str, Any]:
    """Return how long the convolutions and linear layers that a way needs would take alone."""
    precision, views, _ = how
    drawn = row["rounds_per_step"] * STUDENT_STEPS * batch
    passes = needed(batch, STUDENT_STEPS, max(row["kept"], 1e-3), 1 if views == "none" else 2, drawn)
    with cudnn_algorithms(tried=True):
        seconds = limits.seconds(passes, precision)
    share = seconds / row["seconds"]["median"]
    return {"limit_seconds": seconds, "share_of_limit": share, "needed_flops": limits.operations(passes)}


def _algorithms(what: str, device: torch.device) -> AbstractContextManager[None]:
    """cuDNN's: as torch has them for the released procedure, tried for speed, or as the library's loop takes them."""
    if what == "tried":
        return cudnn_algorithms(tried=True)
    return nullcontext() if what == "as torch" else repeatable(device)


def _facts(made: list[Made]) -> dict[str, float]:
    kept = [float(share) for done in made for share in done.kept]
    short = [float(share) for done in made for share in done.shortfall]
    rounds = [number for done in made for number in done.rounds]
    return {
        "kept": sum(kept) / len(kept),
        "shortfall": sum(short) / len(short),
        "rounds_per_step": sum(rounds) / len(rounds),
    }


def _profiled(way: Way, device: torch.device) -> dict[str, Any]:
    """Return how many kernels an iteration launches, and for which share of its time the card is busy with them: where
    that is far below 1, launches are the limit."""
    if device.type != "cuda":
        return {}
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        seconds, _ = clock(way.iterate, device)
    on_card = (event for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA)
    kernels = [event for event in on_card if not event.is_user_annotation]  # ranges such as an optimizer's step
    busy = sum(event.time_range.elapsed_us() for event in kernels) / 1e6
    return {"launches": len(kernels), "busy": busy / seconds, "profiled_seconds": seconds}


def _limits(network: Network, student: Network, batch: int, device: torch.device, sizes: Sizes) -> Limits:
    settings = settings_of(batch, "32", "none", device)
    settings = settings.model_copy(update={"generator": settings.generator.model_copy(update=sizes.generator)})
    generator = UpsamplingGenerator(network.card.input_size, settings.generator)
    modules = dict(zip(NETWORKS, (network.module, student.module, generator), strict=True))
    size = network.card.input_size
    examples = {"teacher": size, "student": size, "generator": (settings.generator.latent_dim,)}
    return Limits(modules, examples, batch, device, sizes.patience)
