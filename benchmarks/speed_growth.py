"""How time and memory of the library's loop grow with batch, image size, classes and teacher: one axis at a time.

Every point runs in a process of its own, so that its peak memory is its own: the device's on a GPU, else the resident
set's high-water mark (what the interpreter and torch take before the first network stands beside it). Every student
batch takes two rounds of synthesis, whatever share a random teacher vouches for: else that share's accidents would pass
for growth.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch
from published import STUDENT_STEPS
from speed_ways import clock, ours, random_teacher, settings_of

from lenient.core.memory import peak
from lenient.core.processes import safe_path
from lenient.models import build_student

AXES: dict[str, tuple[Any, ...]] = {
    "batch": (32, 64, 128, 256),
    "size": (32, 64, 128, 224),
    "classes": (10, 100, 1000),
    "teacher": ("lenient:resnet20", "lenient:resnet18", "lenient:resnet34"),
}
"""Axis -> its values; the base point has the first of each, unless others are given."""

ROUNDS = 2
"""Of synthesis, for each student batch."""

Point = dict[str, Any]


def points(base: Point) -> dict[str, list[Point]]:
    """Return each axis's points: the base point with one value exchanged."""
    found = {}
    for axis, values in AXES.items():
        wanted = list(dict.fromkeys((*values, base[axis])))
        found[axis] = [base | {axis: value} for value in (wanted if axis == "teacher" else sorted(wanted))]
    return found


def base_point(changes: list[str]) -> Point:
    """Return the base point, changed by texts such as `batch=128`.

    Raises:
        ValueError: a text names no axis, or no number where one is wanted.
    """
    base: Point = {axis: values[0] for axis, values in AXES.items()}
    for text in changes:
        axis, _, value = text.partition("=")
        if axis not in base:
            raise ValueError(f"--base {text}: write AXIS=VALUE; the axes are {', '.join(base)}")
        base[axis] = value if axis == "teacher" else int(value)
    return base


def measure(point: Point, rounds: int, cap: float, threads: int, answers: Connection) -> None:
    """In a process of its own: send what is known after each iteration, and stop before the time is up."""
    started = time.monotonic()
    torch.set_num_threads(threads)
    device = torch.device(point["device"])
    before = peak(device)
    teacher = random_teacher(point["teacher"], (3, point["size"], point["size"]), point["classes"], seed=0)
    student = build_student(point["student"], teacher.card, seed=0)
    more = (f"selection.min_rounds={ROUNDS}", f"selection.max_rounds={ROUNDS}")
    settings = settings_of(point["batch"], point["precision"], point["augmentation"], device, more=more)
    seconds: list[float] = []
    with ExitStack() as stack:
        way = ours(stack, teacher, student, settings)
        for number in range(rounds + 1):
            last, _ = clock(way.iterate, device)
            if number != 1:
                seconds.append(last)
            else:
                seconds = [last]  # the first was the warm-up
            found = {
                "seconds_per_step": [value / STUDENT_STEPS for value in seconds],
                "warm": number > 0,
                "peak_bytes": peak(device),
                "bytes_before": before,
            }
            answers.send(found)
            if time.monotonic() - started + last > cap:
                break


def run_point(point: Point, rounds: int, cap: float) -> dict[str, Any]:
    """Run one point in a child and return what it came to; a child that overruns the cap twice over is ended."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=measure, args=(point, rounds, cap, torch.get_num_threads(), sender))
    with safe_path():
        child.start()
    sender.close()
    found: dict[str, Any] = {"seconds_per_step": [], "warm": False, "peak_bytes": None}
    end = time.monotonic() + 2 * cap
    ended = "finished"
    try:
        while receiver.poll(max(0.0, end - time.monotonic())):
            found = receiver.recv()
        ended = "time"
    except EOFError:
        child.join()
        ended = "finished" if child.exitcode == 0 else f"exit code {child.exitcode}"
    finally:
        child.kill()
        child.join()
        receiver.close()
    return {**point, **found, "ended": ended}


def grow(base: Point, rounds: int, cap: float, fixed: Point) -> dict[str, Any]:
    """Return every axis's points; a point that two axes share runs once."""
    done: dict[str, dict[str, Any]] = {}
    axes: dict[str, list[dict[str, Any]]] = {}
    for axis, wanted in points(base).items():
        axes[axis] = []
        for point in wanted:
            key = str(point)
            if key not in done:
                done[key] = run_point(point | fixed, rounds, cap)
                print(axis, done[key], flush=True)
            axes[axis].append(done[key])
    return {"base": base, **fixed, "rounds": rounds, "cap": cap, "synthesis_rounds": ROUNDS, "axes": axes}
