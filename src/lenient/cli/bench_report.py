"""`lenient bench report`: tables, figures and a page from the records of a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lenient.cli import flags
from lenient.cli.bench import home_of
from lenient.core.errors import UsageError
from lenient.core.progress import for_command, working


def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|GRID|CELLS.json",
            help="What `bench run` wrote, the grid that it ran, or an earlier cells.json.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="OUT", help="Where to write.", show_default="DIR/report, or beside CELLS.json"
        ),
    ] = None,
    teachers: Annotated[
        str, typer.Option(metavar='"A;B"', help="Teachers of Figure 1; the first also of maps and images.")
    ] = "",
    ablation: Annotated[
        str, typer.Option(metavar='"A;B;C"', help="Rows of the ablation. By default those of ta-dfkd.")
    ] = "",
    features: Annotated[
        bool, typer.Option("--features", help="Measure Frechet distances, maps and images: needs runs and real images.")
    ] = False,
    rows: Annotated[str, typer.Option(metavar='"A;B"', help="With --features: rows of maps and images.")] = "",
    images: Annotated[int, typer.Option(metavar="N", help="With --features: most images of each kind.")] = 2000,
    projection: Annotated[str, typer.Option("--map", metavar="NAME", help="With --features: tsne or pca.")] = "tsne",
    inception: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="With --features: Frechet distances of Inception, too; its weights, or `download`.",
        ),
    ] = "",
    records: Annotated[
        Path | None,
        typer.Option(
            metavar="CELLS.json",
            help="The report that `bench run --records` took cells from: its measures of them are kept.",
            show_default=False,
        ),
    ] = None,
    trust_code: flags.TrustCode = False,
    data_root: flags.DataRoot = "",
    device: flags.Device = "cpu",
    progress: Annotated[str, typer.Option(metavar="KIND", help="auto, rich, plain or none.")] = "auto",
) -> None:
    """Write tables (Markdown, CSV, LaTeX), figures (SVG) and one page from the records of a grid."""
    from lenient.bench.report import Choice, Options, write_bench_report

    kind = for_command(progress)
    if source.suffix in (".yaml", ".yml") and source.is_file():
        source = _folder(source, trust_code)
    if projection not in ("tsne", "pca"):
        raise UsageError(f"--map {projection}: use tsne or pca")
    if records is not None and not source.is_dir():
        raise UsageError(f"--records: needs the folder of a grid; {source} is a report")
    asked = {"--inception": inception, "--rows": rows, "--images": images != Options.images}
    asked["--map"] = projection != Options.projection
    alone = next((flag for flag, given in asked.items() if given and not features), None)
    if alone is not None:
        raise UsageError(f"{alone}: needs --features")
    chosen = Choice(teachers=_names(teachers), ablation=_names(ablation))
    options = None
    if features:
        options = Options(
            data_root=data_root or None,
            images=images,
            projection="pca" if projection == "pca" else "tsne",
            device=device,
            rows=_names(rows),
            teacher=next(iter(chosen.teachers), ""),
            inception=inception,
            trust_code=trust_code,
        )
    with working("drawing tables and figures", kind):
        page = write_bench_report(source, output, choice=chosen, features=options, records=records, say=print)
    print(page)


def _folder(grid: Path, trust_code: bool) -> Path:
    """Return where `bench run` put the grid of a file, unless it was told another place."""
    from lenient.bench.grid import load_grid

    home = home_of(load_grid(grid, (), trust_code), "")
    if not home.is_dir():
        raise UsageError(f"{grid}: there is no {home}; start with `lenient bench run`, or name the folder it wrote")
    return home


def _names(text: str) -> tuple[str, ...]:
    """Names between semicolons."""
    return tuple(part.strip() for part in text.split(";") if part.strip())
