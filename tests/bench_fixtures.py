"""A made-up grid of runs, as `lenient bench run` would leave it: finished, failed, missing and collapsed cells."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lenient.core.seeding import derive

TEACHERS = {"T1": 0.9833, "T2": 0.9694, "T3": 0.9556}
TA = {"name": "ta-dfkd", "class_prior_weight": 0.0, "selection": {"name": "mixture"}, "generator_lr": 0.001}
ROWS: dict[str, tuple[float, dict[str, Any]]] = {  # row -> (how far below the teacher it ends, settings of its method)
    "noise images": (0.30, {"name": "noise"}),
    "frozen generator": (0.20, TA | {"generator_lr": 0}),
    "real images": (0.005, {"name": "real"}),
    "dafl": (0.08, {"name": "dafl", "generator_lr": 0.001}),
    "dfad": (0.05, {"name": "dfad", "generator_lr": 0.001}),
    "mb-dfkd": (0.05, {"name": "mb-dfkd", "generator_lr": 0.001}),
    "pre-dfkd": (0.04, {"name": "pre-dfkd", "generator_lr": 0.001}),
    "meta-dfkd": (0.03, {"name": "meta-dfkd", "replay": "bank", "generator_lr": 0.001}),
    "meta-dfkd, generative": (0.03, {"name": "meta-dfkd", "replay": "generative", "generator_lr": 0.001}),
    "ta-dfkd, all three losses": (0.03, TA | {"class_prior_weight": 1.0, "selection": {"name": "none"}}),
    "ta-dfkd, no selection": (0.02, TA | {"selection": {"name": "none"}}),
    "ta-dfkd": (0.01, TA),
}
K, EVALUATIONS, STEPS = 4, 20, 800


def record(row: str, teacher: str, seed: int, *, collapse: bool = False, **changes: Any) -> dict[str, Any]:
    """The record of one finished cell, drawn by a key of its own."""
    below, method = ROWS[row]
    rng = np.random.default_rng(derive(seed, f"{row}/{teacher}"))
    top = TEACHERS[teacher] - below * (1 + 0.8 * list(TEACHERS).index(teacher))
    rise = top * (1 - np.exp(-np.arange(1, EVALUATIONS + 1) / rng.uniform(2, 4)))
    curve = np.clip(rise + rng.normal(0, 0.012, EVALUATIONS), 0.1, 1).round(4)
    if collapse:
        curve[EVALUATIONS // 2 :] = 0.1
    steps = [STEPS // EVALUATIONS * n for n in range(1, EVALUATIONS + 1)]
    log: dict[str, Any] = {"step": steps, "kept": [1.0] * EVALUATIONS}
    if method.get("selection", {}).get("name") == "mixture":
        log["kept"] = [round(0.95 - 0.35 * math.exp(-n / 5) + 0.01 * rng.normal(), 4) for n in range(EVALUATIONS)]
    if method["name"] == "meta-dfkd":
        log["gradient_cosine"] = [round(0.4 - 0.3 * math.exp(-n / 4) + 0.04 * rng.normal(), 4) for n in range(20)]
    if method["name"] in ("ta-dfkd", "meta-dfkd"):
        log["bn_distance"] = [round(0.2 + math.exp(-n / 4) + 0.02 * rng.random(), 4) for n in range(EVALUATIONS)]
    accuracies = curve.tolist()
    found = {
        "id": f"{row.replace(', ', '-').replace(' ', '-')}-{teacher}-s{seed}",
        "row": row,
        "method": method["name"],
        "teacher": {
            "label": teacher,
            "file": f"somewhere/else/{teacher}.safetensors",
            "sha256": "0" * 64,
            "accuracy": TEACHERS[teacher],
            "arch": "lenient:wrn-10-2",
            "recipe": "digits",
            "epoch": 10,
        },
        "student": "lenient:resnet8-half",
        "seed": seed,
        "data": "digits",
        "steps": STEPS,
        "batch_size": 128,
        "steps_per_epoch": 40,
        "settings": method,
        "verdict": "failed" if collapse else "ok",
        "reasons": [],
        "last": accuracies[-1],
        "acc_last_k": statistics.fmean(accuracies[-K:]),
        "k": K,
        "acc_max": max(accuracies),
        "mean": statistics.fmean(accuracies),
        "variance": statistics.pvariance(accuracies),
        "agreement": accuracies[-1],
        "teacher_accuracy": TEACHERS[teacher],
        "curve": [[step, value] for step, value in zip(steps, accuracies, strict=True)],
        "log": log,
        "cost": {
            "seconds": 60 + 5 * seed,
            "cpu_seconds": 58.5,
            "images": 204_800,
            "teacher_forwards": 310_000,
            "peak_bytes": 300 * 2**20,
        },
        "machine": {"device_name": "A CPU & co", "threads": 1, "torch": "2.8.0", "command": "lenient bench run"},
        "commit": "0123456789abcdef",
    }
    return found | changes


def outcome(row: str, teacher: str, seed: int) -> str:
    """What comes of a cell in the made-up grid."""
    if row == "dafl" and teacher == "T3":
        return "collapsed" if seed == 1 else "failed" if seed == 2 else "finished"
    if (row, teacher) == ("pre-dfkd", "T2"):
        return "missing"
    return "missing" if (row, teacher, seed) == ("ta-dfkd", "T1", 2) else "finished"


def make_grid(
    folder: Path, what: Callable[[str, str, int], str] = outcome, rows: tuple[str, ...] = tuple(ROWS), seeds: int = 3
) -> Path:
    """Write plan and records of a grid."""
    wanted = []
    for row in rows:
        for teacher in TEACHERS:
            for seed in range(seeds):
                came = what(row, teacher, seed)
                cell = record(row, teacher, seed, collapse=came == "collapsed")
                plan = {key: cell[key] for key in ("id", "row", "student", "seed")} | {"teacher": teacher}
                wanted.append(plan)
                place = folder / "cells" / cell["id"]
                place.mkdir(parents=True)
                if came == "failed":
                    (place / "failed.json").write_text(json.dumps({"reason": "out of memory: 50% & more_"}))
                elif came != "missing":
                    (place / "cell.json").write_text(json.dumps(cell))
    (folder / "grid.json").write_text(json.dumps({"name": "made-up", "data": "digits", "cells": wanted}))
    return folder
