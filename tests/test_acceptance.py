"""Whole roads, as a user would go them; long, and with MNIST at hand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
needs_mnist = pytest.mark.skipif("LENIENT_DATA" not in os.environ, reason="set LENIENT_DATA to a folder with MNIST")


def lenient(*arguments: object, cwd: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "lenient", *map(str, arguments)], cwd=cwd, check=False)
    assert done.returncode == 0


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_demo(seed, tmp_path):
    lenient("demo", "--seed", seed, "-o", "demo", cwd=tmp_path)
    found = report(tmp_path / "demo")
    assert found["health"]["verdict"] == "ok"
    assert found["student"]["params"] * 4 <= found["teacher"]["params"]
    assert found["student"]["accuracy"] >= 0.97 * found["teacher"]["accuracy"]
    assert found["student"]["accuracy"] > found["noise_student"]["accuracy"]


@pytest.mark.slow
def test_the_student_beats_noise_and_a_frozen_untrained_generator(digits_file, tmp_path):
    common = ["--student", "lenient:resnet8-half", "--eval-data", "digits", "--progress", "none"]
    for name, flags in {
        "whole": ["-c", "digits"],
        "noise": ["--method", "noise", "-c", "digits"],
        "frozen": ["-c", "digits", "-s", "method.generator_lr=0"],
    }.items():
        arguments = ["distill", digits_file, *common, *flags, "-o", name]
        subprocess.run([sys.executable, "-m", "lenient", *map(str, arguments)], cwd=tmp_path, check=False)
    accuracy = {name: report(tmp_path / name)["student"]["accuracy"] for name in ("whole", "noise", "frozen")}
    assert accuracy["whole"] > accuracy["noise"] + 0.02, accuracy
    # random smooth images with the data's moments teach much of digits; the method must still spare errors beyond that
    assert 1 - accuracy["frozen"] > 1.3 * (1 - accuracy["whole"]), accuracy
    assert report(tmp_path / "frozen")["health"]["verdict"] == "failed"


@pytest.mark.slow
@needs_mnist
def test_a_teacher_nobody_has_seen(tmp_path):
    """Weights in a bare state dict; size and normalisation come from the file with the factory."""
    shutil.copy(HERE / "unseen.py", tmp_path)
    train_unseen(tmp_path / "weights.pt")
    flags = ["--teacher-arch", "py:unseen.py:make", "--eval-data", "mnist", "-o", "run", "--progress", "plain"]
    lenient("distill", "weights.pt", *flags, cwd=tmp_path)
    found = report(tmp_path / "run")
    assert found["health"]["verdict"] == "ok"
    assert found["student"]["accuracy"] > found["teacher"]["accuracy"] - 0.03


def train_unseen(path: Path) -> None:
    """Train it in its own way, outside of `lenient train-teacher`."""
    import torch

    import unseen
    from lenient.data import load_data

    config = unseen.pretrained_cfg
    images = load_data("mnist", split="train", input_size=config["input_size"])
    torch.manual_seed(0)
    net = unseen.make()
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    order = torch.Generator().manual_seed(0)
    for _ in range(2):
        for pixels, labels in images.batches(128, generator=order):
            inputs = (pixels - config["mean"][0]) / config["std"][0]
            loss = torch.nn.functional.cross_entropy(net(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.save(net.state_dict(), path)
