"""`lenient report`: write a run's page again, or one that compares several."""

from __future__ import annotations

from pathlib import Path

from lenient.cli import options
from lenient.cli.options import takes
from lenient.core.errors import UsageError
from lenient.core.progress import for_command, working
from lenient.core.text import WIDE, visible


@takes(options.REPORT)
def report(runs: list[str], output: Path | None, progress: str) -> None:
    """(Re)write report.html and report.json of RUN; of several, write a page that compares them into a folder."""
    from lenient.reporting import write_report
    from lenient.reporting.compare import write_comparison

    if output is None and len(runs) > 1:
        raise UsageError(f"{len(runs)} runs: give -o DIR, the folder for the page that compares them")
    with working("drawing the page", for_command(progress)):
        if output is None:
            write_report(Path(runs[0]))
        else:
            write_comparison([Path(run) for run in runs], output)
    print(visible((output or Path(runs[0])) / "report.html", WIDE))
