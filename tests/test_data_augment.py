"""Augmentation against a loop over images."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lenient.data.augment import AUGMENTS, crop_flip, shift


def shifted_one_by_one(images: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    _, _, height, width = images.shape
    reach_y, reach_x = max(1, height // 8), max(1, width // 8)
    tops = torch.randint(0, 2 * reach_y + 1, (len(images), 1), generator=generator)
    lefts = torch.randint(0, 2 * reach_x + 1, (len(images), 1), generator=generator)
    results = []
    for image, top, left in zip(images, tops.flatten().tolist(), lefts.flatten().tolist(), strict=True):
        padded = F.pad(image, (reach_x, reach_x, reach_y, reach_y))
        results.append(padded[:, top : top + height, left : left + width])
    return torch.stack(results)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.sampled_from([1, 3]), st.integers(4, 34), st.integers(4, 34), st.integers(0, 2**31))
def test_shift_equals_a_loop_of_crops(number: int, channels: int, height: int, width: int, seed: int) -> None:
    images = torch.randint(0, 256, (number, channels, height, width), dtype=torch.uint8)
    moved = shift(images, torch.Generator().manual_seed(seed))
    assert moved.dtype == images.dtype
    assert torch.equal(moved, shifted_one_by_one(images, seed))


def test_each_image_gets_its_own_offset() -> None:
    one = torch.randint(1, 256, (1, 3, 32, 32), dtype=torch.uint8)
    moved = shift(one.expand(64, -1, -1, -1), torch.Generator().manual_seed(0))
    assert len({tuple(image.flatten().tolist()) for image in moved}) > 30


def test_crop_flip_mirrors_about_half_of_the_images() -> None:
    ramp = torch.arange(32.0).expand(400, 1, 32, 32)
    moved = crop_flip(ramp, torch.Generator().manual_seed(0))
    falling = (moved[:, 0, 16, 10] > moved[:, 0, 16, 20]).float().mean()
    assert 0.4 < falling < 0.6


@pytest.mark.parametrize("name", list(AUGMENTS))
def test_the_same_seed_gives_the_same_images(name: str) -> None:
    images = torch.rand(8, 3, 16, 16)
    first, second = (AUGMENTS[name](images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, images) == (name == "none")
