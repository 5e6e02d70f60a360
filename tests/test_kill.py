"""Kill -9 at twenty random moments: each time `--resume` goes on, and the student equals the uninterrupted one."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

KILLS = 20
ARGUMENTS = ["--student", "lenient:resnet8-half", "--steps", "2000", "--batch-size", "32", "--device", "cpu",
             "--precision", "32", "-s", "checkpoint_every=5", "-s", "log_every=5", "-s", "generator.width=8",
             "-s", "generator.latent_dim=16", "-s", "method.student_steps=2", "--progress", "none"]  # fmt: skip


def start(teacher: Path, folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lenient", "distill", str(teacher), *ARGUMENTS, "-o", str(folder), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def written(checkpoint: Path) -> float:
    """When it was written; 0 where there is none, as for an instant while the last one becomes the previous one."""
    try:
        return checkpoint.stat().st_mtime
    except FileNotFoundError:
        return 0


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_as_if_it_had_not_been(digits_file, tmp_path):
    whole = start(digits_file, tmp_path / "whole")
    _, errors = whole.communicate(timeout=1200)
    assert whole.returncode in (0, 4), errors
    chance = random.Random(0)
    killed = progress = 0
    while killed < KILLS:
        process = start(digits_file, tmp_path / "cut", "--resume")
        checkpoint = tmp_path / "cut" / "checkpoints" / "last.pt"
        before = written(checkpoint)
        if killed % 4:  # three in four times once it has gone on, so that the moments fall all over the run
            while process.poll() is None and written(checkpoint) <= before:
                pass
        try:
            process.wait(chance.uniform(0, 1.5 if killed % 4 else 8))
        except subprocess.TimeoutExpired:
            process.kill()
        errors = process.communicate()[1]
        assert process.returncode in (-9, 0, 4), errors
        assert process.returncode == -9, f"it finished before it was killed {KILLS} times: make the run longer"
        killed += 1
        if checkpoint.exists():
            step = torch.load(checkpoint, weights_only=True)["step"]
            assert step >= progress
            progress = step
    last = start(digits_file, tmp_path / "cut", "--resume")
    _, errors = last.communicate(timeout=1200)
    assert last.returncode == whole.returncode, errors
    expected, found = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("whole", "cut"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
