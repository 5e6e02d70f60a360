"""What the verdicts, which no test image helps, were worth."""

from __future__ import annotations

import statistics

from lenient.bench.report.records import Grid
from lenient.bench.report.results import catastrophic, context, margins, numbers
from lenient.bench.report.tables.notes import EXPECTED, VERDICT
from lenient.bench.report.tables.table import Column, Row, Table, Value
from lenient.bench.report.tables.values import count, shown

VERDICTS = ("ok", "warning", "failed")


def verdicts(grid: Grid, key: str) -> Table:
    """What the verdicts were worth: accuracies of the runs behind each."""
    told = any(cell.as_expected is not None for cell in grid.cells)
    columns = (
        Column("runs", parts=("methods", "baselines")),
        *(Column(name, "agreement with the teacher (%)") for name in ("least", "median", "most")),
        Column("catastrophic"),
        Column("not above noise", parts=("runs", "of")),
        *((Column("as expected", parts=("runs", "of")),) if told else ()),
    )
    bad = {cell.wanted.id for row in grid.rows for cell in catastrophic(grid, row)}
    rows = []
    for word in VERDICTS:
        cells = [cell for cell in grid.cells if cell.raw.get("verdict") == word]
        taught = [cell for cell in cells if not grid.is_baseline(cell.row)]
        agreements = [100 * value for value in numbers(cells, "agreement")]
        above, untaught = margins(grid, taught), len(cells) - len(taught)
        inside = [cell.as_expected for cell in cells if cell.as_expected is not None]
        values = (
            Value(f"{len(taught)} + {untaught}", (len(taught), untaught)),
            *(
                shown(measure(agreements), lambda share: f"{share:.2f}") if agreements else Value("-")
                for measure in (min, statistics.median, max)
            ),
            count(sum(cell.wanted.id in bad for cell in cells)),
            count(sum(value <= 0 for value in above), len(above)),
            *([count(sum(inside), len(inside))] if told else []),
        )
        rows.append(Row(word, values))
    notes = (
        f"{VERDICT} Agreement is measured on test images. "
        "Runs: of methods + of baselines. Not above noise: runs of methods that are not above the best student of "
        "noise or of a frozen generator.",
        *((f"{EXPECTED} As expected: runs whose agreement lies there, of those that said so.",) if told else ()),
    )
    return Table(key, "What the verdicts were worth", columns, tuple(rows), notes, context(grid), "verdict")
