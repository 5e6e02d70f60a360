"""Damaged run folders: whatever is in a file, each command ends in time, in one line, and touches nothing else."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import bare  # noqa: F401 - runs without figures and traced file
import lenient
from fuzzing import HOSTILE, OTHERS, Spoil, bounded_memory, command, spoilt_bytes, spoilt_safetensors, spoilt_values
from lenient.core.manifest import MARKER
from lenient.models import save_network
from toys import digits_like

STUDENT = "lenient:lenet5-half"
SETTINGS = {
    "overlap": False,
    "generator": {"width": 4, "latent_dim": 8},
    "log_every": 2,
    "checkpoint_every": 2,
    "steps_per_epoch": 2,
    "method": {"student_steps": 1},
}
COMMANDS: Mapping[str, tuple[object, ...]] = {
    "report": ("report", "run"),
    "evaluate": ("evaluate", "run", "--data", "digits", "--device", "cpu"),
    "export": ("export", "run", "--format", "safetensors", "-o", "out/x.safetensors"),
    "sample": ("sample", "run", "-n", 2, "-o", "out/s"),
    "resume": ("distill", "t.safetensors", "--resume", "-o", "run", "--progress", "none"),
}
EARLY = (
    "config.yaml",
    "env.json",
    "metrics.jsonl",
    "train.log",
    "checkpoints/last.pt",
    "checkpoints/previous.pt",
    MARKER,
)
FILES = {
    "finished": (
        *EARLY,
        "samples/images.safetensors",
        *(f"student/{name}" for name in ("config.json", "model.safetensors", "student.pt2")),
        "report.json",
        "done",
    ),
    "interrupted": EARLY,
}


class Interrupt:
    """An observer that presses Ctrl-C in the middle."""

    def start(self, total_steps: int, step: int) -> None: ...

    def step(self, step: int, images: int) -> None:
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    def line(self, event: str, values: Mapping[str, Any]) -> None: ...

    def stop(self) -> None: ...


def make_runs(folder: Path) -> None:
    """A teacher, a finished run, an interrupted one, and something precious."""
    save_network(folder / "t.safetensors", digits_like())
    (folder / "precious").write_text("mine")
    old = Path.cwd()
    os.chdir(folder)  # runs name their teacher from here
    try:
        for name in FILES:
            made = lenient.distill(
                "t.safetensors",
                STUDENT,
                output=name,
                steps=6,
                batch_size=8,
                device="cpu",
                precision="32",
                settings=SETTINGS,
                observers=[Interrupt()] if name == "interrupted" else [],
            )
            assert made.interrupted == (name == "interrupted")
    finally:
        os.chdir(old)


@pytest.fixture
def place(made_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what `make_runs` makes, as the working folder."""
    folder = shutil.copytree(made_once("runs-to-damage", make_runs), tmp_path / "place")
    monkeypatch.setenv("BARE", "1")  # only now: every file of a run is to be damaged
    monkeypatch.chdir(folder)
    return folder


@dataclass(frozen=True)
class Damage:
    """What happens to one file of a run.

    `kind` is what lies there afterwards: a file with `content`, or one of "missing", "folder", "link" (to somebody's
    file), "dangling link", "pipe". What `fits` is a sound file of its kind whose values may be others.
    """

    name: str
    kind: str = "file"
    content: bytes = b""
    fits: bool = False

    def apply(self, path: Path) -> None:
        path.unlink()
        if self.kind == "file":
            path.write_bytes(self.content)
        elif self.kind == "folder":
            path.mkdir()
            (path / "mine").write_text("mine")
        elif self.kind == "pipe":
            os.mkfifo(path)
        elif self.kind != "missing":
            path.symlink_to(Path("precious" if self.kind == "link" else "nowhere").absolute())


def spoilt_json(content: bytes, chance: random.Random) -> bytes:
    return json.dumps(spoilt_values(json.loads(content), chance)).encode()


def spoilt_line(content: bytes, chance: random.Random) -> bytes:
    lines = content.splitlines()
    number = chance.randrange(len(lines))
    lines[number] = spoilt_json(lines[number], chance)
    return b"\n".join([*lines, b""])


def spoilt_yaml(content: bytes, chance: random.Random) -> bytes:
    return yaml.safe_dump(spoilt_values(yaml.safe_load(content), chance), sort_keys=False).encode()


TENSORS = (
    torch.zeros(0),
    torch.tensor(float("nan")),
    torch.ones(3, 3),
    torch.ones(4, dtype=torch.int64),
    torch.ones(2).to_sparse(),
)


def spoilt_checkpoint(content: bytes, chance: random.Random) -> bytes:
    state = torch.load(io.BytesIO(content), weights_only=True)
    written = io.BytesIO()
    torch.save(spoilt_values(state, chance, (*HOSTILE, *TENSORS)), written)
    return written.getvalue()


SPOILS: Mapping[str, Spoil] = {
    "config.yaml": spoilt_yaml,
    "metrics.jsonl": spoilt_line,
    **dict.fromkeys(("env.json", "report.json", "student/config.json", MARKER), spoilt_json),
    **dict.fromkeys(("checkpoints/last.pt", "checkpoints/previous.pt"), spoilt_checkpoint),
    **dict.fromkeys(("samples/images.safetensors", "student/model.safetensors"), spoilt_safetensors),
}
"""How values inside a file become others."""


def damages(name: str, content: bytes, chance: random.Random, count: int) -> Iterator[Damage]:
    """Yield what may happen to a file, `count` times with other values inside."""
    for kind in ("missing", "folder", "link", "dangling link", "pipe"):
        yield Damage(kind, kind)
    for what, other in (*OTHERS.items(), *spoilt_bytes(content, chance)):
        yield Damage(what, content=other)
    for number in range(count if name in SPOILS else 0):
        yield Damage(f"other values {number}", content=SPOILS[name](content, chance), fits=True)


def contents(folder: Path) -> dict[str, bytes | str]:
    """All that lies in a folder, but for locks."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else ""
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"
    }


def _names(marker: bytes | str | None) -> set[str]:
    """The files that a marker names, none where it is none. A report enters its two, to be able to write them again."""
    try:
        return set(json.loads(marker or "")["files"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return set()


def check(place: Path, state: str, name: str, damage: Damage, word: str) -> int:
    """One damage and one command; returns the exit code."""
    for left in ("run", "out"):
        shutil.rmtree(place / left, ignore_errors=True)
    shutil.copytree(place / state, place / "run")
    (place / "out").mkdir()
    run = place / "run"
    damage.apply(run / name)
    before, outside = contents(run), {path: path.read_bytes() for path in place.iterdir() if path.is_file()}
    ended = command(*COMMANDS[word])
    ended.check(name, *(["run/", Path(name).name] if damage.fits else []), *(["-o run"] if name == MARKER else []))
    assert ended.code != 130 or word == "resume", ended
    after = contents(run)
    assert {path: path.read_bytes() for path in place.iterdir() if path.is_file()} == outside
    assert {path.name for path in place.iterdir()} == {*FILES, "run", "out", *(path.name for path in outside)}
    if word == "resume":
        # the mark of a run that is no longer done, and the traced file, which a student written anew has not in BARE
        assert set(before) - set(after) <= {"done", "student/student.pt2"}
    else:
        pages = {"report.html", "report.json"} if word == "report" else set[str]()
        entered = _names(after.get(MARKER)) - _names(before.get(MARKER))
        written = {*pages, MARKER} if pages and entered <= pages else pages
        assert {key: value for key, value in after.items() if key not in written} == {
            key: value for key, value in before.items() if key not in written
        }, ended
    if ended.code in (2, 3, 5):
        assert after == before
    return ended.code


def cases(place: Path, count: int) -> Iterator[tuple[str, str, Damage, str]]:
    """Yield all files of both runs, each with all damages and commands."""
    chance = random.Random(SEED)
    for state, names in FILES.items():
        for name in names:
            for damage in damages(name, (place / state / name).read_bytes(), chance, count):
                for word in COMMANDS if state == "finished" else ("report", "sample", "resume"):
                    yield state, name, damage, word


CASES = int(os.environ.get("LENIENT_DAMAGES", "1200"))
"""Of about 3,500."""
SEED = int(os.environ.get("LENIENT_DAMAGES_SEED", "0"))
"""Others see other damages."""


def _cut(text: str, most: int = 3000) -> str:
    """A text's beginning and end: the one names the command, the other what a trace ends in."""
    return text if len(text) <= most else f"{text[:800]} ... {text[800 - most :]}"


def tried(place: Path, chosen: Sequence[tuple[str, str, Damage, str]]) -> Counter[str]:
    """Count how the commands ended; all that went wrong is shown at once."""
    ends: Counter[str] = Counter()
    failed: list[str] = []
    with bounded_memory():
        for state, name, damage, word in chosen:
            try:
                ends[f"{word} {check(place, state, name, damage, word)}"] += 1
            except AssertionError as error:
                failed.append(f"{state}, {name}, {damage.name}, {word}: {_cut(str(error))}")
    assert not failed, f"{len(failed)} of {len(chosen)}:\n" + "\n".join(failed)
    return ends


@pytest.mark.slow
def test_1200_damages_of_runs_end_in_one_line_or_are_outlived(place: Path) -> None:
    """Some 15 minutes; LENIENT_DAMAGES=9999 tries them all."""
    every = list(cases(place, 12))
    ends = tried(place, random.Random(SEED + 1).sample(every, min(CASES, len(every))))
    print(sum(ends.values()), "of", len(every), dict(sorted(ends.items())))


def test_some_damages_of_runs(place: Path) -> None:
    assert sum(tried(place, list(cases(place, 1))[5::300]).values()) > 5
