"""`lenient report`: write a run's page again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lenient.core.text import visible


def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]) -> None:
    """(Re)write report.html and report.json of RUN."""
    from lenient.reporting import write_report

    write_report(run)
    print(visible(run / "report.html", 4096))
