"""Randomness keyed by (seed, name, update): nothing to save, and a new draw in one part moves no other."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def derive(seed: int, name: str, update: int = 0) -> int:
    """Return a 63-bit seed for one named stream at one update; equal inputs give equal seeds on every machine."""
    digest = hashlib.blake2b(f"{seed}/{name}/{update}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Streams:
    """Hands out random draws by name and update.

    A draw depends on (seed, name, update) and its shape only: not on what was drawn before, nor on other names.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.seed = seed
        self.device = torch.device(device)

    def generator(self, name: str, update: int = 0) -> torch.Generator:
        """Return a fresh generator on the device for the stream `name` at `update`."""
        return torch.Generator(self.device).manual_seed(derive(self.seed, name, update))

    def host(self, name: str, update: int = 0) -> torch.Generator:
        """Return such a generator on the CPU, for what the host has to know: asking a device would wait for it."""
        return torch.Generator().manual_seed(derive(self.seed, name, update))

    def numpy(self, name: str, update: int = 0) -> np.random.Generator:
        """Return such a generator of numpy's, for images that are drawn on the host."""
        return np.random.default_rng(derive(self.seed, name, update))

    def normal(self, name: str, update: int, shape: tuple[int, ...]) -> Tensor:
        """Return a standard normal float32 tensor of `shape` on the device."""
        return torch.randn(shape, generator=self.generator(name, update), device=self.device)

    def uniform(self, name: str, update: int, shape: tuple[int, ...]) -> Tensor:
        """Return a float32 tensor of `shape` on the device, uniform in [0, 1)."""
        return torch.rand(shape, generator=self.generator(name, update), device=self.device)

    def integers(self, name: str, update: int, shape: tuple[int, ...], high: int) -> Tensor:
        """Return an int64 tensor of `shape` on the device, uniform in [0, high)."""
        return torch.randint(high, shape, generator=self.generator(name, update), device=self.device)

    def permutation(self, name: str, update: int, count: int) -> Tensor:
        """Return the numbers 0 to `count` - 1 in a random order, int64 (count,) on the device."""
        return torch.randperm(count, generator=self.generator(name, update), device=self.device)

    def seed_global(self, name: str, update: int) -> None:
        """Seed torch's global stream, which dropout and library transforms draw from, for one update."""
        seed = derive(self.seed, f"global/{name}", update)
        if self.device.type == "mps":
            torch.manual_seed(seed)
            return
        torch.default_generator.manual_seed(seed)  # for each kind that is not in use, `manual_seed` formats a stack
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed)


@contextmanager
def untouched_global_rng() -> Iterator[None]:
    """Give the caller's global random streams (python, numpy, torch on all devices) back as they were."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
