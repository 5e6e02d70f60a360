"""Procedural images, and parts of photographs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lenient.core.seeding import Streams
from lenient.synthesis import figures, photo
from lenient.synthesis.figures import FIGURES, GROUNDS, drawings

STREAMS = Streams(0)


@pytest.mark.parametrize("channels", [1, 2, 3, 13])
@pytest.mark.parametrize("size", [(8, 8), (9, 31), (224, 64)])
def test_drawings_of_any_size_and_channels_hang_on_their_number_alone(channels: int, size: tuple[int, int]) -> None:
    shape = (channels, *size)
    images = drawings(range(12), shape, STREAMS, "x", photos=0.3)
    assert images.shape == (12, *shape)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(images[5:9], drawings(range(5, 9), shape, STREAMS, "x", photos=0.3))
    for streams, name in ((Streams(1), "x"), (STREAMS, "y")):
        assert not torch.equal(images, drawings(range(12), shape, streams, name, photos=0.3))


def test_drawings_are_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ground and figure comes up, blacks and whites do, and no two images are the same."""
    seen: set[str] = set()

    def noting(make: Any) -> Any:
        return lambda *given: (seen.add(make.__name__), make(*given))[1]

    monkeypatch.setattr(figures, "GROUNDS", tuple(map(noting, GROUNDS)))
    monkeypatch.setattr(figures, "FIGURES", tuple(map(noting, FIGURES)))
    images = drawings(range(200), (3, 16, 16), STREAMS, "x")
    assert seen == {make.__name__ for make in (*GROUNDS, *FIGURES)}
    assert len(images.flatten(1).unique(dim=0)) > 190
    ends = images.flatten(1)
    assert (ends.amin(1) == 0).float().mean() > 0.1 < (ends.amax(1) == 1).float().mean()


def test_a_patch_is_of_even_area_and_near_the_images_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes_: list[tuple[float, ...]] = []

    class Picture:
        width, height = 640, 427

        def resize(self, size: Any, how: Any, box: tuple[float, ...], reducing_gap: float) -> Any:
            boxes_.append(box)
            return torch.zeros(size[1], size[0], 3).numpy()

    monkeypatch.setattr(photo, "pictures", lambda: (Picture(), Picture()))
    for number in range(4000):
        photo.patch(STREAMS.numpy("x", number), (3, 20, 30))
    left, top, right, bottom = torch.tensor(boxes_).unbind(1)
    assert left.min() >= 0 <= top.min()
    assert right.max() <= 640 + 1e-3
    assert bottom.max() <= 427 + 1e-3
    wide, tall = right - left, bottom - top
    shares, shapes = wide * tall / (640 * 427), wide / tall / 1.5
    assert shares.mean() == pytest.approx((1 / 500 + 1 / 2) / 2, abs=0.01)
    assert shares.std() == pytest.approx((1 / 2 - 1 / 500) / 12**0.5, abs=0.01)
    assert 3 / 4 - 1e-3 <= shapes.min() < 0.8
    assert 1.28 < shapes.max() <= 4 / 3 + 1e-3


@pytest.mark.parametrize("size", [(1, 1, 1000), (2, 1024, 2), (3, 1, 740)])
def test_images_too_long_for_any_patch_have_one_that_is_cut(size: tuple[int, int, int]) -> None:
    class Draws(np.random.Generator):
        left = 5000

        def uniform(self, *bounds: Any) -> Any:
            self.left -= 1
            assert self.left, "it draws on and on"
            return super().uniform(*bounds)

    images = [photo.patch(Draws(np.random.PCG64(seed)), size) for seed in range(3)]
    assert {image.shape for image in images} == {size}
    assert all(0 <= image.min() < image.max() <= 1 for image in images)


def test_grey_is_the_mean_of_the_colours() -> None:
    colours, grey = (photo.patch(STREAMS.numpy("x", 3), (channels, 16, 16)) for channels in (3, 1))
    torch.testing.assert_close(torch.tensor(grey[0]), torch.tensor(colours).mean(0))
