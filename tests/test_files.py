"""Files: limits, whole or not at all, never through a link; locks, also where the system has none."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lenient.core import files
from lenient.core.errors import DamagedError, MachineError, UsageError
from lenient.core.manifest import FORMAT, MARKER, Manifest

TEMPORARIES = "*.lenient-tmp"


def test_only_regular_files_up_to_a_limit_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("grün", encoding="utf-8")
    assert files.read_text(path, limit=5) == "grün"
    with pytest.raises(OSError, match="holds more than"):
        files.read_text(path, limit=4)
    os.mkfifo(tmp_path / "pipe")  # nobody writes into it: a plain open would wait for ever
    for place, why in (
        (tmp_path / "pipe", "a pipe or a device"),
        (Path("/dev/zero"), "device"),
        (tmp_path, "a folder"),
    ):
        with pytest.raises(OSError, match=why):
            files.read_bytes(place)
    path.write_bytes(b"\xff")
    with pytest.raises(OSError, match="not text in UTF-8"):
        files.read_text(path)


def test_a_file_is_written_whole_or_not_at_all_with_the_rights_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write(path, "old")

    def half() -> None:
        with files.replacing(path) as file:
            file.write(b"half")
            raise RuntimeError("full")

    with pytest.raises(RuntimeError, match="full"):
        half()
    assert path.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [path]
    files.write(path, "new")
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    other = tmp_path / "somebody's"
    other.write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(other)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        files.append(link)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        files.Lock(link).take()
    files.write(link, "ours")
    assert other.read_text() == "precious"
    assert link.read_text() == "ours"
    assert not link.is_symlink()


def test_nothing_is_written_at_the_end_of_a_file_with_a_second_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("precious")
    os.link(tmp_path / "a", tmp_path / "b")
    with pytest.raises(OSError, match="it is a hard link"):
        files.append(tmp_path / "b")
    with pytest.raises(OSError, match="it is a hard link"):
        files.Lock(tmp_path / "b").take()
    assert (tmp_path / "a").read_text() == "precious"


def test_what_is_appended_follows_what_is_there(tmp_path: Path) -> None:
    for _ in range(2):
        with files.append(tmp_path / "a.log") as file:
            file.write("é\n")
    assert (tmp_path / "a.log").read_bytes() == "é\né\n".encode()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe"):
        files.append(tmp_path / "pipe")


def test_what_a_killed_writer_leaves_is_swept_and_nothing_else(tmp_path: Path) -> None:
    code = f"""
import os, signal, pathlib
from lenient.core import files
with files.replacing(pathlib.Path({str(tmp_path / "a.json")!r})) as file:
    file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    kept = [tmp_path / ".a.tmp", tmp_path / "a.lenient-tmp"]
    for path in kept:
        path.touch()
    assert len(list(tmp_path.iterdir())) == 3
    files.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, r"-o out: the disk is full; free some space and go on"),
        (errno.EACCES, r"-o out: cannot be written \(nope\); choose another folder"),
    ],
)
def test_errors_of_the_disk_name_the_flag(number: int, words: str) -> None:
    def refused() -> None:
        with files.disk_errors(Path("out"), "go on"):
            raise OSError(number, "nope")

    with pytest.raises(MachineError, match=words):
        refused()


HOLD = """
import errno, fcntl, os, pathlib, sys
def refuse(*_):
    raise OSError(getattr(errno, sys.argv[2]), "no locks here")
if sys.argv[2]:
    fcntl.flock = refuse
from lenient.core import files
lock = files.Lock(pathlib.Path(sys.argv[1]))
print(lock.take(), lock.soft, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("reason", ["", "ENOSYS", "ENOLCK", "ENOTSUP", "EINVAL", "EIO"])
def test_a_lock_is_held_by_one_process_and_free_once_that_is_killed(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLD, str(path), reason]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == f"True {bool(reason)}\n"

    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, reason), "no locks here")

    if reason:
        monkeypatch.setattr(fcntl, "flock", refuse)
    lock = files.Lock(path)
    assert not lock.take()
    assert not lock.take(0.1)
    holder.kill()
    holder.wait()
    assert lock.take(5)
    assert not files.Lock(path).take()
    lock.release()
    again = files.Lock(path)
    assert again.take()
    again.release()


def report_in(folder: Path) -> Manifest:
    return Manifest(folder, "report", ("page.html",), {"tables/": r"[\w-]+\.md"})


def test_a_marker_names_single_files_of_a_folder_that_it_knows_by_a_pattern(tmp_path: Path) -> None:
    manifest = report_in(tmp_path)
    assert not manifest.check()
    manifest.claim("tables/a.md", "tables/b.md", "page.html")
    for name in ("tables/a.md", "tables/b.md", "tables/mine.md", "page.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    manifest = report_in(tmp_path)
    assert manifest.check()
    with pytest.raises(UsageError, match=r"tables/mine\.md is there, and no report wrote it"):
        manifest.claim("tables/mine.md")
    manifest.drop(["tables/a.md", "tables/mine.md"])
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["b.md", "mine.md"]
    assert json.loads((tmp_path / MARKER).read_text())["files"] == ["tables/b.md", "page.html"]


@pytest.mark.parametrize(
    "name", ["tables/../page.md", "tables/", "tables/a.txt", "tables/a/b.md", "figures/a.md", "a.md"]
)
def test_a_marker_that_names_a_file_elsewhere_is_damaged(tmp_path: Path, name: str) -> None:
    (tmp_path / MARKER).write_text(json.dumps({"kind": "report", "format": FORMAT, "files": [name]}))
    if name == "tables/":  # the folder as a whole
        assert report_in(tmp_path).check()
        return
    with pytest.raises(DamagedError, match="names files that no report writes"):
        report_in(tmp_path).check()
