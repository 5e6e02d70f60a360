"""What is written once lies beside the checkpoints: each writes what is new, however a run ends, and what is damaged is
named."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lenient
from commands import python
from fuzzing import command
from lenient.core import segments as core
from lenient.core.errors import DamagedError, LenientError, UsageError
from lenient.core.manifest import LAST, MARKER, PREVIOUS, SEGMENTS
from lenient.core.segments import Rows, Segments
from lenient.models import save_network
from lenient.runs import segments
from lenient.runs.folder import RunFolder, discard
from toys import digits_like

pytestmark = pytest.mark.usefixtures("bare_module")

CPU = torch.device("cpu")
LEAST = 1000
"""Bytes of the smallest file here: 10 rows."""


def rows_of(capacity: int) -> Rows:
    """Of 100 bytes each."""
    empty = {"pixels": torch.empty(0, 3, 4, dtype=torch.uint8), "ranges": torch.empty(0, 22)}
    return Rows(empty, capacity)


def numbered(start: int, end: int) -> dict[str, Tensor]:
    numbers = torch.arange(start, end)
    pixels = (numbers % 251).byte().view(-1, 1, 1).expand(-1, 3, 4)
    return {"pixels": pixels, "ranges": numbers.float().view(-1, 1).expand(-1, 22)}


def held(rows: Rows) -> list[int]:
    """The numbers of the rows, by what is in them, in their order."""
    state = rows.state()
    found = [int(number) for part in state.parts(state.first) for number in part["ranges"][:, 0]]
    assert all(torch.equal(part["pixels"][:, 0, 0], (part["ranges"][:, 0] % 251).byte()) for part in state.parts(0))
    return found


# in memory


def test_rows_are_numbered_and_the_oldest_go() -> None:
    rows = rows_of(7)
    for end in range(1, 30):
        rows.append(numbered(end - 1, end))
        assert held(rows) == list(range(max(0, end - 7), end))
        assert [int(rows["ranges"][number % 7, 0]) for number in held(rows)] == held(rows)
        assert len(rows) == min(end, 7)
    rows.append(numbered(0, 0))
    assert rows.end == 29
    rows.append(numbered(100, 120))
    assert held(rows) == list(range(113, 120)), "more than there is room for: the last ones"
    assert rows.end == 36


def test_rows_come_in_parts_of_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "MOST", 350)
    rows = rows_of(7)
    rows.append(numbered(0, 5))
    rows.append(numbered(5, 10))
    assert [part["ranges"][:, 0].tolist() for part in rows.parts(3)] == [[3, 4, 5], [6, 7, 8], [9]]
    monkeypatch.setattr(core, "MOST", 1)
    assert [len(part["ranges"]) for part in rows.parts(3)] == [1] * 7


@pytest.mark.parametrize("count", [0, 3, 7, 8, 20])
def test_rows_go_on_from_a_state(count: int) -> None:
    rows, other = rows_of(7), rows_of(7)
    for number in range(count):
        rows.append(numbered(number, number + 1))
    other.append(numbered(50, 55))
    other.load(rows.state())
    assert (held(other), other.end) == (held(rows), count)
    other.append(numbered(count, count + 2))
    assert held(rows) == list(range(max(0, count - 7), count)), "a copy"


def test_a_state_of_other_rows_is_none_and_changes_nothing() -> None:
    rows = rows_of(7)
    rows.append(numbered(0, 9))
    sound = numbered(2, 9)
    for wrong in (
        rows_of(8).state(),
        Segments(0, 9, lambda start: iter([sound])),
        Segments(2, 9, lambda start: iter([numbered(2, 8)])),
        Segments(2, 9, lambda start: iter([sound, sound])),
        Segments(-7, 0, lambda start: iter([sound])),
        Segments(2, 9, lambda start: iter([{**sound, "pixels": sound["ranges"]}])),
        Segments(2, 9, lambda start: iter([{**sound, "pixels": torch.tensor(1)}])),
        Segments(2, 9, lambda start: iter([{}])),
    ):
        if wrong.end == 0 and wrong.first == 0:
            continue  # empty rows are rows
        with pytest.raises(ValueError, match=r"not as many rows|of other tensors"):
            rows.load(wrong)
        assert held(rows) == list(range(2, 9))


# in a folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "LEAST", LEAST)


class Run:
    """What a run is to its folder: it has rows, and writes checkpoints."""

    def __init__(self, path: Path, capacity: int = 10**6, *, resume: bool = False) -> None:
        self.rows, self.step = rows_of(capacity), 0
        self.folder = RunFolder.create(path, resume=resume)
        if resume:
            for state in states(path):
                self.rows.load(state["source"]["deep"]["rows"])
                self.step = state["step"]
                break
        self.folder.open_logs(0)

    def go_on(self, count: int) -> None:
        """One step, by which there are so many rows more."""
        self.rows.append(numbered(self.rows.end, self.rows.end + count))
        self.step += 1

    def save(self) -> None:
        self.folder.save_checkpoint(whole({"deep": {"rows": self.rows.state(), "plain": 1}}, self.step))


def whole(source: dict[str, Any], step: int) -> dict[str, Any]:
    counts = dict.fromkeys(("updates", "images", "forwards"), 0) | {"step": step, "seconds": 0.0}
    delivery = {"best": 0.0, "followed": 0, "kept": None}
    rest = {"history": [], "networks": {}, "state": {}, "health": {}, "delivery": delivery}
    return {**counts, **rest, "source": source}


def states(path: Path) -> Iterator[dict[str, Any]]:
    for _, state in RunFolder(path).checkpoints(CPU):
        yield state


def files_of(path: Path) -> set[str]:
    return {f"{SEGMENTS}{entry.name}" for entry in (path / SEGMENTS).glob("*")}


def named(path: Path) -> set[str]:
    return {name for name in json.loads((path / MARKER).read_text())["files"] if name.startswith(SEGMENTS)}


def written(path: Path, act: Callable[[], None]) -> int:
    """Bytes that an act leaves in new files."""
    before = {entry: entry.stat().st_ino for entry in path.rglob("*") if entry.is_file()}
    act()
    now = [entry for entry in path.rglob("*") if entry.is_file() and before.get(entry) != entry.stat().st_ino]
    return sum(entry.stat().st_size for entry in now)


def test_a_checkpoint_writes_what_is_new_however_much_there_is(tmp_path: Path) -> None:
    """Bytes in files: 200 rows more are 20 kB, after 200 as after 20,000 rows."""
    run = Run(tmp_path / "run")
    sizes = []
    for _ in range(10):
        run.go_on(200)
        sizes.append(written(run.folder.path, run.save))
    assert all(20_000 < size < 30_000 for size in sizes), sizes
    run.go_on(20_000)
    assert written(run.folder.path, run.save) > 2_000_000
    run.go_on(200)
    assert written(run.folder.path, run.save) < 35_000, "with names of all files"
    assert written(run.folder.path, run.save) < 15_000, "nothing is new"
    run.folder.close()


def test_files_stay_few_however_often_a_checkpoint_is_written(tmp_path: Path) -> None:
    """The smallest holds `LEAST` bytes, and one part in `SHARE` of all rows: what is less waits in the checkpoint."""
    run = Run(tmp_path / "run")
    for number in range(40):
        run.go_on(3)
        run.save()
        assert len(files_of(run.folder.path)) == (number + 1) // 4, "10 rows are a file, and 12 the first that are more"
    run.go_on(25_000)
    run.save()
    before = len(files_of(run.folder.path))
    for _ in range(20):
        run.go_on(15)
        run.save()
    assert len(files_of(run.folder.path)) - before == 2, "98 rows are a 256th part"
    run.folder.close()


def test_rows_of_many_bytes_are_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "MOST", 5000)
    monkeypatch.setattr(segments, "MOST", 5000)
    run = Run(tmp_path / "run")
    run.go_on(234)
    run.save()
    run.folder.close()
    assert len(files_of(run.folder.path)) == 5
    again = Run(run.folder.path, resume=True)
    assert held(again.rows) == held(run.rows)
    again.folder.close()


@pytest.mark.parametrize("capacity", [10**6, 64, 30, 9])
def test_a_checkpoint_goes_on_to_the_bit_and_files_that_none_needs_go(tmp_path: Path, capacity: int) -> None:
    run = Run(tmp_path / "run", capacity)
    path = run.folder.path
    for number in range(30):
        run.go_on(1 + number % 17)
        run.save()
        assert named(path) == files_of(path)
        if number % 3 == 0:
            run.folder.close()
            again = Run(path, capacity, resume=True)
            assert (held(again.rows), again.rows.end, again.step) == (held(run.rows), run.rows.end, run.step)
            assert torch.equal(again.rows["ranges"][: len(run.rows)], run.rows["ranges"][: len(run.rows)])
            run = again
    least = run.rows.end - len(run.rows)
    stored = {entry.first: entry.end for state in states(path) for entry in state["source"]["deep"]["rows"].files}
    assert len(files_of(path)) == len(stored), "what neither checkpoint needs is gone"
    assert all(end > least - 40 for end in stored.values())
    run.folder.close()


def test_the_checkpoint_before_keeps_what_it_needs(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", 20)
    path = run.folder.path
    for _ in range(5):
        run.go_on(20)
        run.save()
        assert len(files_of(path)) == min(run.step, 2)
    (path / LAST).unlink()
    run.folder.close()
    again = Run(path, 20, resume=True)
    assert (again.step, held(again.rows)) == (4, list(range(60, 80)))
    again.folder.close()


def test_overwriting_removes_the_files_and_nothing_else(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.go_on(30)
    run.save()
    run.folder.close()
    mine = [run.folder.path / SEGMENTS / name for name in ("mine.safetensors", f"{'0' * 32}.safetensors")]
    for path in mine:
        path.write_text("somebody's")
    assert len(files_of(run.folder.path)) == 3
    discard(run.folder.path)
    assert files_of(run.folder.path) == {f"{SEGMENTS}{path.name}" for path in mine}
    assert not named(run.folder.path)


def test_a_file_of_our_name_that_no_run_wrote_is_not_replaced(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.go_on(30)
    run.save()
    (name,) = files_of(run.folder.path)
    marker = run.folder.path / MARKER
    content = json.loads(marker.read_text())
    marker.write_text(json.dumps({**content, "files": [entry for entry in content["files"] if entry != name]}))
    run.folder.close()
    other = Run(run.folder.path, resume=True)
    with pytest.raises(UsageError, match=f"{name} is there, and no run wrote it; move it elsewhere"):
        other.save()
    other.folder.close()


def test_what_is_gone_while_a_run_goes_on_is_written_again(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    path = run.folder.path
    for _ in range(3):
        run.go_on(30)
        run.save()
    next((path / SEGMENTS).iterdir()).unlink()
    run.go_on(30)
    run.save()
    run.folder.close()
    again = Run(path, resume=True)
    assert held(again.rows) == list(range(120))
    again.folder.close()


def test_an_older_checkpoint_has_none(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.save()
    state = torch.load(run.folder.path / LAST, weights_only=True)
    del state["segments"]
    torch.save(state, run.folder.path / LAST)
    assert next(states(run.folder.path))["step"] == 0
    run.folder.close()


# killed


CALLS = ("mkdir", "open", "fsync", "replace", "unlink", "rmdir")
"""What changes a folder: between any two of them a process may be killed."""


def killed(path: Path, number: int, act: Callable[[], object]) -> bool:
    """Whether a process that does it is killed at call `number`: it may do less than that."""
    pid = os.fork()
    if pid == 0:
        left = number

        def counted(own: Callable[..., Any]) -> Callable[..., Any]:
            def call(*given: Any, **named: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return own(*given, **named)

            return call

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        with suppress(BaseException):
            act()
            os._exit(0)
        os._exit(1)
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "it raised"
        return False
    assert os.WTERMSIG(status) == signal.SIGKILL
    return True


def test_a_kill_while_a_checkpoint_is_written_loses_no_more_than_that_one(tmp_path: Path) -> None:
    """At each call that changes the folder: what goes on has all rows of one checkpoint or the other, and after two
    more no file is left that none needs."""
    before = tmp_path / "before"
    run = Run(before, 100)
    for _ in range(3):
        run.go_on(60)
        run.save()
    run.folder.close()
    place, number, steps = tmp_path / "run", 0, []

    def write() -> None:
        process = Run(place, 100, resume=True)
        for _ in range(2):
            process.go_on(60)
            process.save()

    while True:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(before, place)
        cut = killed(place, number, write)
        for state in states(place):  # of both, should one be lost
            found = rows_of(100)
            found.load(state["source"]["deep"]["rows"])
            assert held(found) == list(range(state["step"] * 60 - 100, state["step"] * 60))
        again = Run(place, 100, resume=True)
        steps.append(again.step)
        assert held(again.rows) == list(range(again.step * 60 - 100, again.step * 60))
        for _ in range(2):
            again.go_on(60)
            again.save()
        assert files_of(place) == named(place)
        needed = {SEGMENTS + file.name for state in states(place) for file in state["source"]["deep"]["rows"].files}
        assert files_of(place) == needed
        assert not list(place.rglob("*.lenient-tmp"))
        again.folder.close()
        if not cut:
            break
        number += 1
    assert steps == sorted(steps)
    assert set(steps) == {3, 4, 5}
    assert number > 30


# a run


PLAN = {
    "log_every": 4, "checkpoint_every": 2, "steps": 12, "batch_size": 8, "device": "cpu",
    "precision": "32", "report": {"images": False},
    "method": {"name": "deepinversion", "iterations": 2, "first_batches": 3, "student_steps": 2, "pool_size": 37},
}  # fmt: skip
STUDENT = "lenient:lenet5-half"
DRIVER = """
import os, signal, sys
from lenient.cli import main
from lenient.runs import segments
segments.LEAST, left, own = 500, {kill}, os.replace
sys.argv = {argv}
def replace(source, target):
    global left
    if "segments" in str(target) or "last.pt" in str(target):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    own(source, target)
os.replace = replace
main()
"""


def make_runs(folder: Path) -> None:
    """A teacher, and a run whose checkpoints need files beside them."""
    save_network(folder / "t.safetensors", digits_like())
    old = Path.cwd()
    os.chdir(folder)  # the run names its teacher from here
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(segments, "LEAST", 500)
            lenient.distill("t.safetensors", STUDENT, output="run", settings=PLAN)
    finally:
        os.chdir(old)


@pytest.fixture
def place(made_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: None) -> Path:
    folder = shutil.copytree(made_once("run-with-segments", make_runs), tmp_path / "place")
    monkeypatch.chdir(folder)
    return folder


def ended(run: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Student and pool of a run's last checkpoint."""
    state = next(states(run))
    images = state["source"]["images"]
    parts = [part for part in images.parts(images.first)]
    return state["networks"]["student"]["module"], {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("kills", [(2, 3), pytest.param((0, 1, 4, 5, 2), marks=pytest.mark.slow)])
def test_a_run_killed_while_it_writes_ends_as_if_it_had_not_been(place: Path, kills: tuple[int, ...]) -> None:
    (place / "recipe.yaml").write_text(json.dumps(PLAN))
    words = ["lenient", "distill", "t.safetensors", "--student", STUDENT, "-c", "recipe.yaml", "-o", "cut", "--resume"]

    def killing(number: int) -> subprocess.CompletedProcess[str]:
        code = DRIVER.format(kill=number, argv=[*words, "--progress", "none"])
        return python("-c", code, cwd=place)

    for number in kills:
        done = killing(number)
        assert done.returncode == -signal.SIGKILL, done.stderr
    done = killing(10**9)
    assert done.returncode in (0, 4), done.stderr
    for whole, cut in zip(ended(place / "run"), ended(place / "cut"), strict=True):
        assert same(whole, cut)
    assert len(ended(place / "cut")[1]["pixels"]) == 37
    assert files_of(place / "cut") == named(place / "cut")


def of_both(run: Path) -> tuple[set[str], set[str]]:
    """Names of the files that the last checkpoint and the one before need."""
    last, before = ({file.name for file in state["source"]["images"].files} for state in states(run))
    return last, before


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def turn_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def be_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def be_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def be_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[Callable[[Path], None], str] = {
    Path.unlink: "it is missing",
    tear: "bytes, the checkpoint says",
    turn_a_bit: "it holds something else than was written",
    be_a_link: "is a link",
    be_a_folder: "is a folder",
    be_a_pipe: "is a pipe",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_that_both_checkpoints_need_is_named_in_one_line(
    place: Path, damage: Callable[[Path], None]
) -> None:
    last, before = of_both(place / "run")
    name = sorted(last & before)[0]
    damage(place / "run" / SEGMENTS / name)
    for words in (
        ("distill", "t.safetensors", "--resume", "-o", "run", "--steps", 14, "--progress", "none"),
        ("sample", "run", "-n", 2, "-o", "out"),
    ):
        done = command(*words)
        done.check(name)
        assert done.code in (2, 5)
        assert DAMAGES[damage] in done.said
    with pytest.raises(LenientError, match=rf"{name} is damaged \(.*{DAMAGES[damage]}"):
        lenient.synthesize("run", 4)
    assert not (place / "out").exists()


@pytest.mark.parametrize("damage", [Path.unlink, tear, turn_a_bit])
def test_where_only_the_last_checkpoint_needs_it_the_one_before_goes_on(
    place: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    whole = ended(place / "run")
    last, before = of_both(place / "run")
    damage(place / "run" / SEGMENTS / sorted(last - before)[0])
    (place / "run" / "done").unlink()
    done = command("distill", "t.safetensors", "--resume", "-o", "run", "--progress", "none")
    assert done.code in (0, 4), done
    assert "going on from previous.pt" in caplog.text
    for one, other in zip(whole, ended(place / "run"), strict=True):
        assert same(one, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entry: entry.update(path=["source", "nothing", "deep"]), "the state has no such place"),
        (lambda entry: entry.update(path=[]), "at least 1 item"),
        (lambda entry: entry["files"].pop(0), "not as many rows"),
        (lambda entry: entry["files"].pop(1), "there is a gap"),
        (lambda entry: entry["files"][0].update(name="../../t.safetensors"), "should match pattern"),
        (lambda entry: entry["files"][0].update(end=10**9), "there is a gap"),
        (lambda entry: entry["files"][-1].update(end=10**9), "not as many rows"),
        (lambda entry: entry.update(end=-1), "greater than or equal to 0"),
        (lambda entry: entry.update(end=10**12), "not as many rows"),
        (lambda entry: entry.update(first=0), "not as many rows"),
        (lambda entry: entry.update(rest={"pixels": 3}), "checkpoints/last.pt is damaged"),
        (lambda entry: entry.update(rest={"other": torch.ones(3)}), "of other tensors"),
        (lambda entry: entry.update(rest=[]), "valid dictionary"),
    ],
)
def test_what_a_checkpoint_says_of_its_files_is_checked(
    place: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    (place / "run" / PREVIOUS).unlink()
    state = torch.load(place / "run" / LAST, weights_only=True)
    change(state["segments"][0])
    torch.save(state, place / "run" / LAST)
    done = command("sample", "run", "-n", 2, "-o", "out")
    done.check("last.pt")
    assert done.code == 5
    assert words in done.said, done.said


def test_a_run_is_drawn_from_with_its_files(place: Path) -> None:
    made = lenient.synthesize("run", 99)
    assert len(made) == 37


def test_a_missing_file_raises_the_error_of_a_damaged_file(place: Path) -> None:
    shutil.rmtree(place / "run" / SEGMENTS)
    with pytest.raises(DamagedError, match=r"segments/[0-9a-f]{32}\.safetensors is damaged \(it is missing\); start "):
        RunFolder(place / "run").load_checkpoint(CPU)
