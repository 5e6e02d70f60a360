"""`pytest -m gpu`, and what came of each test, kept as they end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_sizes import Sizes

TESTS = Path(__file__).parents[1] / "tests" / "test_gpu.py"
ENDED = re.compile(r"^(?:.*::)?(?P<name>test_.*?) (?P<outcome>PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b")
REASON = re.compile(r"^(?:FAILED|ERROR|SKIPPED) (?P<text>.*)")


def tests(
    found: dict[str, Any], keep: Callable[[], None], until: float, out: Path, sizes: Sizes, device: torch.device
) -> None:
    """Run them, at most until the time is over; what did not end then is not known."""
    found |= {"outcomes": {}, "reasons": []}
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-rfEs", "--tb=short", "--color=no"]
    command += ["-p", "no:cacheprovider", TESTS.name]
    process = subprocess.Popen(
        command,
        cwd=TESTS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # so that what tests have started ends with them, and leaves the card
    )
    end = threading.Timer(max(until - time.monotonic(), 1.0), os.killpg, (process.pid, signal.SIGKILL))
    end.start()
    lines: list[str] = []
    assert process.stdout is not None, "it is a pipe"
    for line in process.stdout:
        print(f"  {line}", end="", flush=True)
        lines.append(line)
        if ended := ENDED.match(line):
            found["outcomes"][ended["name"]] = ended["outcome"].lower()
            keep()
        elif reason := REASON.match(line):
            found["reasons"].append(reason["text"][:300])
    code = process.wait()
    end.cancel()
    found["code"] = code
    if code not in (0, -9):
        found["said"] = "".join(lines)[-6000:]
    found["done"] = code in (0, 1)
