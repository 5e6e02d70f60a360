"""Reads a run folder into one typed record: all that the page may show, and nothing from outside the folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lenient.core import schemas
from lenient.core.errors import DamagedError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydantic import BaseModel

log = logging.getLogger("lenient")

Event = dict[str, Any]
WITHOUT = "the report leaves it out"
EVENTS = ("log", "classes", "mixture", "eval", "alarm", "fallback")


@dataclass(frozen=True)
class Samples:
    """Synthetic images, uint8 (N, C, H, W), with the teacher's label (N,) and confidence (N,) or None."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    confidence: NDArray[np.float64] | None


@dataclass(frozen=True)
class RunRecord:
    """What one run folder says about itself."""

    path: Path
    name: str
    settings: str  # config.yaml as written
    environment: dict[str, Any]
    events: dict[str, list[Event]]  # by kind, in the order of the file
    summary: dict[str, Any]  # the `end` event, or what is known so far
    finished: bool
    classes: tuple[str, ...]  # names; empty when unknown
    input_size: tuple[int, int, int] | None
    selects: bool  # whether the teacher selected samples
    samples: Samples | None
    no_samples: str  # why there are none


def collect(run: Path) -> RunRecord:
    """Read the run folder; what is damaged of all that is there beside the metrics is left out, with a warning.

    Raises:
        UsageError: it is no run folder.
        DamagedError: a line of the metrics is damaged, or the end of a run that is done is missing; a page without it
            might say that the run came to something else.
    """
    if not (run / "config.yaml").is_file() and not (run / "metrics.jsonl").is_file():
        raise UsageError(f"{run} is not a run folder (no config.yaml, no metrics.jsonl): give what `distill -o` wrote")
    path = run.resolve()
    config, settings = _read_settings(path / "config.yaml")
    student_card = _read_object(path / "student" / "config.json", schemas.StudentCard)
    lines = schemas.read_metrics(path / "metrics.jsonl")
    events = {kind: [line for line in lines if line["event"] == kind] for kind in EVENTS}
    end = _end(lines)
    if end is None and (path / "done").exists():
        why = "the run is done, but its end is missing"
        raise schemas.damaged(path / "metrics.jsonl", why, "its report stays as it is; start again with --overwrite")
    summary = _complete(end or {}, config, student_card, events)
    names = summary.get("classes") or student_card.get("classes") or ()
    samples, reason = _read_samples(path / "samples" / "images.safetensors", config)
    return RunRecord(
        path=path,
        name=path.name,
        settings=settings,
        environment=_read_object(path / "env.json", schemas.Environment),
        events=events,
        summary=summary,
        finished=end is not None,
        classes=tuple(str(name) for name in names) if isinstance(names, list) else (),
        input_size=_size(summary.get("input_size") or student_card.get("input_size")),
        selects=_selects(config),
        samples=samples,
        no_samples=reason,
    )


def _read_settings(path: Path) -> tuple[dict[str, Any], str]:
    """The settings, and the same as written; with unreadable ones no image is shown, for they might forbid it."""
    try:
        config = schemas.read_settings(path, WITHOUT) or {}
        return config, schemas.content(path, WITHOUT).decode() if config else ""
    except DamagedError as error:
        log.warning("%s", error)
        return {"report": {"images": False}}, ""


def _read_object(path: Path, model: type[BaseModel]) -> dict[str, Any]:
    try:
        return schemas.read_json(path, model, WITHOUT) or {}
    except DamagedError as error:
        log.warning("%s", error)
        return {}


def _selects(config: dict[str, Any]) -> bool:
    return bool(_mapping(_mapping(config.get("method")).get("selection")).get("name", "none") != "none")


def _end(lines: list[Event]) -> Event | None:
    """The summary of the run's end; none when training went on after it (a longer run, resumed)."""
    for line in reversed(lines):
        if line["event"] == "log":
            return None
        if line["event"] == "end":
            return {key: value for key, value in line.items() if key != "event"}
    return None


def _complete(end: Event, config: Event, student_card: Event, events: dict[str, list[Event]]) -> dict[str, Any]:
    """The summary with every promised key present: from the end event, else from the logs, else None."""
    last = events["log"][-1] if events["log"] else {}
    steps = [line["step"] for kind in EVENTS for line in events[kind] if isinstance(line.get("step"), int)]
    method = config.get("method")
    unfinished = {
        "verdict": "unfinished",
        "reasons": ["The run was interrupted or is still going; these are its results so far. --resume continues it."],
        "checks": [],
    }
    card = _mapping(_mapping(_mapping(config.get("run")).get("teacher")).get("card"))
    summary: dict[str, Any] = {
        **{key: card.get(key) for key in ("input_size", "num_classes", "classes") if not end},
        "method": method.get("name") if isinstance(method, dict) else method,
        "seed": config.get("seed"),
        "steps": max(steps, default=0),
        "images_synthesized": last.get("images"),
        "seconds": last.get("seconds"),
        **end,
    }
    teacher, student, health = (_mapping(summary.get(key)) for key in ("teacher", "student", "health"))
    summary["teacher"] = {"arch": None, "params": None, **teacher}
    measured = {key: value for key, value in (events["eval"] or [{}])[-1].items() if key in ("accuracy", "agreement")}
    summary["student"] = {"arch": student_card.get("arch"), "params": None, **measured, **student}
    summary["health"] = health if health.get("verdict") else unfinished | health
    summary["health"] = {"reasons": [], "checks": [], **summary["health"]}
    return summary


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _size(value: Any) -> tuple[int, int, int] | None:
    if isinstance(value, list | tuple) and len(value) == 3 and all(isinstance(side, int) for side in value):
        return value[0], value[1], value[2]
    return None


def _read_samples(path: Path, config: dict[str, Any]) -> tuple[Samples | None, str]:
    """The stored synthetic images, or None and the reason in words."""
    if _mapping(config.get("report")).get("images") is False:
        return None, (
            "The setting report.images=false keeps synthetic images out of this report, "
            "because they can resemble private data that the teacher was trained on."
        )
    if not path.is_file():
        return None, "This run folder holds no synthetic images (samples/images.safetensors)."
    try:
        tensors = schemas.read_samples(path)
    except DamagedError as error:
        log.warning("%s", error)
        return None, f"The synthetic images could not be read: {str(error).replace(str(path), path.name)}."
    images, labels, confidence = tensors["images"], tensors["labels"], tensors.get("confidence")
    if not len(images):
        return None, "This run folder holds no synthetic images: the teacher had accepted none when they were stored."
    return Samples(images.astype("uint8"), labels.astype("int64"), confidence), ""
