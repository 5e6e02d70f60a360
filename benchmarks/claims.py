"""What our own runs say of the claims of the two papers, claim by claim, from the records of the grids alone.

    python benchmarks/claims.py docs/results grids    # writes docs/results/README.md from docs/results/*/cells.json

A claim is a sentence of a paper and a rule. The rule looks at one grid and says whether it holds there, with the
figures; where a grid lacks the rows, the teachers or the measurements that it needs, the claim was not tested there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Annotated

import typer

from lenient.bench.grid import load_grid, settings_of
from lenient.bench.report.records import Grid, read_grid
from lenient.bench.report.results import catastrophic, context, margins, mean_std, teacher_means
from lenient.bench.report.sweeps import measured
from lenient.bench.teachers import trainings
from lenient.report.numbers import exact

COMPARED = ("dafl", "dfad", "pre-dfkd")
"""Of the methods in the paper's Table 3, those that the library has."""
LEVEL = 0.05
CONFIRMED, NOT_CONFIRMED, CONTRADICTED = "confirmed", "not confirmed", "**the opposite holds**"


@dataclass(frozen=True)
class Finding:
    """What one grid says of a claim."""

    verdict: str
    figures: str


Rule = Callable[[Grid], Finding | None]


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper, in our words, where it stands, and the rule by which runs are held against it."""

    place: str
    words: str
    rule: Rule


# rows of a grid, by what they are


def row_of(grid: Grid, method: str, **settings: object) -> str | None:
    """The first row of a method whose settings are those given; None where the grid has none with a result."""
    for row in grid.rows:
        cells = grid.of(row)
        if cells and not grid.is_baseline(row) and cells[0].method == method:
            own = cells[0].method_settings
            if all(own.get(key) == value for key, value in settings.items()):
                return row
    return None


def full(grid: Grid) -> str | None:
    """TA-DFKD as the grid runs it: selection, no class prior."""
    return row_of(grid, "ta-dfkd", selection="mixture", class_prior_weight=0)


def ablation(grid: Grid) -> list[tuple[str | None, str | None, str | None]]:
    """All three losses; without class prior; with selection: rows that differ in nothing else."""
    found = []
    for row in grid.rows:
        cells = grid.of(row)
        if grid.is_baseline(row) or not cells or cells[0].method != "ta-dfkd":
            continue
        own = dict(cells[0].method_settings)
        if own.get("selection") == "mixture" and own.get("class_prior_weight") == 0:
            rest = {k: v for k, v in own.items() if k not in ("selection", "class_prior_weight")}
            found.append(
                (
                    row_of(grid, "ta-dfkd", **rest, selection="none", class_prior_weight=1),
                    row_of(grid, "ta-dfkd", **rest, selection="none", class_prior_weight=0),
                    row,
                )
            )
    return [rows for rows in found if sum(row is not None for row in rows) > 1]


# comparing


def pairs(grid: Grid, first: str, second: str, key: str) -> list[float]:
    """First minus second for each teacher and seed that both have."""
    other = {(cell.teacher, cell.seed): cell.number(key) for cell in grid.of(second)}
    found = [cell.number(key) - other.get((cell.teacher, cell.seed), math.nan) for cell in grid.of(first)]
    return [value for value in found if not math.isnan(value)]


def sign_test(values: Sequence[float]) -> float:
    """Probability, were both signs equally likely, of a split at least as uneven as that of `values`; zeros are left
    out."""
    above, below = (sum(sign * value > 0 for value in values) for sign in (1, -1))
    count = above + below
    tail = sum(comb(count, k) for k in range(max(above, below), count + 1)) / 2**count
    return min(1.0, 2 * tail)


def higher(
    grid: Grid, first: str | None, second: str | None, key: str, sign: int = 1, unit: str = "points"
) -> Finding | None:
    """Whether `first` has the higher `key` (the lower one for a sign of -1), in pairs of equal teacher and seed."""
    values = pairs(grid, first, second, key) if first and second else []
    if not values:
        return None
    scale = 1e4 if key == "variance" else 100
    ahead, chance = sum(sign * value > 0 for value in values), sign_test(values)
    middle = f"{scale * statistics.median(values):+.2f} {unit}".replace("-", "−")
    where = f"{first} {'above' if sign > 0 else 'below'} {second} in {ahead} of {len(values)} pairs"
    text = f"{where}, median {middle}, p = {chance:.2g}"
    if chance >= LEVEL:
        return Finding(NOT_CONFIRMED, text)
    return Finding(CONFIRMED if 2 * ahead > len(values) else CONTRADICTED, text)


def joined(findings: Sequence[Finding | None]) -> Finding | None:
    """Several comparisons as one finding: confirmed where all are, the opposite where all are."""
    known = [finding for finding in findings if finding is not None]
    if not known:
        return None
    verdicts = {finding.verdict for finding in known}
    return Finding(verdicts.pop() if len(verdicts) == 1 else NOT_CONFIRMED, "; ".join(f.figures for f in known))


def field(grid: Grid) -> dict[str, str]:
    """TA-DFKD first, then the methods that the paper compares it with: method -> row; empty without any of these."""
    own = full(grid)
    others = {method: row for method in COMPARED if (row := row_of(grid, method))}
    return {"ta-dfkd": own, **others} if own and others else {}


def best_of(grid: Grid, value: Callable[[str, str], float], what: str, *, low: bool = False) -> Finding | None:
    """For how many teachers TA-DFKD has the best `value(row, teacher)` of those that the paper compares."""
    rows = field(grid)
    if not rows:
        return None
    table = {
        teacher: {method: value(row, teacher) for method, row in rows.items()}
        for teacher in grid.teachers
        if all(grid.of(row, teacher) for row in rows.values())
    }
    if not table:
        return None
    choose = min if low else max
    won = sum(choose(found, key=found.__getitem__) == "ta-dfkd" for found in table.values())
    means = ", ".join(f"{m} {100 * statistics.fmean(t[m] for t in table.values()):.2f}" for m in rows)
    verdict = CONFIRMED if 2 * won > len(table) else CONTRADICTED if won == 0 else NOT_CONFIRMED
    return Finding(verdict, f"best for {won} of {len(table)} teachers; {what} over teachers: {means}")


def peak(grid: Grid, row: str, teacher: str) -> float:
    """The highest accuracy over seeds."""
    return max(cell.number("acc_max") for cell in grid.of(row, teacher))


def converged(grid: Grid, row: str, teacher: str) -> float:
    """acc_last[k], mean over seeds."""
    return mean_std([cell.number("acc_last_k") for cell in grid.of(row, teacher)])[0]


# rules


def teaching(grid: Grid) -> Finding | None:
    """Our own condition: no figure means anything for a method that noise equals."""
    methods = [row for row in grid.rows if not grid.is_baseline(row)]
    above = {row: values for row in methods if (values := margins(grid, grid.of(row)))}
    if not above:
        return None
    chances = {row: sign_test(values) for row, values in above.items()}
    short = [row for row, values in above.items() if statistics.median(values) <= 0 or chances[row] >= LEVEL]
    text = f"so for {len(above) - len(short)} of {len(above)} rows"
    for row in short:
        ahead = sum(value > 0 for value in above[row])
        text += f"; {row} ahead in {ahead} of {len(above[row])} pairs, p = {chances[row]:.2g}"
    return Finding(NOT_CONFIRMED if short else CONFIRMED, text)


def leading(grid: Grid) -> Finding | None:
    """Our own question: whether there is anything better than TA-DFKD, the default, all teachers taken together."""
    rows = [row for row in grid.rows if not grid.is_baseline(row)]
    means = {row: teacher_means(grid, row) for row in rows}
    known = {row: statistics.fmean(found.values()) for row, found in means.items() if len(found) == len(grid.teachers)}
    own = full(grid)
    if own not in known or len({grid.of(row)[0].method for row in known}) < 2:
        return None
    order = sorted(known, key=lambda row: -known[row])
    verdict = CONFIRMED if order[0] == own else NOT_CONFIRMED
    return Finding(verdict, "acc_last[k] in %: " + ", ".join(f"{row} {100 * known[row]:.2f}" for row in order))


def converging(grid: Grid) -> Finding | None:
    """Table 3, acc_last[k]."""
    return best_of(grid, lambda row, teacher: converged(grid, row, teacher), "acc_last[k] in %, mean")


def peaking(grid: Grid) -> Finding | None:
    """Table 3, acc_max."""
    return best_of(grid, lambda row, teacher: peak(grid, row, teacher), "acc_max in %, mean")


def robust(grid: Grid) -> Finding | None:
    """Figure 7: the range over teachers of teacher minus peak."""
    rows = field(grid)
    whole = bool(rows) and all(grid.of(row, teacher) for row in rows.values() for teacher in grid.teachers)
    if not whole or len(grid.teachers) < 2:
        return None
    gaps = {m: [grid.teacher_accuracy(t) - peak(grid, row, t) for t in grid.teachers] for m, row in rows.items()}
    ranges = {method: max(values) - min(values) for method, values in gaps.items()}
    verdict = CONFIRMED if min(ranges, key=ranges.__getitem__) == "ta-dfkd" else NOT_CONFIRMED
    if max(ranges, key=ranges.__getitem__) == "ta-dfkd":
        verdict = CONTRADICTED
    text = ", ".join(f"{method} {100 * value:.2f}" for method, value in ranges.items())
    return Finding(verdict, f"range of the gap over {len(grid.teachers)} teachers, in points: {text}")


def close(grid: Grid) -> Finding | None:
    """The gap between teacher and peak, as small as the paper's largest on CIFAR-10 (Table A3)."""
    row = full(grid)
    teachers = [teacher for teacher in grid.teachers if row and grid.of(row, teacher)]
    if not teachers or not row:
        return None
    gaps = [100 * (grid.teacher_accuracy(teacher) - peak(grid, row, teacher)) for teacher in teachers]
    verdict = CONFIRMED if max(gaps) <= 1.32 else NOT_CONFIRMED
    return Finding(
        verdict, f"teacher minus peak, {len(teachers)} teachers, in points: {min(gaps):.2f} to {max(gaps):.2f}"
    )


def stable(grid: Grid) -> Finding | None:
    """Figure 8: peak minus converging accuracy."""
    return best_of(
        grid,
        lambda row, teacher: peak(grid, row, teacher) - converged(grid, row, teacher),
        "peak minus acc_last[k] in points, mean",
        low=True,
    )


def repeatable(grid: Grid) -> Finding | None:
    """The deviation of acc_last[k] over runs with one teacher."""
    if any(len(grid.of(row, teacher)) < 2 for row in field(grid).values() for teacher in grid.teachers):
        return None

    def deviation(row: str, teacher: str) -> float:
        return mean_std([cell.number("acc_last_k") for cell in grid.of(row, teacher)])[1]

    return best_of(grid, deviation, "standard deviation over seeds in points, mean", low=True)


def failing(grid: Grid) -> Finding | None:
    """Catastrophic failures."""
    rows = field(grid)
    if "dafl" not in rows:
        return None
    counts = {method: (len(catastrophic(grid, row)), len(grid.of(row))) for method, row in rows.items()}
    verdict = CONFIRMED if counts["dafl"][0] and not counts["ta-dfkd"][0] else NOT_CONFIRMED
    if counts["ta-dfkd"][0] > counts["dafl"][0]:
        verdict = CONTRADICTED
    return Finding(verdict, "catastrophic runs: " + ", ".join(f"{m} {bad} of {of}" for m, (bad, of) in counts.items()))


def without_prior(grid: Grid) -> Finding | None:
    """Ablation: leaving the class prior out."""
    return joined([higher(grid, second, first, "acc_last_k") for first, second, _ in ablation(grid)])


def selecting(grid: Grid) -> Finding | None:
    """Ablation: letting the teacher select."""
    return joined([higher(grid, third, second, "acc_last_k") for _, second, third in ablation(grid)])


def distance(grid: Grid) -> Finding | None:
    """Table 2: Frechet distance with and without class prior."""
    won, values = 0, []
    for first, second, _ in ablation(grid):
        for teacher in grid.teachers:
            both = []
            for row in (first, second):
                known = [measured(grid, cell, "fid") for cell in grid.of(row, teacher)] if row else []
                both.append(statistics.fmean(known) if known else math.nan)
            if not any(math.isnan(value) for value in both):
                values.append(both[0] - both[1])
                won += both[1] < both[0]
    if not values:
        return None
    verdict = CONFIRMED if 2 * won > len(values) else NOT_CONFIRMED if won else CONTRADICTED
    text = f"lower without class prior for {won} of {len(values)} teachers, in the teacher's features, not Inception's"
    return Finding(verdict, text)


def cleaned(grid: Grid) -> Finding | None:
    """Figure 6: images outside of their class before and after selection."""
    row = full(grid)
    cells = grid.of(row) if row else []
    both = [(measured(grid, cell, "outside"), measured(grid, cell, "outside_kept")) for cell in cells]
    both = [values for values in both if not any(math.isnan(value) for value in values)]
    if not both:
        return None
    before, after = (100 * statistics.median(values) for values in zip(*both, strict=True))
    fewer = sum(kept < drawn for drawn, kept in both)
    verdict = CONFIRMED if after <= 5 else NOT_CONFIRMED
    text = f"outside of their class: {before:.1f} % before, {after:.1f} % after, real images 5 %"
    return Finding(verdict, f"{text} (medians of {len(both)} runs, fewer in {fewer})")


def kept_share(grid: Grid) -> Finding | None:
    """The accepted share, early and late."""
    row = full(grid)
    shares = [cell.series("kept")[1] for cell in (grid.of(row) if row else [])]
    ends = [(values[0], statistics.fmean(values[-max(1, len(values) // 10) :])) for values in shares if len(values) > 1]
    if not ends:
        return None
    early, late = (100 * statistics.median(values) for values in zip(*ends, strict=True))
    verdict = CONFIRMED if late > 90 and early < 75 else NOT_CONFIRMED
    return Finding(
        verdict,
        f"kept {early:.0f} % at the first log line, {late:.0f} % in the last tenth (medians of {len(ends)} runs)",
    )


def remembering(key: str, sign: int, unit: str) -> Rule:
    """META-DFKD against the replay that each of its forms builds on."""

    def rule(grid: Grid) -> Finding | None:
        found = []
        for replay, other in (("bank", "mb-dfkd"), ("generative", "pre-dfkd")):
            meta = row_of(grid, "meta-dfkd", replay=replay)
            found.append(higher(grid, meta, row_of(grid, other), key, sign, unit))
        return joined(found)

    return rule


CLAIMS = (
    Claim("Ours, before all others", "Every method teaches more than noise or a frozen generator.", teaching),
    Claim("Ours", "No row has a higher converging accuracy than TA-DFKD, mean over all teachers.", leading),
    Claim("TA-DFKD, Table 3", "TA-DFKD has the highest converging accuracy with most teachers.", converging),
    Claim("TA-DFKD, Table 3", "TA-DFKD has the highest peak with most teachers.", peaking),
    Claim(
        "TA-DFKD, Table A3",
        "Its peak comes close to every teacher (in the paper within 1.32 points on CIFAR-10).",
        close,
    ),
    Claim("TA-DFKD, Figure 7", "Its gap between teacher and peak varies least over teachers.", robust),
    Claim("TA-DFKD, Figure 8", "Its converging accuracy stays closest to its peak.", stable),
    Claim("TA-DFKD, Table 3", "Its runs with one teacher differ least.", repeatable),
    Claim("TA-DFKD, Table 3, Figure 1", "DAFL fails catastrophically with some teachers, TA-DFKD never.", failing),
    Claim("TA-DFKD, Tables 4 and A2", "Students are better without the class prior.", without_prior),
    Claim("TA-DFKD, Tables 4 and A2", "Selection by the teacher makes them better still.", selecting),
    Claim("TA-DFKD, Table 2", "Images are more like real ones, and more diverse, without the class prior.", distance),
    Claim("TA-DFKD, Figure 6", "After selection hardly any image lies outside of its class.", cleaned),
    Claim("TA-DFKD, beside Figure 6", "About 60 % of samples are kept early, more than 90 % late.", kept_share),
    Claim(
        "META-DFKD, learning evolution",
        "META-DFKD's learning curve has a higher mean than that of the replay it builds on.",
        remembering("mean", 1, "points"),
    ),
    Claim("META-DFKD, learning evolution", "It has a lower variance.", remembering("variance", -1, "%²")),
    Claim("META-DFKD, learning evolution", "It has a higher peak.", remembering("acc_max", 1, "points")),
)
"""CMI, the fourth method of Table 3, is not built yet."""


INTRODUCTION = f"""# What we found of the papers' claims

Written by `benchmarks/claims.py` from the records beside this page; no figure is typed. The papers ran ResNet-34 to
ResNet-18 on CIFAR-10 and CIFAR-100 for hundreds of epochs; these are short runs of small networks on easier data. What
does not hold here may hold there, and the other way round.

*Pairs* are runs with the same teacher and seed; there a claim is *confirmed*, or its opposite holds, where a two-sided
sign test gives p < {LEVEL}, else it is *not confirmed*. Of claims about most teachers more than half decide, among the
methods of the paper's Table 3 that the library has ({", ".join(COMPARED)}; not CMI). Where a grid lacks what a claim
needs, it was *not tested* there. Peaks were chosen on test images, as in the papers. Grids without a machine in the
table below have not been run.
"""


def waiting(folder: Path, run: Collection[str]) -> list[str]:
    """Return a line of the table of runs for each grid of the folder that has none; trial grids are left out."""
    lines = []
    for path in sorted(folder.glob("*.yaml")):
        if path.stem in run or path.stem.endswith("-quick"):
            continue
        grid = load_grid(path)
        settings = settings_of(grid, next(iter(grid.rows)), 0)
        teachers = sum(len(training.expected) for training in trainings(grid))
        count = len(grid.rows) * teachers * len(grid.students) * len(grid.seeds)
        budget = f"{exact(settings['steps'])} steps of {exact(settings['batch_size'])} images"
        students = ", ".join(f"`{student}`" for student in grid.students)
        link = f"[{path.stem}](../../grids/{path.name})"
        lines.append(f"| {link} | {grid.data} | {students} | {budget} | 0 of {count} | | |")
    return lines


def page(grids: Sequence[tuple[str, Grid]], unrun: Sequence[str]) -> str:
    """Return the page: what was run and, with the lines `unrun`, what was not; for each claim what each grid found."""
    lines = [
        INTRODUCTION,
        "| runs | data | student | budget | cells | machine | commit |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, grid in grids:
        facts = context(grid)
        cells = f"{len(grid.cells)} of {len(grid.wanted)}"
        link = f"[{name}]({name}/tables/table-3.md)"
        lines.append(
            f"| {link} | {facts['data']} | `{facts['student']}` | {facts['budget']} | {cells} | {facts['machine']} | "
            f"{facts['commit']} |"
        )
    lines += unrun
    for claim in CLAIMS:
        lines += ["", f"## {claim.words}", "", f"{claim.place}.", ""]
        for name, grid in grids:
            finding = claim.rule(grid)
            text = "not tested" if finding is None else f"{finding.verdict}: {finding.figures}"
            lines.append(f"- {name}: {text}.")
    return "\n".join(lines) + "\n"


def read(results: Path, grids: Path) -> str:
    """Return the page on the records under `results` and the grids that have none there."""
    found = [(path.parent.name, read_grid(path)) for path in sorted(results.glob("*/cells.json"))]
    return page(found, waiting(grids, [name for name, _ in found]))


def main(
    results: Annotated[Path, typer.Argument(help="Holds a folder with cells.json for each grid.")],
    grids: Annotated[Path, typer.Argument(help="Holds the grids.")],
) -> None:
    """Write RESULTS/README.md."""
    (results / "README.md").write_text(read(results, grids))


if __name__ == "__main__":
    typer.run(main)
