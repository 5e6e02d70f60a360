"""A name that a file holds runs no code and visits no place, wherever it stands, until the user says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from lenient import api
from lenient.bench import cell, teachers
from lenient.bench.grid import load_grid, trusted
from lenient.bench.launchers import check_options
from lenient.bench.report.features import Options
from lenient.bench.report.features import _one as features_of
from lenient.core.errors import LenientError, UsageError
from lenient.models import Network, batch_norm_layers, load_network, save_network
from lenient.models.trust import UntrustedError, effect, require
from lenient.reporting import write_report
from lenient.runs.export import export
from lenient.runs.job import load_teacher
from lenient.runs.reopen import reopen

FACTORY = """
open({mark!r}, "a").write("import ")

def build(num_classes=10):
    open({mark!r}, "a").write("call ")
    from lenient.models import load_network
    return load_network("lenient:lenet5-half", input_size=(1, 8, 8), num_classes=num_classes, seed=3).module
"""
QUICK = {"steps": 2, "batch_size": 4, "device": "cpu", "precision": "32", "overlap": False, "generator.width": 4}
pytestmark = pytest.mark.usefixtures("bare_module")

NAMES = ("planted", "hf-hub:someone/x", "local-dir:elsewhere")
"""What is put where a name is read; the first stands for a function that leaves a mark."""


class Place:
    """A folder with a planted function, a teacher, a bare state dict and a finished run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = folder / "mark"
        (folder / "planted.py").write_text(FACTORY.format(mark=str(self.mark)))
        self.planted = f"py:{folder / 'planted.py'}:build"
        self.network = load_network("lenient:lenet5-half", input_size=(1, 8, 8), num_classes=10, mean=[0.3], std=[0.4])
        save_network(folder / "t.safetensors", self.network)
        torch.save(self.network.module.state_dict(), folder / "t.pt")

    def named(self, name: str) -> str:
        return self.planted if name == "planted" else name

    def file(self, name: str, suffix: str = "named.safetensors") -> Path:
        """A file of weights whose description names `name`."""
        path = self.folder / suffix
        save_network(path, Network(self.network.module, replace(self.network.card, arch=self.named(name))))
        return path

    def run(self, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
        """A copy of the run with other things in its config.yaml."""
        run = self.folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(self.folder / "finished", run)
        config = yaml.safe_load((run / "config.yaml").read_text())
        change(config["run"])
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        return run

    def grid(self, **values: Any) -> Path:
        path = self.folder / "grid.yaml"
        known = {"name": "g", "data": "digits", "teachers": [{"file": "t.safetensors"}], "students": "lenient:lenet5"}
        path.write_text(yaml.safe_dump(known | {"rows": {"noise": "noise"}} | values))
        return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("trust"))
    finished = place.folder / "finished"
    api.distill(place.folder / "t.safetensors", "lenient:lenet5-half", method="dfad", output=finished, settings=QUICK)
    return place


@pytest.fixture
def place(built: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    built.mark.unlink(missing_ok=True)
    monkeypatch.chdir(built.folder)
    for function in ("timm.create_model", "torchvision.models.get_model"):
        monkeypatch.setattr(function, lambda *_, **__: pytest.fail("a place was visited"))
    return built


# what a name stands in, and what then reads it


def _teacher(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(run: dict[str, Any]) -> None:
        (run["teacher"] if key == "source" else run["teacher"]["facts"])[key] = value

    return change


def _student(value: str) -> Callable[[dict[str, Any]], None]:
    return lambda run: run["student"].update(arch=value)


def _folder(place: Place, name: str) -> Path:
    """A folder of weights that say nothing, beside a config.json that names `name`."""
    folder = place.folder / "folder"
    folder.mkdir(exist_ok=True)
    save_file(place.network.module.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(place.network.card.to_dict() | {"arch": place.named(name)}))
    return folder


def _run_of(place: Place, name: str) -> Path:
    """A run whose student names `name`."""
    run = place.run()
    place.file(name).replace(run / "student" / "model.safetensors")
    return run


def _bare(place: Place, key: str, value: Any) -> Path:
    def change(run: dict[str, Any]) -> None:
        run["teacher"]["source"] = str(place.folder / "t.pt")
        run["teacher"]["facts"] = {"input_size": [1, 8, 8], "num_classes": 10, key: value}

    return place.run(change)


def _trusting(place: Place, name: str) -> Path:
    """A run that says itself that it may be trusted."""

    def change(run: dict[str, Any]) -> None:
        run["teacher"] |= {"source": str(place.file(name)), "facts": {"trust_code": True}}

    return place.run(change)


def _spec(place: Place, **values: Any) -> dict[str, Any]:
    path = "t.safetensors"
    known = {"teacher": {"path": path}, "student": "lenient:lenet5-half", "data": "digits", "data_root": None}
    return known | {"method": "dfad", "settings": {**QUICK, "method": "dfad"}} | values


def _cell(place: Place, **values: Any) -> None:
    cell.work(place.folder, _spec(place, **values))


def _resumed_cell(place: Place, name: str) -> None:
    """A cell whose student is `auto`, and whose run folder says what that was."""
    shutil.rmtree(place.folder / "cell", ignore_errors=True)
    run = place.run(_student(place.named(name)))
    (place.folder / "cell").mkdir()
    run.rename(place.folder / "cell" / "run")
    settings = yaml.safe_load((place.folder / "cell" / "run" / "config.yaml").read_text())
    settings.pop("run")
    teacher = {"path": str(place.folder / "t.safetensors")}
    cell.work(place.folder / "cell", _spec(place, student="auto", teacher=teacher, settings=settings))


def _teacher_task(place: Place, **values: Any) -> None:
    known = {"data": "digits", "device": "cpu", "arch": None, "source": str(place.folder / "t.pt"), "name": "t.pt"}
    teachers.work(place.folder, known | {"data_root": None} | values)


def _grid(place: Place, **values: Any) -> None:
    path = place.grid(**values)
    trusted(load_grid(path), path)


def _features(place: Place, run: Path) -> None:
    class Cell:
        class wanted:  # noqa: N801
            id = "c"

    home = place.folder / "bench"
    shutil.rmtree(home, ignore_errors=True)
    (home / "cells").mkdir(parents=True)
    run.rename(home / "cells" / "c")
    features_of(home, Cell, Options(), {}, None)  # type: ignore[arg-type]


WAYS: dict[str, Callable[[Place, str], Any]] = {
    "a file: load": lambda p, n: api.load(p.file(n)),
    "a file: inspect": lambda p, n: api.inspect(p.file(n)),
    "a file: distill": lambda p, n: api.distill(p.file(n), "lenient:lenet5", steps=1),
    "a file: evaluate": lambda p, n: load_teacher(p.file(n)),
    "a file: export": lambda p, n: export(p.file(n), "safetensors", p.folder / "out.safetensors"),
    "config.json of a folder": lambda p, n: load_network(_folder(p, n)),
    "config.json of a folder: distill": lambda p, n: api.distill(_folder(p, n), "lenient:lenet5", steps=1),
    "a run's student: load": lambda p, n: api.load(_run_of(p, n)),
    "a run's student: distill": lambda p, n: api.distill(_run_of(p, n), "lenient:lenet5", steps=1),
    "a run's student: export": lambda p, n: export(_run_of(p, n), "safetensors", p.folder / "out.safetensors"),
    "a run's student/: load": lambda p, n: api.load(_run_of(p, n) / "student"),
    "config.yaml, teacher.source: sample": lambda p, n: reopen(p.run(_teacher("source", p.named(n)))),
    "config.yaml, facts.arch: sample": lambda p, n: reopen(_bare(p, "arch", p.named(n))),
    "config.yaml, facts.arch beside a teacher named again": lambda p, n: reopen(
        _bare(p, "arch", p.named(n)), teacher="t.pt"
    ),
    "config.yaml, student.arch: sample": lambda p, n: reopen(p.run(_student(p.named(n)))),
    "config.yaml, student.arch: resume": lambda p, n: api.distill(
        p.folder / "t.safetensors", output=p.run(_student(p.named(n))), resume=True
    ),
    "config.yaml, student.arch: bench report --features": lambda p, n: _features(p, p.run(_student(p.named(n)))),
    "config.yaml, teacher.source: bench report --features": lambda p, n: _features(
        p, p.run(_teacher("source", p.named(n)))
    ),
    "a grid's students": lambda p, n: _grid(p, students=["lenient:lenet5", p.named(n)]),
    "a grid's teachers, file": lambda p, n: _grid(p, teachers=[{"file": "t.pt", "arch": p.named(n)}]),
    "a grid's teachers, train": lambda p, n: _grid(p, teachers=[{"train": {"arch": p.named(n)}}]),
    "spec.json, student": lambda p, n: _cell(p, student=p.named(n)),
    "spec.json, the teacher's file": lambda p, n: _cell(p, teacher={"path": p.file(n).name}),
    "config.yaml of a cell": _resumed_cell,
    "spec.json of a teacher, arch": lambda p, n: _teacher_task(p, arch=p.named(n)),
    "spec.json of a teacher, source": lambda p, n: _teacher_task(p, source=p.named(n)),
    "spec.json of a teacher, train": lambda p, n: _teacher_task(p, source=None, arch=p.named(n)),
    "spec.json of a teacher, the file": lambda p, n: _teacher_task(p, source=str(p.file(n))),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", WAYS)
def test_a_name_in_a_file_is_refused_in_one_line_with_its_cure(place: Place, way: str, name: str) -> None:
    with pytest.raises(LenientError, match=r"would .*: to allow that, give .*--trust-code") as caught:
        WAYS[way](place, name)
    text = str(caught.value)
    assert not place.mark.exists()
    assert "\n" not in text
    assert len(text) <= 300
    if name == "planted":
        assert "would run build() of " in text
        assert "planted.py" in text


def test_so_many_ways_are_tried() -> None:
    assert len(WAYS) * len(NAMES) == 84


def test_a_run_cannot_say_itself_that_it_is_trusted(place: Place) -> None:
    with pytest.raises(LenientError, match=r"config.yaml is damaged \(run.teacher.facts.trust_code"):
        reopen(_trusting(place, "planted"))
    assert not place.mark.exists()


@pytest.mark.parametrize("source", ["timm:resnet18", "torchvision:resnet18"])
def test_weights_that_a_run_names_are_not_fetched(place: Place, source: str) -> None:
    with pytest.raises(UntrustedError, match=f"would download resnet18: .*--teacher {source}, or --trust-code"):
        reopen(place.run(_teacher("source", source)))


# what is trusted


def test_what_the_user_typed_runs(place: Place) -> None:
    api.load(place.file("planted"), arch=place.planted)
    assert place.mark.read_text().split().count("call") >= 1


@pytest.mark.parametrize(
    "way",
    ["a file: load", "config.json of a folder", "a run's student: load"],
)
def test_a_file_that_the_user_trusts_runs(place: Place, way: str) -> None:
    path = {"a file: load": place.file, "config.json of a folder": lambda n: _folder(place, n)}.get(way)
    api.load(_run_of(place, "planted") if path is None else path("planted"), trust_code=True)
    assert place.mark.exists()


@pytest.mark.parametrize("typed", [{"student": True}, {"trust_code": True}])
def test_a_run_with_a_student_of_own_code_is_sampled_from(place: Place, typed: dict[str, Any]) -> None:
    run = place.run(_student(place.planted))
    more = {"student": place.planted} if "student" in typed else typed
    with reopen(run, **more)[1]:
        assert place.mark.exists()
    with pytest.raises(UsageError, match="leave the flag out"):
        reopen(run, student="lenient:lenet5", trust_code=True)


def test_a_run_with_a_teacher_of_own_code_is_sampled_from(place: Place) -> None:
    run = _bare(place, "arch", place.planted)
    for typed in ({"arch": place.planted}, {"trust_code": True}):
        with reopen(run, **typed)[1]:
            assert place.mark.exists()
        place.mark.unlink()


def test_a_run_goes_on_with_the_student_named_again(place: Place) -> None:
    run = place.run(_student(place.planted))
    teacher = place.folder / "t.safetensors"
    api.distill(teacher, place.planted, output=run, resume=True, steps=3, device="cpu")
    assert place.mark.exists()
    place.mark.unlink()
    api.distill(teacher, output=run, resume=True, steps=4, device="cpu", trust_code=True)
    assert place.mark.exists()


def test_trust_is_not_written_down(place: Place) -> None:
    run = place.folder / "trusting"
    api.distill(place.file("planted"), "lenient:lenet5", method="dfad", output=run, settings=QUICK, trust_code=True)
    assert "trust_code" not in (run / "config.yaml").read_text()
    with pytest.raises(UntrustedError):
        reopen(run)


def test_an_export_of_own_code_is_read_back(place: Place) -> None:
    out = place.folder / "again.safetensors"
    assert export(place.file("planted"), "safetensors", out, check=True, arch=place.planted) == 0
    assert export(place.file("planted"), "safetensors", out, check=True, trust_code=True, overwrite=True) == 0


def test_looking_at_a_run_needs_no_trust(place: Place) -> None:
    run = _run_of(place, "planted")
    found = api.inspect(run)
    plain = api.inspect(place.folder / "t.safetensors")
    for key in ("params", "bytes", "batch_norm_layers", "student"):
        assert getattr(found, key) == getattr(plain, key)
    assert (found.card.input_size, found.card.num_classes) == (plain.card.input_size, plain.card.num_classes)
    assert found.card.arch == place.planted
    assert any("nothing was run" in note and "--trust-code" in note for note in found.card.notes)
    write_report(run)
    assert not place.mark.exists()


def test_batch_norms_of_a_network_that_is_not_run_are_counted(tmp_path: Path) -> None:
    network = load_network("lenient:resnet8-half", input_size=(1, 8, 8), num_classes=4)
    network.card = replace(network.card, arch="py:absent.py:build")
    save_network(tmp_path / "model.safetensors", network)
    found = api.inspect(tmp_path)
    assert found.batch_norm_layers == len(batch_norm_layers(network.module)) > 0
    assert found.method == "bn-adv"
    assert all(row.batch_norm for row in found.expected)


def test_a_grid_may_name_code_that_the_user_typed(place: Place) -> None:
    path, names = place.grid(), frozenset({place.planted})
    typed = [f"students={place.planted}"]
    assert trusted(load_grid(path, typed), path, typed) >= names  # type: ignore[operator]
    path = place.grid(students=place.planted)
    assert trusted(load_grid(path), path, trust_code=True) is True
    more = [f"students=[{place.planted}, lenient:lenet5]"]
    assert trusted(load_grid(path, more), path, more) >= names  # type: ignore[operator]


def test_a_cell_uses_the_names_it_is_told_and_no_other(place: Place) -> None:
    require(place.planted, frozenset({place.planted}), where="spec.json")
    with pytest.raises(UntrustedError):
        require(place.planted, frozenset({place.planted[:-1], place.planted + "x"}), where="spec.json")


# options of a cluster

HARMLESS = {"slurm": {"timeout_min": 60, "slurm_partition": "gpu,big", "slurm_gres": "gpu:a100:2", "mem_gb": 8.5},
            "ray": {"num_cpus": 2, "resources": {"big": 1}, "scheduling_strategy": "SPREAD"}}  # fmt: skip
HARMFUL = [
    ("slurm", {"slurm_setup": ["touch mark"]}),
    ("slurm", {"slurm_partition": "gpu\ntouch mark"}),
    ("slurm", {"slurm_time": "1; touch mark"}),
    ("slurm", {"slurm_additional_parameters": {"wrap": "touch mark"}}),
    ("slurm", {"slurm_srun_args": ["touch"]}),
    ("slurm", {"slurm_python": "./python"}),
    ("slurm", {"python": "./python"}),
    ("ray", {"runtime_env": {"py_executable": "./python"}}),
    ("ray", {"resources": {"big": ["touch mark"]}}),
]


@pytest.mark.parametrize("kind", HARMLESS)
def test_a_grid_may_ask_for_room_on_a_cluster(kind: str) -> None:
    check_options(kind, HARMLESS[kind], {}, "grid.yaml")
    check_options("local", HARMFUL[0][1], {}, "grid.yaml")


@pytest.mark.parametrize(("kind", "options"), HARMFUL)
def test_a_grid_may_not_say_what_a_cluster_runs(kind: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"{next(iter(options))}.* may run code .*--trust-code"):
        check_options(kind, options, {}, "grid.yaml")
    check_options(kind, options, options, "grid.yaml")  # typed


# words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("py:nets.py:build", "run build() of {here}/nets.py"),
        ("py:package.nets:build", "run build() of the module package.nets"),
        ("hf-hub:someone/x", "visit someone/x on the Hub"),
        ("local-dir:there", "read the folder there"),
        ("timm:resnet18", None),
        ("lenient:resnet8", None),
        ("weights.pt", None),
        ("tmm:resnet18", None),
        ("py:", None),
    ],
)
def test_what_a_name_would_do(name: str, words: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = effect(name)
    assert (found is None) == (words is None)
    if words is not None:
        assert found == words.format(here=Path.cwd())


@pytest.mark.parametrize("name", ["py:" + "a" * 5000 + ".py:build", "py:\x1b[31m\x07\n.py:f\u202e", "py:\0:build"])
def test_a_hostile_name_is_told_in_one_short_line(name: str) -> None:
    with pytest.raises(UntrustedError) as caught:
        require(name, False, where="x" * 5000, what="its teacher's network", again="--teacher-arch NAME")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 300


def test_metadata_is_what_this_file_says_it_is(place: Place) -> None:
    with safe_open(place.file("planted"), framework="pt") as file:
        assert json.loads(file.metadata()["lenient"])["arch"] == place.planted
