"""One batch on one and on two processes, a thread each, and on one process with two threads.

As a script it is one of the processes: `torchrun speed_ranks.py PAIR BATCH ROUNDS FILE`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from speed_ways import clock, ours, random_teacher, settings_of

from lenient.core import processes, ranks
from lenient.models import build_student

RUNS = {
    "mnist": ("lenient:wrn-10-2", "lenient:resnet8-half", (1, 28, 28), 128),
    "cifar": ("lenient:resnet34", "lenient:resnet18", (3, 32, 32), 64),
}
SETUPS = ((1, 1), (1, 2), (2, 1))
"""Processes, and threads of each."""


def scaling(rounds: int) -> list[dict[str, Any]]:
    """Measure every pair on every setup; returns seconds of each round."""
    rows = []
    for name in RUNS:
        for count, threads in SETUPS:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "seconds.json"
                command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
                command += ["--nproc-per-node", str(count), __file__, name, str(rounds), str(file)]
                subprocess.run(command, check=True, env=surroundings(threads))
                rows.append({"processes": count, "threads": threads, **json.loads(file.read_text(encoding="utf-8"))})
                print(rows[-1], flush=True)
    return rows


def surroundings(threads: int) -> dict[str, str]:
    """Return the environment of the processes: they find what lies beside this file, and not what lies where we are."""
    folders = [str(Path(__file__).resolve().parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    path = os.pathsep.join(folders)
    return processes.safely({**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path})


def main(name: str, rounds: int, file: Path) -> None:
    """Time iterations of the library's loop as one of the ranks."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    teacher, student, size, batch = RUNS[name]
    device = torch.device("cpu")
    with ranks.joined(), ExitStack() as stack:
        network = random_teacher(teacher, size, 10, 0)
        settings = settings_of(batch, "bf16", "none", device)
        way = ours(stack, network, build_student(student, network.card, seed=0), settings)
        way.iterate()
        seconds = [clock(way.iterate, device)[0] for _ in range(rounds)]
        if ranks.is_main():
            file.write_text(json.dumps({"pair": name, "batch": batch, "seconds": seconds}), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
