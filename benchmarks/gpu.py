"""What a CUDA machine can say of the library in nine minutes, in pieces that each save their result at once.

    python benchmarks/gpu.py OUT
    python benchmarks/gpu.py OUT --earlier BEFORE --only speed --only distil
    python benchmarks/gpu.py OUT --table results/gpu.md

| piece | what |
|---|---|
| `teacher` | a ResNet-34 on CIFAR-10, as fast as the card goes; its weights in parts of at most 15 MB |
| `speed` | an outer iteration of TA-DFKD from it to a ResNet-18: ours beside the procedure as released |
| `tests` | `pytest -m gpu` |
| `distil` | TA-DFKD, the paper's protocol shortened and the library's defaults, with curves of accuracy |

A piece writes `OUT/PIECE.json`, and again after each part of it; one that is there and done is not done again, nor are
its parts. Time that is left is shared out among the pieces that are still to be done, by their weights. Not measured is
what is not there. CIFAR-10 is read as `lenient` reads it (LENIENT_DATA); without it a random teacher is timed and
nothing distilled. `--device cpu --toy` runs all of it in seconds, at a size that says nothing.
"""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
import typer
from gpu_distil import distil
from gpu_page import page
from gpu_sizes import FULL, TOY, Sizes
from gpu_speed import speed
from gpu_teacher import PARTS, teacher
from gpu_tests import tests
from speed import machine

from lenient.core import files
from lenient.core.runtime import resolve_device


class Piece(Protocol):
    """Measures until `until`, a time of `time.monotonic`, keeping what it knows in `found`, and `keep`s that."""

    def __call__(
        self,
        found: dict[str, Any],
        keep: Callable[[], None],
        until: float,
        out: Path,
        sizes: Sizes,
        device: torch.device,
    ) -> None:
        """Return once all is measured that there is time for; `found["done"]` says whether that was all."""
        ...


PIECES: Mapping[str, tuple[float, Piece]] = {
    "teacher": (150.0, teacher),
    "speed": (150.0, speed),
    "tests": (120.0, tests),
    "distil": (120.0, distil),
}
"""Name -> weight, its seconds of 540, and what measures it; in the order of their use to each other."""


def measure(
    out: Path, names: list[str], seconds: float, sizes: Sizes, device: torch.device, again: bool = False
) -> None:
    """Measure the pieces of these names that are not done, in so many seconds all together."""
    end = time.monotonic() + seconds
    results = {name: {} if again else read(out, name) for name in names}
    todo = [name for name in names if not results[name].get("done")]
    for place, name in enumerate(todo):
        weights = [PIECES[other][0] for other in todo[place:]]
        now = time.monotonic()
        share = max(end - now, 0.0) * weights[0] / sum(weights)
        found = results[name]
        found.pop("error", None)
        found["machine"], found["toy"] = machine(device), sizes == TOY

        def keep(name: str = name, found: Mapping[str, Any] = found) -> None:
            files.write(out / f"{name}.json", json.dumps(found, indent=1) + "\n")

        print(f"{name}: up to {share:.0f} s", flush=True)
        try:
            PIECES[name][1](found, keep, now + share, out, sizes, device)
        except Exception as error:  # the other pieces are worth their time
            found["error"] = f"{type(error).__name__}: {error}"[:1000]
            traceback.print_exc()
        found["seconds"] = found.get("seconds", 0.0) + time.monotonic() - now
        keep()
        print(f"{name}: {time.monotonic() - now:.0f} s, {'done' if found.get('done') else 'not done'}", flush=True)


def read(out: Path, name: str) -> dict[str, Any]:
    """Return what is known of a piece, {} where nothing is."""
    file = out / f"{name}.json"
    known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return known


def take_up(earlier: Path, out: Path) -> None:
    """Copy what an earlier run has left, where there is nothing newer."""
    for file in sorted([*(earlier / f"{name}.json" for name in PIECES), *earlier.glob(PARTS)]):
        if file.exists() and not (out / file.name).exists():
            shutil.copy(file, out / file.name)


def main(
    out: Annotated[Path, typer.Argument(help="Folder of the results; those that are there stay.")],
    only: Annotated[list[str], typer.Option(help=f"A piece to measure, again for another: {', '.join(PIECES)}.")] = [],  # noqa: B006
    seconds: Annotated[float, typer.Option(help="For all pieces together.")] = 540.0,
    earlier: Annotated[Path | None, typer.Option(help="Folder of an earlier run, to go on from.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure also what is done.")] = False,
    device: str = "cuda",
    toy: Annotated[bool, typer.Option("--toy", help="Everything small: that it runs.")] = False,
    table: Annotated[Path | None, typer.Option(help="Write the page from OUT, and measure nothing.")] = None,
) -> None:
    """Measure, or write the page."""
    if unknown := [name for name in only if name not in PIECES]:
        raise typer.BadParameter(f"--only {unknown[0]}: there are {', '.join(PIECES)}")
    if table is not None:
        table.write_text(page({name: read(out, name) for name in PIECES}), encoding="utf-8")
        return
    out.mkdir(parents=True, exist_ok=True)
    if earlier is not None:
        take_up(earlier, out)
    place = resolve_device(device)
    measure(out, [name for name in PIECES if not only or name in only], seconds, TOY if toy else FULL, place, again)


if __name__ == "__main__":
    typer.run(main)
