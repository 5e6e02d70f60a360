"""Data sets of synthetic images: as many as are wanted, vouched for, labelled as they are stored, and read back."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import signal
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader

import lenient
from lenient.core.errors import DamagedError, UsageError
from lenient.losses.prior import confidence_score
from lenient.methods.contract import STUDENT, Phase, Schedule
from lenient.methods.dfad import DFADSettings
from lenient.methods.generator import generator_algorithm
from lenient.models import save_network
from lenient.models.card import Network, PixelClassifier
from lenient.models.trust import UntrustedError
from lenient.runs import synthesis
from lenient.runs.job import warn
from lenient.synthesis.drawing import PATIENCE, Draws
from lenient.synthesis.selection import Selected
from toys import QUICK, digits_like, quick, tiny_student, tiny_teacher

pytestmark = pytest.mark.usefixtures("bare_module")

PLAN = {key: value for key, value in QUICK.items() if key not in ("seed", "steps", "batch_size", "generator")}
PIXELS = quick("deepinversion", PLAN) | {"method": {"iterations": 3, "first_batches": 1, "student_steps": 2}}
SHAPE = {"generator": QUICK["generator"]}


def pixels(n: int = 20, **more: Any) -> lenient.SyntheticImages:
    given: dict[str, Any] = {"teacher": tiny_teacher(), "student": tiny_student(), "batch_size": 8, "settings": PIXELS}
    return lenient.synthesize(**given | more, n=n)


def answers(teacher: Network, images: Tensor) -> Tensor:
    with torch.no_grad():
        return PixelClassifier(teacher.module, teacher.card).eval()(images).softmax(dim=1)


def distinct(images: Tensor) -> int:
    return len(images.flatten(1).unique(dim=0))


def test_pixels_become_a_data_set() -> None:
    """As many as are wanted, all different, with the teacher's answers to what is stored."""
    teacher, student = tiny_teacher(), tiny_student()
    before = copy.deepcopy(teacher.module.state_dict()), copy.deepcopy(student.module.state_dict())
    made = pixels(teacher=teacher, student=student, seed=1)
    assert (made.images.shape, made.images.dtype, distinct(made.images)) == ((20, 1, 6, 5), torch.uint8, 20)
    torch.testing.assert_close(made.soft_labels, answers(teacher, made.images.float() / 255), atol=1e-5, rtol=0)
    assert torch.equal(made.labels, made.soft_labels.argmax(dim=1))
    assert (made.classes, made.steps, len(made)) == (("0", "1", "2", "3"), 2, 20)
    assert made.seconds > 0
    assert 0 < made.clipped < 1
    assert "probe agreement" not in {check.name for check in made.health.checks}
    image, soft = made[3]
    assert torch.equal(image, made.images[3].float() / 255)
    assert torch.equal(soft, made.soft_labels[3])
    batches = list(DataLoader(made, batch_size=8))
    assert [tuple(images.shape) for images, _ in batches] == [(8, 1, 6, 5), (8, 1, 6, 5), (4, 1, 6, 5)]
    for module, kept in zip((teacher.module, student.module), before, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())


def test_equal_seeds_give_equal_images() -> None:
    first, again, other = pixels(seed=1), pixels(seed=1), pixels(seed=2)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.soft_labels, again.soft_labels)
    assert not torch.equal(first.images, other.images)


def test_the_student_moves_as_the_schedule_says() -> None:
    assert [pixels(n).steps for n in (1, 8, 9, 17, 33)] == [0, 0, 0, 2, 6]


def test_steps_in_rounds_are_counted_over_phases() -> None:
    schedule = Schedule(Phase((("pixels", 3),), 2), Phase((("pixels", 3), (STUDENT, 5)), 1), Phase(((STUDENT, 7),)))
    assert [schedule.steps_in(rounds) for rounds in range(6)] == [0, 0, 0, 5, 12, 19]


def test_rates_fall_over_the_steps_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []
    true = synthesis.Distillation

    def watched(*args: Any, **more: Any) -> Any:
        planned.append(args[2].steps)
        return true(*args, **more)

    monkeypatch.setattr(synthesis, "Distillation", watched)
    pixels(33)
    assert planned[-1] == 7


@pytest.mark.parametrize("method", ["ta-dfkd", "dfad", "noise"])
def test_a_generator_learns_first_and_then_draws(method: str) -> None:
    made = pixels(method=method, settings=quick(method, PLAN | SHAPE), steps=5)
    assert (len(made), made.steps, distinct(made.images)) == (20, 5, 20)
    torch.testing.assert_close(made.soft_labels, answers(tiny_teacher(), made.images.float() / 255), atol=1e-5, rtol=0)
    assert torch.equal(made.images, pixels(method=method, settings=quick(method, PLAN | SHAPE), steps=5).images)


class Few:
    """A selection that accepts the surest `count` of a batch."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, scores: Tensor) -> Selected:
        return Selected(scores, (scores.argsort().argsort() < self.count).float())


class Choosy:
    """DFAD with such a selection."""

    settings_type: ClassVar[Any] = DFADSettings
    needs_batch_norm = False

    def __init__(self, count: int) -> None:
        self.settings, self.count = DFADSettings(), count

    def build(self, context: Any) -> lenient.Algorithm:
        from lenient.losses.adversarial import adversary
        from lenient.losses.distances import logit_l1
        from lenient.losses.imitation import Imitation
        from lenient.losses.objective import Objective

        objective = Objective({"adversarial": (1.0, adversary("l1", 1.0))})
        imitation = Objective({"student": (1.0, Imitation(logit_l1, "L1"))})
        return generator_algorithm(context, self.settings, objective, imitation, selection=Few(self.count))


def test_only_what_the_teacher_vouches_for_is_taken() -> None:
    """Three of each round of eight: those that it is surest of."""
    result = lenient.distill(tiny_teacher(), tiny_student(), method=Choosy(3), settings=QUICK)
    made, draws = lenient.synthesize(result, 8), result.draws
    assert draws is not None
    for number, taken in enumerate(made.images.split(3)):
        images = draws.source.sample(8, "synthesize/0", number)
        with draws.teacher:
            surest = confidence_score(draws.answer(images)).argsort()[:3].sort().values[: len(taken)]
        assert torch.equal(taken, (images[surest].clamp(0, 1) * 255).round().byte())


def test_a_teacher_that_vouches_for_nothing_ends_it() -> None:
    with pytest.raises(UsageError, match=r"^-n 4: no image is there: the teacher vouches for no more$"):
        pixels(4, method=Choosy(0), settings=PLAN | SHAPE, steps=1)


class Counted:
    """A source that numbers its rounds, of which every third holds an image to take."""

    rounds = 0

    def sample(self, count: int, name: str, update: int) -> Tensor:
        assert (name, update) == ("x", self.rounds)
        self.rounds += 1
        return torch.full((count, 1, 6, 5), float(update))


def test_rounds_without_an_image_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Counted()
    accept = lambda scores: Selected(scores, torch.tensor([0.0, 0.5, 1.0]) * (source.rounds % 3 == 0))  # noqa: E731
    draws = Draws(tiny_teacher(), source, accept, 3)  # type: ignore[arg-type]
    monkeypatch.setattr(Draws, "answer", lambda self, images: images.flatten(1)[:, :4])
    assert [part[:, 0, 0, 0].tolist() for part in draws.parts(5, "x")] == [[2.0, 2.0], [5.0, 5.0], [8.0]]
    source.rounds = 0
    none = Draws(tiny_teacher(), source, lambda scores: Selected(scores, torch.zeros(3)), 3)  # type: ignore[arg-type]
    assert list(none.parts(5, "x")) == []
    assert source.rounds == PATIENCE


# the budget, and the verdict


def test_a_budget_ends_it_and_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []
    monkeypatch.setattr(synthesis.Budget, "spent", lambda self: bool(asked.append(0)) or len(asked) > 5)
    made = pixels(budget="9h")
    assert len(made) == 8
    assert "warning: 8 of 20 images: the budget of 9h is spent\n" in capsys.readouterr().err


@pytest.mark.parametrize(("method", "held"), [("deepinversion", 8), ("dfad", 20)])
def test_an_interrupt_ends_it_and_is_said(
    method: str, held: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A generator draws what was wanted all the same, as it is by then."""
    asked: list[int] = []

    def spent(budget: synthesis.Budget) -> bool:
        asked.append(0)
        if len(asked) == 5:
            signal.raise_signal(signal.SIGINT)
        return False

    monkeypatch.setattr(synthesis.Budget, "spent", spent)
    made = pixels(method=method, settings=PIXELS if method == "deepinversion" else PLAN | SHAPE)
    assert len(made) == held
    assert f"warning: {held} of 20 images: interrupted after 4 updates\n" in capsys.readouterr().err


def test_a_budget_of_a_generator_becomes_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "steps_within", lambda budget, *rest: {"9h": 3}[budget])
    assert pixels(method="dfad", settings=PLAN | SHAPE, budget="9h").steps == 3


def test_no_image_in_time_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"^-n 20: no image is there: the budget of 0.001s is spent$"):
        pixels(budget="0.001s")


def test_a_verdict_that_is_not_ok_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    made = pixels(settings=PIXELS | {"health": {"bn_shift": 1e-6}})
    assert made.health.verdict == "warning"
    said = capsys.readouterr().err
    assert said.startswith("warning: the verdict about these images is warning: ")
    assert "standard deviations away" in said
    assert said.count("\n") == 1
    classes = {"coverage": 0, "class_entropy": 0}
    healthy = {"bn_shift": 1e6, "excess": 1e6, "contrast": 0, "overshoot": 1e6, "duplicates": 1} | classes
    assert pixels(settings=PIXELS | {"health": healthy}).health.verdict == "ok"
    assert capsys.readouterr().err == ""


def test_a_warning_is_said_once_where_nobody_keeps_the_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("lenient"), "propagate", False)  # else pytest does
    warn("a line")
    assert capsys.readouterr().err == "warning: a line\n"


def test_the_verdict_looks_at_the_images_as_they_were_made() -> None:
    """Before they are clipped, so that a wrong mean shows."""
    made = pixels()
    excess = next(check.value for check in made.health.checks if check.name == "pixel range")
    assert excess is not None
    assert excess > 0
    assert made.clipped > 0


# from a run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a generator and one with a pool of 16 images."""
    home = tmp_path_factory.mktemp("runs")
    save_network(home / "t.safetensors", digits_like())
    plan = {"steps": 3, "batch_size": 8}
    for name, settings in (("dfad", PLAN | SHAPE | plan), ("deepinversion", PIXELS | plan)):
        lenient.distill(
            home / "t.safetensors", "lenient:lenet5-half", method=name, settings=settings, output=home / name
        )
    return home


def test_a_run_folder_is_drawn_from(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, again, other = (lenient.synthesize(runs / "dfad", 9, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert (len(first), first.steps, first.classes) == (9, 3, tuple("0123456789"))
    health = json.loads((runs / "dfad" / "report.json").read_text())["health"]
    assert [check.name for check in first.health.checks] == [
        check["name"] for check in health["checks"] if check["name"] != "probe agreement"
    ]


def test_a_pool_gives_what_it_holds(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few, other, most = (
        lenient.synthesize(str(runs / "deepinversion"), n, seed=s) for n, s in ((5, 0), (5, 1), (99, 0))
    )
    assert not torch.equal(few.images, other.images)
    held = len(most)
    assert held % 8 == 0
    assert distinct(most.images) == held
    assert f"{held} of 99 images: it holds no more" in capsys.readouterr().err


def test_a_result_is_drawn_from(runs: Path) -> None:
    """Also where the teacher was a module; what was copied draws no more."""
    teacher = tiny_teacher()
    before = copy.deepcopy(teacher.module.state_dict())
    result = lenient.distill(teacher.module, tiny_student(), method="dfad", settings=QUICK, input_size=(1, 6, 5),
                             num_classes=4, mean=(0.4,), std=(0.3,))  # fmt: skip
    first, again = (lenient.synthesize(result, 9) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert (len(first), first.steps) == (9, 6)
    assert all(torch.equal(value, before[name]) for name, value in teacher.module.state_dict().items())
    copied = pickle.loads(pickle.dumps(result))
    assert copied.summary == result.summary
    with pytest.raises(UsageError, match="was copied or read back, and draws nothing; name its run folder"):
        lenient.synthesize(copied, 9)
    with pytest.raises(UsageError, match=r"^device: a result draws where its run was"):
        lenient.synthesize(result, 9, device="cpu")


@pytest.mark.parametrize(
    "more",
    [
        {"method": "dfad"},
        {"student": "lenient:lenet5"},
        {"steps": 3},
        {"settings": {"steps": 3}},
        {"batch_size": 8},
        {"generator": lambda card: None},
        {"num_classes": 10},
    ],
    ids=lambda more: next(iter(more)),
)
def test_a_run_has_its_own_settings(runs: Path, more: dict[str, Any]) -> None:
    name = next(iter(more))
    with pytest.raises(UsageError, match=rf"^{name}: a run has its own; leave it out to draw from a run$"):
        lenient.synthesize(runs / "dfad", 9, **more)


def test_a_run_names_no_code_to_run(runs: Path, tmp_path: Path) -> None:
    config = runs / "dfad" / "config.yaml"
    text = config.read_text()
    content = yaml.safe_load(text)
    content["run"]["student"]["arch"] = f"py:{tmp_path / 'net.py'}:make"
    (tmp_path / "net.py").write_text("raise SystemExit('was run')")
    try:
        config.write_text(yaml.safe_dump(content))
        with pytest.raises(UntrustedError, match=r"its student would run make\(\) of .*--trust-code"):
            lenient.synthesize(runs / "dfad", 9)
    finally:
        config.write_text(text)


# on disk


def test_it_is_written_and_read_back(tmp_path: Path) -> None:
    made = pixels(output=tmp_path / "a" / "b", seed=1)
    again, held = lenient.SyntheticImages.open(tmp_path / "a" / "b"), pixels(seed=1)
    for found in (made, again):
        assert torch.equal(found.images, held.images)
        assert torch.equal(found.soft_labels, held.soft_labels)
    assert (again.classes, again.steps, again.seconds, again.clipped) == (
        made.classes, made.steps, made.seconds, made.clipped,
    )  # fmt: skip
    assert again.health == made.health == held.health
    names = {path.name for path in (tmp_path / "a" / "b").iterdir()}
    assert names == {"images.safetensors", "README.md", "dataset.json"}
    assert set(load_file(tmp_path / "a" / "b" / "images.safetensors")) == {"images", "labels", "logits"}


def test_a_folder_with_files_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="no empty folder; choose another"):
        lenient.synthesize(tmp_path / "no-such-teacher.safetensors", 3, output=tmp_path)
    with pytest.raises(UsageError, match="no empty folder; choose another"):
        pixels(1).save(tmp_path)


def test_what_is_no_such_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no synthetic images; images\.safetensors is missing"):
        lenient.SyntheticImages.open(tmp_path)
    made, path = pixels(2), tmp_path / "images.safetensors"
    made.save(tmp_path)
    whole = path.read_bytes()
    about = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]["lenient"]
    tensors = {"images": made.images, "logits": made.logits}
    spoiled = json.loads(about)
    spoiled["health"]["checks"][0].pop("name")
    cases: list[tuple[dict[str, Tensor], dict[str, str], str]] = [
        (tensors, {}, "lenient"),
        (tensors, {"lenient": "{"}, ""),
        (tensors, {"lenient": "[]"}, ""),
        (tensors, {"lenient": json.dumps(spoiled)}, r"health\.checks\.0\.name"),
        (tensors, {"lenient": json.dumps(json.loads(about) | {"clipped": 2})}, "clipped"),
        ({"images": made.images}, {"lenient": about}, "logits"),
        (tensors | {"images": made.images.float()}, {"lenient": about}, "of 8 bits"),
        (tensors | {"logits": made.logits[:1].clone()}, {"lenient": about}, "logits"),
    ]
    for written, metadata, why in cases:
        save_file(written, path, metadata)
        with pytest.raises(
            DamagedError, match=rf"images\.safetensors is damaged \(.*{why}.*\); make the images again$"
        ):
            lenient.SyntheticImages.open(tmp_path)
    for content in (b"", whole[:-1], b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(DamagedError, match="make the images again"):
            lenient.SyntheticImages.open(tmp_path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"n": 0}, r"^-n 0: give a number from 1 to 10000000$"),
        ({"n": 10**8}, r"^-n 100000000: give a number"),
        ({"budget": "soon"}, r"^--budget soon: write a time such as"),
        (
            {"settings": PIXELS | {"method.pool_size": 19}},
            r"^-n 20: the pool of deepinversion holds 19 images at most; ",
        ),
        ({"method": "deep"}, r"^--method deep: no such method"),
    ],
)
def test_what_cannot_be_is_one_line(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pixels(**{"n": 20} | more)


def test_soft_labels_are_float32_in_every_precision() -> None:
    assert pixels(4, precision="64").soft_labels.dtype == torch.float32
