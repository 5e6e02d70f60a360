"""Which files in a folder are ours: a marker with a version names each before it is first written.

What it does not name is somebody else's, whatever it is called, and stays.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from lenient.core import files
from lenient.core.errors import DamagedError, UsageError

MARKER = ".lenient.json"
FORMAT = 3
LIMIT = 2**20
"""Bytes of the largest marker that is read."""


# of one run

FOLDERS = ("checkpoints", "samples", "student")
LAST, PREVIOUS = "checkpoints/last.pt", "checkpoints/previous.pt"
ALWAYS = (
    *("done", LAST, "report.html", "report.json", "train.log", "metrics.jsonl"),
    *(f"student/{name}" for name in ("model.safetensors", "config.json", "student.pt2", "README.md")),
    *("env.json", "config.yaml"),
)
"""Files that every run may come to write, in the order in which they are removed: the settings last."""
GROWING = ("train.log", "metrics.jsonl")
"""Those of them that are written at their end; the others are replaced."""
NAMES = (PREVIOUS, "samples/images.safetensors", "trackers.json", *ALWAYS)
SEGMENTS = "segments/"
"""The folder of what checkpoints need besides themselves (`lenient.runs.segments`); there where they do."""
TREES = {
    SEGMENTS: r"[0-9a-f]{32}\.safetensors",
    "tensorboard/": r"events\.out\.tfevents\..*",
    "wandb/": r"(offline-)?run-.*|latest-run|debug(-internal|-cli.*)?\.log|settings|wandb-resume\.json",
}
"""Folders of files that are not known by name before, and what these are called: ours, entered one by one, and two that
trackers fill."""


class Manifest:
    """The marker of one folder, and what is done by its word.

    Args:
        names: all files that a folder of this kind may hold, "a/b" for one in a folder; in the order in which they are
            removed.
        trees: folders "a/" whose entries are not known before -> a regular expression for them. Such a folder is
            entered as a whole, "a/", where another library fills it, or file by file, "a/b".
    """

    def __init__(self, folder: Path, kind: str, names: Collection[str], trees: Mapping[str, str]) -> None:
        self.folder, self.kind, self.trees = folder, kind, trees
        self.known = (*names, *trees)
        self.named: set[str] = set()
        """What it names, since the last `read` or `claim`."""

    def check(self, beside: Collection[str] = ()) -> bool:
        """Read the marker, of a folder that is there or not yet; returns False where there is none, and nothing else.

        Args:
            beside: names that may lie in a folder without a marker.

        Raises:
            DamagedError: as `read`.
            UsageError: as `read`; or it is no folder, or holds something and no marker, or what should be a marker or
                a lock is a link or a pipe, or a lock has another name.
        """
        files.check_folder(self.folder)
        files.check_kinds(self.folder, (MARKER, *files.LOCKS))
        files.check_alone(self.folder, files.LOCKS)
        if self.read():
            return True
        there = os.listdir(self.folder) if self.folder.exists() else []
        if all(name in (*beside, *files.LOCKS) or files.TEMPORARY.fullmatch(name) for name in there):
            return False
        if self.read():  # another process has just begun here
            return True
        raise UsageError(f"-o {self.folder}: the folder holds other files; choose an empty one")

    def read(self) -> bool:
        """Read the marker; returns False where there is none.

        Raises:
            DamagedError: it is no marker that we wrote.
            UsageError: it belongs to a folder of another kind, or to a newer version.
        """
        marker = self.folder / MARKER
        self.named = set()
        if files.kind_of(marker) is None:
            return False
        try:
            found = json.loads(files.read_text(marker, LIMIT))
            kind, version, named = found["kind"], found["format"], set(found["files"])
            if not (isinstance(kind, str) and type(version) is int and isinstance(found["files"], list)):
                raise TypeError("of other types")
        except (OSError, ValueError, RecursionError, KeyError, TypeError):
            raise DamagedError(f"{marker}: is damaged, so nothing here is touched; choose another folder") from None
        if kind != self.kind:
            raise UsageError(f"{marker}: belongs to no {self.kind}; choose another folder")
        if version != FORMAT:
            raise UsageError(f"{marker}: was written by another version of lenient; choose another folder")
        if not all(name in self.known or self._in_tree(name) for name in named):
            raise DamagedError(f"{marker}: names files that no {self.kind} writes; choose another folder")
        self.named = named
        return True

    def claim(self, *names: str) -> None:
        """Enter names before they are first written.

        Raises:
            UsageError: something is there that was not entered, or is neither file nor folder.
            OSError: the marker cannot be written.
        """
        unclaimed = [name for name in names if name not in self.named]
        files.check_kinds(self.folder, names)
        for name in unclaimed:
            if next(self._places(name), None) is not None:
                raise UsageError(f"-o {self.folder}: {name} is there, and no {self.kind} wrote it; move it elsewhere")
        if unclaimed or not (self.folder / MARKER).exists():
            self._write(self.named | set(names))

    def strangers(self) -> list[str]:
        """Return the names of ours that are there and were not entered."""
        return [name for name in self.known if name not in self.named and next(self._places(name), None) is not None]

    def left(self) -> list[str]:
        """Return the names entered that are there."""
        return [name for name in self._sorted(self.named) if next(self._places(name), None) is not None]

    def remove(self) -> None:
        """Remove what is entered, and folders that are empty then; the marker names nothing afterwards."""
        self.drop(self.named)

    def drop(self, names: Collection[str]) -> None:
        """Remove those of the names that are entered, and folders that are empty then; they are no longer entered."""
        for name in self._sorted(self.named.intersection(names)):
            for place in list(self._places(name)):
                if files.kind_of(place) == "a folder":
                    shutil.rmtree(place)
                else:
                    place.unlink()
        for folder in sorted({name.rpartition("/")[0] for name in names} - {""}):
            with suppress(OSError):
                (self.folder / folder).rmdir()
        self._write(self.named.difference(names))

    def _places(self, name: str) -> Iterator[Path]:
        place = self.folder / name
        if not name.endswith("/"):
            yield from [place] if files.kind_of(place) is not None else []
        elif files.kind_of(place) == "a folder":
            yield from (entry for entry in sorted(place.iterdir()) if re.fullmatch(self.trees[name], entry.name))

    def _in_tree(self, name: object) -> bool:
        tree, _, entry = str(name).partition("/")
        pattern = self.trees.get(f"{tree}/")
        if pattern is None or "/" in entry or entry in ("", ".", ".."):
            return False
        return isinstance(name, str) and re.fullmatch(pattern, entry) is not None

    def _sorted(self, names: Collection[str]) -> list[str]:
        known = [name for name in self.known if name in names]
        return sorted(set(names).difference(known)) + known

    def _write(self, named: set[str]) -> None:
        content = {"kind": self.kind, "format": FORMAT, "files": self._sorted(named)}
        files.write(self.folder / MARKER, json.dumps(content, indent=1) + "\n")
        self.named = named


def of_run(folder: Path) -> Manifest:
    """Return the manifest of a run's folder."""
    return Manifest(folder, "run", NAMES, TREES)
