"""What the speed benchmark says is what it did: the restatement of the released procedure, the counts, the page."""

from __future__ import annotations

import copy
import importlib
import json
import multiprocessing
import os
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import nn

from lenient.models import Network, build_student
from lenient.models.card import Card

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
B = 8
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    """The scripts import each other from their own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield


def module(name):
    return importlib.import_module(name)


@pytest.fixture
def pair():
    """A teacher with fitting statistics, a student, and the settings of both ways, all small."""
    ways = module("speed_ways")
    teacher = ways.random_teacher("lenient:resnet8", (3, 16, 16), 10, seed=0)
    student = build_student("lenient:resnet8-half", teacher.card, seed=0)
    settings = ways.settings_of(B, "32", "crop-flip", CPU)
    small = settings.generator.model_copy(update={"latent_dim": 20, "width": 16})
    return teacher, student, settings.model_copy(update={"generator": small})


class Scores(nn.Module):
    """Ten logits whose own cross-entropy is the image's one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        sure = torch.exp(-images.flatten(1) * self.weight)
        return torch.cat([sure, ((1 - sure) / 9).expand(-1, 9)], dim=1).log()


def released(teacher, student, settings, **changes):
    torch.manual_seed(0)
    generator = module("lenient.generators.upsampling").UpsamplingGenerator(teacher.card.input_size, settings.generator)
    values = {"latent_dim": settings.generator.latent_dim, "batch_size": B, "device": CPU} | changes
    return module("published").Released(
        Network(copy.deepcopy(teacher.module), teacher.card), copy.deepcopy(student.module), generator, **values
    )


def test_the_released_procedure_makes_the_passes_that_it_is_known_for(pair):
    ways = module("speed_ways")
    loop = released(*pair)
    networks = {"teacher": loop.teacher, "student": loop.student, "generator": loop.generator}
    with ways.counted(networks) as seen:
        made = loop.iterate()
    rounds, k = sum(made.rounds), made.selected
    assert len(made.rounds) == 10
    assert min(made.rounds) >= 2
    assert len(made.kept) == rounds + 1
    assert seen["teacher forward"] == (2 * rounds + 10) * B + 2 * B + k
    assert seen["teacher backward"] == seen["teacher weights"] == 10 * B + k
    assert seen["student forward"] == seen["student backward"] == 10 * B + k
    assert seen["generator forward"] == (rounds + 1) * B
    assert seen["generator backward"] == B


def test_the_released_procedure_learns(pair):
    loop = released(*pair, batch_size=32)
    made = [loop.iterate() for _ in range(2)]
    assert sum(made[1].student_losses) < sum(made[0].student_losses)
    losses = [float(loop._generator_step()[0]) for _ in range(40)]
    assert sum(losses[-10:]) < 0.97 * sum(losses[:10])
    for network in (loop.teacher, loop.student, loop.generator):
        gradients = [parameter.grad for parameter in network.parameters()]
        assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_the_released_procedure_comes_to_the_same_without_its_waste(pair):
    loops = [released(*pair, waste=waste) for waste in (True, False)]
    for loop in loops:
        loop.iterate()
    assert all(parameter.grad is None for parameter in loops[1].teacher.parameters())
    for name in ("student", "generator"):
        first, second = (getattr(loop, name).state_dict() for loop in loops)
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_released_selector_accepts_the_surer_component():
    loop = released(
        Network(Scores(), Card(None, (1, 1, 1), 10, (0.0,), (1.0,))),
        Network(nn.Linear(1, 1), Card(None, (1, 1, 1), 10, (0.0,), (1.0,))),
        module("speed_ways").settings_of(B, "32", "none", CPU),
    )
    images = torch.tensor([0.01, 0.02, 0.015, 0.03, 0.02, 0.9, 1.1, 0.95, 0.025, 1.3]).view(-1, 1, 1, 1)
    assert loop._accepted(images).tolist() == [0, 1, 2, 3, 4, 8]
    assert loop._accepted(torch.full((5, 1, 1, 1), 0.5)).tolist() == [0, 1, 2, 3, 4]


def test_the_released_divergence_has_its_known_value():
    teacher = torch.tensor([[4.0, 0, 0], [0, 3, 0]])
    student = torch.tensor([[0.0, 4, 0], [0, 3, 0]])
    assert float(module("published").coded_divergence(teacher, student)) == pytest.approx(0.028612, abs=1e-6)


@pytest.mark.parametrize(("augmentation", "views"), [("none", 1), ("crop-flip", 2)])
def test_our_loop_makes_each_pass_once(pair, augmentation, views):
    ways = module("speed_ways")
    teacher, student, settings = pair
    method = settings.method.model_copy(update={"augmentation": augmentation})
    with ExitStack() as stack:
        way = ways.ours(stack, teacher, student, settings.model_copy(update={"method": method}))
        with ways.counted(way.networks) as seen:
            made = way.iterate()
    drawn = sum(made.rounds) * B
    assert seen["teacher forward"] == drawn + (views - 1) * 10 * B + views * B
    assert seen["teacher backward"] == views * B
    assert seen["teacher weights"] == 0
    assert seen["student forward"] == seen["student backward"] == 11 * B
    assert seen["student weights"] == 10 * B
    assert seen["generator forward"] == drawn + B
    assert seen["generator backward"] == B


def test_operations_of_the_limit_are_those_on_paper():
    limit = module("speed_limit")
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(4 * 5 * 5, 3, bias=False))
    limits = limit.Limits({"net": net}, {"net": (2, 5, 5)}, batch=4, device=CPU, patience=1e-4)
    first, second = 2 * 4 * 2 * 9 * 25, 2 * 100 * 3
    passes = [limit.Pass("net", "forward", 1.0)]
    assert limits.operations(passes) == first + second
    assert limits.operations([limit.Pass("net", "inputs", 3.0)]) == 3 * 2 * (first + second)
    assert limits.operations([limit.Pass("net", "train", 1.0)]) == 2 * first + 3 * second
    assert limits.seconds(passes, "32") > 0
    assert len(limits.layers()) == 2


def test_the_limit_counts_no_more_images_than_were_drawn():
    needed = module("speed_limit").needed
    plain = {(part.network, part.mode): part.images for part in needed(32, 10, 0.5, 2)}
    assert plain["generator", "forward"] == 640
    assert plain["teacher", "forward"] == 960
    assert plain["teacher", "inputs"] == 48
    short = {(part.network, part.mode): part.images for part in needed(32, 10, 0.25, 1, drawn=640)}
    assert short["teacher", "forward"] == short["generator", "forward"] == 640


def test_growth_sends_what_it_knows_after_each_iteration():
    growth = module("speed_growth")
    sent = []

    class Answers:
        send = staticmethod(sent.append)

    point = growth.base_point(["batch=4", "size=16", "teacher=lenient:resnet8"])
    fixed = {"student": "lenient:resnet8-half", "device": "cpu", "precision": "32", "augmentation": "none"}
    growth.measure(point | fixed, rounds=1, cap=600, threads=torch.get_num_threads(), answers=Answers())
    assert [found["warm"] for found in sent] == [False, True]
    assert all(len(found["seconds_per_step"]) == 1 for found in sent)
    assert sent[-1]["peak_bytes"] >= sent[-1]["bytes_before"] > 0
    with pytest.raises(ValueError, match="the axes are batch"):
        growth.base_point(["bacth=4"])


class StartedError(Exception):
    """What a child is started with is all that is asked."""


def test_children_do_not_look_for_modules_where_they_are_started(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    seen = []

    def start(*_, env=None, **__):
        seen.append((os.environ if env is None else env).copy())
        raise StartedError

    speed_ranks, growth = module("speed_ranks"), module("speed_growth")
    monkeypatch.setattr(speed_ranks.subprocess, "run", start)
    with pytest.raises(StartedError):
        speed_ranks.scaling(1)
    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", start)
    with pytest.raises(StartedError):
        growth.run_point({}, 1, 1.0)
    assert [environment["PYTHONSAFEPATH"] for environment in seen] == ["1", "1"]
    assert str(BENCHMARKS) in seen[0]["PYTHONPATH"].split(os.pathsep)  # where a rank finds what lies beside its script
    assert "" not in seen[0]["PYTHONPATH"].split(os.pathsep)
    assert "PYTHONSAFEPATH" not in os.environ


def test_each_axis_changes_one_value_of_the_base_point():
    growth = module("speed_growth")
    base = growth.base_point(["size=48"])
    axes = growth.points(base)
    assert [point["size"] for point in axes["size"]] == [32, 48, 64, 128, 224]
    for axis, points in axes.items():
        assert base in points
        assert all(point | {axis: base[axis]} == base for point in points)


def toy_json():
    way = {
        "seconds": {"median": 2.0, "min": 1.0, "max": 4.0, "values": [1.0, 2.0, 4.0]},
        "speedup": {"median": 1.5, "min": 1.25, "max": 1.75, "values": [1.25, 1.5, 1.75]},
        "kept": 0.5,
        "shortfall": 0.0,
        "rounds_per_step": 2.0,
        "counts": {
            f"{name} {kind}": 12345
            for name in ("teacher", "student", "generator")
            for kind in ("forward", "backward", "weights")
        },
        "flops": 3e12,
        "needed_flops": 1e12,
        "limit_seconds": 0.5,
        "share_of_limit": 0.25,
    }
    machine = {"device_name": "a toy", "threads": 2, "torch": "2"}
    pair = {
        "teacher": "lenient:resnet34",
        "student": "lenient:resnet18",
        "teacher_weights": "trained, t.safetensors",
        "size": [3, 32, 32],
        "batch": 32,
        "rounds": 3,
        "warmup": 1,
        "seed": 0,
        "machine": machine,
        "ways": {name: way for name in module("speed_page").NAMES},
        "profile": [{"operator": "aten::conv", "share": 0.625, "calls": 1234}],
    }
    alone = {"pair": "mnist", "batch": 128, "processes": 1, "threads": 1, "seconds": [4.0]}
    ranks = {"rows": [alone, alone | {"processes": 2, "seconds": [2.5]}], "rounds": 1, "machine": machine}
    base = {"batch": 32, "size": 32, "classes": 10, "teacher": "lenient:resnet20"}
    fixed = {"student": "lenient:resnet8", "device": "cpu", "precision": "bf16", "augmentation": "crop-flip"}
    measured = {"warm": True, "ended": "finished", "peak_bytes": 2**30, "bytes_before": 2**29}
    lost = {"seconds_per_step": [], "warm": False, "ended": "time", "peak_bytes": None}
    axes = {
        "size": [
            base | measured | {"seconds_per_step": [1.0, 1.2, 1.1]},
            base | measured | {"size": 64, "seconds_per_step": [4.4], "warm": False},
            base | lost | {"size": 128},
        ],
        "classes": [
            base | measured | {"seconds_per_step": [1.0]},
            base | measured | {"classes": 1000, "seconds_per_step": [2.0]},
        ],
    }
    growth = {"base": base, **fixed, "rounds": 3, "cap": 60.0, "synthesis_rounds": 2, "axes": axes, "machine": machine}
    return {"pairs": {"cifar": pair}, "ranks": ranks, "growth": growth}


def test_the_page_is_written_from_the_file_alone(tmp_path):
    file, page = tmp_path / "toy.json", tmp_path / "pages" / "performance.md"
    file.write_text(json.dumps(toy_json()))
    module("speed").main(file, table=page)
    text = page.read_text()
    assert "| ours, float32, two views | 2.00 (1.00 to 4.00) | 1.50 (1.25 to 1.75) | 50% | 2.00 | 0.0% |" in text
    assert "| as released | 12,345 |" in text
    assert "| `aten::conv` | 62.5% | 1,234 |" in text
    assert "| mnist | 128 | 2 | 1 | 2.50 | 1.60 |" in text
    assert "| 1,000 | 0.500 | 2,000 | 25% |" in text
    assert "| 64 | 4.40 * | 4.00 | 138 | 1,024 | 512 |" in text
    assert "| 128 | over the time | - | - | - | - |" in text
    # 2 s / 320 images x 1024 x 72,000 steps
    assert "| CIFAR-10 | 72,000 | 1.00 | 1.00 | 5.33 days | 16.0 hours | 2.00 hours |" in text
    assert "| Tiny-ImageNet | 180,000 | 4.00 | 1.19 * |" in text
    assert "| ImageNet | 180,000 | 49.00 * | 2.00 |" in text
    assert "--teacher t.safetensors" in text
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith(("|", "python")))


def test_without_growth_there_are_no_estimates():
    found = toy_json()
    del found["growth"]
    text = module("speed_page").page(found, "speed.json")
    assert "whole runs" not in text
    assert "nan" not in text


def test_factors_between_and_beyond_points():
    relative = module("speed_page").relative
    points = [{"size": size, "seconds_per_step": [value]} for size, value in ((32, 1.0), (64, 3.0), (128, 11.0))]
    assert relative(points, "size", 32, 64, power=2) == (3.0, True)
    assert relative(points, "size", 32, 96, power=2) == (7.0, False)
    beyond = relative(points, "size", 32, 256, power=2)
    assert beyond[0] == pytest.approx(44.0)
    assert not beyond[1]
    assert relative(points, "size", 16, 64, power=2) is None
    assert relative([{"size": 32, "seconds_per_step": []}], "size", 32, 64, power=2) is None
