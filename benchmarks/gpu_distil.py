"""TA-DFKD in the minutes that are left: the paper's protocol shortened, and the library's defaults."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from gpu_sizes import Sizes
from gpu_teacher import read_parts

from lenient import distill
from lenient.methods import DEFAULT
from lenient.models import build_student
from lenient.runs.autotune import trial
from lenient.runs.request import Request, resolve

RUNS: dict[str, dict[str, str]] = {"paper": {"method": "ta-dfkd", "preset": "paper"}, "default": {"method": DEFAULT}}
"""Name -> method and preset."""
EVALUATIONS = 20
SPARE = 0.8
"""Share of the time that steps are planned for; the rest is for evaluations and the trial."""


def distil(
    found: dict[str, Any], keep: Callable[[], None], until: float, out: Path, sizes: Sizes, device: torch.device
) -> None:
    """Distil in each way that is not done, in equal shares of the time."""
    network = read_parts(out)
    if network is None:
        raise FileNotFoundError(f"{out}: holds no teacher; measure that piece first")
    rows = found.setdefault("runs", {})
    todo = [name for name in RUNS if name not in rows]
    for place, name in enumerate(todo):
        start = time.monotonic()
        share = max((until - start) / (len(todo) - place), 1.0)
        precision = "bf16" if device.type == "cuda" else "32"
        common: dict[str, Any] = {**RUNS[name], "device": str(device), "seed": 0}
        common["precision"] = precision
        settings = resolve(Request(**common, settings=sizes.distil))
        student = build_student(sizes.student, network.card, seed=0)
        seconds = trial(settings, network, student)["seconds_per_step"]
        left = SPARE * share - (time.monotonic() - start)
        steps = int(min(max(left / seconds, 1), sizes.steps))
        every = max(steps // EVALUATIONS, 1)
        result = distill(
            network,
            sizes.student,
            steps=steps,
            settings={**sizes.distil, "steps_per_epoch": every},
            eval_data=sizes.data,
            **common,
        )
        summary = result.summary
        rows[name] = {
            "steps": steps,
            "full_steps": settings.steps,
            "batch": settings.batch_size,
            "precision": precision,
            "seconds": summary.seconds,
            "images_per_second": steps * settings.batch_size / summary.seconds,
            "verdict": summary.health.verdict,
            "curve": [asdict(entry) for entry in result.history],
        }
        keep()
    found["done"] = True
