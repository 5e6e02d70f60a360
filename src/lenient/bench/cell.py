"""One cell of a grid as a process of its own: `python -m lenient.bench.cell FOLDER/spec.json`.

The folder gets `run/`, an ordinary run folder, `cell.json`, the record of what came of it, and `done`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lenient.bench.cells import LEFT_OUT
from lenient.bench.open_rows import fallback, taken
from lenient.bench.record import cell_record, commit
from lenient.bench.tasks import main, read_json, write_json
from lenient.core import files
from lenient.core.config import parse
from lenient.core.errors import LenientError, MachineError, UsageError
from lenient.core.memory import peak, reset_peak
from lenient.core.schemas import CellSpec, Cost, Failed, check, read_lines
from lenient.data import load_data
from lenient.methods.baselines import REAL, RealImages, RealSettings
from lenient.methods.contract import Method
from lenient.models.trust import Trusted, UntrustedSettingError, require
from lenient.runs.folder import RunFolder
from lenient.runs.job import Job, OtherSettingsError, load_teacher
from lenient.runs.request import Request

SPEC = CellSpec
COSTLESS = "remove it, and the cell goes on without its cost so far"


class Meter:
    """Counts the processor time of the loop and the most memory in use, over all processes that a cell has had.

    A line of `cost.jsonl` goes with each line of the log, so that a process that is killed leaves its share behind.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self.device = path, device
        self.seconds = 0.0
        self.bytes: int | None = None

    def start(self, total_steps: int, step: int) -> None:
        """Take up the cost that the checkpoint at `step` had come to."""
        spent = [line for line in read_costs(self.path) if line["step"] <= step]
        if spent:
            self.seconds, self.bytes = spent[-1]["cpu_seconds"], spent[-1]["peak_bytes"]
        self.now, self.began = step, time.process_time()
        reset_peak(self.device)

    def step(self, step: int, images: int) -> None:
        """Remember where the run is."""
        self.now = step

    def line(self, event: str, values: Mapping[str, Any]) -> None:
        """Write the cost so far."""
        if event == "log":
            self.stop()

    def stop(self) -> None:
        """Write the cost so far."""
        known = [most for most in (self.bytes, peak(self.device)) if most is not None]
        cost = {
            "step": self.now,
            "cpu_seconds": self.seconds + time.process_time() - self.began,
            "peak_bytes": max(known, default=None),
        }
        with files.append(self.path) as file:
            file.write(json.dumps(cost) + "\n")


def read_costs(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a cost file, without a last one that a kill has cut short; raises DamagedError."""
    return [check(Cost, line, path, COSTLESS) for _, line in read_lines(path, COSTLESS)]


@contextmanager
def inputs() -> Iterator[None]:
    """What cannot be read now, with another `--data-root` perhaps can: that is no reason to give the run up."""
    try:
        yield
    except LenientError as error:
        raise MachineError(str(error)) from error


def work(folder: Path, spec: Mapping[str, Any], trust: Trusted = False) -> bool:
    """Run the cell or go on with it; return False where it was asked to stop.

    `trust`: what of the names in files may be used.

    Raises:
        The errors of `Job`: what makes the cell fail. A verdict `failed` is a result.
    """
    running = commit()
    path = (folder / spec["teacher"]["path"]).resolve()
    require(spec["student"], trust, where=folder / "spec.json", what="its student", kind=UntrustedSettingError)
    with inputs():
        network = load_teacher(path, trust_code=trust)
    failure = read_json(folder / "failed.json", Failed)
    anew = failure is not None and not failure.get("resume")
    # what is no part of a cell's id may have changed since, and is as it was
    before = {} if anew else RunFolder(folder / "run").read_config() or {}
    settings = {**taken(spec["settings"], network, before)} | {
        key: before[key] for key in LEFT_OUT if key in before and key != "device"
    }
    method: Method | None = None
    if spec["method"] == REAL:
        own = parse(RealSettings, settings.pop("method"))
        with inputs():
            images = load_data(spec["data"], split="train", root=spec["data_root"], input_size=network.card.input_size)
        method = RealImages(images, own)
    job = Job(
        network,
        spec["student"],
        Request(shared=settings, trust=trust, where=str(folder / "spec.json")),
        method=method,
        source=str(path),
        eval_data=spec["data"],
        data_root=spec["data_root"],
        trust_code=trust,
        fallback=fallback(spec["settings"], network),
    )
    with inputs():
        job.load_data()
    try:
        job.open(folder / "run", resume=not anew, overwrite=anew)
    except OtherSettingsError as error:  # of an earlier version, say, which had other defaults
        raise UsageError(
            f"{error.path}: this unfinished run was begun with other settings ({error.difference}) and cannot be gone "
            "on with; --retry replaces it by a new one"
        ) from None
    if anew:
        (folder / "cost.jsonl").unlink(missing_ok=True)
    (folder / "failed.json").unlink(missing_ok=True)
    if job.complete:  # killed after its last word and before its record
        assert job.folder is not None, "opened above"
        job.folder.close()
    else:
        device = torch.device(job.settings.device)
        if job.run([Meter(folder / "cost.jsonl", device)]).interrupted:
            return False
    costs = read_costs(folder / "cost.jsonl")
    cost = costs[-1] if costs else {}
    assert job.data is not None, "eval_data is given"
    write_json(folder / "cell.json", cell_record(spec, folder / "run", cost, running, job.data.title))
    return True


if __name__ == "__main__":
    main(work, SPEC)
