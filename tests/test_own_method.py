"""The programs of docs/own-method.md run as they stand there, and are methods like the others."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import lenient
from lenient.bench.grid import load_grid, settings_of, trusted
from lenient.core.config import merge
from lenient.core.errors import DamagedError, LenientError, UsageError
from lenient.losses.objective import Needs, Objective
from lenient.methods import _REGISTERED, METHODS
from lenient.methods.anatomy import method_info
from lenient.methods.contract import MethodSettings, Phase, Schedule
from lenient.methods.own import own_method
from lenient.models import save_network
from lenient.models.names import with_whole_path
from lenient.runs.request import Request, resolve
from lenient.synthesis.selection import Selected, check_selection
from lenient.teacher.batch import Batch
from toys import QUICK, digits_like, quick

pytestmark = pytest.mark.usefixtures("bare_module")

PAGE = (Path(__file__).parents[1] / "docs" / "own-method.md").read_text(encoding="utf-8")
SHAPE = ("generator", "steps_per_epoch")
PLAN = {key: value for key, value in QUICK.items() if key not in SHAPE} | {"generator.width": 4}


@pytest.fixture(scope="module")
def written() -> Iterator[dict[str, Any]]:
    """What the page defines."""
    found: dict[str, Any] = {}
    for program in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        names: dict[str, Any] = {"__name__": "own_method"}  # each is complete
        exec(compile(program, "own-method.md", "exec", dont_inherit=True), names)
        found |= names
    yield found
    for name in ("calm", "ripples", "patient", "picky"):
        del METHODS[name], _REGISTERED[name]


@pytest.mark.parametrize("name", ["calm", "ripples", "patient", "picky"])
def test_it_is_a_method_like_the_others(written: dict[str, Any], name: str, tmp_path: Path) -> None:
    """Settings by name, exact resume, images, and a line in the list."""
    save_network(tmp_path / "t.safetensors", digits_like())
    run = {"teacher": tmp_path / "t.safetensors", "student": "lenient:lenet5-half", "method": name}
    plan = quick(name, {**PLAN, "steps": 10} if name == "patient" else PLAN)
    whole = lenient.distill(**run, settings={**plan, "steps": plan["steps"] + 3})
    lenient.distill(**run, settings=plan, output=tmp_path / "r")
    longer = lenient.distill(**run, steps=plan["steps"] + 3, output=tmp_path / "r", resume=True)
    pairs = zip(whole.student.state_dict().values(), longer.student.state_dict().values(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    lenient.sample(tmp_path / "r", tmp_path / "drawn", 3)
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 3
    assert lenient.list_methods()[name].paper.startswith(("DFAD w", "A student", "Pixels that"))


def test_the_anatomy_of_a_method_names_its_own_terms(written: dict[str, Any]) -> None:
    assert method_info("calm").anatomy["image"] == "0.1 calm"


def test_an_object_runs_with_its_own_settings(written: dict[str, Any]) -> None:
    def trained(weight: float) -> torch.Tensor:
        method = written["Calm"](written["Settings"](calm_weight=weight, student_steps=1))
        plan = merge(QUICK, {"steps": 4})
        student = lenient.distill(digits_like(), "lenient:lenet5-half", method=method, settings=plan).student
        return torch.cat([parameter.flatten() for parameter in student.parameters()])

    assert torch.equal(trained(0.1), trained(0.1))
    assert not torch.equal(trained(0.1), trained(50.0)), "the term counts"


# a generator and a selection of one's own


def equal(ours: lenient.Result, theirs: lenient.Result) -> bool:
    pairs = zip(ours.student.state_dict().values(), theirs.student.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_the_method_of_the_page_selects_its_own_way(written: dict[str, Any]) -> None:
    kept: list[float] = []

    class Watch:
        def start(self, total_steps: int, step: int) -> None: ...
        def step(self, step: int, images: int) -> None: ...
        def stop(self) -> None: ...
        def line(self, event: str, values: Any) -> None:
            kept.append(values.get("health/kept", 0.5))

    result = written["distil"](digits_like().module, input_size=(1, 8, 8), num_classes=10, mean=(0.5,), std=(0.5,),
                               settings=PLAN, observers=[Watch()])  # fmt: skip
    assert result.summary.steps == 6
    assert set(kept) == {0.5}
    assert method_info("picky").anatomy["selection"] == "surer half"
    with pytest.raises(UsageError, match=r"^-s method\.selection=mixture: picky has a selection of its own"):
        lenient.distill(digits_like(), method="picky", settings=PLAN | {"method.selection": "mixture"})


@pytest.mark.parametrize("method", ["ta-dfkd", "zskt", "pre-dfkd", "mad", "fastdfkd", "kegnet"])
def test_any_method_with_a_generator_draws_with_it(written: dict[str, Any], method: str, tmp_path: Path) -> None:
    """To the same bits over a resume from Python; the command and `sample` refuse, each in one line."""
    save_network(tmp_path / "t.safetensors", digits_like())
    own: dict[str, dict[str, Any]] = {
        "fastdfkd": {"method.reset_after": None, "method.first_batches": 1, "method.student_steps": 3},
        "kegnet": {"method.generators": 2, "method.iterations": 2, "method.images": 9, "generator.latent_dim": 100},
        "mad": {"method.conditional": "sum"},
    }
    plan = quick(method, PLAN) | own.get(method, {})
    run: dict[str, Any] = {"teacher": tmp_path / "t.safetensors", "student": "lenient:lenet5-half", "method": method}
    make = written["sheet"]
    if method in ("mad", "kegnet"):
        make = lambda card: Tinted(card.input_size)  # noqa: E731
    whole = lenient.distill(**run, generator=make, settings={**plan, "steps": 9})
    lenient.distill(**run, generator=make, settings=plan, output=tmp_path / "r")
    assert yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["run"]["generator"] == {"source": None}
    longer = lenient.distill(**run, generator=make, steps=9, output=tmp_path / "r", resume=True)
    assert equal(whole, longer)
    assert not equal(whole, lenient.distill(**run, settings={**plan, "steps": 9})), "it is the one that draws"
    with pytest.raises(UsageError, match=r"^--resume: the generator of .* was a Python object; go on from Python"):
        lenient.distill(**run, steps=12, output=tmp_path / "r", resume=True)
    with pytest.raises(UsageError, match=r": its generator was given as a Python object, which cannot be loaded again"):
        lenient.sample(tmp_path / "r", tmp_path / "drawn", 3)


class Tinted(nn.Module):
    """A generator that takes classes, and none of our embeddings."""

    space = "normalized"

    def __init__(self, size: tuple[int, int, int]) -> None:
        super().__init__()
        self.size = size
        self.paint, self.tint = nn.Linear(100, 64), nn.Embedding(10, 64)

    def forward(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (self.paint(latents) + self.tint(labels)).view(-1, *self.size)


class Dropping(nn.Sequential):
    """A generator that draws from torch's stream."""

    def __init__(self, card: Any) -> None:
        super().__init__(nn.Linear(100, 64), nn.Dropout(0.5), nn.Unflatten(1, card.input_size), nn.Sigmoid())


def test_a_generator_that_draws_from_torchs_stream_is_not_asked_ahead_of_its_time() -> None:
    run: dict[str, Any] = {"teacher": digits_like(), "student": "lenient:lenet5-half", "generator": Dropping}
    runs = [lenient.distill(**run, settings=PLAN | {"threads": 2, "overlap": ahead}) for ahead in (True, False)]
    assert equal(*runs)


def test_a_run_with_its_methods_generator_takes_no_other(written: dict[str, Any], tmp_path: Path) -> None:
    save_network(tmp_path / "t.safetensors", digits_like())
    run: dict[str, Any] = {"teacher": tmp_path / "t.safetensors", "student": "lenient:lenet5-half"}
    lenient.distill(**run, settings=PLAN, output=tmp_path / "r")
    with pytest.raises(UsageError, match=r"^--resume: .* draws with its method's own generator; leave"):
        lenient.distill(**run, generator=written["sheet"], steps=9, output=tmp_path / "r", resume=True)


def test_what_the_factory_returns_is_left_alone(written: dict[str, Any]) -> None:
    """Trials and runs start from the same weights, though the factory gives one module each time."""
    mine = written["sheet"](digits_like().card)
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    run: dict[str, Any] = {"teacher": digits_like(), "student": "lenient:lenet5-half", "settings": PLAN}
    first, second = (lenient.distill(**run, generator=lambda card: mine) for _ in range(2))
    assert equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())


class Odd(nn.Module):
    """A generator that goes wrong as it is asked to."""

    def __init__(self, output: Any = None, **attributes: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.output = output
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, latents: torch.Tensor) -> Any:
        return self.output(latents)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda card: 1 / 0, r"^generator: the factory raised ZeroDivisionError"),
        (lambda card: 3, r"^generator: the factory returned a int, not a torch\.nn\.Module$"),
        (lambda card: nn.Flatten(), r"^generator: has no parameters that learn"),
        (lambda card: Odd(space="lab"), r"^generator: its space is 'lab'; give pixels or normalized$"),
        (lambda card: Odd(latent_dim=0), r"^generator: its latent_dim is 0; give a number from 1$"),
        (lambda card: Odd(lambda z: z[9]), r"^generator: given latents \(2, 100\), it raised IndexError"),
        (lambda card: Odd(lambda z: z), r"draws images \(2, 100\) of torch.float32; the teacher takes \(2, 1, 8, 8\)"),
        (lambda card: Odd(lambda z: "z"), r"^generator: draws str; the teacher takes"),
    ],
)
def test_what_is_no_generator_is_one_line(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        lenient.distill(digits_like(), "lenient:lenet5-half", settings=PLAN, generator=make)
    assert "\n" not in str(caught.value)


# a generator named where it lies


@pytest.fixture
def drawn_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, with a teacher and a file that leaves a mark when it is run."""
    program = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[3].replace('@lenient.register_method("picky")\n', "")
    mark = f"\n\nfrom pathlib import Path\n\nPath({str(tmp_path / 'mark')!r}).write_text('run')\n"
    (tmp_path / "sheet.py").write_text(program + mark)
    save_network(tmp_path / "t.safetensors", digits_like())
    monkeypatch.chdir(tmp_path)
    return tmp_path


FACTORY = {"generator.factory": "py:sheet.py:sheet"}


def test_a_generator_is_taken_where_it_lies(written: dict[str, Any], drawn_by_file: Path) -> None:
    """The same as the object; its name is kept with the whole path of the file; exact resume and images."""
    plan = PLAN | FACTORY
    whole = lenient.distill(**RUN, settings={**plan, "steps": 9})
    assert equal(whole, lenient.distill(**RUN, generator=written["sheet"], settings={**PLAN, "steps": 9}))
    lenient.distill(**RUN, settings=plan, output="r")
    kept = yaml.safe_load(Path("r", "config.yaml").read_text())
    assert kept["generator"]["factory"] == f"py:{drawn_by_file / 'sheet.py'}:sheet"
    assert "generator" not in kept["run"]
    assert equal(whole, lenient.distill(**RUN, settings=FACTORY, steps=9, output="r", resume=True))
    lenient.sample("r", "drawn", 3, trust_code=True)
    assert len(lenient.synthesize("r", 3, trust_code=True)) == 3


def test_a_run_folder_runs_no_generator_that_the_user_did_not_type(drawn_by_file: Path) -> None:
    lenient.distill(**RUN, settings=PLAN | FACTORY, output="r")
    Path("mark").unlink()
    for way in (
        lambda: lenient.sample("r", "drawn", 3),
        lambda: lenient.synthesize("r", 3),
        lambda: lenient.distill(**RUN, output="r", resume=True, steps=9),
    ):
        with pytest.raises(LenientError, match=r"its generator would run sheet\(\) of .*: to allow .*--trust-code"):
            way()
    lenient.report("r")
    assert not Path("mark").exists()
    lenient.distill(**RUN, output="r", resume=True, steps=9, trust_code=True)
    assert Path("mark").exists()


@pytest.mark.parametrize("section", ["method", "generator"])
def test_nor_one_whose_name_is_written_by_dots(drawn_by_file: Path, section: str) -> None:
    lenient.distill(**RUN, method="dfad", settings=PLAN, output="r")
    config = Path("r", "config.yaml")
    content = yaml.safe_load(config.read_text())
    key = "name" if section == "method" else "factory"
    del content[section][key]
    content[f"{section}.{key}"] = f"py:{drawn_by_file / 'sheet.py'}:Picky"
    config.write_text(yaml.safe_dump(content))
    for way in (
        lambda: lenient.sample("r", "drawn", 3),
        lambda: lenient.distill(**RUN, output="r", resume=True, steps=9),
    ):
        with pytest.raises(LenientError, match=rf"its {section} would run Picky\(\) of .*--trust-code"):
            way()
    assert not Path("mark").exists()


def test_a_grid_runs_no_generator_that_the_user_did_not_type(drawn_by_file: Path) -> None:
    grid = {"name": "g", "data": "digits", "teachers": [{"file": "t.safetensors"}], "students": "lenient:lenet5",
            "rows": {"a": {"method": "dfad", "settings": {"generator": {"factory": "py:sheet.py:sheet"}}}}}  # fmt: skip
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    with pytest.raises(UsageError, match=r"rows\.a: .*its generator would run sheet\(\) of .*--trust-code"):
        load_grid(Path("grid.yaml"))
    typed = ["rows.a.settings.generator.factory=py:sheet.py:sheet"]
    for plan in (load_grid(Path("grid.yaml"), trust_code=True), load_grid(Path("grid.yaml"), typed)):
        found = settings_of(plan, "a", 0)["generator"]["factory"]
        assert found == f"py:{drawn_by_file / 'sheet.py'}:sheet"
        assert found in trusted(plan, Path("grid.yaml"), typed)  # type: ignore[operator]
    assert not Path("mark").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"generator.factory": "sheet.py"}, r"generator\.factory=.*write py:FILE\.py:FUNCTION or"),
        ({"generator.factory": "py:sheet.py"}, r"generator\.factory=.*write py:FILE\.py:FUNCTION or"),
        ({"generator.factory": "py:none.py:sheet"}, r"^-s generator\.factory py:.*none\.py:sheet: no file"),
        ({"generator.factory": "py:sheet.py:shet"}, r"'shet' is not there .*did you mean 'sheet'"),
        ({"generator.factory": "py:sheet.py:SurerHalf"}, r"^generator: the factory raised TypeError"),
        (FACTORY | {"method": "noise", "overlap": "auto"}, r"^-s (generator\.factory|overlap): noise does not use it"),
    ],
)
def test_what_names_no_generator_is_one_line(drawn_by_file: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        lenient.distill(**RUN, settings=PLAN | more)
    assert "\n" not in str(caught.value)


def test_there_is_one_generator(written: dict[str, Any], drawn_by_file: Path) -> None:
    with pytest.raises(UsageError, match=r"^-s generator\.factory: the generator was given as an object; leave one"):
        lenient.distill(**RUN, settings=PLAN | FACTORY, generator=written["sheet"])


@pytest.mark.parametrize("method", ["deepinversion", "noise"])
def test_a_method_without_a_generator_takes_none(written: dict[str, Any], method: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^generator: {method} draws its images without one; leave it out"):
        lenient.distill(digits_like(), "lenient:lenet5-half", method=method, settings=quick(method, PLAN),
                        generator=written["sheet"], output=tmp_path / "r")  # fmt: skip
    assert not (tmp_path / "r" / "config.yaml").exists()


def test_layers_that_another_generator_lacks_are_not_drawn_again(written: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^-s method\.reset_after: .*give null with another one$"):
        lenient.distill(digits_like(), "lenient:lenet5-half", method="fastdfkd", settings=quick("fastdfkd", PLAN),
                        generator=written["sheet"])  # fmt: skip


# a method named where it lies


@pytest.fixture(scope="module")
def calm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's first method in a file of its own, which leaves a mark when it is run."""
    folder = tmp_path_factory.mktemp("own")
    program = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0].replace('@lenient.register_method("calm")\n', "")
    path = folder / "calm.py"
    path.write_text(f"{program}\n\nfrom pathlib import Path\n\nPath({str(folder / 'mark')!r}).write_text('run')\n")
    save_network(folder / "t.safetensors", digits_like())
    return path


@pytest.fixture
def here(calm_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its folder, as the current one, with no memory of what was imported."""
    monkeypatch.chdir(calm_file.parent)
    own_method.cache_clear()
    (calm_file.parent / "mark").unlink(missing_ok=True)
    return calm_file.parent


RUN = {"teacher": "t.safetensors", "student": "lenient:lenet5-half"}


def test_a_method_is_taken_where_it_lies(here: Path, tmp_path: Path) -> None:
    """With settings, exact resume and images; its name is kept with the whole path of the file."""
    plan = {**PLAN, "method.calm_weight": 2.0}
    whole = lenient.distill(**RUN, method="py:calm.py:Calm", settings={**plan, "steps": 9})
    lenient.distill(**RUN, method="py:calm.py:Calm", settings=plan, output=tmp_path / "r")
    kept = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["method"]
    assert (kept["name"], kept["calm_weight"]) == (f"py:{here / 'calm.py'}:Calm", 2.0)
    longer = lenient.distill(**RUN, method="py:calm.py:Calm", steps=9, output=tmp_path / "r", resume=True)
    pairs = zip(whole.student.state_dict().values(), longer.student.state_dict().values(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    lenient.sample(tmp_path / "r", tmp_path / "drawn", 3, trust_code=True)
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 3


def test_it_is_described_like_the_others(here: Path) -> None:
    info = method_info("py:calm.py:Calm")
    assert info.paper.startswith("DFAD with")
    assert info.settings["calm_weight"] == (0.1, "Weight of the mean square of the teacher's inputs.")


def test_a_run_folder_runs_no_method_that_the_user_did_not_type(here: Path, tmp_path: Path) -> None:
    lenient.distill(**RUN, method="py:calm.py:Calm", settings=PLAN, output=tmp_path / "r")
    own_method.cache_clear()
    (here / "mark").unlink()
    for way in (
        lambda: lenient.sample(tmp_path / "r", tmp_path / "drawn", 3),
        lambda: lenient.distill(**RUN, output=tmp_path / "r", resume=True, steps=9),
    ):
        with pytest.raises(
            LenientError, match=r"its method would run Calm\(\) of .*: to allow that, give .*--trust-code"
        ) as caught:
            way()
        assert not isinstance(caught.value, DamagedError), "the run is sound"
    lenient.report(tmp_path / "r")
    lenient.export(tmp_path / "r", tmp_path / "s.safetensors", "safetensors")
    assert not (here / "mark").exists()
    lenient.distill(**RUN, output=tmp_path / "r", resume=True, steps=9, trust_code=True)
    assert (here / "mark").exists()


def test_a_grid_runs_no_method_that_the_user_did_not_type(here: Path) -> None:
    grid = {"name": "g", "data": "digits", "teachers": [{"file": "t.safetensors"}], "students": "lenient:lenet5"}
    own = {"method": "py:calm.py:Calm", "settings": {"method.calm_weight": 2}}
    (here / "grid.yaml").write_text(yaml.safe_dump(grid | {"rows": {"a": own}}))
    (here / "recipe.yaml").write_text("method: {name: 'py:calm.py:Calm'}\n")
    (here / "by-recipe.yaml").write_text(
        yaml.safe_dump(grid | {"rows": {"a": {"method": "dfad", "recipe": "recipe.yaml"}}})
    )
    for name in ("grid.yaml", "by-recipe.yaml"):
        with pytest.raises(UsageError, match=r"would run Calm\(\)|the recipe is for"):
            load_grid(Path(name))
    assert not (here / "mark").exists()
    typed = ["rows.a.method=py:calm.py:Calm"]
    for plan in (
        load_grid(Path("grid.yaml"), trust_code=True),
        load_grid(Path("grid.yaml"), typed),
    ):
        found = settings_of(plan, "a", 0)["method"]
        assert (found["name"], found["calm_weight"]) == (f"py:{here / 'calm.py'}:Calm", 2)
    assert trusted(plan, Path("grid.yaml"), typed) >= {f"py:{here / 'calm.py'}:Calm"}  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("py:none.py:Calm", r"--method py:.*none\.py:Calm: no file"),
        ("py:calm.py:Calmer", r"'Calmer' is not there .*did you mean 'Calm'"),
        ("py:calm.py:Calmness", r"is no method: give a class with settings_type"),
        ("py:calm.py", r"give py:package\.module:factory or py:path/file\.py:factory"),
        ("py:empty.py:Half", r"has no needs_batch_norm"),
        ("py:broken.py:Calm", r"importing .*broken\.py' raised ZeroDivisionError"),
        ("cal", r"no such method; there are .*, and py:FILE\.py:CLASS"),
    ],
)
def test_what_is_no_method_is_one_line(here: Path, name: str, message: str) -> None:
    (here / "empty.py").write_text(
        "from lenient.methods.contract import MethodSettings\nclass Half:\n    settings_type = MethodSettings\n"
    )
    (here / "broken.py").write_text("1 / 0\n")
    with pytest.raises(UsageError, match=message) as caught:
        resolve(Request(method=name))
    assert "\n" not in str(caught.value)


def test_a_file_may_be_imported_and_named(written: dict[str, Any], here: Path) -> None:
    program = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0].replace('method("calm")', 'method("mine")')
    (here / "mine.py").write_text(program)
    sys.path.insert(0, str(here))
    try:
        mine = importlib.import_module("mine")
        named = own_method(with_whole_path("py:mine.py:Calm"))
        assert named.__mro__[1].__qualname__ == mine.Calm.__qualname__
        other = type("Calm", (mine.Calm,), {"__qualname__": "Other"})
        with pytest.raises(UsageError, match="method mine: there is one of this name"):
            lenient.register_method("mine")(other)
    finally:
        sys.path.remove(str(here))
        sys.modules.pop("mine", None)
        METHODS.pop("mine", None)
        _REGISTERED.pop("mine", None)


def test_a_class_that_lacks_a_part_is_no_method() -> None:
    half = type("Half", (), {"settings_type": MethodSettings, "build": lambda self, context: None})
    with pytest.raises(UsageError, match="method half: has no needs_batch_norm"):
        lenient.register_method("half")(half)


@pytest.mark.parametrize(("weight", "words"), [
    (lambda scores: scores < 1, r"selection odd: gives bool of shape \(8,\) for 8 scores; give a float weight for"),
    (lambda scores: scores, "selection odd: gives weights from 0 to 4; give 0 to 1"),
    (lambda scores: scores - 3, "selection odd: gives weights from -3 to 1; give 0 to 1"),
    (lambda scores: scores / torch.zeros_like(scores), "selection odd: gives weights from nan to nan"),
    (lambda scores: torch.ones(()), r"selection odd: gives float32 of shape \(\) for 8 scores"),
])  # fmt: skip
def test_a_selection_that_gives_no_weights_is_refused(weight: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_selection(lambda scores: Selected(scores, weight(scores)), "odd", torch.device("cpu"))
    check_selection(lambda scores: Selected(scores, (scores < 1).float()), "odd", torch.device("cpu"))


def test_what_a_term_or_a_source_lacks_is_named() -> None:
    bare: Any = lambda batch: batch.images.sum()  # noqa: E731
    with pytest.raises(UsageError, match="term odd: has no `needs`"):
        Objective({"odd": (1.0, bare)})
    batch = Batch(torch.rand(2, 1, 3, 3), torch.ones(2))
    with pytest.raises(ValueError, match="the student was not asked about the view 'clean'"):
        batch.logits("clean", "student")

    class Rows:
        label, needs = "rows", Needs()

        def __call__(self, batch: Batch) -> torch.Tensor:
            return batch.images.flatten(1).mean(dim=1)

    with pytest.raises(UsageError, match=r"term rows: gave a tensor of shape \(2,\)"):
        Objective({"rows": (1.0, Rows())})(batch)
    nothing: Any = object()
    with pytest.raises(UsageError, match=r"the source object: has no batch\(\)"):
        lenient.Algorithm({}, Schedule(Phase((("student", 1),))), nothing, Objective({}))


def test_the_grid_of_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "grid.yaml").write_text(text)
    program = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0].replace('@lenient.register_method("calm")\n', "")
    (tmp_path / "calm.py").write_text(program)
    grid = load_grid(Path("grid.yaml"), trust_code=True)
    assert [Path(str(entry.file)).name for entry in grid.teachers] == ["teacher.safetensors"]
    assert [*grid.rows] == ["dfad", "calm", "calm, more"]
