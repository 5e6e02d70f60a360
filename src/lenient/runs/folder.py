"""The run folder: all that one distillation leaves behind, written so that a kill at any moment loses no more than the
time since the last checkpoint."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from lenient.core import files, ranks, schemas
from lenient.core.config import dump_yaml
from lenient.core.errors import DamagedError, UsageError
from lenient.core.files import disk_errors
from lenient.core.manifest import ALWAYS, FOLDERS, GROWING, LAST, NAMES, PREVIOUS, SEGMENTS, TREES, of_run
from lenient.core.numbers import finite, plain
from lenient.models.card import tensors_of
from lenient.models.names import one_line
from lenient.models.programs import Loaded
from lenient.runs.segments import put_back, set_apart

log = logging.getLogger("lenient")

RESUME = "go on with --resume"


class RunFolder:
    """One run's folder: `config.yaml`, `env.json`, `metrics.jsonl`, `train.log`, `checkpoints/`, `segments/`,
    `samples/`, `student/`, `report.json`, `report.html`, `done`; `.lenient.json` names those that runs wrote
    (`Manifest`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest = of_run(path)
        self._may_remove = False
        self._last_is_sound = True
        self._needs: dict[str, set[str] | None] = {LAST: None, PREVIOUS: None}  # files beside each checkpoint, if known
        self._metrics: IO[str] | None = None
        self._lock: files.Lock | None = None
        self._log_handler: logging.StreamHandler[IO[str]] | None = None

    @classmethod
    def create(cls, path: Path, *, overwrite: bool = False, resume: bool = False) -> RunFolder:
        """Open the folder for one run and lock it. Nothing is removed: see `empty`.

        Raises:
            UsageError: it holds a run and neither `overwrite` nor `resume` was asked for; it holds what no run wrote
                and has no marker of a run, or has one of our names; one of these is a link; or another run is using it.
            DamagedError: the marker, or a checkpoint that there was, is damaged or missing.
            MachineError: it cannot be written.
        """
        folder = cls(path)
        folder._may_remove = overwrite and not resume
        with disk_errors(path, RESUME):
            folder._check(overwrite, resume)
            path.mkdir(parents=True, exist_ok=True)
            folder._lock = files.lock_folder(path)
            if folder._lock is None:
                raise UsageError(f"-o {path}: another run is writing here; choose another folder")
            try:
                folder._check(overwrite, resume)  # again, for nobody can change it any more
                folder._prepare()
            except BaseException:
                folder.close()
                raise
        return folder

    @classmethod
    def check(cls, path: Path, *, overwrite: bool = False, resume: bool = False) -> None:
        """Raise what `create` would, without writing anything and whoever holds it."""
        with disk_errors(path, RESUME):
            cls(path)._check(overwrite, resume)

    def _check(self, overwrite: bool, resume: bool) -> None:
        path, manifest = self.path, self._manifest
        files.check_folder(path)
        files.check_kinds(path, (*(f"{name}/" for name in FOLDERS), *NAMES, *TREES))
        files.check_alone(path, GROWING)
        if not manifest.check():
            return
        files.check_kinds(path, (name for name in sorted(manifest.named) if name.startswith(SEGMENTS)))
        strangers = [name for name in manifest.strangers() if name not in TREES]
        if strangers:
            raise UsageError(f"-o {path}: {strangers[0]} is there, and no run wrote it; move it elsewhere")
        left = manifest.left()
        if left and not (overwrite or resume):
            raise UsageError(f"-o {path}: holds a run already; go on with --resume, or replace it with --overwrite")
        # the name of the second checkpoint is entered once the first is complete
        if resume and PREVIOUS in manifest.named and not {LAST, PREVIOUS} & set(left):
            raise DamagedError(f"{path / LAST}: is missing, and so is the one before; start again with --overwrite")

    def _prepare(self) -> None:
        """Claim what every run writes, and make its folders; the folder is locked."""
        self._manifest.claim(*ALWAYS)
        for name in FOLDERS:
            (self.path / name).mkdir(exist_ok=True)
        for folder in (self.path, *(self.path / name for name in (*FOLDERS, SEGMENTS))):
            files.sweep(folder)

    def empty(self) -> None:
        """Make room for a new run: where `overwrite` was asked for, remove what the run before wrote.

        Raises:
            DamagedError: it was not asked for, so what is there belongs to a run whose settings cannot be read.
        """
        left = self._manifest.left()
        if left and not self._may_remove:
            what = "is damaged" if "config.yaml" in left else "is missing"
            raise DamagedError(f"{self.path / 'config.yaml'}: {what}, nothing to go on with; replace with --overwrite")
        with disk_errors(self.path, RESUME):
            if left:
                self._manifest.remove()
            self._prepare()

    def claim(self, name: str) -> None:
        """Enter a name of `NAMES` or `TREES` in the manifest before it is first written.

        Raises:
            UsageError: something is there that no run wrote.
        """
        with disk_errors(self.path, RESUME):
            self._manifest.read()
            self._manifest.claim(name)

    def close(self) -> None:
        """Release the log files and the lock."""
        if self._log_handler is not None:
            log.removeHandler(self._log_handler)
            self._log_handler.stream.close()
            self._log_handler.close()
        if self._metrics is not None:
            self._metrics.close()
        if self._lock is not None:
            self._lock.release()
        self._metrics = self._lock = self._log_handler = None

    # settings and environment

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved settings."""
        self._replace("config.yaml", dump_yaml(config).encode())

    def read_config(self) -> dict[str, Any] | None:
        """Return the settings of the run that the folder holds, or None; raises DamagedError."""
        config = schemas.read_config(self.path / "config.yaml")
        generator = None if config is None else config.get("generator")
        if isinstance(generator, dict):
            generator.setdefault("output_moments", None)  # of an earlier version, which drew as released
        return config

    def write_env(self, facts: Mapping[str, Any]) -> None:
        """Write what may change numbers: versions, device, threads, precision."""
        self._replace("env.json", json.dumps(dict(facts), indent=2).encode())

    def read_env(self) -> dict[str, Any]:
        """Return the recorded environment, empty if there is none; raises DamagedError."""
        return schemas.read_json(self.path / "env.json", schemas.Environment, schemas.ANEW) or {}

    def mark_done(self) -> None:
        """Say that the run is complete; nothing is written after this."""
        self._replace("done", b"")

    @property
    def done(self) -> bool:
        """Whether the run is complete."""
        return (self.path / "done").exists()

    # metrics and log

    def open_logs(self, metrics_bytes: int | None = None) -> None:
        """Open `metrics.jsonl`, cut back to `metrics_bytes` where given, and send the package's log to `train.log`.

        A run that goes on is no longer done.

        Raises:
            DamagedError: `metrics.jsonl` is shorter than that, so it has lost lines of the run.
        """
        metrics = self.path / "metrics.jsonl"
        with disk_errors(self.path, RESUME):
            size = metrics.stat().st_size if metrics.exists() else 0
            if metrics_bytes is not None and not 0 <= metrics_bytes <= size:
                raise DamagedError(
                    f"{metrics}: has {size} bytes, the checkpoint says {metrics_bytes}; start again with --overwrite"
                )
            self._metrics, words = files.append(metrics), files.append(self.path / "train.log")
            (self.path / "done").unlink(missing_ok=True)
            if metrics_bytes is not None:
                self._metrics.truncate(metrics_bytes)
                self._metrics.seek(0, os.SEEK_END)  # else `tell` goes on from the old end
        self._log_handler = logging.StreamHandler(words)
        self._log_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(self._log_handler)
        log.setLevel(logging.INFO)

    def write_metrics(self, event: str, values: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl`; non-finite numbers become null."""
        assert self._metrics is not None, "open_logs first"
        with disk_errors(self.path, RESUME):
            self._metrics.write(json.dumps({"event": event, **plain(values, _short)}) + "\n")
            self._metrics.flush()

    # checkpoints

    def distrust_last(self) -> None:
        """Let the next checkpoint take the place of `last.pt`, which is not to become the one before."""
        self._last_is_sound = False

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Write a checkpoint whole or not at all; the one before is kept as `previous.pt`.

        What is written once goes to files beside it, which both may need; those that neither does are removed.
        """
        last, previous = self.path / LAST, self.path / PREVIOUS
        assert self._metrics is not None, "open_logs first"
        with disk_errors(self.path, RESUME):
            os.fsync(self._metrics.fileno())
            state, needed = set_apart({**state, "metrics_bytes": self._metrics.tell()}, self._manifest)
            written = io.BytesIO()  # torch's own file writer hides why the disk refused
            torch.save(state, written)
            before = last.exists() and self._last_is_sound
            self._last_is_sound = True
            if before:
                self._manifest.claim(PREVIOUS)
            with files.replacing(last) as file:
                file.write(written.getbuffer())
                file.flush()
                os.fsync(file.fileno())
                if before:
                    os.replace(last, previous)
            self._manifest.claim(PREVIOUS)  # which says that there is a checkpoint: see `_check`
            self._needs = {LAST: needed, PREVIOUS: self._needs[LAST if before else PREVIOUS]}
            self._drop_segments()

    def _drop_segments(self) -> None:
        """Remove the files beside checkpoints that none needs, as those of a process that was killed before it wrote
        one, once it is known what both need."""
        last, previous = self._needs[LAST], self._needs[PREVIOUS]
        if last is not None and previous is not None:
            named = {name for name in self._manifest.named if name.startswith(SEGMENTS)}
            if named - last - previous:
                self._manifest.drop(named - last - previous)

    def checkpoints(self, device: torch.device) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield the checkpoints that can be read, the newest first, each with its file; none where there is none yet.

        What they hold fits `schemas.CheckpointState`.

        Raises:
            DamagedError: at the end, where a checkpoint is damaged.
        """
        error = None
        for name in ("last.pt", "previous.pt"):
            path = self.path / "checkpoints" / name
            try:
                state = _read_checkpoint(path, device)
            except FileNotFoundError:
                continue
            except DamagedError as found:
                error = error or found
                continue
            yield path, state
        if error is not None:
            raise error

    def load_checkpoint(self, device: torch.device) -> dict[str, Any] | None:
        """Return the newest readable checkpoint, or None where there is none yet.

        Raises:
            DamagedError: there are checkpoints, and none can be read.
        """
        return next((state for _, state in self.checkpoints(device)), None)

    def _replace(self, name: str, content: bytes) -> None:
        with disk_errors(self.path, RESUME):
            files.write(self.path / name, content)


def discard(path: Path) -> None:
    """Remove what a run wrote in a folder, where there is one; raises as `RunFolder.create` with `overwrite` does."""
    if files.kind_of(path) is not None:
        folder = RunFolder.create(path, overwrite=True)
        try:
            folder.empty()
        finally:
            folder.close()


def _read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    if path.exists() and not path.is_file():
        raise schemas.damaged(path, "it is no file", schemas.ANEW)
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever the bytes lead torch and pickle to
        raise schemas.damaged(path, one_line(error, 80), schemas.ANEW) from error
    schemas.check(schemas.CheckpointState, state, path, schemas.ANEW)
    return put_back(state, path, device)


def _short(value: float) -> float | None:
    return None if finite(value) is None else round(value, 7)


def fingerprint(module: nn.Module) -> str:
    """Return a hash of a module's state, names, shapes and bytes, or of the file of a program that shows none."""
    digest = hashlib.sha256()
    state = dict(tensors_of(dict(sorted(module.state_dict().items()))))
    for name, stored in state.items():
        tensor = stored.dequantize() if stored.is_quantized else stored
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    if not state:
        for part in module.modules():
            digest.update(part.digest.encode() if isinstance(part, Loaded) else b"")
    return digest.hexdigest()


def environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Return what may change numbers from one machine or installation to the next."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "lenient": metadata.version("lenient"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": name,
        "ranks": ranks.count(),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
