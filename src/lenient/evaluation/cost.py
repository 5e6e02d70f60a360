"""What a network costs: parameters, bytes, milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn

from lenient.core.timing import seconds_of
from lenient.evaluation.running import in_eval_mode
from lenient.models.card import packed, precision_of


def num_bytes(module: nn.Module) -> int:
    """Return the bytes that parameters, buffers and packed weights take as they are, shared ones counted once."""
    tensors = chain(module.parameters(), module.buffers(), packed(module))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def latency(
    module: nn.Module,
    input_size: tuple[int, int, int],
    batch_sizes: Sequence[int] = (1, 64),
    *,
    device: str | torch.device = "cpu",
    repeats: int = 20,
    warmup: int = 3,
) -> dict[str, Any]:
    """Time forward passes in eval mode on noise of `input_size` (C, H, W).

    Returns {"device": name, "threads": of torch on the CPU, "repeats": n, "milliseconds": {batch size: median per
    pass}}; the `warmup` passes before are not timed. Batches that do not fit into memory, or that the module does not
    take, are left out.
    """
    place = torch.device(device)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else place.type
    generator = torch.Generator().manual_seed(0)
    timed: dict[int, float] = {}
    precision = precision_of(module)
    with in_eval_mode(module, place), torch.no_grad():
        for batch_size in batch_sizes:
            with suppress(Exception):  # whatever a user's forward raises: a figure less
                images = torch.rand(batch_size, *input_size, generator=generator).to(place, precision)
                seconds = seconds_of(partial(module, images), place, repeats, warm_up=warmup)
                timed[batch_size] = 1000 * seconds
    return {"device": name, "threads": torch.get_num_threads(), "repeats": repeats, "milliseconds": timed}
