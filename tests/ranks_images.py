"""One of several processes: makes data sets of synthetic images in float64 and stores what it was given.

torchrun --nproc-per-node 2 ranks_images.py FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import lenient
from lenient.core import ranks
from lenient.runs import synthesis
from lenient.synthesis import drawing
from toys import QUICK, TA_QUICK, quick, tiny_student, tiny_teacher

PLAN = {key: value for key, value in QUICK.items() if key != "steps"} | {"precision": "64"}
POOL = quick("adi", PLAN) | {"method": {"iterations": 3, "first_batches": 1, "student_steps": 2}}
DRAWN = PLAN | {"method": TA_QUICK}


def made(method: str, **more: Any) -> lenient.SyntheticImages:
    """A pool of images that a student has its part in, or what a generator draws and the teacher accepts."""
    given: dict[str, Any] = {"settings": POOL} if method == "adi" else {"settings": DRAWN, "steps": 4}
    return lenient.synthesize(tiny_teacher(), 20, method, student=tiny_student(), **given | more)


def both() -> dict[str, lenient.SyntheticImages]:
    return {method: made(method) for method in ("adi", "ta-dfkd")}


def main(folder: str) -> None:
    torch.set_num_threads(1)
    path, rank = Path(folder), int(os.environ["RANK"])
    for time in range(20):
        with ranks.joined():
            assert ranks.agree(time) == time
    found = both()
    found["written"] = made("adi", output=path / "images")
    assert (path / "images" / "images.safetensors").is_file()
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            patch.setattr(drawing, "confidence_score", lambda logits: logits[:, 0])
        found["otherwise"] = made("ta-dfkd")
    for name in ("late", "stopped"):
        with pytest.MonkeyPatch.context() as patch:
            if rank == 1:
                patch.setattr(synthesis.Budget, "seconds", property(taken(name)))
            found[name] = made("adi", budget="9h")
    torch.save(found, path / f"{rank}.pt")


def taken(name: str) -> Any:
    """Seconds that a rank has taken of its budget: too many from the fifth question on, or none and it is stopped."""
    asked = count(1)

    def seconds(budget: synthesis.Budget) -> float:
        number = next(asked)
        if name == "stopped" and number == 5:
            signal.raise_signal(signal.SIGINT)
        return 1e6 if name == "late" and number >= 5 else 0.0

    return seconds


if __name__ == "__main__":
    main(*sys.argv[1:])
