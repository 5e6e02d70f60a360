"""Where the log goes besides the run folder: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

from lenient.core import files
from lenient.core.config import flatten
from lenient.core.errors import UsageError
from lenient.core.packages import needs
from lenient.runs.folder import RunFolder
from lenient.training.settings import DistillSettings

log = logging.getLogger("lenient")

ASKED_FOR = ("wandb", "mlflow")
"""Packages, and the extras that install them. They may send numbers elsewhere, so they are used on request only."""
PROJECT = "lenient"
PARAMETERS_AT_ONCE = 100
"""MLflow takes no more."""


def known(names: Sequence[str]) -> tuple[str, ...]:
    """Return the trackers asked for; asked before anything is written.

    Raises:
        UsageError: there is none of that name, or its package is not installed.
    """
    for name in names:
        if name not in ASKED_FOR:
            raise UsageError(f"--track {name}: unknown; there are {', '.join(ASKED_FOR)} (TensorBoard needs no flag)")
        if find_spec(name) is None:
            raise UsageError(f"--track {name}: {needs(name)}")
    return tuple(dict.fromkeys(names))


def trackers(names: Sequence[str], folder: RunFolder, settings: DistillSettings) -> list[Tracker]:
    """Return the trackers of a run: those asked for, and TensorBoard where it is installed."""
    kinds: dict[str, type[Tracker]] = {"wandb": WeightsAndBiases, "mlflow": MLflow}
    chosen = [kinds[name] for name in names]
    if find_spec("tensorboard") is not None:
        chosen.insert(0, TensorBoard)
    return [kind(folder, settings) for kind in chosen]


class Tracker(ABC):
    """Gets every number of a log line or an evaluation. One that fails on the way is left alone: the run is worth more
    than its curves, and `metrics.jsonl` has them."""

    name: ClassVar[str]

    def __init__(self, folder: RunFolder, settings: DistillSettings) -> None:
        self.folder, self.settings, self.open = folder.path, settings, False
        self.claim = folder.claim

    def start(self, total_steps: int, step: int) -> None:
        """Open at `step`; a run that is gone on with is the same one there.

        Raises:
            UsageError: it was asked for and cannot be reached.
        """
        try:
            self.begin(step)
        except Exception as error:
            why = " ".join(str(error).split()) or type(error).__name__
            if self.name in ASKED_FOR:
                raise UsageError(f"--track {self.name}: {why}") from error
            log.warning("%s cannot be used here: %s", self.name, why)
        else:
            self.open = True

    def step(self, step: int, images: int) -> None:  # noqa: B027 - no tracker has to
        """Nothing per step."""

    def line(self, event: str, values: Mapping[str, Any]) -> None:
        """Pass the numbers on."""
        if event not in ("log", "eval") or not self.open:
            return
        found = {
            name if "/" in name else f"{event}/{name}": value
            for name, value in values.items()
            if isinstance(value, float) and name != "seconds"
        }
        self._safely(lambda: self.write(found, values["step"]))

    def stop(self) -> None:
        """Close."""
        if self.open:
            self._safely(self.end)
        self.open = False

    def _safely(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self.open = False
            log.warning("%s failed and is switched off: %s", self.name, error)

    def remembered(self) -> dict[str, str]:
        """Return under which name each tracker has this run, those of earlier starts."""
        path = self.folder / "trackers.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def remember(self, name: str) -> None:
        """Keep the name that this tracker has the run under."""
        self.claim("trackers.json")
        files.write(self.folder / "trackers.json", json.dumps(self.remembered() | {self.name: name}))

    @abstractmethod
    def begin(self, step: int) -> None:
        """Open."""

    @abstractmethod
    def write(self, numbers: Mapping[str, float], step: int) -> None:
        """Take the numbers of one line."""

    @abstractmethod
    def end(self) -> None:
        """Close."""


class TensorBoard(Tracker):
    """Event files in the run folder."""

    name = "tensorboard"

    def begin(self, step: int) -> None:
        """Open the writer; entries after `step`, of a run that was cut short, are dropped."""
        from torch.utils.tensorboard import SummaryWriter

        self.claim("tensorboard/")
        self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        """Write the numbers."""
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def end(self) -> None:
        """Close the writer."""
        self.writer.close()


class WeightsAndBiases(Tracker):
    """A run of project `lenient`, or $WANDB_PROJECT; its own variables (WANDB_MODE, ...) hold, too."""

    name = "wandb"

    def begin(self, step: int) -> None:
        """Open the run with the resolved settings."""
        import wandb

        self.claim("wandb/")
        name = self.remembered().get(self.name) or secrets.token_hex(4)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=self.folder.name,
            id=name,
            resume="allow",
            dir=str(self.folder.absolute()),
            config=self.settings.model_dump(mode="json"),
            settings=wandb.Settings(console="off"),
        )
        self.remember(name)

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the numbers."""
        self.run.log(dict(numbers), step=step)

    def end(self) -> None:
        """Finish the run."""
        self.run.finish()


class MLflow(Tracker):
    """A run of experiment `lenient`, or $MLFLOW_EXPERIMENT_NAME, at $MLFLOW_TRACKING_URI."""

    name = "mlflow"

    def begin(self, step: int) -> None:
        """Open the run; a new one gets the resolved settings."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.client = MlflowClient()
        if self.name in self.remembered():
            self.run = self.remembered()[self.name]
            self.client.update_run(self.run, status="RUNNING")
            return
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(experiment)
        place = self.client.create_experiment(experiment) if found is None else found.experiment_id
        self.run = self.client.create_run(place, run_name=self.folder.name).info.run_id
        self.remember(self.run)
        values = [Param(key, str(value)) for key, value in flatten(self.settings.model_dump(mode="json")).items()]
        for start in range(0, len(values), PARAMETERS_AT_ONCE):
            self.client.log_batch(self.run, params=values[start : start + PARAMETERS_AT_ONCE])

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the numbers."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.run, metrics=[Metric(name, value, now, step) for name, value in numbers.items()])

    def end(self) -> None:
        """Say that the run has ended."""
        self.client.set_terminated(self.run)
