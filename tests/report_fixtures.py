"""A made-up run folder, as a distillation would leave it, for the tests of the report."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

DIGITS = tuple(str(digit) for digit in range(10))

CHECKS = [
    {"name": "probe_agreement", "value": 0.97, "threshold": 0.8, "status": "ok",
     "text": "Student and teacher name the same class on the probe set."},
    {"name": "coverage", "value": 1.0, "threshold": 0.9, "status": "ok", "text": "Share of classes that were seen."},
    {"name": "duplicates", "value": 0.11, "threshold": 0.25, "status": "ok",
     "text": "Share of images that nearly equal another one of their batch."},
    {"name": "nonfinite", "value": 0, "threshold": 0, "status": "ok", "text": "Updates skipped for NaN or infinity."},
]  # fmt: skip

SUMMARY: dict[str, Any] = {
    "method": "ta-dfkd",
    "seed": 0,
    "teacher": {"arch": "lenient:resnet20", "params": 271_682, "bytes": 1_101_004, "accuracy": 0.9833},
    "student": {"arch": "lenient:resnet8", "params": 77_562, "bytes": 318_211, "accuracy": 0.9667, "acc_max": 0.975,
                "acc_last_k": 0.9681, "k": 5, "agreement": 0.9722},
    "steps": 4000,
    "images_synthesized": 1_024_000,
    "teacher_forwards": 12_800,
    "seconds": 94.2,
    "health": {"verdict": "ok", "reasons": [], "checks": CHECKS},
    "latency": {"teacher": {"1": 2.61, "64": 31.4}, "student": {"1": 1.17, "64": 9.8}, "device": "cpu", "threads": 2},
    "input_size": [1, 8, 8],
    "num_classes": 10,
    "classes": list(DIGITS),
    "noise_student": {"accuracy": 0.7014},
}  # fmt: skip


class Links(HTMLParser):
    """Collects what a browser would fetch, and the ids of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.unnamed: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            self.fetched += [values[name] or ""] if name in values else []
        if (tag == "img" and not values.get("alt")) or (tag == "svg" and not values.get("aria-label")):
            self.unnamed.append(tag)
        assert tag not in {"script", "iframe", "object", "embed"}


def summary_with(**changes: Any) -> dict[str, Any]:
    """The summary with some keys replaced; None takes a key away."""
    return {key: value for key, value in (SUMMARY | changes).items() if value is not None}


def logs(steps: int = 4000, every: int = 40) -> list[dict[str, Any]]:
    """Log lines of a run that learns: falling losses, rising agreement and coverage, some noise."""
    rng = np.random.default_rng(0)
    found = []
    for step in range(every, steps + 1, every):
        done = step / 4000
        noise = rng.normal(0, 1, 8)
        found.append({
            "event": "log", "step": step, "update": 2 * step, "epoch": step // 200, "seconds": 94 * done,
            "images": 256 * step, "images_per_second": 10_900 + 300 * noise[0],
            "loss/student_l1": 1.9 * math.exp(-5 * done) + 0.11 + 0.02 * abs(noise[1]),
            "loss/adversarial": 0.93 - 0.35 * math.exp(-4 * done) + 0.015 * noise[2],
            "loss/bns": 240 * math.exp(-7 * done) + 1.4 + 0.1 * abs(noise[3]),
            "loss/tv": 0.21 + 0.08 * math.exp(-6 * done) + 0.004 * noise[4],
            "loss/l2": 0.4 + 0.01 * noise[5],
            "lr/student": 0.05 * (1 + math.cos(math.pi * done)), "lr/generator": 0.001,
            "health/kept": min(1.0, 0.93 - 0.34 * math.exp(-6 * done) + 0.015 * noise[6]),
            "health/coverage": min(1.0, round(0.4 + 3 * done, 1)), "health/entropy": 0.96 - 0.5 * math.exp(-9 * done),
            "health/confidence": 0.97 - 0.3 * math.exp(-6 * done), "health/bn_distance": 1.4 + 20 * math.exp(-7 * done),
            "health/agreement": min(1.0, 0.94 - 0.75 * math.exp(-7 * done) + 0.01 * noise[7]),
            "health/probe_agreement": 0.972 - 0.82 * math.exp(-6 * done),
            "health/duplicates": 0.11 * done, "health/nonfinite": 0, "health/shortfall": 0,
        })  # fmt: skip
    return found


def mixture_event(step: int, kept: float, *, means: tuple[float, float] = (0.12, 0.9)) -> dict[str, Any]:
    """A fit of the two components to exponential-looking losses."""
    rng = np.random.default_rng(step)
    small = np.abs(rng.normal(means[0], 0.1, round(256 * kept)))
    values = np.concatenate([small, np.abs(rng.normal(means[1], 0.35, 256 - len(small)))]).clip(0, 2)
    counts, edges = np.histogram(values, bins=32, range=(0, 2))
    return {"event": "mixture", "step": step, "edges": edges.tolist(), "counts": counts.tolist(), "means": list(means),
            "stds": [0.1, 0.35], "weights": [kept, 1 - kept], "limit": 0.42, "kept": kept,
            "separable": True}  # fmt: skip


def events() -> list[dict[str, Any]]:
    """All events of a run but its end."""
    evals = [{"event": "eval", "step": step, "accuracy": 0.97 - 0.6 * math.exp(-step / 500),
              "agreement": 0.975 - 0.6 * math.exp(-step / 500)} for step in range(200, 4001, 200)]  # fmt: skip
    histogram = [420, 390, 350, 410, 330, 300, 440, 380, 210, 170]
    classes = [{"event": "classes", "step": step, "histogram": histogram} for step in (2000, 4000)]
    fits = [mixture_event(40, 0.62), mixture_event(2000, 0.85), mixture_event(4000, 0.93)]
    return sorted([*logs(), *classes, *fits, *evals], key=lambda event: int(event["step"]))


def make_images(
    folder: Path, *, shape: tuple[int, int, int] = (1, 8, 8), num_classes: int = 10, each: int = 12
) -> None:
    """Smooth blobs, another one for each class, in `samples/images.safetensors`."""
    rng = np.random.default_rng(1)
    channels, height, width = shape
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    labels = np.repeat(np.arange(num_classes), each)
    images = np.empty((len(labels), *shape), dtype=np.uint8)
    for index, label in enumerate(labels):
        for channel in range(channels):
            wave = np.sin((label % 5 + 2) * rows * 3 + channel + rng.normal(0, 0.4)) * np.cos(
                (label // 5 + 2) * columns * 4
            )
            images[index, channel] = (127 + 100 * wave + rng.normal(0, 14, wave.shape)).clip(0, 255)
    confidence = rng.uniform(0.85, 1.0, len(labels)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, np.ndarray] = {"images": images, "labels": labels.astype(np.int64), "confidence": confidence}
    save_file(tensors, folder / "images.safetensors")


def write_metrics(run: Path, lines: list[dict[str, Any]]) -> None:
    """`metrics.jsonl`, one event a line."""
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_run(run: Path, *, summary: dict[str, Any] | None = None, lines: list[dict[str, Any]] | None = None) -> Path:
    """A whole run folder. `summary`: the end event, SUMMARY if not given, none if empty; `lines`: the other events."""
    run.mkdir(parents=True, exist_ok=True)
    method = {"name": "ta-dfkd", "selection": {"name": "mixture", "tau": 0.5}}
    settings = {"method": method, "seed": 0, "steps": 4000, "report": {"images": True}}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    environment = {
        "python": "3.11.9",
        "torch": "2.8.0",
        "device": "cpu",
        "precision": "32",
        "packages": {"numpy": "2.0"},
    }
    (run / "env.json").write_text(json.dumps(environment))
    end = SUMMARY if summary is None else summary
    write_metrics(run, [*(events() if lines is None else lines), *([{"event": "end", **end}] if end else [])])
    make_images(run / "samples")
    (run / "student").mkdir(exist_ok=True)
    card = {"arch": "lenient:resnet8", "input_size": [1, 8, 8], "classes": list(DIGITS)}
    (run / "student" / "config.json").write_text(json.dumps(card))
    for name in ("model.safetensors", "student.pt2"):
        (run / "student" / name).write_bytes(b"")
    return run
