"""`lenient report`: write a run's page again."""

from __future__ import annotations

from pathlib import Path

from lenient.cli import options
from lenient.cli.options import takes
from lenient.cli.progress import working
from lenient.core.text import visible


@takes(options.REPORT)
def report(run: Path) -> None:
    """(Re)write report.html and report.json of RUN."""
    from lenient.reporting import write_report

    with working("drawing the page"):
        write_report(run)
    print(visible(run / "report.html", 4096))
