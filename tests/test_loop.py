"""The loop, its checkpoints, the run folder and what the user's flags make of them."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from torch import nn

from commands import python
from lenient.api import distill
from lenient.cli import main
from lenient.core.config import flatten, merge
from lenient.core.errors import DamagedError, HealthError, MachineError, TeacherError, UsageError
from lenient.core.files import disk_errors
from lenient.core.manifest import LAST, PREVIOUS
from lenient.losses.imitation import Imitation
from lenient.losses.prior import InformationEntropy
from lenient.methods import METHODS, method_class, recipes
from lenient.methods.contract import learning_rate
from lenient.methods.ta_dfkd import TADFKD, TADFKDSettings
from lenient.models import build_student, load_network, save_network
from lenient.models.card import Network, PixelClassifier
from lenient.runs.export import export_pt2
from lenient.runs.folder import RunFolder, fingerprint
from lenient.runs.job import Job, last_and_best
from lenient.runs.reopen import reopen
from lenient.runs.request import BUDGET_SHARE, PRESETS, Request, parse_budget, pick_student, resolve
from lenient.teacher.batch import Clock
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.model_selection import Delivery
from lenient.training.result import Evaluation, NetworkSummary
from lenient.training.trainer import Distillation, run_loop
from lenient.training.verdict import Health
from toys import CPU, QUICK, TinyNet, digits_like, distillation, settings, tiny_student, tiny_teacher

pytestmark = pytest.mark.usefixtures("bare")


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "student" / "model.safetensors")


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


class RenamedSettings(TADFKDSettings):
    """Those of the user's own method."""

    name: Literal["renamed"] = "renamed"


class StopAt:
    """An observer that interrupts the run after a step."""

    def __init__(self, step: int) -> None:
        self.at = step

    def start(self, total_steps: int, step: int) -> None: ...
    def line(self, event: str, values: Any) -> None: ...
    def stop(self) -> None: ...

    def step(self, step: int, images: int) -> None:
        if step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


# a run


def test_a_run_leaves_what_it_should(tmp_path, monkeypatch):
    monkeypatch.setenv("BARE", "figures")
    plan = merge(QUICK, {"method": {"name": "ta-dfkd"}})
    result = distill(tiny_teacher(), tiny_student(), output=tmp_path / "r", settings=plan)
    assert result.summary.steps == 6
    assert result.run.path == tmp_path / "r"
    names = {path.name for path in (tmp_path / "r").iterdir()}
    wanted = {"config.yaml", "env.json", "metrics.jsonl", "train.log", "checkpoints", "student", "samples"}
    assert wanted | {"report.html", "report.json", "done"} <= names
    assert {p.name for p in (tmp_path / "r" / "student").iterdir()} == {
        "model.safetensors",
        "config.json",
        "student.pt2",
        "README.md",
    }
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    for key in ("method", "seed", "steps", "images_synthesized", "seconds", "teacher", "student", "health"):
        assert key in report
    assert [line["step"] for line in events(tmp_path / "r", "log")] == [2, 4, 6]
    assert len(events(tmp_path / "r", "mixture")) == 2
    assert "accuracy" not in report["student"]


def test_images_stay_out_of_the_folder_on_request(tmp_path):
    distill(tiny_teacher(), tiny_student(), output=tmp_path / "r", settings=merge(QUICK, {"report": {"images": False}}))
    assert not list((tmp_path / "r" / "samples").iterdir())


def test_in_memory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student = tiny_student()
    before = {k: v.clone() for k, v in student.module.state_dict().items()}
    result = distill(tiny_teacher(), student, settings=QUICK)
    assert not list(tmp_path.iterdir())
    assert result.student is student.module
    assert not result.student.training
    assert any(not torch.equal(v, before[k]) for k, v in result.student.state_dict().items())


def test_the_callers_randomness_is_untouched():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    distill(tiny_teacher(), tiny_student(), settings=QUICK)
    assert torch.equal(torch.rand(1), expected)


def test_any_module_is_a_teacher():
    result = distill(
        tiny_teacher().module,
        tiny_student().module,
        settings=QUICK,
        input_size=(1, 6, 5),
        num_classes=4,
        mean=(0.4,),
        std=(0.3,),
    )
    assert result.health.verdict in ("ok", "warning", "failed")


# resume


@pytest.mark.parametrize("stop_at", [1, 3, 5])
@pytest.mark.parametrize("select", ["last", "ema", "proxy"])
def test_an_interrupted_run_goes_on_to_the_bit(made_once, tmp_path, stop_at, select):
    plan = merge(QUICK, {"select": select})
    straight = made_once(
        f"straight-{select}",
        lambda folder: distill(tiny_teacher(), tiny_student(), output=folder / "r", settings=plan),
    )
    first = distill(tiny_teacher(), tiny_student(), output=tmp_path / "cut", settings=plan, observers=[StopAt(stop_at)])
    assert first.interrupted
    assert not (tmp_path / "cut" / "done").exists()
    second = distill(tiny_teacher(), tiny_student(seed=8), output=tmp_path / "cut", resume=True)
    assert not second.interrupted
    whole, cut = state_of(straight / "r"), state_of(tmp_path / "cut")
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    timeless = ("seconds", "images_per_second")
    for kind in ("log", "classes", "mixture"):
        pairs = zip(events(straight / "r", kind), events(tmp_path / "cut", kind), strict=True)
        for a, b in pairs:
            assert {k: a[k] for k in a if k not in timeless} == {k: b[k] for k in b if k not in timeless}


def test_checkpoints_fall_where_asked_and_metrics_are_cut_back(tmp_path):
    folder = tmp_path / "r"
    plan = merge(QUICK, {"checkpoint_every": 2})
    distill(tiny_teacher(), tiny_student(), output=folder, settings=plan)
    checkpoints = {p.name: torch.load(p, weights_only=True)["step"] for p in (folder / "checkpoints").iterdir()}
    assert checkpoints == {"last.pt": 6, "previous.pt": 4}
    (folder / "done").unlink()
    (folder / "checkpoints" / "last.pt").write_bytes(b"torn")
    result = distill(tiny_teacher(), tiny_student(), output=folder, resume=True)
    assert result.summary.steps == 6
    assert [line["step"] for line in events(folder, "log")] == [2, 4, 6]


def test_what_is_damaged_never_takes_the_place_of_the_checkpoint_before(tmp_path):
    """A run that goes on from `previous.pt` keeps it until there is a sound `last.pt`, whenever it is killed."""
    folder = tmp_path / "r"
    distill(tiny_teacher(), tiny_student(), output=folder, settings=merge(QUICK, {"checkpoint_every": 2}))
    (folder / "done").unlink()
    sound = (folder / PREVIOUS).read_bytes()
    (folder / LAST).write_bytes(b"torn")
    stop = [StopAt(5)]  # the first checkpoint after the resume is the one of the interrupt
    assert distill(tiny_teacher(), tiny_student(), output=folder, resume=True, observers=stop).interrupted
    assert (folder / PREVIOUS).read_bytes() == sound
    assert torch.load(folder / LAST, weights_only=True)["step"] > 4
    distill(tiny_teacher(), tiny_student(), output=folder, resume=True)
    assert torch.load(folder / PREVIOUS, weights_only=True)["step"] == 5


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def lose_a_key(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    del state["networks"]
    torch.save(state, path)


def be_of_another_run(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["networks"]["student"]["module"] = {"another.weight": torch.zeros(3)}
    torch.save(state, path)


@pytest.mark.parametrize("damage", [tear, lose_a_key, be_of_another_run, Path.unlink])
def test_a_run_goes_on_to_the_bit_from_the_checkpoint_before_a_damaged_one(tmp_path, damage):
    plan = merge(QUICK, {"checkpoint_every": 2})
    distill(tiny_teacher(), tiny_student(), output=tmp_path / "whole", settings=plan)
    cut = tmp_path / "cut"
    distill(tiny_teacher(), tiny_student(), output=cut, settings=plan, observers=[StopAt(5)])
    assert torch.load(cut / PREVIOUS, weights_only=True)["step"] == 4
    damage(cut / LAST)
    second = distill(tiny_teacher(), tiny_student(seed=8), output=cut, resume=True)
    assert second.summary.steps == 6
    assert [line["step"] for line in events(cut, "log")] == [2, 4, 6]
    whole, found = state_of(tmp_path / "whole"), state_of(cut)
    assert all(torch.equal(whole[key], found[key]) for key in whole)


def test_resume_without_a_checkpoint_starts(tmp_path):
    result = distill(tiny_teacher(), tiny_student(), output=tmp_path / "r", settings=QUICK, resume=True)
    assert result.summary.steps == 6


def test_a_run_of_another_machine_names_its_device(tmp_path):
    out = tmp_path / "r"
    distill(tiny_teacher(), tiny_student(), output=out, settings=QUICK)
    config = out / "config.yaml"
    whole = config.read_text()
    for device, words in (
        ("cuda:77", "device cuda:77 is not available here; give --device auto or"),
        ("[1]", "device"),
    ):
        config.write_text(whole.replace("device: cpu", f"device: {device}"))
        with pytest.raises((UsageError, DamagedError), match=rf"config.yaml.*{words}"):
            distill(tiny_teacher(), tiny_student(), output=out, resume=True)
    config.write_text(whole.replace("device: cpu", "device: cuda:77"))
    again = distill(tiny_teacher(), tiny_student(), output=out, resume=True, steps=9, device="cpu")
    assert again.summary.steps == 9


def test_a_finished_run_can_be_lengthened_but_not_shortened_or_changed(tmp_path):
    out = tmp_path / "r"
    distill(tiny_teacher(), tiny_student(), method="ta-dfkd", output=out, settings=QUICK)
    assert distill(tiny_teacher(), tiny_student(), output=out, resume=True, steps=9).summary.steps == 9
    for changes, words in (
        ({"steps": 4}, "can only be lengthened"),
        ({"batch_size": 4}, r"--resume: batch_size is 8 in .*, not 4; leave it out"),
        ({"settings": {"method": {"name": "ta-dfkd", "selection": {"tau": 0.9}}}}, "method.selection.tau is 0.5"),
        ({"student": "lenient:resnet8"}, "--resume: the student of .* was a Python object"),
    ):
        arguments = {"student": tiny_student()} | changes
        with pytest.raises(UsageError, match=words):
            distill(tiny_teacher(), output=out, resume=True, **arguments)
    with pytest.raises(UsageError, match="was made with another teacher"):
        distill(tiny_teacher(seed=1), tiny_student(), output=out, resume=True)


def test_the_same_command_with_resume_goes_on_however_its_values_are_written(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("method: {generator_lr: 1e-2}\nsteps: 6\nbatch_size: 8\nprecision: auto\n")
    request = {"recipe": str(recipe), "settings": {"generator": {"width": 6, "latent_dim": 7}}, "budget": None}
    distill(tiny_teacher(), tiny_student(), output=tmp_path / "r", **request)
    assert distill(tiny_teacher(), tiny_student(), output=tmp_path / "r", steps=9, resume=True).summary.steps == 9
    again = distill(tiny_teacher(), tiny_student(), output=tmp_path / "r", resume=True, **request)
    assert again.summary.steps == 9, "a recipe's steps do not shorten a run that was lengthened"
    with pytest.raises(UsageError, match="can only be lengthened"):
        distill(tiny_teacher(), tiny_student(), output=tmp_path / "r", resume=True, steps=2)


def test_a_student_that_starts_otherwise_goes_on_and_is_sampled_from(tmp_path):
    """With the recipe `published`, whose student starts as torch's do, and who draws until a batch is full."""
    save_network(tmp_path / "t.safetensors", digits_like())
    plan = {**QUICK, "generator": {"latent_dim": 4, "width": 4}, "method": {"student_steps": 2}, "checkpoint_every": 2}
    common = {"student": "lenient:resnet8", "method": "ta-dfkd", "recipe": "published", "settings": plan}
    torch_s, he = (
        distill(tmp_path / "t.safetensors", output=tmp_path / name, **common | {"settings": plan | more})
        for name, more in (("torch", {}), ("he", {"student": {"init": "he"}}))
    )
    assert yaml.safe_load((tmp_path / "torch/config.yaml").read_text())["student"] == {"init": "torch"}
    assert fingerprint(torch_s.student) != fingerprint(he.student)
    again, _ = reopen(tmp_path / "torch")
    assert fingerprint(again.student) == fingerprint(torch_s.student)
    job = Job(digits_like(), "auto", Request())
    job.open(tmp_path / "torch", resume=True)
    job.folder.close()
    start = build_student("lenient:resnet8", digits_like().card, seed=QUICK["seed"], init="torch")
    assert fingerprint(job.student.module) == fingerprint(start.module)  # where there is no checkpoint to go on from
    with pytest.raises(UsageError, match=r"student.init is 'torch' in .*, not 'he'"):
        distill(tmp_path / "t.safetensors", output=tmp_path / "torch", resume=True, settings={"student.init": "he"})


@pytest.mark.parametrize(
    ("change", "words"),
    [({"mean": (0.5,)}, "--mean"), ({"std": (0.2,)}, "--std"), ({"outputs": "probabilities"}, "the same teacher")],
)
def test_resuming_wants_the_teachers_own_facts(tmp_path, change, words):
    distill(tiny_teacher(), tiny_student(), output=tmp_path / "r", settings=QUICK)
    teacher = tiny_teacher()
    teacher.card = replace(teacher.card, **change)
    with pytest.raises(UsageError, match=words):
        distill(teacher, tiny_student(), output=tmp_path / "r", resume=True, steps=9)


def test_a_run_knows_which_network_of_a_checkpoint_its_teacher_was(tmp_path):
    networks = {key: digits_like(seed) for seed, key in enumerate(("model", "model_ema"))}
    file = tmp_path / "both.pt"
    torch.save({key: network.module.state_dict() for key, network in networks.items()}, file)
    card = networks["model"].card
    facts = {"arch": card.arch, "input_size": card.input_size, "num_classes": card.num_classes, "mean": card.mean,
             "std": card.std, "checkpoint_key": "model_ema"}  # fmt: skip
    student, out = "lenient:lenet5-half", tmp_path / "r"
    distill(file, student, output=out, settings=QUICK, **facts)
    assert distill(file, student, output=out, resume=True, steps=8, **facts).summary.steps == 8
    _, frozen = reopen(out)
    assert fingerprint(frozen.module) == fingerprint(networks["model_ema"].module)
    with pytest.raises(TeacherError, match="is not the teacher that"):
        reopen(out, checkpoint_key="model")


def test_resuming_with_epochs_counts_in_the_runs_own(tmp_path):
    distill(tiny_teacher(), tiny_student(), output=tmp_path / "r", settings=QUICK)
    again = distill(tiny_teacher(), tiny_student(), output=tmp_path / "r", resume=True, epochs=3)
    assert again.summary.steps == 9


class Renamed(TADFKD):
    """A method of the user's own."""

    settings_type = RenamedSettings


def test_a_method_object_brings_its_settings_and_is_held_to_them(tmp_path):
    own = Renamed(RenamedSettings(selection={"tau": 0.7}))
    first = distill(tiny_teacher(), tiny_student(), method=own, output=tmp_path / "r", settings=QUICK)
    assert first.summary.method == "renamed"
    assert yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["method"]["selection"]["tau"] == 0.7
    again = Renamed(RenamedSettings(selection={"tau": 0.7}))
    longer = distill(tiny_teacher(), tiny_student(), method=again, output=tmp_path / "r", resume=True, steps=9)
    assert longer.summary.steps == 9
    other = Renamed(RenamedSettings(selection={"tau": 0.6}))
    with pytest.raises(UsageError, match=r"method\.selection\.tau is 0.7"):
        distill(tiny_teacher(), tiny_student(), method=other, output=tmp_path / "r", resume=True, steps=12)


def test_a_student_of_other_classes_is_refused():
    with pytest.raises(UsageError, match="the student does not fit the teacher"):
        distill(tiny_teacher(), tiny_student(classes=7).module, settings=QUICK)


@pytest.mark.parametrize("settings", [{"method": "noise"}, {"method": {"name": "noise"}}])
def test_a_method_can_be_named_in_settings(settings):
    assert resolve(Request(settings=settings)).method.name == "noise"


def test_settings_and_recipes_may_be_written_by_dots(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("method: dafl\nmethod.student_lr: 0.3\nsteps_per_epoch: 9\n")
    given = resolve(Request(recipes=[str(recipe)], settings={"method": "dafl", "steps_per_epoch": 7}))
    assert (given.method.name, given.method.student_lr, given.steps_per_epoch) == ("dafl", 0.3, 7)


def test_a_setting_written_twice_is_one_line(tmp_path):
    twice = {"method": {"selection": {"tau": 0.5}}, "method.selection.tau": 0.6}
    with pytest.raises(
        UsageError,
        match=r"^method\.selection\.tau: is written twice, under the keys 'method' and 'method\.selection\.tau'",
    ):
        resolve(Request(settings=twice))
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(twice))
    with pytest.raises(UsageError, match=r"^-c .*r\.yaml: method\.selection\.tau: is written twice"):
        resolve(Request(recipes=(str(tmp_path / "r.yaml"),)))
    with pytest.raises(UsageError, match=r"method\.name: is written twice, under the keys 'method' and 'method\.name'"):
        resolve(Request(settings={"method": "dafl", "method.name": "ta-dfkd"}))


def test_a_precision_may_be_written_as_a_number():
    assert resolve(Request(overrides=["precision=32"])).precision == "32"


def test_a_method_that_is_neither_name_nor_settings():
    with pytest.raises(UsageError, match="method: 3"):
        resolve(Request(overrides=["method=3"]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_teacher_of_another_precision_is_distilled_and_measured(tmp_path, dtype):
    teacher = digits_like()
    teacher.module.to(dtype)
    result = distill(teacher, "lenient:lenet5-half", output=tmp_path / "r", settings=QUICK, eval_data="digits")
    assert 0 <= result.summary.teacher.accuracy <= 1
    assert {parameter.dtype for parameter in teacher.module.parameters()} == {dtype}


# the folder


def test_a_folder_is_never_overwritten_unasked(tmp_path):
    out = tmp_path / "r"
    distill(tiny_teacher(), tiny_student(), output=out, settings=QUICK)
    with pytest.raises(UsageError, match="holds a run already; go on with --resume, or replace it with --overwrite"):
        distill(tiny_teacher(), tiny_student(), output=out, settings=QUICK)
    distill(tiny_teacher(), tiny_student(), output=out, settings=merge(QUICK, {"steps": 3}), overwrite=True)
    assert [line["step"] for line in events(out, "log")] == [2, 3]


def test_a_folder_of_other_files_is_refused_even_with_overwrite(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds other files"):
        RunFolder.create(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_a_folder_with_a_config_of_something_else_is_no_run(tmp_path):
    (tmp_path / "config.yaml").write_text("title: my site")
    (tmp_path / "posts").mkdir()
    with pytest.raises(UsageError, match="holds other files"):
        RunFolder.create(tmp_path, overwrite=True)


def test_overwriting_removes_only_what_runs_write(tmp_path):
    out = tmp_path / "r"
    distill(tiny_teacher(), tiny_student(), output=out, settings=QUICK)
    (out / "notes.md").write_text("seed 3 looked odd")
    distill(tiny_teacher(), tiny_student(), output=out, settings=merge(QUICK, {"steps": 3}), overwrite=True)
    assert (out / "notes.md").exists()
    assert [line["step"] for line in events(out, "log")] == [2, 3]


@pytest.mark.parametrize("wrong", [{"eval_data": "no-such-data"}, {"device": "cuda:99"}])
def test_overwriting_waits_until_all_is_checked(tmp_path, wrong):
    out = tmp_path / "r"
    distill(tiny_teacher(), tiny_student(), output=out, settings=QUICK)
    plan = {k: v for k, v in QUICK.items() if k != "device"}
    with pytest.raises(UsageError):
        distill(tiny_teacher(), tiny_student(), output=out, settings=plan, overwrite=True, **wrong)
    assert (out / "student" / "model.safetensors").exists()
    RunFolder.create(out, resume=True).close()  # the lock is free again


@pytest.mark.parametrize("place", [None, "r"])
def test_data_that_are_not_there_are_said_so_before_trials(tmp_path, monkeypatch, place):
    monkeypatch.setattr("lenient.runs.job.decide", lambda *_: pytest.fail("it took a while"))
    job = Job(tiny_teacher(), tiny_student(), Request(budget="30m"), eval_data="imagefolder:nowhere")
    with pytest.raises(UsageError, match=r"^--eval-data imagefolder:nowhere: no such folder"):
        job.open(place and tmp_path / place)


def test_metrics_are_counted_from_where_they_were_cut(tmp_path):
    folder = RunFolder.create(tmp_path / "r")
    (folder.path / "metrics.jsonl").write_text("0123456789")
    folder.open_logs(4)
    folder.save_checkpoint({})
    folder.write_metrics("log", {"step": 1})
    folder.close()
    assert torch.load(folder.path / LAST)["metrics_bytes"] == 4
    assert (folder.path / "metrics.jsonl").read_bytes().count(b"\0") == 0


def test_checkpoints_that_cannot_be_read_are_not_none(tmp_path):
    folder = RunFolder.create(tmp_path / "r")
    assert folder.load_checkpoint(torch.device("cpu")) is None
    (folder.path / "checkpoints" / "last.pt").write_text("half a file")
    with pytest.raises(MachineError, match=r"last\.pt is damaged"):
        folder.load_checkpoint(torch.device("cpu"))
    folder.close()


def test_two_runs_in_one_folder(tmp_path):
    first = RunFolder.create(tmp_path / "r")
    with pytest.raises(UsageError, match="another run is writing here"):
        RunFolder.create(tmp_path / "r", resume=True)
    first.close()
    RunFolder.create(tmp_path / "r", resume=True).close()


@pytest.mark.parametrize(
    ("number", "words"), [(28, "the disk is full"), (13, "cannot be written"), (30, "choose another folder")]
)
def test_errors_of_the_disk_are_one_line(tmp_path, number, words):
    with pytest.raises(MachineError, match=words), disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "r").write_text("")
    with pytest.raises(MachineError, match="cannot be written"):
        RunFolder.create(tmp_path / "r" / "run")


def test_a_full_disk_is_said_and_the_checkpoint_before_survives(tmp_path):
    code = """
import resource, sys, torch
sys.path.insert(0, {tests!r})
from toys import *
from lenient.api import distill
from lenient.cli import main
from lenient.core.errors import LenientError
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
distill(tiny_teacher(), tiny_student(), output={out!r}, settings=QUICK)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))
try:
    distill(tiny_teacher(), tiny_student(), output={out!r}, steps=9, resume=True)
except LenientError as error:
    print(error.exit_code, error)
"""
    out = tmp_path / "r"
    code = code.format(tests=str(Path(__file__).parent), out=str(out))
    done = python("-c", code, cwd=tmp_path)
    assert "5 " in done.stdout, done.stderr[-1500:]
    assert torch.load(out / "checkpoints" / "last.pt", weights_only=True)["step"] == 6


def test_fingerprints_tell_networks_apart():
    assert fingerprint(tiny_teacher().module) == fingerprint(tiny_teacher().module)
    assert fingerprint(tiny_teacher().module) != fingerprint(tiny_teacher(seed=1).module)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_fingerprints_tell_programs_apart(tmp_path):
    def loaded(seed, frozen):
        program = torch.jit.trace(tiny_teacher(seed).module, torch.rand(2, 1, 6, 5))
        (torch.jit.freeze(program) if frozen else program).save(tmp_path / "p.pt")
        return load_network(tmp_path / "p.pt", trust_code=True, input_size=(1, 6, 5), num_classes=4).module

    assert not loaded(0, True).state_dict()
    for frozen in (True, False):
        assert fingerprint(loaded(0, frozen)) != fingerprint(loaded(1, frozen))
    again = load_network(tmp_path / "p.pt", trust_code=True, input_size=(1, 6, 5), num_classes=4).module
    assert fingerprint(again) == fingerprint(loaded(1, False)), "by its weights, however it was written"


# signals


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2"])
def test_a_schedulers_warning_writes_a_checkpoint_and_goes_on(name, tmp_path):
    saved = []

    class Warned(StopAt):
        def step(self, step, images):
            saved.append(torch.load(path, weights_only=True)["step"] if path.exists() else None)
            if step == self.at:
                signal.raise_signal(getattr(signal, name))

    path = tmp_path / "r/checkpoints/last.pt"
    result = distill(tiny_teacher(), tiny_student(), output=tmp_path / "r", settings=QUICK, observers=[Warned(2)])
    assert not result.interrupted
    assert saved == [None, None, 2, 2, 2, 2]
    assert result.summary.steps == 6


def test_runs_in_threads_leave_signals_alone():
    before = signal.getsignal(signal.SIGINT)
    results = []
    thread = threading.Thread(
        target=lambda: results.append(distill(tiny_teacher(), tiny_student(), settings=QUICK).summary.steps)
    )
    thread.start()
    thread.join()
    assert results == [6]
    assert signal.getsignal(signal.SIGINT) is before


# planning


def test_settings_are_layered(tmp_path):
    (tmp_path / "mine.yaml").write_text("steps: 50\nbatch_size: 32\nmethod: {name: ta-dfkd, selection: {tau: 0.7}}\n")
    plan = resolve(
        Request(
            preset="smoke", recipes=[str(tmp_path / "mine.yaml")], batch_size=16, overrides=["method.selection.tau=0.9"]
        )
    )
    assert (plan.steps, plan.batch_size, plan.method.selection.tau, plan.log_every) == (50, 16, 0.9, 5)


@pytest.mark.parametrize("name", ["device", "precision"])
def test_auto_by_flag_wins_over_a_recipe(tmp_path, name):
    (tmp_path / "mine.yaml").write_text("device: cpu\nprecision: '32'\nbatch_size: 32\n")
    plan = resolve(Request(recipes=[str(tmp_path / "mine.yaml")], batch_size="auto", **{name: "auto"}))
    assert getattr(plan, name) == "auto"
    assert plan.batch_size == 32  # until it is measured


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "paper"])
def test_presets_are_valid(preset):
    assert resolve(Request(preset=preset)).steps > 0


def test_the_preset_long_is_the_defaults_for_longer():
    long, standard = resolve(Request(preset="long")), resolve(Request())
    lengths = {"steps": 72_000, "batch_size": 1024, "steps_per_epoch": 360}
    assert long == standard.model_copy(update=lengths)


@pytest.mark.parametrize("name", [name for name in METHODS if "paper" in recipes(name)])
def test_the_preset_paper_is_short_for_the_recipe(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper").write_text("steps: 9")  # a file of that name is no recipe that was asked for
    paper = resolve(Request(method=name, preset="paper"))
    (tmp_path / "paper").unlink()
    assert paper == resolve(Request(method=name, recipes=["paper"]))
    shorter = resolve(Request(method=name, preset="paper", steps=3, batch_size=4))
    assert (shorter.steps, shorter.batch_size) == (3, 4)
    assert shorter.method == resolve(Request(method=name, recipes=["paper"])).method
    assert resolve(Request(method=name, preset="paper", recipes=["paper"])).method == shorter.method
    for told in ({"settings": {"method": name}}, {"overrides": [f"method.name={name}"]}):
        assert resolve(Request(preset="paper", **told)) == resolve(Request(method=name, preset="paper"))


def test_every_method_has_a_recipe_of_its_paper_or_says_what_is_not_known():
    for name in METHODS:
        assert ("paper" in recipes(name)) != hasattr(method_class(name), "not_known"), name


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(preset="quick"), "--preset quick: unknown; there are smoke, fast, standard, long, paper"),
        (Request(preset="paper", recipes=["digits"]), "--preset paper: is the recipe paper.*drop it or -c digits"),
        (
            Request(preset="paper", method="mad"),
            "--preset paper: mad: weights.*bound.*not known.*not read the supplement",
        ),
        (Request(preset="paper", method="mb-dfkd"), "--preset paper: mb-dfkd: weights.*not known"),
        (Request(preset="paper", method="adi"), "--preset paper: adi: the student's temperature.*not known"),
        (Request(preset="paper", method="noise"), "--preset paper: noise: we have not read"),
        (Request(recipes=["paper"], method="mad"), "-c paper: mad: weights.*not known"),
        (
            Request(preset="paper", own=method_class("dafl").settings_type(name="dafl")),
            "--preset paper: the method was given as an object",
        ),
        (Request(steps=3, epochs=2), "--steps, --epochs and --budget: give one of them"),
        (
            Request(preset="paper"),
            "--preset paper: bn-adv: it is our own, of no paper; name a method that has one, as --method ta-dfkd$",
        ),
        (Request(recipes=["none"]), r"-c none: no such file, nor a recipe of bn-adv \(digits, mnist\)$"),
        (Request(recipes=["cifar10"]), r"nor a recipe of bn-adv.*; --method ta-dfkd has it, and others$"),
        (Request(recipes=["low-bit"]), r"nor a recipe of bn-adv.*; --method adadfq has it$"),
        (Request(method="noise", recipes=["cifar10"]), "nor a recipe of noise"),
        (
            Request(method="ta-dfkd", overrides=["method.tua=1"]),
            r"-s method\.tua: no such setting; the nearest is method\.selection\.tau",
        ),
        (Request(overrides=["stepz=1"]), r"-s stepz: no such setting; the nearest is steps"),
        (Request(method="ta-dfkd", overrides=["method.selection.tau=2"]), r"-s method\.selection\.tau=2.*less than 1"),
        (Request(steps=-4), r"steps=-4"),
        (Request(epochs=-1), "--epochs -1: give 1 to 10000000 epochs"),
        (Request(method="dafl2"), "--method dafl2: no such method"),
    ],
)
def test_bad_requests_are_one_line(request_, words):
    with pytest.raises(UsageError, match=words) as caught:
        resolve(request_)
    assert "\n" not in str(caught.value)


def test_epochs_are_steps():
    assert resolve(Request(epochs=3, overrides=["steps_per_epoch=7"])).steps == 21


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5h", 5400)])
def test_budgets(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["30", "m", "ten minutes", "0s", "-5m"])
def test_bad_budgets(text):
    with pytest.raises(UsageError, match="--budget"):
        parse_budget(text)


def test_a_budget_becomes_steps(tmp_path, monkeypatch):
    tried = {"seconds_before": 0.4, "seconds_per_step": 0.05}
    monkeypatch.setattr("lenient.runs.request.trial", lambda *_: tried)
    plan = {k: v for k, v in QUICK.items() if k != "steps"}
    result = distill(tiny_teacher(), tiny_student(), budget="1s", output=tmp_path / "r", settings=plan)
    steps = int((BUDGET_SHARE - 0.4) / 0.05)  # of the one second
    assert result.summary.steps == yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["steps"] == steps


def test_what_was_auto_is_written_as_decided(tmp_path):
    plan = {k: v for k, v in QUICK.items() if k not in ("device", "precision")}
    distill(tiny_teacher(), tiny_student(), output=tmp_path / "r", settings=plan)
    config = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())
    assert config["precision"] in ("32", "bf16")
    assert config["device"] != "auto"


def test_a_runs_config_is_a_recipe(tmp_path):
    distill(tiny_teacher(), tiny_student(), output=tmp_path / "r", settings=QUICK)
    again = resolve(Request(recipes=[str(tmp_path / "r" / "config.yaml")]))
    moments = again.generator.output_moments
    decided = {
        "method": resolve(Request(settings=QUICK)).method,
        "threads": again.threads,
        "recompute": False,
        "generator": settings().generator.model_copy(update={"output_moments": moments}),
    }
    assert isinstance(again.threads, int)
    assert moments != "auto"
    assert again == settings().model_copy(update=decided)


def test_a_trial_changes_nothing():
    job = Job(tiny_teacher(), tiny_student(), Request(settings=QUICK))
    job.open(None)
    before = fingerprint(job.student.module), fingerprint(job.teacher.module)
    measured = job.trial()
    assert measured["seconds_per_step"] > 0
    assert (fingerprint(job.student.module), fingerprint(job.teacher.module)) == before


def test_flatten():
    assert flatten({"a": {"b": 1}, "c": 2}) == {"a.b": 1, "c": 2}


# evaluation never steers


def test_evaluation_changes_nothing():
    def run(evaluate: Any) -> dict[str, torch.Tensor]:
        with FrozenTeacher(tiny_teacher(), CPU) as frozen:
            made = Distillation(frozen, tiny_student(), settings(), CPU, evaluate=evaluate)
            result = run_loop(made)
        assert len(result.history) == (2 if evaluate else 0)
        return result.student.state_dict()

    def evaluate(student: torch.nn.Module) -> dict[str, float]:
        assert not student.training
        torch.rand(10)
        return {"accuracy": 0.0}

    with_, without = run(evaluate), run(None)
    assert all(torch.equal(with_[key], without[key]) for key in with_)


def test_evaluation_leaves_each_part_in_its_own_mode():
    run = distillation(steps=1)
    seen = []
    run.evaluate = lambda student: seen.append(student.training) or {"accuracy": 1.0}
    run.student.norm1.eval()
    run.run(until=lambda: run.step == 1)
    assert seen == [False]
    assert run.student.training
    assert not run.student.norm1.training


def test_the_headline_is_the_last_and_the_oracle_is_named():
    history = [Evaluation(value, 1.0, value / 100) for value in range(100)]
    student = NetworkSummary(None, 1, 4)
    assert last_and_best([], student) == student
    assert (student.k, student.acc_last_k, student.acc_max) == (None, None, None)
    found = last_and_best(history, student)
    assert (found.k, found.acc_last_k, found.acc_max) == (10, pytest.approx(0.945), 0.99)
    assert last_and_best(history[:3], student).k == 1


# delivery


class Fickle(TinyNet):
    """A network whose path depends on its images, which no tracer can follow."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images if float(images.detach().mean()) < 100 else -images)


def test_a_student_that_cannot_be_traced_is_delivered_without_the_traced_file(tmp_path, monkeypatch):
    monkeypatch.setenv("BARE", "figures")
    distill(tiny_teacher(), Fickle(), output=tmp_path / "r", settings=QUICK)
    student = tmp_path / "r" / "student"
    assert (tmp_path / "r" / "done").exists()
    assert {path.name for path in student.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert "student.pt2" not in (student / "README.md").read_text()
    assert "no student.pt2" in (tmp_path / "r" / "train.log").read_text()
    with pytest.raises(UsageError, match="cannot trace this network"):
        export_pt2(Network(Fickle(), tiny_teacher().card), tmp_path / "x.pt2")


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("it is broken")


OPTIONAL = {
    "report": ["lenient.runs.job.write_report"],
    "synthetic images in the report": ["lenient.runs.job.Job._samples"],
    "latency": ["lenient.runs.job.latency"],
    "numbers to judge the student by": ["lenient.runs.job.answers"],
    "student.pt2": ["torch.export.export", "torch.export.save"],
}


def test_what_only_describes_a_run_costs_it_a_warning(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.delenv("BARE")
        distill(tiny_teacher(), tiny_student(), output=tmp_path / "whole", settings=QUICK)
    whole = state_of(tmp_path / "whole")
    assert "warning" not in capsys.readouterr().err
    for what, places in OPTIONAL.items():
        for place in places:
            with monkeypatch.context() as patch:
                patch.setattr(place, broken)
                patch.setenv("BARE", "figures" if what == "student.pt2" else "1")
                folder = tmp_path / place
                distill(tiny_teacher(), tiny_student(), output=folder, settings=QUICK)
            lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
            assert [line.startswith(f"warning: no {what}: ") for line in lines] == [True]
            assert "it is broken" in lines[0]
            assert lines[0].removeprefix("warning: ") in (folder / "train.log").read_text()
            assert (folder / "done").exists()
            assert (folder / "report.html").exists() == (what != "report")
            found = state_of(folder)
            assert all(torch.equal(whole[key], found[key]) for key in whole)


def test_a_run_that_can_describe_nothing_of_itself_ends_well(tmp_path, monkeypatch, capsys, digits_file):
    monkeypatch.delenv("BARE")
    for place in (place for places in OPTIONAL.values() for place in places):
        monkeypatch.setattr(place, broken)
    monkeypatch.setattr(
        "lenient.training.health.HealthMonitor.verdict",
        lambda _: Health("ok", [], []),
    )
    flags = ["--preset", "smoke", "--steps", "2", "--device", "cpu", "--precision", "32", "-s", "overlap=false"]
    words = ["--student", "lenient:lenet5-half", "-o", str(tmp_path / "r"), "--progress", "none"]
    monkeypatch.setattr("sys.argv", ["lenient", "distill", str(digits_file), *flags, *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: no ")]) == 5
    assert state_of(tmp_path / "r")
    assert (tmp_path / "r" / "done").exists()


def test_ema_averages_and_skips_bad_updates():
    student = tiny_student().module
    delivery = Delivery("ema", 0.5, student)
    start = student.head.weight.detach().clone()
    student.head.weight.data += 1
    delivery.follow(student, torch.tensor(1.0))
    torch.testing.assert_close(delivery.kept.head.weight, start)
    delivery.follow(student, torch.tensor(0.0))
    early = 1 - 2 / 11  # the second step: the average still forgets fast
    torch.testing.assert_close(delivery.kept.head.weight, start + early)
    delivery.average.updates = 1000
    delivery.follow(student, torch.tensor(0.0))
    torch.testing.assert_close(delivery.kept.head.weight, start + early + (1 - early) / 2)
    assert delivery.install(student)
    torch.testing.assert_close(student.head.weight, start + early + (1 - early) / 2)


def test_proxy_delivers_the_best_of_the_second_half():
    student = tiny_student().module
    delivery = Delivery("proxy", 0.9, student)
    for progress, agreement, bias in ((0.2, 0.99, 1.0), (0.6, 0.8, 2.0), (0.9, 0.7, 3.0)):
        student.head.bias.data.fill_(bias)
        delivery.judge(student, agreement, progress)
    delivery.install(student)
    assert student.head.bias[0] == 2


# the mixture's picture


def test_mixture_facts_are_finite():
    run = distillation(method={"name": "ta-dfkd"})
    _, output = run.take_update()
    name, facts = output.selected.event()
    assert name == "mixture"
    assert len(facts["edges"]) == len(facts["counts"]) + 1
    assert sum(facts["counts"]) == 8
    assert json.loads(json.dumps(facts)) == facts


def test_repeated_nan_stops_with_the_terms_name(tmp_path, monkeypatch):
    teacher = tiny_teacher()

    def lost(term: Any, record: Any) -> torch.Tensor:
        return record.logits("train", "student" if term.needs.student else "teacher").sum() * math.nan

    for kind in (InformationEntropy, Imitation):
        monkeypatch.setattr(kind, "__call__", lost)
    plan = merge(QUICK, {"steps": 200, "health": {"patience": 5}})
    with pytest.raises(HealthError, match="non-finite numbers in the term"):
        distill(teacher, tiny_student(), output=tmp_path / "r", settings=plan)
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["health"]["verdict"] == "failed"
    assert "non-finite" in report["health"]["reasons"][0]


def test_a_longer_run_does_not_deliver_what_was_best_before_its_half():
    student = TinyNet()
    delivery = Delivery("proxy", 0.9, student)
    delivery.judge(student, 0.9, 1.0)
    again = Delivery("proxy", 0.9, student)
    again.load_state_dict(delivery.state_dict(), 0.2)
    assert not again.install(student)
    again.load_state_dict(delivery.state_dict(), 0.6)
    assert again.install(student)


def test_a_student_learns_images_as_the_teacher_sees_them():
    own = Network(TinyNet(), replace(tiny_student().card, mean=(0.1,), std=(0.9,)))
    chosen, _ = pick_student(own, tiny_teacher(), 0)
    assert (chosen.card.mean, chosen.card.std) == ((0.4,), (0.3,))
    loaded, _ = pick_student(PixelClassifier(own.module, own.card), tiny_teacher(), 0)
    assert (loaded.module, loaded.card) == (chosen.module, chosen.card), "it is normalised once"


def test_data_to_measure_on_has_to_fit_before_anything_is_replaced(tmp_path):
    teacher = tiny_teacher(size=(8, 8))
    distill(teacher, tiny_student(size=(8, 8)), output=tmp_path / "r", settings=QUICK)
    with pytest.raises(UsageError, match="digits has 10 classes, the network 4: use other --eval-data"):
        distill(teacher, tiny_student(size=(8, 8)), output=tmp_path / "r", overwrite=True, eval_data="digits")
    assert (tmp_path / "r" / "done").exists()


def test_what_a_folder_says_is_checked_and_not_what_the_flags_default_to(tmp_path):
    """A teacher without batch norm: ta-dfkd could not be, the folder's can."""
    teacher = Network(nn.Sequential(nn.Flatten(), nn.Linear(30, 4)), tiny_teacher().card)
    plan = merge(QUICK, {"method": {"name": "dafl"}})
    distill(teacher, tiny_student(), output=tmp_path / "r", settings=plan)
    again = distill(teacher, tiny_student(), output=tmp_path / "r", resume=True, steps=9)
    assert again.summary.steps == 9
    with pytest.raises(TeacherError, match="no batch-norm layers"):
        distill(teacher, tiny_student(), output=tmp_path / "s", settings=QUICK, method="ta-dfkd")
    assert not (tmp_path / "s").exists()


def test_the_first_ranks_own_gpu_is_not_that_of_all(tmp_path, monkeypatch):
    distill(tiny_teacher(), tiny_student(), output=tmp_path / "r", settings=QUICK)
    recipe = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())
    (tmp_path / "r" / "config.yaml").write_text(yaml.safe_dump(recipe | {"device": "cuda:0"}))
    monkeypatch.setattr("lenient.core.ranks.count", lambda: 2)
    monkeypatch.setattr("lenient.runs.job.resolve", lambda request: pytest.fail(str(request.shared["device"])))
    job = Job.__new__(Job)
    vars(job).update(teacher=tiny_teacher(), hash=fingerprint(tiny_teacher().module), eval_data=None)
    vars(job).update(method=None, generator=None, trust_code=False)
    vars(job).update(_wanted_student=tiny_student(), settings=settings(), request=Request())
    with pytest.raises(pytest.fail.Exception, match=r"^cuda$"):
        job._take_over(RunFolder(tmp_path / "r").read_config(), tmp_path / "r")


def test_an_objective_without_a_term_yet_moves_nothing():
    plan = {"name": "mad", "adversarial_weight": 0, "bn_weight": 0}
    distillation(method=plan).run()


def test_a_schedule_over_one_epoch_is_not_at_its_end():
    assert learning_rate("cosine-early")(Clock(epochs=1)) == 1
    assert 0 < learning_rate("cosine-early")(Clock(epochs=2)) < 1
