"""`lenient bench`: grids of distillations."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lenient.cli import flags
from lenient.core.errors import UsageError
from lenient.core.text import VALUE, visible

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lenient.bench.grid import Grid
    from lenient.bench.running import Tell
    from lenient.bench.status import Place, Status

WATCH_SECONDS = 2.0

app = typer.Typer(
    name="bench",
    help="Grids of distillations: rows x teachers x students x seeds.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

GridFile = Annotated[Path, typer.Argument(metavar="GRID", help="A YAML file.", show_default=False)]
Folder = Annotated[
    str, typer.Option("-o", "--output", metavar="DIR", help="Folder of the grid.", show_default="runs/NAME")
]
Overrides = Annotated[
    list[str], typer.Option("-s", "--set", metavar="KEY=VALUE", help="Any key of the grid, e.g. settings.steps=100.")
]


def home_of(grid: Grid, output: str) -> Path:
    """Return the folder of a grid."""
    return Path(output) if output else Path("runs") / grid.name


@app.command()
def run(
    grid: GridFile,
    output: Folder = "",
    launcher: Annotated[str, typer.Option(metavar="NAME", help="local, ray or slurm.")] = "local",
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Cells at a time.", show_default="1; ray, slurm: all")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try failed cells again.")] = False,
    records: Annotated[
        Path | None,
        typer.Option(metavar="CELLS.json", help="A report whose cells are not run again.", show_default=False),
    ] = None,
    setting: Overrides = [],  # noqa: B006
    trust_code: flags.TrustCode = False,
    data_root: flags.DataRoot = "",
    progress: Annotated[str, typer.Option(metavar="KIND", help="auto, rich, plain or none.")] = "auto",
) -> None:
    """Train the teachers of GRID, then run every missing cell; the same command continues where it stopped."""
    from lenient.bench.grid import load_grid, trusted
    from lenient.bench.launchers import check_options, make_launcher
    from lenient.bench.running import run_grid
    from lenient.core.config import parse_overrides
    from lenient.core.progress import known

    known(progress)
    plan = load_grid(grid, setting, trust_code)
    trust = trusted(plan, grid, setting, trust_code)
    if not trust_code:
        check_options(launcher, plan.launcher_options, parse_overrides(setting).get("launcher_options") or {}, grid)
    home = home_of(plan, output)
    place = make_launcher(launcher, jobs, plan.launcher_options, home)
    with _display(progress) as tell:
        whole = run_grid(
            plan, home, place, data_root=data_root or None, retry=retry, records=records, trust=trust, tell=tell
        )
    if not whole:
        print("lenient: interrupted; the same command continues from the last checkpoints", file=sys.stderr)
        raise typer.Exit(130)
    print(f"all cells are done: {home}; `lenient bench report {home}` draws tables and figures")


@contextmanager
def _display(kind: str) -> Iterator[Tell]:
    """Yield what shows progress: a bar with lines above it, lines alone, or nothing."""
    if kind == "auto":
        kind = "rich" if sys.stderr.isatty() else "plain"
    if kind != "rich":

        def plain(done: int, total: int, words: str) -> None:
            if kind == "plain":
                print(f"{done}/{total} {visible(words)}", flush=True)

        yield plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("bench"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)

        def live(done: int, total: int, words: str) -> None:
            bar.update(task, completed=done, total=total)
            bar.console.print(visible(words), markup=False, highlight=False)

        yield live


@app.command()
def status(
    grid: GridFile,
    output: Folder = "",
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Cells at a time, to estimate the time left.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until all is done.")] = False,
    setting: Overrides = [],  # noqa: B006
    trust_code: flags.TrustCode = False,
) -> None:
    """Show how far GRID is: cells done, running, failed and missing, last accuracies, failures, the time left."""
    import time

    from rich.console import Console
    from rich.live import Live

    from lenient.bench.grid import load_grid
    from lenient.bench.status import status_of

    plan = load_grid(grid, setting, trust_code)
    home = home_of(plan, output)
    if not home.is_dir():
        raise UsageError(f"-o {home}: nothing there yet; start with `lenient bench run`")
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a file has no edge to wrap at
    found = status_of(plan, home, jobs)
    if not (watch and console.is_terminal):
        console.print(_page(found))
        return
    with Live(_page(found), console=console, auto_refresh=False) as live:
        while not found.over:
            time.sleep(WATCH_SECONDS)
            found = status_of(plan, home, jobs)
            live.update(_page(found), refresh=True)


def _page(found: Status) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from lenient.cli.distill import duration

    heads = [
        f"{label} ({'untrained' if accuracy is None else f'{accuracy:.1%}'})"
        for label, accuracy in found.teachers.items()
    ]
    table = Table("", box=SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(Text(visible(head, VALUE)))
    for row in found.rows:
        table.add_row(Text(visible(row, VALUE)), *(_entry(found.places[row, teacher]) for teacher in found.teachers))
    counts = found.counts
    words = ", ".join(f"{counts[name]} {name}" for name in ("done", "running", "failed", "missing"))
    left = "" if found.seconds_left is None else f"; about {duration(found.seconds_left)} left"
    lines = [f"{sum(counts.values())} cells: {words}{left}"]
    lines += [visible(f"failed: {name}: {reason}") for name, reason in found.failures]
    note = "each: done/running/failed/missing, median of the last accuracies"
    return Group(table, *(Text(line) for line in (note, *lines)))


def _entry(place: Place) -> str:
    import statistics

    counts = "/".join(str(place.counts[name]) for name in ("done", "running", "failed", "missing"))
    return f"{counts}  {statistics.median(place.last):.1%}" if place.last else counts
