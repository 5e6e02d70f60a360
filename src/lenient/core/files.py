"""Files: read up to a limit, written whole or not at all and never through a link, held by one process at a time."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import re
import secrets
import shutil
import stat
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from lenient.core.errors import MachineError, UsageError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a system without locks; `lock_folder` says so where it matters
    from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

log = logging.getLogger("lenient")

LIMIT = 64 * 2**20
"""Bytes of the largest file that is read whole, unless a caller says otherwise."""

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.lenient-tmp")
"""Names of files that are being written, or were when a process was killed."""

_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # for the other end of a pipe


DESKTOP = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "icon\r"}
"""What desktops leave in any folder, besides names with a leading dot."""


def hidden(name: str) -> bool:
    """Whether an entry of a folder is none of the user's."""
    return name.startswith(".") or name.lower() in DESKTOP


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """Return what a regular file holds.

    Raises:
        OSError: it cannot be read, is a folder, a device or a pipe, or holds more than `limit` bytes; `strerror` says
            so in words.
    """
    with reading(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it holds more than {limit / 2**20:g} MiB", str(path))
    return content


def read_text(path: Path, limit: int = LIMIT) -> str:
    """Return what a text file in UTF-8 holds; raises OSError as `read_bytes` does, and for other bytes."""
    try:
        return read_bytes(path, limit).decode()
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, "it is not text in UTF-8", str(path)) from None


def reading(path: Path) -> io.BufferedReader:
    """Open a regular file to be read part by part; raises OSError as `read_bytes` does."""
    return open(_regular(path, os.O_RDONLY), "rb")


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a regular file of any size; raises OSError as `read_bytes` does."""
    with reading(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append(path: Path) -> IO[str]:
    """Open a text file to write at its end, made where there is none.

    Raises:
        OSError: it cannot be written, is a link, a pipe or a device, or has another name, so that what stands there
            would change, too.
    """
    return open(_alone(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | _NO_LINKS), "a", encoding="utf-8")


def _alone(path: Path, flags: int) -> int:
    handle = _regular(path, flags)
    if os.fstat(handle).st_nlink > 1:
        os.close(handle)
        raise OSError(errno.EMLINK, "it is a hard link", str(path))
    return handle


def _regular(path: Path, flags: int) -> int:
    handle = os.open(path, flags | _NO_WAITING | getattr(os, "O_CLOEXEC", 0), 0o666)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return handle
    os.close(handle)
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
    raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))


def write(path: Path, content: bytes | str) -> None:
    """Write a file that is there complete or not at all; raises OSError."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that takes the place of `path` once the block has ended well: synced, then renamed.

    A link there is replaced, not followed. Where the block raises, nothing has changed. A killed process leaves a file
    that `sweep` removes.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.lenient-tmp")
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINKS | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path`, and of all that it holds, once the block has ended well.

    `path` is a folder, a link to one, or new. Where the block raises, nothing has changed. A killed process leaves a
    folder `.NAME.….lenient-tmp` beside it. What is written is whole, whatever happens to the process; where power may
    fail before the disk has it, who writes a file syncs it.
    """
    place = Path(os.path.realpath(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    new, old = (place.with_name(f".{place.name}.{secrets.token_hex(4)}.lenient-tmp") for _ in range(2))
    new.mkdir()
    try:
        yield new
        if place.exists():
            os.rename(place, old)
        try:
            os.rename(new, place)
        except BaseException:
            if old.exists():
                os.rename(old, place)
            raise
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(place.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(folder: Path, spare: str = "") -> None:
    """Remove what processes that were killed while they wrote left in a folder; the caller holds its lock.

    Args:
        spare: a file that others write without the lock.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            spared = bool(spare) and entry.name.startswith(f".{spare}.")
            if TEMPORARY.fullmatch(entry.name) and not spared and entry.is_file(follow_symlinks=False):
                Path(entry.path).unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path, then: str = "try again") -> Iterator[None]:
    """Turn errors of the disk into one line that names the flag to change, and says what to do `then`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise MachineError(f"-o {path}: the disk is full; free some space and {then}") from error
        raise MachineError(f"-o {path}: cannot be written ({error.strerror}); choose another folder") from error


def check_kinds(folder: Path, names: Iterable[str]) -> None:
    """Refuse names below a folder, "a/b" or "a/" for a folder, that are there and are neither files nor folders.

    Raises:
        UsageError: one of them, or a folder on the way to it, is a link, a pipe or a device, or a file where a folder
            should be, or the other way round.
    """
    for name in names:
        parts = name.rstrip("/").split("/")
        for depth in range(1, len(parts) + 1):
            place = folder.joinpath(*parts[:depth])
            is_folder = depth < len(parts) or name.endswith("/")
            kind = kind_of(place)
            if kind is not None and kind != ("a folder" if is_folder else "a file"):
                raise UsageError(f"-o {folder}: {'/'.join(parts[:depth])} is {kind} there; choose another folder")


def check_alone(folder: Path, names: Iterable[str]) -> None:
    """Refuse files below a folder that are written in place and have another name; raises UsageError."""
    for name in names:
        with suppress(FileNotFoundError, NotADirectoryError):
            status = os.lstat(folder / name)
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                raise UsageError(f"-o {folder}: {name} is a hard link there; choose another folder")


def kind_of(path: Path) -> str | None:
    """Say in words what lies at a path, of a link that it is one; None where nothing does."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    kinds = {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link"}
    return kinds.get(stat.S_IFMT(mode), "a pipe or a device")


def check_folder(path: Path) -> None:
    """Refuse a place for a folder where something else is; a link to a folder is as good as the folder.

    Raises:
        UsageError: a file, a pipe, a device, or a link to one of these or to nothing.
    """
    kind = kind_of(path)
    if kind is not None and not path.is_dir():
        to = " to no folder" if kind == "a link" else ", not a folder"
        raise UsageError(f"-o {path}: is {kind}{to}; choose another")


def check_new(path: Path, overwrite: bool) -> None:
    """Refuse to write a file where something is, unless that is a file, or a link, which is not followed, to replace.

    Raises:
        UsageError: without `overwrite`, anything; with it, a folder, a pipe or a device.
    """
    kind = kind_of(path)
    if kind is None:
        return
    if kind not in ("a file", "a link"):
        raise UsageError(f"-o {path}: is {kind}; choose another name")
    if not overwrite:
        raise UsageError(f"-o {path}: exists; choose another name, or replace it with --overwrite")


LOCKS = (".lock", ".lock.soft")
"""Files in a folder that one process holds."""
_told = set[Path]()


def lock_folder(folder: Path, seconds: float = 0.0) -> Lock | None:
    """Take a folder, waiting up to `seconds`; None where another process has it.

    Where only a file guards it, a warning says so, once.

    Raises:
        OSError: as `Lock.take`.
    """
    lock = Lock(folder / LOCKS[0])
    if not lock.take(seconds):
        return None
    if lock.soft and folder not in _told:
        _told.add(folder)
        log.warning("-o %s: no locks on this file system; only the file %s guards it", folder, LOCKS[1])
    return lock


class Lock:
    """A lock that one process holds through a file, released however it dies.

    Where the file system or the system has no locks, a file beside it that names its process stands in (`soft`). One
    whose process is gone is taken over, if that process ran on this machine.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: BaseFileLock = self._beside()
        if not issubclass(FileLock, SoftFileLock):  # which it is where the system has no locks
            self._lock = FileLock(path, thread_local=False, fallback_to_soft=False)

    def _beside(self) -> SoftFileLock:
        return SoftFileLock(self._path.with_name(f"{self._path.name}.soft"), thread_local=False)

    @property
    def soft(self) -> bool:
        """Whether only the presence of a file guards; known once the lock was taken."""
        return isinstance(self._lock, SoftFileLock)

    def take(self, seconds: float = 0.0) -> bool:
        """Wait up to `seconds` for the lock; returns False where another process holds it.

        Raises:
            OSError: the file cannot be written, or is a link, a pipe or a device.
        """
        os.close(_alone(self._path, os.O_RDWR | os.O_CREAT | _NO_LINKS))
        try:
            self._lock.acquire(timeout=seconds)
        except Timeout:
            return False
        except OSError:  # the file could be opened, so it is the lock that is refused, for one of a dozen reasons
            if self.soft:
                raise
            self._lock = self._beside()
            return self.take(seconds)
        return True

    def release(self) -> None:
        """Give the lock back; without effect where it is not held."""
        self._lock.release()
