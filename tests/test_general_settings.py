"""Settings outside of a method's own: a method shows and takes those that it makes use of, and no others."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import lenient
from commands import lenient as command
from lenient import methods
from lenient.bench.cell import work
from lenient.bench.cells import cell_id
from lenient.bench.grid import load_grid, settings_of
from lenient.bench.tasks import write_json
from lenient.core.config import Settings, flatten, merge
from lenient.core.errors import UsageError
from lenient.core.runtime import Runtime
from lenient.defenses.shuffles import ShuffleSettings
from lenient.generators.upsampling import GeneratorSettings
from lenient.methods import METHODS, method_class
from lenient.methods.baselines import Noise
from lenient.methods.contract import AMONG, GENERAL, MethodSettings, of_some
from lenient.methods.generator import GeneratorMethodSettings, WithGenerator
from lenient.methods.single import SingleStudentSettings
from lenient.models import save_network
from lenient.models.card import Card
from lenient.runs.request import Request, resolve
from lenient.synthesis.proxy import SourceSettings
from lenient.training.settings import general_settings
from lenient.training.verdict import HealthSettings
from test_bench_run import TEACHER, write_grid
from test_methods import BASE, STABLE, TRYING
from toys import digits_like, distillation, pictures_folder, quick, write_pictures

pytestmark = pytest.mark.usefixtures("bare")

SECTIONS = {
    GeneratorSettings: "generator.",
    SourceSettings: "source.",
    HealthSettings: "health.",
    ShuffleSettings: "defense.shuffle",
}
SHAPE = {f"generator.{key}" for key in GeneratorSettings.model_fields}
KEYS = {*SHAPE, *GENERAL[1:], *AMONG}
"""What not every method makes use of, the penalty of a defence as one."""
FORMS = {**{name: BASE[name] for name in METHODS}, "stable, pictures": {**STABLE, "pictures": 0.5}}


class Anything(nn.Module):
    """A generator of any teacher's images, told classes or not."""

    space, latent_dim = "normalized", 5

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.size, self.paint = card.input_size, nn.Linear(5, math.prod(card.input_size))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.paint(latents).view(-1, *self.size)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Those of `KEYS` that are read from here on."""
    found: set[str] = set()
    threads = Runtime.threads_ahead.fget  # type: ignore[attr-defined]

    def get(self: Settings, name: str) -> Any:
        section = SECTIONS.get(type(self))
        if section is not None and name in type(self).model_fields:
            found.add(section + name if section.endswith(".") else section)
        return object.__getattribute__(self, name)

    def ahead(self: Runtime) -> Any:
        found.add("overlap")
        return threads(self)

    monkeypatch.setattr(Settings, "__getattribute__", get, raising=False)
    monkeypatch.setattr(Runtime, "threads_ahead", property(ahead))
    return found


@pytest.mark.parametrize("form", FORMS)
def test_what_a_method_shows_is_what_is_read_where_it_runs(form: str, read: set[str]) -> None:
    """With pictures beside its images and a defence around it, to the verdict."""
    own = FORMS[form]
    around = quick(own["name"], {"defense": TRYING, "source": {"proxy_images": pictures_folder()}})
    run = distillation(method=own, **around)
    run.run()
    read.discard("generator.factory")  # the loop looks whether one is named, of any method
    with suppress(UsageError):
        WithGenerator(method_class(own["name"])(run.settings.method), factory_seen(read)).build(run.context)
    printed = flatten(run.settings.model_dump())
    shown = {key for key in KEYS if any(f"{name}.".startswith(f"{key}.") for name in printed)}
    assert shown == read & KEYS


def factory_seen(read: set[str]) -> Callable[[Card], nn.Module]:
    """What makes a generator, and notes that it was asked to."""

    def make(card: Card) -> nn.Module:
        read.add("generator.factory")
        return Anything(card)

    return make


FULL = general_settings("ta-dfkd")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_tells_what_it_takes_and_refuses_the_rest_in_a_line(name: str) -> None:
    told = general_settings(name)
    assert FULL.keys() >= told.keys() >= {key for key in FULL if not of_some(key)}
    for key in (key for key in FULL if of_some(key) and not key.startswith("source.proxy_selection.")):
        value = json.dumps(FULL[key][0])
        request = Request(method=name, settings={"defense": "abd"}, overrides=[f"{key}={value}"])
        if key in told:
            resolve(request)
            continue
        with pytest.raises(UsageError) as caught:
            resolve(request)
        assert str(caught.value) == f"-s {key}: {name} does not use it; leave it out, or take another --method"


def test_the_nearest_setting_that_an_error_names_is_one_that_the_method_takes() -> None:
    for method, nearest in (("dfad", "generator.width"), ("noise", "")):
        with pytest.raises(UsageError, match="no such setting; the nearest is ") as caught:
            resolve(Request(method=method, overrides=["genrator.width=4"]))
        assert ("generator" in str(caught.value)) == bool(nearest)


def test_the_command_shows_what_there_is(tmp_path: Path) -> None:
    save_network(tmp_path / "t.safetensors", digits_like())
    flags = ["distill", "t.safetensors", "--method", "noise"]
    printed = yaml.safe_load(command(*flags, "--print-config", cwd=tmp_path).stdout)
    assert not {"generator", "overlap"} & printed.keys()
    assert "kept" not in printed["health"]
    assert "overlap" not in command(*flags, "--preset", "smoke", "--dry-run", cwd=tmp_path).stdout
    said = command(*flags, "-s", "generator.width=4", cwd=tmp_path, code=2).stderr
    assert said == "lenient: -s generator.width: noise does not use it; leave it out, or take another --method\n"
    for method, keys in (("noise", set()), ("kegnet", {"latent_dim", "width", "factory"})):
        assert set(re.findall(r"^  generator\.(\w+)", command("methods", method, cwd=tmp_path).stdout, re.M)) == keys
    told = json.loads(command("methods", "noise", "--json", cwd=tmp_path).stdout)["general"]
    assert told.keys() == general_settings("noise").keys()


# a method of one's own


@pytest.mark.parametrize(
    ("base", "uses", "shown"),
    [
        (MethodSettings, None, {"generator", "overlap"}),
        (MethodSettings, (), set()),
        (GeneratorMethodSettings, None, {"generator", "overlap"}),
        (GeneratorMethodSettings, ("generator.width",), {"generator"}),
        (SingleStudentSettings, None, set()),
    ],
)
def test_a_method_of_ones_own_says_what_it_uses_or_may_use_all(
    base: type[MethodSettings], uses: tuple[str, ...] | None, shown: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {} if uses is None else {"uses": uses}
    own = type("Own", (base,), {"__annotations__": {"name": str}, "name": "own", "__module__": __name__, **said})
    kind = type("Mine", (Noise,), {"settings_type": own})
    monkeypatch.setitem(methods.METHODS, "own", "")
    monkeypatch.setitem(methods._REGISTERED, "own", kind)
    for found in (resolve(Request(method="own")), resolve(Request(own=own()))):
        assert {"generator", "overlap"} & found.model_dump().keys() == shown
    if not shown:
        with pytest.raises(UsageError, match=r"^-s overlap: own does not use it"):
            resolve(Request(own=own(), overrides=["overlap=true"]))


def test_what_it_says_it_uses_has_to_be_there() -> None:
    with pytest.raises(UsageError, match=r"^Own: uses: 'generatr': write some of generator, overlap, "):

        class Own(MethodSettings):
            uses = ("generatr",)


# grids, and what earlier versions left

BEFORE = {
    "generator": {"latent_dim": 100, "width": 32, "bn_eps": 1e-5, "stages": None, "output": "sigmoid",
                  "stem_activation": True, "conv_bias": True, "halve_each_stage": False, "spectral_norm": False,
                  "factory": None},
    "source": {"proxy_share": None, "proxy_augmentation": "crop-flip", "proxy_cutmix": 0.25,
               "proxy_selection": {"name": "none"}},
    "overlap": False,
    "health": {"kept": 0.1},
}  # fmt: skip
"""What settings held of every method."""


@pytest.mark.parametrize(("row", "known"), [
    ("noise", "15743abfeb57"), ("real", "9e3672f7c604"), ("kegnet", "0f9ddf42f15e"), ("cpnet", "178e38108c1b"),
    ("zskd", "096c8ae861ab"), ("proxy", "c8c08b27174e"),
])  # fmt: skip
def test_a_cell_is_known_by_the_id_that_it_had_when_methods_had_settings_of_no_use(
    row: str, known: str, tmp_path: Path
) -> None:
    """The ids are of the version before."""
    asked = {"method": row, **({"proxy_images": "p"} if row == "proxy" else {})}
    if row == "proxy":
        write_pictures(tmp_path / "p", 1)
    path = write_grid(tmp_path, {"rows": {"a": asked}})
    settings = settings_of(load_grid(path), "a", 0)
    pictures = "b" * 64 if row == "proxy" else None
    now = cell_id(settings, TEACHER, "lenient:lenet5", "digits", pictures)
    general = {"real": {"generator": {"output": "tanh-bn"}}}.get(row, {})
    told = merge(BEFORE, general, settings)
    assert told != settings
    assert now == cell_id(told, TEACHER, "lenient:lenet5", "digits", pictures) == known


def test_settings_of_a_whole_grid_are_those_of_the_rows_that_use_them(tmp_path: Path) -> None:
    rows = {"ours": "dfad", "noise": "noise", "real": "real", "open": {"method": "auto", "settings": {"overlap": True}}}
    grid = load_grid(write_grid(tmp_path, {"rows": rows, "settings": {"generator.width": 5, "overlap": False}}))
    assert settings_of(grid, "ours", 0)["generator"]["width"] == 5
    for label in ("noise", "real"):
        assert not {"generator", "overlap"} & settings_of(grid, label, 0).keys()
    ours, _, stable = settings_of(grid, "open", 0)["choices"].values()
    assert (ours["generator"]["width"], ours["overlap"]) == (5, True)
    assert not {"generator", "overlap"} & stable.keys()


@pytest.mark.parametrize(("change", "words"), [
    ({"settings": {"generator.width": 4}}, "settings.generator.width: no row has a method that uses it; leave it out"),
    ({"rows": {"n": {"method": "noise", "settings": {"overlap": True}}}}, "rows.n: overlap: noise does not use it"),
    ({"rows": {"r": {"method": "real", "settings": {"overlap": True}}}}, "rows.r: overlap: real does not use it"),
])  # fmt: skip
def test_a_grid_with_settings_of_no_use_is_refused_in_a_line(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = write_grid(tmp_path, change)
    with pytest.raises(UsageError) as caught:
        load_grid(path)
    assert str(caught.value).startswith(f"{path}: {words}")


def test_a_run_of_an_earlier_version_goes_on_and_is_sampled(tmp_path: Path) -> None:
    """Its settings hold what its method has no use for; it comes to the same as without."""
    save_network(tmp_path / "t.safetensors", digits_like())
    run: dict[str, Any] = {"teacher": tmp_path / "t.safetensors", "student": "lenient:lenet5-half", "method": "noise"}
    lenient.distill(**run, settings=quick("noise"), output=tmp_path / "now")
    shutil.copytree(tmp_path / "now", tmp_path / "old")
    config = tmp_path / "old" / "config.yaml"
    config.write_text(yaml.safe_dump(merge(BEFORE, yaml.safe_load(config.read_text()))))
    lenient.sample(tmp_path / "old", tmp_path / "drawn", 3)
    ours, theirs = (
        lenient.distill(**run, steps=9, output=tmp_path / name, resume=True).student.state_dict()
        for name in ("now", "old")
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_cell_that_an_earlier_version_planned_runs(tmp_path: Path) -> None:
    home = tmp_path / "home"
    folder = home / "cells" / "x"
    file = home / "teachers" / "t" / "t.safetensors"
    file.parent.mkdir(parents=True)
    save_network(file, digits_like())
    for row in ("noise", "real"):
        settings = settings_of(load_grid(write_grid(tmp_path, {"rows": {"a": row}})), "a", 0)
        told = {"label": "T", "path": "../../teachers/t/t.safetensors"}
        spec = {"id": "x", "row": "a", "method": row, "teacher": told, "student": "lenient:lenet5-half", "seed": 0,
                "data": "digits", "data_root": None, "settings": merge(BEFORE, settings)}  # fmt: skip
        write_json(folder / row / "spec.json", spec)
        assert work(folder / row, spec | {"teacher": told | {"path": "../" + told["path"]}})
        found = json.loads((folder / row / "cell.json").read_text())
        assert found["method"] == row
        assert "generator" not in found
