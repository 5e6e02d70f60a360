"""The run folder: what is ours is named in its marker; nothing else is removed, replaced or written through."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from lenient.core.errors import DamagedError, LenientError, UsageError
from lenient.core.files import LOCKS
from lenient.core.manifest import ALWAYS, FOLDERS, FORMAT, LAST, MARKER, NAMES, PREVIOUS, TREES
from lenient.runs.folder import RunFolder, discard


def contents(folder: Path) -> dict[str, bytes | str | None]:
    """All that lies in a folder, but for its marker and locks."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or path.is_file()) and path.name not in (MARKER, *LOCKS)
    }


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"somebody's {name}")


def opened(path: Path, **how: bool) -> RunFolder:
    folder = RunFolder.create(path, **how)
    folder.close()
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder of a run that has ended, with all that runs write."""
    path = tmp_path / "run"
    folder = RunFolder.create(path)
    folder.empty()
    folder.open_logs(0)
    for _ in range(2):
        folder.save_checkpoint({"step": 1})
    for name in (*NAMES[1:], *(f"{tree}events.out.tfevents.1" for tree in TREES if "tensor" in tree), "wandb/run-1/a"):
        if "/" in name and f"{name.split('/')[0]}/" in TREES:
            folder.claim(f"{name.split('/')[0]}/")
        elif name not in ALWAYS:
            folder.claim(name)
        if name != LAST:
            put(path, name)
    folder.close()
    return path


FOREIGN = ("thesis.txt", "student/thesis.txt", "checkpoints/epoch1.pt", "tensorboard/mine", "wandb/mine", "mine/a")


def test_overwriting_removes_what_the_marker_names_and_nothing_else(run: Path) -> None:
    put(run, *FOREIGN)
    before = contents(run)
    folder = RunFolder.create(run, overwrite=True)
    assert contents(run) == before  # nothing until all is checked
    folder.empty()
    folder.close()
    assert set(contents(run)) == set(FOREIGN)


def test_overwriting_leaves_folders_that_are_not_empty_alone_and_makes_ours_anew(run: Path) -> None:
    discard(run)
    assert contents(run) == {}
    assert {path.name for path in run.iterdir()} - {MARKER, *LOCKS} == set(FOLDERS)
    assert set(json.loads((run / MARKER).read_text())["files"]) == set(ALWAYS)


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
@pytest.mark.parametrize("names", [[".lock", "metrics.jsonl"], ["samples/cat.png"], ["config.yaml"], [*NAMES, ".lock"]])
def test_a_folder_without_a_marker_is_somebody_elses(tmp_path: Path, names: list[str], how: dict[str, bool]) -> None:
    put(tmp_path, *names)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="the folder holds other files; choose an empty one"):
        RunFolder.create(tmp_path, **how)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", f".{MARKER}.0123abcd.lenient-tmp"]])
def test_what_a_killed_start_leaves_is_as_good_as_empty(tmp_path: Path, left: list[str]) -> None:
    put(tmp_path, *left)
    opened(tmp_path, resume=True)
    assert contents(tmp_path) == {}


def marker(**changes: object) -> str:
    return json.dumps({"kind": "run", "format": FORMAT, "files": []} | changes)


@pytest.mark.parametrize(
    "marker",
    ["", "null", "[]", "{", "[" * 9999, '{"kind": "run"}', "\xff", " " * 2**17]
    + ['{"kind": "run", "format": true, "files": []}']
    + [marker(files=files) for files in ("a", [1], [[]], ["../a"], ["thesis.txt"])]
    + [marker(kind="hub"), marker(format=FORMAT + 1)],
)  # fmt: skip
@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
def test_a_damaged_marker_is_refused_in_one_line(run: Path, marker: str, how: dict[str, bool]) -> None:
    (run / MARKER).write_bytes(marker.encode("latin1"))
    before = contents(run)
    with pytest.raises(
        LenientError, match=rf"{MARKER}: (is damaged|names|belongs to no run|was written by another version)"
    ) as said:
        RunFolder.create(run, **how)
    assert len(str(said.value)) <= 300
    assert "\n" not in str(said.value)
    assert contents(run) == before


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder or file"])
@pytest.mark.parametrize("name", [MARKER, *LOCKS, *FOLDERS, *NAMES, *(tree.rstrip("/") for tree in TREES)])
def test_our_names_are_files_and_folders_and_no_links(
    tmp_path: Path, name: str, kind: str, how: dict[str, bool]
) -> None:
    other = tmp_path / "other"
    put(other, "precious")
    path = tmp_path / "run"
    opened(path)
    place = path / name
    if place.is_dir():
        place.rmdir()
    place.unlink(missing_ok=True) if place.parent.exists() else None
    if kind == "link":
        place.symlink_to(other if name in FOLDERS or f"{name}/" in TREES else other / "precious")
    elif kind == "pipe":
        os.mkfifo(place)
    elif name in FOLDERS or f"{name}/" in TREES:
        place.touch()
    else:
        place.mkdir()
    with pytest.raises(LenientError, match=f"{place.name} is a "):
        RunFolder.create(path, **how)
    assert contents(other) == {"precious": b"somebody's precious"}


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "train.log"])
def test_what_is_written_in_place_has_no_second_name(
    run: Path, tmp_path: Path, name: str, how: dict[str, bool]
) -> None:
    other = tmp_path / "other"
    (run / name).unlink(missing_ok=True)
    put(run, name)
    os.link(run / name, other)
    with pytest.raises(UsageError, match=rf"^-o {run}: {name} is a hard link there; choose another folder$"):
        RunFolder.create(run, **how)
    assert other.read_text() == f"somebody's {name}"


def test_what_is_replaced_may_have_a_second_name(run: Path, tmp_path: Path) -> None:
    os.link(run / "config.yaml", tmp_path / "kept")
    folder = RunFolder.create(run, resume=True)
    folder.write_config({"steps": 1})
    folder.close()
    assert (tmp_path / "kept").read_text() == "somebody's config.yaml"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ALWAYS])
def test_a_name_of_ours_that_no_run_wrote_is_not_replaced(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run"
    folder = opened(path)
    put(path, name)
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(UsageError, match=f"{name} is there, and no run wrote it; move it elsewhere"):
            RunFolder.create(path, **how)
    with pytest.raises(UsageError, match="no run wrote it"):
        folder.claim(name)


def test_a_tracker_does_not_write_among_somebodys_files(tmp_path: Path) -> None:
    folder = opened(tmp_path / "run")
    put(folder.path, "tensorboard/mine")
    folder.claim("tensorboard/")
    put(folder.path, "wandb/run-1/mine")
    with pytest.raises(UsageError, match="wandb/ is there, and no run wrote it"):
        folder.claim("wandb/")


@pytest.mark.parametrize("kind", ["file", "pipe", "dangling link", "link to a file"])
@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
def test_a_run_folder_is_a_folder(tmp_path: Path, kind: str, how: dict[str, bool]) -> None:
    path = tmp_path / "o"
    put(tmp_path, "a")
    if kind == "file":
        path.touch()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / ("a" if "file" in kind else "nothing"))
    with pytest.raises(UsageError, match=rf"^-o {path}: is a .*choose another$"):
        RunFolder.create(path, **how)
    assert (tmp_path / "a").read_text() == "somebody's a"


def test_a_link_to_a_folder_will_do(tmp_path: Path) -> None:
    (tmp_path / "big-disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "big-disk")
    opened(tmp_path / "run")
    opened(tmp_path / "run", overwrite=True)
    assert (tmp_path / "big-disk" / MARKER).exists()


@pytest.mark.parametrize("config", [None, ""])
def test_resuming_never_removes_a_run_whose_settings_are_gone(run: Path, config: str | None) -> None:
    (run / "config.yaml").unlink() if config is None else (run / "config.yaml").write_text(config)
    before = contents(run)
    folder = RunFolder.create(run, resume=True)
    with pytest.raises(DamagedError, match=r"config\.yaml: is (missing|damaged), nothing to go on with"):
        folder.empty()
    folder.close()
    assert contents(run) == before


def test_checkpoints_that_are_gone_are_not_a_run_that_has_none_yet(run: Path) -> None:
    (run / LAST).unlink()
    opened(run, resume=True)  # the one before will do
    (run / PREVIOUS).unlink()
    before = contents(run)
    with pytest.raises(DamagedError, match=r"last\.pt: is missing, and so is the one before"):
        RunFolder.create(run, resume=True)
    assert contents(run) == before
    opened(run, overwrite=True)


def test_a_kill_between_a_checkpoint_and_its_entry_is_gone_on_from(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.open_logs(0)
    folder.save_checkpoint({"step": 1})
    marker = tmp_path / "run" / MARKER
    entries = json.loads(marker.read_text())
    entries["files"].remove(PREVIOUS)
    marker.write_text(json.dumps(entries))
    folder.close()
    folder = RunFolder.create(tmp_path / "run", resume=True)
    folder.open_logs(0)
    folder.save_checkpoint({"step": 2})
    found = [torch.load(folder.path / name)["step"] for name in (PREVIOUS, LAST)]
    assert found == [1, 2]
    folder.close()


@pytest.mark.parametrize("says", [11, 10**13, -1])
def test_what_a_checkpoint_says_of_the_log_is_held_against_it(run: Path, says: int) -> None:
    (run / "metrics.jsonl").write_text("0123456789")
    before = contents(run)
    folder = RunFolder.create(run, resume=True)
    with pytest.raises(DamagedError, match=rf"metrics\.jsonl: has 10 bytes, the checkpoint says {says}"):
        folder.open_logs(says)
    folder.close()
    assert contents(run) == before
    folder = RunFolder.create(run, resume=True)
    folder.open_logs(4)
    folder.close()
    assert (run / "metrics.jsonl").read_text() == "0123"
    assert not (run / "done").exists()


def test_leftovers_of_killed_writers_are_swept(run: Path) -> None:
    left = [f"{place}.{name}.0123abcd.lenient-tmp" for place in ("", "checkpoints/", "student/") for name in "ab"]
    put(run, *left)
    opened(run, resume=True)
    assert not set(left) & set(contents(run))


def test_nothing_needs_fcntl_which_some_systems_lack() -> None:
    sources = Path(sys.modules["lenient.runs.folder"].__file__ or "").parent.rglob("*.py")
    assert [path for path in sources if "import fcntl" in path.read_text(encoding="utf-8")] == []
