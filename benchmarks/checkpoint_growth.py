"""What a checkpoint of a run with a large pool writes, and how long it takes: the pool lies in segments beside it.

    python benchmarks/checkpoint_growth.py > results/checkpoints.md

A run of DeepInversion on ResNets for images of 3x32x32 is put together and its pool filled with noise; no update is
made. Each checkpoint is written five times with so many more images; means and the longest time are shown, as is
that of a plain file of as many bytes as the pool, synced, for what the disk can do.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from lenient.core import files
from lenient.core.runtime import Runtime
from lenient.models import build_student
from lenient.models.card import Card
from lenient.runs.folder import RunFolder, environment
from lenient.runs.request import Request, resolve
from lenient.synthesis.pool import Pool
from lenient.teacher.frozen import FrozenTeacher
from lenient.training.trainer import Distillation

MEGABYTES = 500
"""Of the pool, in millions of bytes, unless another number is given."""
BATCH, TIMES = 256, 5
SIZE = (3, 32, 32)


def main(megabytes: int = MEGABYTES) -> None:
    """Print the page."""
    images = megabytes * 10**6 // (SIZE[0] * SIZE[1] * SIZE[2])
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as place:
        run, folder = _run(Path(place), images + TIMES * BATCH), RunFolder.create(Path(place) / "run")
        folder.open_logs(0)
        pool = run.algorithm.source
        assert isinstance(pool, Pool), "the method's source"
        _fill(pool, images)
        first = _timed(folder.path, lambda: folder.save_checkpoint(run.state_dict()))
        rows = [
            ("the first, with all images", [first]),
            (f"with {BATCH} images more", list(_further(run, folder, pool, BATCH))),
            ("with none more", list(_further(run, folder, pool, 0))),
        ]
        files_there = len(list((folder.path / "segments").iterdir()))
        again = _run(Path(place), images + TIMES * BATCH)
        begun = time.perf_counter()
        assert again.resume(RunFolder(folder.path)) is not None, "it was written"
        resumed = time.perf_counter() - begun
        assert torch.equal(again.algorithm.source.draw(64, "x", 0), pool.draw(64, "x", 0)), "to the bit"
        plain = _timed(Path(place), lambda: files.write(Path(place) / "plain", bytes(megabytes * 10**6)))
        folder.close()
    print("# Checkpoints of a large pool\n\n`python benchmarks/checkpoint_growth.py > results/checkpoints.md`\n")
    print(f"A pool of {images:,} images of {'x'.join(map(str, SIZE))} is {megabytes} MB. Its student, the pixels of")
    print("the batch in the making with their optimizer, and new images that are too few for a segment are in each")
    print(f"checkpoint itself. Each but the first {TIMES} times, means.\n")
    print("| checkpoint | MB written | of it in segments | seconds | longest |\n|---|---|---|---|---|")
    for name, measured in rows:
        size, beside, seconds = (statistics.mean(values) for values in zip(*measured, strict=True))
        longest = max(value for *_, value in measured)
        print(f"| {name} | {size / 1e6:.1f} | {beside / 1e6:.1f} | {seconds:.2f} | {longest:.2f} |")
    print(f"| *a plain file of {megabytes} MB* | {plain[0] / 1e6:.1f} | | {plain[2]:.2f} | |")
    print(f"\nIt lies in {files_there} files; going on from it, all of it read and checked, takes {resumed:.2f} s.")
    machine = environment(torch.device("cpu"), "32")
    print(f"Machine: {machine['device_name']}, {machine['threads']} threads.")


def _run(place: Path, capacity: int) -> Distillation:
    card = Card(None, SIZE, 10, (0.5,) * 3, (0.25,) * 3, None)
    teacher, student = (build_student("lenient:resnet20", card, seed=seed, role="teacher") for seed in (0, 1))
    method = {"pool_size": capacity}
    plan = {"device": "cpu", "precision": "32", "batch_size": BATCH, "method": method}
    settings = resolve(Request(method="deepinversion", settings=plan))
    frozen = FrozenTeacher(teacher, Runtime(torch.device("cpu")))
    frozen.__enter__()
    return Distillation(frozen, student, settings, Runtime(torch.device("cpu")))


def _fill(pool: Pool, images: int) -> None:
    for start in range(0, images, 4096):
        generator = torch.Generator().manual_seed(start)
        pool.push(torch.rand(min(4096, images - start), *SIZE, generator=generator))


def _further(run: Distillation, folder: RunFolder, pool: Pool, more: int) -> Iterator[tuple[int, int, float]]:
    for _ in range(TIMES):
        if more:
            pool.push(torch.rand(more, *SIZE))
        yield _timed(folder.path, lambda: folder.save_checkpoint(run.state_dict()))


def _timed(place: Path, act: Callable[[], object]) -> tuple[int, int, float]:
    """Return the bytes in files that an act leaves new, those of them in segments, and its seconds."""
    before = {entry: entry.stat().st_ino for entry in place.rglob("*") if entry.is_file()}
    begun = time.perf_counter()
    act()
    seconds = time.perf_counter() - begun
    new = [entry for entry in place.rglob("*") if entry.is_file() and before.get(entry) != entry.stat().st_ino]
    beside = sum(entry.stat().st_size for entry in new if entry.parent.name == "segments")
    return sum(entry.stat().st_size for entry in new), beside, seconds


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
