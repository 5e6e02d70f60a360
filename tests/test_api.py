"""The front door from Python: what commands do, functions do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import lenient
from lenient.core.errors import DamagedError, UsageError
from lenient.core.numbers import plain
from lenient.data import load_data
from lenient.methods import _REGISTERED, METHODS
from lenient.methods.contract import MethodSettings
from lenient.methods.single import SingleStudentSettings, single_student
from lenient.models import Network, save_network
from toys import QUICK, digits_like, quick, tiny_student, tiny_teacher

pytestmark = pytest.mark.usefixtures("bare_module")

FEW = {key: value for key, value in QUICK.items() if key not in ("generator", "steps_per_epoch")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of few steps."""
    home = tmp_path_factory.mktemp("api")
    save_network(home / "teacher.safetensors", digits_like())
    plan = FEW | {"generator.width": 4}
    lenient.distill(home / "teacher.safetensors", "lenient:lenet5-half", output=home / "run", settings=plan)
    return home / "run"


def test_a_run_is_measured_exported_reported_and_sampled(run: Path, tmp_path: Path) -> None:
    teacher = run.parent / "teacher.safetensors"
    found = lenient.evaluate(run, "digits", teacher=teacher, device="cpu")
    assert (found.n, found.agreement is not None) == (len(load_data("digits", split="test")), True)
    assert lenient.evaluate(run, load_data("digits", split="test"), device="cpu").accuracy == found.accuracy
    difference = lenient.export(run, tmp_path / "s.safetensors", "safetensors", check=True)
    assert difference is not None
    assert difference < 1e-5
    student = lenient.load(tmp_path / "s.safetensors")
    assert student(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    told = lenient.report(run)
    assert plain(told.to_dict()) == json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert isinstance(told.health, lenient.Health)
    assert told.latency is not None
    assert told.latency.student[64] > 0, "by number of images, as numbers"
    drawn = lenient.sample(run, tmp_path / "drawn", 3, seed=1)
    assert drawn.images == 3
    assert 0 <= drawn.clipped <= 1
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 3
    with pytest.raises(UsageError, match="no empty folder"):
        lenient.sample(run, tmp_path / "drawn", 3)
    with pytest.raises(UsageError, match="give a number from 1"):
        lenient.sample(run, tmp_path / "more", 0)


def test_the_report_of_a_run_that_has_not_ended_says_what_is_known(run: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    shutil.copy(run / "config.yaml", part)
    told = lenient.report(part)
    assert (told.health.verdict, told.steps, told.images_synthesized, told.seconds) == ("unfinished", 0, 0, 0.0)
    assert (told.input_size, told.num_classes, told.student.params) == ((1, 8, 8), 10, None)
    (part / "config.yaml").unlink()
    (part / "metrics.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(DamagedError, match=r"report\.json is damaged \(method: .* --overwrite") as caught:
        lenient.report(part)
    assert "\n" not in str(caught.value)


def test_what_was_found_of_a_teacher_is_typed_and_goes_to_json(run: Path) -> None:
    found = lenient.inspect(run.parent / "teacher.safetensors")
    told = json.loads(json.dumps(found.to_dict()))
    assert told["input_size"] == list(found.card.input_size) == [1, 8, 8]
    assert told["methods"] == list(found.methods)
    assert {"arch", "notes", "params", "bits", "method_reason", "student_reason"} <= set(told)
    assert "card" not in told


def test_a_resume_of_nothing_says_that_it_begins(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = FEW | {"generator.width": 4, "steps": 1}
    teacher = run.parent / "teacher.safetensors"
    lenient.distill(teacher, "lenient:lenet5-half", output=tmp_path / "none", settings=plan, resume=True)
    assert f"--resume: {tmp_path / 'none'} holds no run to go on with; this one begins anew" in caplog.messages


def test_a_misspelt_fact_fails_at_the_call(tmp_path: Path) -> None:
    for call in (lenient.distill, lenient.inspect, lenient.load):
        with pytest.raises(TypeError, match="input_sizee"):
            call(tmp_path / "none.safetensors", input_sizee=(1, 8, 8))  # type: ignore[operator]


def test_what_is_known_of_the_methods() -> None:
    known = lenient.list_methods()
    assert set(known) == set(METHODS)
    assert known["ta-dfkd"].settings["selection.tau"][0] == 0.5
    assert all(info.paper and info.anatomy for info in known.values())
    assert [(name, key) for name, info in known.items() for key, (_, text) in info.settings.items() if not text] == []


class GreySettings(SingleStudentSettings):
    """Settings of a student of grey images."""

    name: str = "grey"
    shade: float = 0.5
    """Grey, from black (0) to white (1)."""


@pytest.fixture
def grey():
    """A method of one's own by the name of `grey`."""

    @lenient.register_method("grey")
    class Grey:
        """Grey images: the student sees nothing else."""

        settings_type: ClassVar[type[MethodSettings]] = GreySettings
        needs_batch_norm = False

        def __init__(self, settings: GreySettings) -> None:
            self.settings = settings

        def build(self, context: Any) -> lenient.Algorithm:
            def draw(count: int, name: str, update: int) -> torch.Tensor:
                shape = (count, *context.teacher.card.input_size)
                return context.runtime.images(torch.full(shape, self.settings.shade))

            return single_student(context, self.settings, draw)

    yield Grey
    del METHODS["grey"], _REGISTERED["grey"]


def test_a_registered_method_is_one_by_name(grey: type, tmp_path: Path) -> None:
    """Settings, `config.yaml`, exact resume, `sample`, and the table of methods."""
    teacher = tmp_path / "t.safetensors"
    save_network(teacher, digits_like())
    plan = quick("grey", FEW) | {"method.shade": 0.25}
    whole = lenient.distill(teacher, "lenient:lenet5-half", method="grey", settings=plan | {"steps": 8})
    lenient.distill(teacher, "lenient:lenet5-half", method="grey", settings=plan, output=tmp_path / "run")
    longer = lenient.distill(
        teacher, "lenient:lenet5-half", method="grey", steps=8, output=tmp_path / "run", resume=True
    )
    assert longer.summary.method == "grey"
    assert "shade: 0.25" in (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
    for ours, theirs in zip(whole.student.parameters(), longer.student.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    lenient.sample(tmp_path / "run", tmp_path / "drawn", 2)
    info = lenient.list_methods()["grey"]
    assert info.paper == "Grey images: the student sees nothing else."
    assert info.settings["shade"] == (0.5, "Grey, from black (0) to white (1).")
    with pytest.raises(UsageError, match=r"method\.shades"):
        lenient.distill(teacher, "lenient:lenet5-half", method="grey", settings=FEW | {"method.shades": 1})


def test_a_name_is_given_once(grey: type) -> None:
    with pytest.raises(UsageError, match="there is one of this name"):
        lenient.register_method("ta-dfkd")(grey)
    for name in ("Grey", "py:grey", "", "1st"):
        with pytest.raises(UsageError, match="small letters"):
            lenient.register_method(name)
    assert lenient.register_method("grey")(grey) is grey, "the same class again, as when a notebook's cell runs twice"


def test_the_contracts_are_names_of_the_package() -> None:
    assert {"Algorithm", "Method", "Schedule", "Source", "Term", "Update"} <= set(lenient.__all__) <= set(dir(lenient))
    result = lenient.distill(tiny_teacher(), tiny_student(), settings=QUICK)
    assert isinstance(result, lenient.Result)


def test_what_load_returns_is_taken_with_its_card(tmp_path: Path) -> None:
    save_network(tmp_path / "net.safetensors", digits_like())
    loaded = lenient.load(tmp_path / "net.safetensors")
    assert lenient.inspect(loaded).card == loaded.card
    expected = lenient.evaluate(tmp_path / "net.safetensors", "digits", device="cpu")
    assert lenient.evaluate(loaded, "digits", teacher=loaded, device="cpu").accuracy == expected.accuracy
    for given in (loaded, Network(loaded.module, loaded.card)):
        other = lenient.inspect(given, mean=[0.25], std=[0.5], classes=list("abcdefghij")).card
        assert (other.mean, other.std, other.input_size, other.arch) == ((0.25,), (0.5,), (1, 8, 8), loaded.card.arch)
        assert other.classes == tuple("abcdefghij")
        assert any("from --mean/--std (its card says mean" in note for note in other.notes)
    result = lenient.distill(loaded, "lenient:lenet5-half", settings=FEW | {"generator.width": 4})
    assert result.student is not None


def test_errors_are_caught_by_public_names(tmp_path: Path) -> None:
    from lenient.core import errors as own
    from lenient.errors import LenientError, TeacherError

    with pytest.raises(TeacherError) as caught:
        lenient.inspect(tmp_path / "none.safetensors")
    assert isinstance(caught.value, LenientError)
    assert caught.value.exit_code == 3
    kinds = {name for name, kind in vars(own).items() if isinstance(kind, type) and issubclass(kind, own.LenientError)}
    assert kinds == set(lenient.errors.__all__)


def test_what_is_returned_is_read_by_key_as_the_json_that_holds_it() -> None:
    found = lenient.inspect(tiny_teacher())
    assert found["notes"] == list(found.card.notes)
    assert found["methods"] == list(found.methods)
    with pytest.raises(KeyError, match="nothing"):
        found["nothing"]
    result = lenient.distill(tiny_teacher(), tiny_student(), settings=QUICK)
    assert result.summary["student"]["params"] == result.summary.student.params
    assert result.health["reasons"] == result.health.reasons
