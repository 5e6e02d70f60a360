"""Which moments a generator's images get: those that the teacher's batch norms saw, whatever its constants."""

from __future__ import annotations

import dataclasses
import logging
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import lenient
from lenient.core.runtime import Runtime
from lenient.data import load_data
from lenient.generators.conditional import ConditionalGenerator
from lenient.generators.upsampling import GeneratorSettings, UpsamplingGenerator
from lenient.models import build_student
from lenient.models.card import Card, Network
from lenient.runs.moments import USUAL, fitting_moments
from lenient.runs.request import Request, decide, resolve
from lenient.training.settings import DistillSettings
from toys import QUICK, tiny_card, tiny_student, tiny_teacher

CPU = Runtime(torch.device("cpu"), "32")
DRAWN = GeneratorSettings(output="tanh-bn", output_moments="auto")
PIXELS = (0.3055, 0.376)
"""Mean and deviation of scikit-learn's digits."""


@cache
def teacher(mean: float, std: float) -> Network:
    """A network by chance whose batch norms have seen digits, normalised so."""
    card = Card(None, (1, 8, 8), 10, (mean,), (std,), None)
    network = build_student("lenient:resnet8", card, seed=0, role="teacher")
    for layer in network.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    images = load_data("digits", split="train")
    with torch.no_grad():
        for batch, _ in images.batches(500):
            network.module.train()((batch - mean) / std)
    network.module.eval()
    return network


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.5), (0.8, 0.1)])
def test_they_are_those_that_the_batch_norms_saw(mean: float, std: float, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    found = fitting_moments(teacher(mean, std), CPU, DRAWN)
    assert found is not None
    assert found[0] * std + mean == pytest.approx(PIXELS[0], abs=0.13)
    assert found[1] * std == pytest.approx(PIXELS[1], abs=0.08)
    assert "generator.output_moments" in caplog.text


def test_constants_of_the_images_stay_as_released() -> None:
    assert fitting_moments(teacher(*PIXELS), CPU, DRAWN) is None


def test_where_the_last_layer_fixes_none_there_is_nothing_to_fit() -> None:
    for other in (GeneratorSettings(output="sigmoid"), GeneratorSettings(output="bn", factory="py:a.py:b")):
        assert fitting_moments(teacher(0.0, 1.0), CPU, other) is None


@pytest.mark.parametrize(
    ("mean", "std", "notes", "wanted"),
    [
        (0.0, 1.0, (), USUAL),
        (1.0, 1.0, (), (USUAL[0] - 1, USUAL[1])),
        (0.45, 1 / 255, (), (0.0, 255 * USUAL[1])),
        (0.45, 0.25, (), None),
        (0.0, 1.0, ("mean and std ASSUMED",), None),
    ],
)
def test_a_teacher_without_batch_norm_gets_usual_ones_where_its_constants_are_none(
    mean: float, std: float, notes: tuple[str, ...], wanted: tuple[float, float] | None
) -> None:
    card = dataclasses.replace(tiny_card(), mean=(mean,), std=(std,), notes=notes)
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    found = fitting_moments(Network(plain.eval(), card), CPU, DRAWN)
    assert found == (None if wanted is None else pytest.approx(wanted, abs=1e-3))


@pytest.mark.parametrize("output", ["tanh-bn", "bn"])
def test_a_generator_draws_with_them(output: str) -> None:
    settings = GeneratorSettings(output=output, output_moments=(0.3, 0.25), width=4)
    for generator, given in (
        (UpsamplingGenerator((1, 8, 8), settings), ()),
        (ConditionalGenerator((1, 8, 8), settings, 3, "sum"), (torch.arange(30) % 3,)),
    ):
        images = generator(torch.randn(30, settings.latent_dim), *given)
        assert float(images.mean()) == pytest.approx(0.3, abs=0.01)
        assert float(images.std()) == pytest.approx(0.25, abs=0.01)


def test_they_are_decided_before_the_first_update_and_kept(tmp_path: Path) -> None:
    asked = Request(method="bn-adv", settings=QUICK)
    settings = resolve(asked)
    assert settings.generator.output_moments == "auto"
    found = decide(settings, asked, tiny_teacher(), tiny_student()).generator.output_moments
    assert found is None or len(found) == 2
    network = teacher(0.0, 1.0)
    plan = {key: value for key, value in QUICK.items() if key != "generator"} | {"generator.width": 4}
    lenient.distill(network, "lenient:lenet5-half", method="bn-adv", settings=plan, output=tmp_path / "run")
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["generator"]["output_moments"]
    assert kept == list(fitting_moments(network, CPU, DRAWN.model_copy(update={"width": 4})) or ())


def test_a_run_of_an_earlier_version_goes_on_as_it_drew(tmp_path: Path) -> None:
    plan = {key: value for key, value in QUICK.items() if key != "generator"} | {"generator.width": 4}
    run = {"student": "lenient:lenet5-half", "method": "bn-adv", "output": tmp_path / "run"}
    lenient.distill(teacher(0.0, 1.0), settings=plan | {"generator.output_moments": None}, **run)
    file = tmp_path / "run" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    del config["generator"]["output_moments"]
    file.write_text(yaml.safe_dump(config))
    lenient.distill(teacher(0.0, 1.0), steps=config["steps"] + 2, resume=True, **run)
    assert yaml.safe_load(file.read_text())["generator"]["output_moments"] is None


def test_a_generator_of_ones_own_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    plan = {key: value for key, value in QUICK.items() if key != "generator"}
    own = {"generator": lambda card: UpsamplingGenerator(card.input_size, GeneratorSettings(width=4))}
    lenient.distill(teacher(0.0, 1.0), "lenient:lenet5-half", method="bn-adv", settings=plan, **own)
    assert "generator.output_moments" not in caplog.text


def test_methods_of_papers_draw_as_released() -> None:
    assert {
        name: DistillSettings(method={"name": name}).generator.output_moments for name in ("dafl", "ta-dfkd", "dfad")
    } == {
        "dafl": None,
        "ta-dfkd": None,
        "dfad": None,
    }
