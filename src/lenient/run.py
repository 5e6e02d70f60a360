"""The run folder: all that one distillation leaves behind, written so that a kill at any moment loses no more than the
time since the last checkpoint."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
import yaml
from torch import nn

from lenient import ranks
from lenient.errors import DamagedError, UsageError
from lenient.files import disk_errors

log = logging.getLogger("lenient")

RESUME = "go on with --resume"
FOLDERS = ("checkpoints", "samples", "student")
OWNED = (*FOLDERS, "tensorboard", "wandb")
FILES = ("config.yaml", "env.json", "metrics.jsonl", "train.log", "report.json", "report.html", "trackers.json", "done")


class RunFolder:
    """One run's folder: `config.yaml`, `env.json`, `metrics.jsonl`, `train.log`, `checkpoints/`, `samples/`,
    `student/`, `report.json`, `report.html`, `done`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics: IO[str] | None = None
        self._lock: IO[str] | None = None
        self._log_handler: logging.Handler | None = None

    @classmethod
    def create(cls, path: Path, *, overwrite: bool = False, resume: bool = False) -> RunFolder:
        """Open the folder for one run and lock it.

        Raises:
            UsageError: it holds a run and neither `overwrite` nor `resume` was asked for, or another run is using it.
            MachineError: it cannot be written.
        """
        folder = cls(path)
        with disk_errors(path, RESUME):
            holds_run = is_run(path)
            names = set(os.listdir(path)) if path.exists() else set()
            ours = {".lock", *OWNED, *FILES, *(f".{name}.tmp" for name in FILES)} if ".lock" in names else set()
            if not holds_run and names - ours:
                raise UsageError(f"-o {path}: the folder holds other files; choose an empty one")
            if holds_run and not (overwrite or resume):
                raise UsageError(f"-o {path}: holds a run already; go on with --resume, or replace it with --overwrite")
            path.mkdir(parents=True, exist_ok=True)
            folder._take_lock()
            for name in FOLDERS:
                (path / name).mkdir(exist_ok=True)
        return folder

    def _take_lock(self) -> None:
        self._lock = open(self.path / ".lock", "w")  # noqa: SIM115 - held open for as long as the run lasts
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise UsageError(f"-o {self.path}: another run is writing here; choose another folder") from None

    def empty(self) -> None:
        """Remove what a run leaves behind, and nothing else; the folder stays locked."""
        with disk_errors(self.path, RESUME):
            for name in OWNED:  # checkpoints first: none may be left for a run that is not theirs
                shutil.rmtree(self.path / name, ignore_errors=True)
            for name in FOLDERS:
                (self.path / name).mkdir()
            for name in reversed(FILES):
                (self.path / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Release the log files and the lock."""
        if self._log_handler is not None:
            log.removeHandler(self._log_handler)
            self._log_handler.close()
        for handle in (self._metrics, self._lock):
            if handle is not None:
                handle.close()
        self._metrics = self._lock = self._log_handler = None

    # settings and environment

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved settings."""
        self._replace("config.yaml", yaml.safe_dump(dict(config), sort_keys=False).encode())

    def read_config(self) -> dict[str, Any] | None:
        """Return the settings of the run that the folder holds, or None."""
        path = self.path / "config.yaml"
        return yaml.safe_load(path.read_text()) if path.exists() else None

    def write_env(self, facts: Mapping[str, Any]) -> None:
        """Write what may change numbers: versions, device, threads, precision."""
        self._replace("env.json", json.dumps(dict(facts), indent=2).encode())

    def read_env(self) -> dict[str, Any]:
        """Return the recorded environment, empty if there is none."""
        path = self.path / "env.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def mark_done(self) -> None:
        """Say that the run is complete; nothing is written after this."""
        self._replace("done", b"")

    @property
    def done(self) -> bool:
        """Whether the run is complete."""
        return (self.path / "done").exists()

    # metrics and log

    def open_logs(self, metrics_bytes: int | None = None) -> None:
        """Open `metrics.jsonl`, cut back to `metrics_bytes` where given, and send the package's log to `train.log`."""
        with disk_errors(self.path, RESUME):
            self._metrics = open(self.path / "metrics.jsonl", "a")  # noqa: SIM115 - open until close()
            if metrics_bytes is not None:
                self._metrics.truncate(metrics_bytes)
                self._metrics.seek(0, os.SEEK_END)  # else `tell` goes on from the old end
            self._log_handler = logging.FileHandler(self.path / "train.log")
        self._log_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(self._log_handler)
        log.setLevel(logging.INFO)

    def write_metrics(self, event: str, values: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl`; non-finite numbers become null."""
        assert self._metrics is not None, "open_logs first"
        with disk_errors(self.path, RESUME):
            self._metrics.write(json.dumps({"event": event, **_plain(values)}) + "\n")
            self._metrics.flush()

    # checkpoints

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Write a checkpoint to a temporary file, sync, and rename; the one before is kept as `previous.pt`."""
        folder = self.path / "checkpoints"
        temporary, last, previous = (folder / name for name in ("writing.tmp", "last.pt", "previous.pt"))
        assert self._metrics is not None, "open_logs first"
        with disk_errors(self.path, RESUME):
            os.fsync(self._metrics.fileno())
            state["metrics_bytes"] = self._metrics.tell()
            written = io.BytesIO()  # torch's own file writer hides why the disk refused
            torch.save(state, written)
            with open(temporary, "wb") as file:
                file.write(written.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            if last.exists():
                os.replace(last, previous)
            os.replace(temporary, last)
            _sync_folder(folder)

    def load_checkpoint(self, device: torch.device) -> dict[str, Any] | None:
        """Return the newest readable checkpoint, or None where there is none yet.

        Raises:
            DamagedError: there are checkpoints, and none can be read.
        """
        unreadable = None
        for name in ("last.pt", "previous.pt"):
            path = self.path / "checkpoints" / name
            if not path.exists():
                continue
            try:
                state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
                return state
            except Exception as error:
                log.warning("checkpoint %s cannot be read (%s); trying the one before", path.name, error)
                unreadable = path
        if unreadable is not None:
            raise DamagedError(f"{unreadable}: no checkpoint can be read; start again with --overwrite")
        return None

    def _replace(self, name: str, content: bytes) -> None:
        with disk_errors(self.path, RESUME):
            temporary = self.path / f".{name}.tmp"
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path / name)


def is_run(path: Path) -> bool:
    """Whether a folder holds a run: a `config.yaml` that names the teacher it was made with."""
    try:
        config = yaml.safe_load((path / "config.yaml").read_text())
        return bool(config["run"]["teacher"]["sha256"])
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return False


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 7) if value == value and abs(value) != float("inf") else None
    return value


def fingerprint(module: nn.Module) -> str:
    """Return a hash of a module's parameters and buffers: names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Return what may change numbers from one machine or installation to the next."""
    import lenient

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "lenient": lenient.__version__,
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
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
