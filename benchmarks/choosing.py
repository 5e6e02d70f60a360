"""Which method, which budget, what to expect: docs/choosing.md, from the records of the grids alone, and what
`lenient inspect` tells of it.

python benchmarks/choosing.py        # writes docs/choosing.md and methods/expected.json from results/*/cells.json
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import typer

from lenient.bench.report.records import NUM_CLASSES, Cell, Grid, read_grid
from lenient.bench.report.results import context
from lenient.core.numbers import duration, exact
from lenient.evaluation import parameters
from lenient.methods.expected import FILE, Expected
from lenient.models import build_student
from lenient.models.card import Card, Network
from lenient.models.checking import readable_batch_norms
from lenient.runs.request import PAPER, PRESETS
from lenient.training.settings import DistillSettings

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "results", ROOT / "docs" / "choosing.md"
HELD = ROOT / "src" / "lenient" / "methods" / FILE
SIZES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32)}
"""Of the images; records do not say it."""
NEAR = 0.9
"""Share of the teacher's accuracy that a run is asked when it came to."""
VERDICTS = ("ok", "warning", "failed")


class Place(NamedTuple):
    """What a figure holds for: data, and both networks."""

    data: str
    teacher: str
    student: str


class Measured(NamedTuple):
    """What is known of a place: which grids it has, their finished runs, and which rows of them are baselines."""

    grids: tuple[Grid, ...]
    rows: Mapping[str, tuple[Cell, ...]]
    baselines: frozenset[str]


def filled(text: str, folder: Path = RESULTS) -> str:
    """Return the page's text with its figures written anew from the grids in a folder."""
    found = places(grids(folder))
    tables = [line for place, measured in found.items() for line in section(place, measured)]
    for name, lines in {"methods": tables, "verdicts": worth(found), "presets": presets()}.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(?=<!-- end of {name} -->)", re.DOTALL)
        text = block.sub(lambda match, lines=lines: "\n".join([match[1], *lines, ""]), text)
    return text


def grids(folder: Path = RESULTS) -> list[Grid]:
    """Return the grids in a folder."""
    return [read_grid(path) for path in sorted(folder.glob("*/cells.json"))]


def expected(found: Mapping[Place, Measured]) -> list[Expected]:
    """Return what runs of each method as it is came to: with and without batch norm, by data."""
    runs: dict[tuple[str, bool, str], list[Cell]] = {}
    for place, measured in found.items():
        for cell in (cell for cells in measured.rows.values() for cell in cells if cell.row == cell.method):
            runs.setdefault((cell.method, has_batch_norm(place), place.data), []).append(cell)
    titles = {place.data: context(measured.grids[0])["data"] for place, measured in found.items()}
    made = []
    for (method, norm, data), cells in sorted(runs.items()):
        shares, steps = [share(cell) for cell in cells], [int(cell.raw["steps"]) for cell in cells]
        middle = (min(shares), statistics.median(shares), max(shares))
        rounded = (round(middle[0], 4), round(middle[1], 4), round(middle[2], 4))
        about = titles[data], NUM_CLASSES[data], SIZES[data]
        made.append(Expected(method, norm, *about, len(cells), (min(steps), max(steps)), rounded))
    return made


def written(measured: Sequence[Expected]) -> str:
    """Return the file of what `lenient inspect` tells, a line each."""
    return "[\n" + ",\n".join(json.dumps(asdict(one)) for one in measured) + "\n]\n"


def places(grids: Sequence[Grid]) -> dict[Place, Measured]:
    """Sort the runs of methods and baselines by place; what a grid takes from another one counts once."""
    found: dict[Place, list[tuple[Grid, Cell]]] = {}
    for grid in grids:
        for cell in grid.cells:
            place = Place(grid.data, str(cell.raw["teacher"]["arch"]), cell.wanted.student)
            if cell.wanted.id not in {known.wanted.id for _, known in found.setdefault(place, [])}:
                found[place].append((grid, cell))
    return {place: _measured(pairs) for place, pairs in sorted(found.items(), key=lambda item: _order(item[0]))}


def _order(place: Place) -> tuple[bool, int, Place]:
    return (not has_batch_norm(place), math.prod(SIZES[place.data]), place)


def _measured(pairs: Sequence[tuple[Grid, Cell]]) -> Measured:
    rows: dict[str, list[Cell]] = {}
    baselines = {cell.row for grid, cell in pairs if grid.is_baseline(cell.row)}
    for _, cell in pairs:
        if (
            cell.row in baselines or cell.row.split(",")[0] == cell.method
        ):  # not one of somebody's losses, or of a sweep
            budget = f", {exact(cell.raw['steps'])} steps"
            rows.setdefault(cell.row + budget, []).append(cell)
    grids = {grid.name: grid for grid, _ in pairs}
    return Measured(
        tuple(grids.values()),
        {row: tuple(cells) for row, cells in rows.items()},
        frozenset(baselines),
    )


@cache
def network(data: str, arch: str) -> Network:
    """Return a network as it is for the images of some data."""
    size = SIZES[data]
    return build_student(arch, Card(None, size, NUM_CLASSES[data], (0.5,) * size[0], (0.5,) * size[0]), seed=0)


def has_batch_norm(place: Place) -> bool:
    """Whether the teachers of a place have any."""
    return bool(readable_batch_norms(network(place.data, place.teacher)))


def named(data: str, arch: str) -> str:
    """Return a network's name with its size."""
    return f"`{arch}` ({parameters(network(data, arch).module):,} weights)"


def section(place: Place, measured: Measured) -> list[str]:
    """Return one table of rows, the best first, baselines last."""
    known = [context(grid) for grid in measured.grids]
    data, size = known[0]["data"], " x ".join(map(str, SIZES[place.data]))
    accuracies = [cell.teacher_accuracy for cells in measured.rows.values() for cell in cells]
    names = ", ".join(f"[{grid.name}](../results/{grid.name}/tables/table-3.md)" for grid in measured.grids)
    machines = "; ".join(sorted({words["machine"].split(", torch")[0] for words in known}))
    return [
        f"### {data}, teacher {'with' if has_batch_norm(place) else 'without'} batch norm",
        "",
        f"{NUM_CLASSES[place.data]} classes, images of {size}. Teacher {named(place.data, place.teacher)},",
        f"{spread(accuracies)} % right on test images; student {named(place.data, place.student)}.",
        f"Grids: {names}. Machine: {machines}.",
        "",
        f"| method | runs | of the teacher's accuracy, % | {NEAR:.0%} of it after steps | a run takes | verdicts |",
        "|---|---|---|---|---|---|",
        *(row(name, cells, measured) for name, cells in ranked(measured)),
        "",
    ]


def ranked(measured: Measured) -> list[tuple[str, tuple[Cell, ...]]]:
    """Return methods by what they came to, then baselines."""

    def place(item: tuple[str, tuple[Cell, ...]]) -> tuple[bool, float]:
        return item[1][0].row in measured.baselines, -statistics.median(map(share, item[1]))

    return sorted(measured.rows.items(), key=place)


def row(name: str, cells: Sequence[Cell], measured: Measured) -> str:
    """Return one line of a table."""
    shown = f"*{name}*" if cells[0].row in measured.baselines else name
    reached = statistics.median(steps_to(cell) for cell in cells)
    verdicts = ", ".join(f"{count} {verdict}" for verdict in VERDICTS if (count := counted(cells, verdict)))
    seconds = statistics.median(cell.number("cost.seconds") for cell in cells)
    values = (
        shown,
        str(len(cells)),
        spread([share(cell) for cell in cells]),
        "not reached" if math.isinf(reached) else exact(int(reached)),
        duration(seconds),
        verdicts,
    )
    return f"| {' | '.join(values)} |"


def share(cell: Cell) -> float:
    """Return which share of its teacher's accuracy a student came to."""
    return cell.number("acc_last_k") / cell.teacher_accuracy


def steps_to(cell: Cell) -> float:
    """Return the steps after which a student was first near its teacher; infinite where it never was."""
    steps, accuracies = cell.series("curve")
    reached = (step for step, value in zip(steps, accuracies, strict=True) if value >= NEAR * cell.teacher_accuracy)
    return next(reached, math.inf)


def counted(cells: Sequence[Cell], verdict: str) -> int:
    """Return how many runs have a verdict."""
    return sum(cell.raw["verdict"] == verdict for cell in cells)


def spread(values: Sequence[float]) -> str:
    """Write a median with its range, in percent."""
    low, middle, high = (f"{100 * value:.1f}" for value in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def worth(found: Mapping[Place, Measured]) -> list[str]:
    """Return what students came to by the verdicts of their runs, baselines left out."""
    lines = []
    for place, measured in found.items():
        runs = [cell for cells in measured.rows.values() for cell in cells if cell.row not in measured.baselines]
        runs.sort(key=lambda cell: VERDICTS.index(cell.raw["verdict"]))
        title = context(measured.grids[0])["data"]
        norm = "yes" if has_batch_norm(place) else "no"
        for verdict, group in groupby(runs, key=lambda cell: str(cell.raw["verdict"])):
            cells = list(group)
            lines.append(f"| {title} | {norm} | {verdict} | {len(cells)} | {spread([share(cell) for cell in cells])} |")
    return [
        "| data | batch norm | verdict | runs | of the teacher's accuracy, % |",
        "|---|---|---|---|---|",
        *lines,
    ]


def presets() -> list[str]:
    """Return how long the presets run."""
    usual = {key: DistillSettings.model_fields[key].default for key in ("steps", "batch_size")}
    lines = [
        f"| `{name}` | {' | '.join(exact((usual | values)[key]) for key in usual)} |"
        for name, values in PRESETS.items()
        if name != PAPER
    ]
    return ["| `--preset` | steps | images a step |", "|---|---|---|", *lines]


def main() -> None:
    """Write the page and the file."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    HELD.write_text(written(expected(places(grids()))), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
