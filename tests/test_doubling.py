"""Convolutions of doubled maps that are not doubled: torch's numbers, and only where they are meant to be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lenient.core import doubling
from lenient.core.doubling import convolved_at
from lenient.generators.upsampling import GeneratorSettings, UpsamplingGenerator


def plain(size: tuple[int, int], maps: Tensor, layer: nn.Conv2d) -> Tensor:
    output: Tensor = layer(F.interpolate(maps, size=size, mode="nearest"))
    return output


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Which maps were convolved so: their heights."""
    own, found = doubling._doubled, []

    def noted(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        found.append(maps.shape[2])
        return own(maps, weight, bias)

    monkeypatch.setattr(doubling, "_doubled", noted)
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("height", "width"), [(5, 5), (7, 6), (1, 40)])
def test_numbers_and_gradients_of_both_orders_are_torchs(height: int, width: int, bias: bool, taken: list[int]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, padding=1, bias=bias).double()
    maps = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    found = []
    for way in (convolved_at, plain):
        output = way((2 * height, 2 * width), maps, layer)
        first = torch.autograd.grad((output**3).sum(), [maps, *layer.parameters()], create_graph=True)
        second = torch.autograd.grad(sum((part**2).sum() for part in first), [maps, layer.weight])
        found.append((output, *first, *second))
    assert taken == [height]
    for own, wanted in zip(*found, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-12, atol=1e-12)


def listened(layer: nn.Conv2d) -> nn.Conv2d:
    layer.register_forward_hook(lambda *_: None)
    return layer


@pytest.mark.parametrize(
    ("make", "maps", "size"),
    [
        pytest.param(lambda: nn.Conv2d(3, 4, 3, padding=1), (6, 6), (11, 12), id="not doubled"),
        pytest.param(lambda: nn.Conv2d(3, 4, 3, padding=1), (4, 4), (8, 8), id="too few"),
        pytest.param(lambda: nn.Conv2d(3, 4, 3, padding=1, stride=2), (6, 6), (12, 12), id="stride"),
        pytest.param(lambda: nn.Conv2d(3, 4, 5, padding=2), (6, 6), (12, 12), id="kernel"),
        pytest.param(lambda: nn.Conv2d(3, 3, 3, padding=1, groups=3), (6, 6), (12, 12), id="groups"),
        pytest.param(lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (6, 6), (12, 12), id="padding"),
        pytest.param(lambda: listened(nn.Conv2d(3, 4, 3, padding=1)), (6, 6), (12, 12), id="hook"),
    ],
)
def test_other_layers_and_sizes_are_left_alone(
    make: Callable[[], nn.Conv2d], maps: tuple[int, int], size: tuple[int, int], taken: list[int]
) -> None:
    layer, images = make(), torch.randn(2, 3, *maps)
    torch.testing.assert_close(convolved_at(size, images, layer), plain(size, images, layer), rtol=0, atol=0)
    assert taken == []


def test_in_bfloat16_maps_are_doubled(taken: list[int]) -> None:
    layer, images = nn.Conv2d(3, 4, 3, padding=1), torch.randn(2, 3, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        convolved_at((12, 12), images, layer)
    convolved_at((12, 12), images.bfloat16(), layer.bfloat16())
    assert taken == []


@pytest.mark.parametrize("norm", [False, True])
def test_a_generator_draws_what_it_drew(norm: bool, taken: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    generator = UpsamplingGenerator((1, 28, 28), GeneratorSettings(width=8, latent_dim=10, spectral_norm=norm)).double()
    latents = torch.randn(4, 10, dtype=torch.float64)
    generator.eval()
    own = generator(latents)
    assert taken == [7, 14]
    monkeypatch.setattr(doubling, "_faster", lambda *_: False)
    torch.testing.assert_close(own, generator(latents), rtol=1e-12, atol=1e-12)
    assert taken == [7, 14]


def test_a_layer_with_a_parametrisation_is_called_by_its_weight(taken: list[int]) -> None:
    layer = spectral_norm(nn.Conv2d(3, 4, 3, padding=1)).double().eval()
    maps = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(convolved_at((12, 12), maps, layer), plain((12, 12), maps, layer), rtol=1e-12, atol=0)
    assert taken == [6]
