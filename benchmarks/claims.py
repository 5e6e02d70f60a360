"""What our own runs say of the claims of the two papers, claim by claim, from the records of the grids alone.

    python benchmarks/claims.py docs/results grids    # writes docs/results/README.md from docs/results/*/cells.json

A claim is a sentence of a paper and a rule. The rule looks at one grid and says whether it holds there, with the
figures; where a grid lacks the rows, the teachers or the measurements that it needs, the claim was not tested there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Annotated, Any

import typer

from lenient.bench.grid import load_grid, settings_of
from lenient.bench.report.records import Cell, Grid, read_grid
from lenient.bench.report.results import (
    ablations,
    as_published,
    catastrophic,
    context,
    gap,
    margins,
    mean_std,
    teacher_means,
)
from lenient.bench.report.sweeps import measured, sweeps, weight_of
from lenient.bench.teachers import trainings
from lenient.report.numbers import exact

COMPARED = ("dafl", "dfad", "pre-dfkd")
"""Of the methods in the paper's Table 3, those that the library has."""
LEVEL = 0.05
PAIRS, TEACHERS, SEEDS = 6, 3, 2
"""The fewest pairs that can give p < LEVEL, and the fewest teachers and seeds for a word about teachers."""
CONFIRMED, NOT_CONFIRMED, CONTRADICTED = "confirmed", "not confirmed", "**the opposite holds**"
FEW = "too few runs to tell"
WEIGHTS = {True: "the paper's weights", False: "our weights"}


@dataclass(frozen=True)
class Finding:
    """What one grid says of a claim; `subject`: what it says it of, where a grid has several."""

    verdict: str
    figures: str
    subject: str = ""


Rule = Callable[[Grid], list[Finding]]
"""Returns nothing where the grid lacks what the claim is about."""


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


def forms(grid: Grid) -> list[str]:
    """The rows that are TA-DFKD whole (selection, no class prior), in the grid's forms of it."""
    rows = [row for row in grid.rows if not grid.is_baseline(row) and grid.of(row)]
    own = {row: grid.of(row)[0] for row in rows if grid.of(row)[0].method == "ta-dfkd"}
    whole = {"selection": "mixture", "class_prior_weight": 0}
    return [row for row, cell in own.items() if all(cell.method_settings.get(k) == v for k, v in whole.items())]


def form(grid: Grid, row: str) -> str:
    """A form of TA-DFKD by its name and its weights."""
    return f"{row} ({WEIGHTS[as_published(grid.of(row)[0])]})"


def of_forms(rule: Callable[[Grid, str], Finding | None]) -> Rule:
    """A rule about TA-DFKD, for each form of it that the grid has."""

    def every(grid: Grid) -> list[Finding]:
        found = [(row, rule(grid, row)) for row in forms(grid)]
        return [replace(finding, subject=form(grid, row)) for row, finding in found if finding is not None]

    return every


def field(grid: Grid, own: str) -> dict[str, str]:
    """A form of TA-DFKD first, then the methods that the paper compares it with: method -> row; empty without any."""
    others = {method: row for method in COMPARED if (row := row_of(grid, method))}
    return {"ta-dfkd": own, **others} if others else {}


# comparing


Number = Callable[[Cell], float]


def sign_test(values: Sequence[float]) -> float:
    """Probability, were both signs equally likely, of a split at least as uneven as that of `values`; zeros are left
    out."""
    above, below = (sum(sign * value > 0 for value in values) for sign in (1, -1))
    count = above + below
    tail = sum(comb(count, k) for k in range(max(above, below), count + 1)) / 2**count
    return min(1.0, 2 * tail)


def judged(values: Mapping[str, Sequence[float]], sign: int) -> tuple[str, str]:
    """The verdict on values that should have this sign, teacher -> values, and how many have it.

    Runs with one teacher are no independent ones, so the mean of every teacher has to point the same way, too.
    """
    every = [sign * value for own in values.values() for value in own]
    ahead, behind = (sum(way * value > 0 for value in every) for way in (1, -1))
    equal = f", {len(every) - ahead - behind} equal" if ahead + behind < len(every) else ""
    chance = sign_test(every)
    text = f"{ahead} of {len(every)}{equal}, p = {chance:.2g}"
    if len(every) < PAIRS:
        return FEW, text
    means = [statistics.fmean(sign * value for value in own) for own in values.values() if own]
    for verdict, way in ((CONFIRMED, 1), (CONTRADICTED, -1)):
        if chance < LEVEL and way * (ahead - behind) > 0 and all(way * mean > 0 for mean in means):
            return verdict, text
    return NOT_CONFIRMED, text


def pairs(grid: Grid, first: str, second: str, number: Number) -> dict[str, list[float]]:
    """First minus second for each teacher and seed that both have, by teacher."""
    other = {(cell.teacher, cell.seed): number(cell) for cell in grid.of(second)}
    found: dict[str, list[float]] = {}
    for cell in grid.of(first):
        difference = number(cell) - other.get((cell.teacher, cell.seed), math.nan)
        if not math.isnan(difference):
            found.setdefault(cell.teacher, []).append(difference)
    return found


def higher(
    grid: Grid, first: str | None, second: str | None, number: Number, *, sign: int = 1, unit: str = "points"
) -> list[Finding]:
    """Whether `first` has the higher number (the lower one for a sign of -1), in pairs of equal teacher and seed."""
    values = pairs(grid, first, second, number) if first and second else {}
    if not values:
        return []
    verdict, counts = judged(values, sign)
    middle = f"{statistics.median(value for own in values.values() for value in own):+.2f} {unit}".replace("-", "−")
    where = f"{first} {'above' if sign > 0 else 'below'} {second} in {counts.replace(',', ' pairs,', 1)}"
    return [Finding(verdict, f"{where}, median {middle}")]


def percent(key: str) -> Number:
    """A number of a record, in %."""
    return lambda cell: 100 * cell.number(key)


def few(grid: Grid, rows: Sequence[str]) -> bool:
    """Whether these rows have too few teachers or seeds for a word about teachers."""
    counts = [len(grid.of(row, teacher)) for row in rows for teacher in grid.teachers]
    return len(grid.teachers) < TEACHERS or min(counts, default=0) < SEEDS


def best_of(
    grid: Grid, own: str, value: Callable[[str, str], float], what: str, *, low: bool = False
) -> Finding | None:
    """For how many teachers TA-DFKD has the best `value(row, teacher)` of those that the paper compares, alone."""
    rows = field(grid, own)
    table = {
        teacher: {method: value(row, teacher) for method, row in rows.items()}
        for teacher in grid.teachers
        if rows and all(grid.of(row, teacher) for row in rows.values())
    }
    if not table:
        return None
    sign = -1 if low else 1
    won = sum(
        all(sign * found["ta-dfkd"] > sign * found[m] for m in found if m != "ta-dfkd") for found in table.values()
    )
    means = ", ".join(f"{m} {100 * statistics.fmean(t[m] for t in table.values()):.2f}" for m in rows)
    verdict = FEW if few(grid, list(rows.values())) else CONFIRMED if 2 * won > len(table) else NOT_CONFIRMED
    return Finding(verdict, f"best for {won} of {len(table)} teachers; {what} over teachers: {means}")


def peak(grid: Grid, row: str, teacher: str) -> float:
    """The highest accuracy over seeds."""
    return max(cell.number("acc_max") for cell in grid.of(row, teacher))


def converged(grid: Grid, row: str, teacher: str) -> float:
    """acc_last[k], mean over seeds."""
    return mean_std([cell.number("acc_last_k") for cell in grid.of(row, teacher)])[0]


# rules


def teaching(grid: Grid) -> list[Finding]:
    """Our own condition: no figure means anything for a method that noise equals."""
    methods = [row for row in grid.rows if not grid.is_baseline(row)]
    above = {
        row: {teacher: values for teacher in grid.teachers if (values := margins(grid, grid.of(row, teacher)))}
        for row in methods
    }
    words = {row: judged(values, 1) for row, values in above.items() if values}
    if not words:
        return []
    short = {row: counts for row, (verdict, counts) in words.items() if verdict != CONFIRMED}
    text = f"so for {len(words) - len(short)} of {len(words)} rows"
    text += "".join(f"; {row} ahead in {counts}" for row, counts in short.items())
    few_pairs = any(verdict == FEW for verdict, _ in words.values())
    return [Finding(FEW if few_pairs else NOT_CONFIRMED if short else CONFIRMED, text)]


@of_forms
def leading(grid: Grid, own: str) -> Finding | None:
    """Our own question: whether there is anything better than TA-DFKD, the default, all teachers taken together."""
    rows = [row for row in grid.rows if not grid.is_baseline(row)]
    means = {row: teacher_means(grid, row) for row in rows}
    known = {row: statistics.fmean(found.values()) for row, found in means.items() if len(found) == len(grid.teachers)}
    if own not in known or len({grid.of(row)[0].method for row in known}) < 2:
        return None
    order = sorted(known, key=lambda row: -known[row])
    verdict = FEW if few(grid, list(known)) else CONFIRMED if order[0] == own else NOT_CONFIRMED
    return Finding(verdict, "acc_last[k] in %: " + ", ".join(f"{row} {100 * known[row]:.2f}" for row in order))


@of_forms
def converging(grid: Grid, own: str) -> Finding | None:
    """Table 3, acc_last[k]."""
    return best_of(grid, own, lambda row, teacher: converged(grid, row, teacher), "acc_last[k] in %, mean")


@of_forms
def peaking(grid: Grid, own: str) -> Finding | None:
    """Table 3, acc_max."""
    return best_of(grid, own, lambda row, teacher: peak(grid, row, teacher), "acc_max in %, mean")


@of_forms
def robust(grid: Grid, own: str) -> Finding | None:
    """Figure 7: the range over teachers of teacher minus peak."""
    rows = field(grid, own)
    whole = bool(rows) and all(grid.of(row, teacher) for row in rows.values() for teacher in grid.teachers)
    if not whole or len(grid.teachers) < 2:
        return None
    gaps = {m: [gap(grid, row, t, to_teacher=True) for t in grid.teachers] for m, row in rows.items()}
    ranges = {method: max(values) - min(values) for method, values in gaps.items()}
    least = all(ranges["ta-dfkd"] < ranges[method] for method in ranges if method != "ta-dfkd")
    verdict = FEW if few(grid, list(rows.values())) else CONFIRMED if least else NOT_CONFIRMED
    text = ", ".join(f"{method} {100 * value:.2f}" for method, value in ranges.items())
    return Finding(verdict, f"range of the gap over {len(grid.teachers)} teachers, in points: {text}")


@of_forms
def close(grid: Grid, own: str) -> Finding | None:
    """The gap between teacher and peak, as small as the paper's largest on CIFAR-10 (Table A3)."""
    teachers = [teacher for teacher in grid.teachers if grid.of(own, teacher)]
    gaps = [100 * gap(grid, own, teacher, to_teacher=True) for teacher in teachers]
    verdict = FEW if few(grid, [own]) else CONFIRMED if max(gaps) <= 1.32 else NOT_CONFIRMED
    return Finding(
        verdict, f"teacher minus peak, {len(teachers)} teachers, in points: {min(gaps):.2f} to {max(gaps):.2f}"
    )


@of_forms
def stable(grid: Grid, own: str) -> Finding | None:
    """Figure 8: peak minus converging accuracy."""
    return best_of(
        grid,
        own,
        lambda row, teacher: gap(grid, row, teacher, to_teacher=False),
        "peak minus acc_last[k] in points, mean",
        low=True,
    )


@of_forms
def repeatable(grid: Grid, own: str) -> Finding | None:
    """The deviation of acc_last[k] over runs with one teacher."""
    if any(len(grid.of(row, teacher)) < 2 for row in field(grid, own).values() for teacher in grid.teachers):
        return None

    def deviation(row: str, teacher: str) -> float:
        return mean_std([cell.number("acc_last_k") for cell in grid.of(row, teacher)])[1]

    return best_of(grid, own, deviation, "standard deviation over seeds in points, mean", low=True)


def wrecks(grid: Grid, row: str, teacher: str | None = None) -> tuple[int, int]:
    """Runs that failed catastrophically or came to nothing, and all of them."""
    bad = sum(teacher in (None, cell.teacher) for cell in catastrophic(grid, row))
    lost = sum(f.wanted.row == row and teacher in (None, f.wanted.teacher) for f in grid.failed)
    return bad + lost, len(grid.of(row, teacher)) + lost


@of_forms
def failing(grid: Grid, own: str) -> Finding | None:
    """Catastrophic failures."""
    rows = field(grid, own)
    if "dafl" not in rows:
        return None
    counts = {method: wrecks(grid, row) for method, row in rows.items()}
    verdict = CONFIRMED if counts["dafl"][0] and not counts["ta-dfkd"][0] else NOT_CONFIRMED
    return Finding(verdict, "catastrophic runs: " + ", ".join(f"{m} {bad} of {of}" for m, (bad, of) in counts.items()))


def splitting(grid: Grid) -> list[Finding]:
    """Figure 1: a teacher with which a method fails beside another with which it never does."""
    both = [first for first, _, _ in ablations(grid) if first]
    rows = [row for row in (row_of(grid, "dafl"), row_of(grid, "dfad"), *both) if row]
    if not rows or len(grid.teachers) < 2:
        return []
    counts = {row: {teacher: wrecks(grid, row, teacher) for teacher in grid.teachers} for row in rows}
    torn = any(len({bad > 0 for bad, of in own.values() if of}) > 1 for own in counts.values())
    each = "; ".join(
        f"{row}: " + ", ".join(f"{t} {bad} of {of}" for t, (bad, of) in own.items()) for row, own in counts.items()
    )
    return [Finding(CONFIRMED if torn else NOT_CONFIRMED, f"catastrophic runs: {each}")]


def ablated(grid: Grid, better: int, than: int, number: Number, **options: Any) -> list[Finding]:
    """Two rows of each ablation, by their places in it."""
    found = []
    for rows in ablations(grid):
        for finding in higher(grid, rows[better], rows[than], number, **options):
            found.append(replace(finding, subject=WEIGHTS[as_published(grid.of(str(rows[better]))[0])]))
    return found


def without_prior(grid: Grid) -> list[Finding]:
    """Ablation: leaving the class prior out."""
    return ablated(grid, 1, 0, percent("acc_last_k"))


def selecting(grid: Grid) -> list[Finding]:
    """Ablation: letting the teacher select."""
    return ablated(grid, 2, 1, percent("acc_last_k"))


def distance(grid: Grid) -> list[Finding]:
    """Table 2: Frechet distance with and without class prior."""
    unit = "in the teacher's features, not Inception's"
    return ablated(grid, 1, 0, partial(measured, grid, key="fid"), sign=-1, unit=unit)


def kendall(points: Sequence[tuple[float, float]]) -> float:
    """Rank correlation: pairs of points that rise minus those that fall, over all of them."""
    slopes = [(second[0] - first[0]) * (second[1] - first[1]) for first, second in combinations(points, 2)]
    return statistics.fmean((slope > 0) - (slope < 0) for slope in slopes)


def rising(grid: Grid) -> list[Finding]:
    """Figure 2: Frechet distance against the weight of the class prior, by rank correlation."""
    found = []
    for sweep in sweeps(grid):
        series: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for cell in sweep.cells:
            value = measured(grid, cell, "fid")
            if not math.isnan(value):
                series.setdefault((cell.teacher, cell.seed), []).append((weight_of(cell), value))
        values: dict[str, list[float]] = {}
        for (teacher, _), points in series.items():
            if len(points) > 2:
                values.setdefault(teacher, []).append(kendall(points))
        if values:
            verdict, counts = judged(values, 1)
            middle = statistics.median(value for own in values.values() for value in own)
            text = f"rising in {counts.replace(',', ' series,', 1)}, median rank correlation {middle:.2f}"
            subject = WEIGHTS[as_published(sweep.cells[0])]
            found.append(Finding(verdict, f"{text}, weights {', '.join(f'{w:g}' for w in sweep.weights)}", subject))
    return found


def alone(grid: Grid) -> list[Finding]:
    """Figure 4: images outside of their class by a class prior and no adversary, beside those by none of the first."""

    def share(cell: Cell) -> float:
        return 100 * measured(grid, cell, "outside")

    row = row_of(grid, "ta-dfkd", beta=0)
    other = row_of(grid, "ta-dfkd", beta=1, class_prior_weight=0, selection="none")
    shares = [share(cell) for cell in (grid.of(row) if row else [])]
    shares = [value for value in shares if not math.isnan(value)]
    text = f"outside of their class: {statistics.median(shares):.1f} %, real images 5 %" if shares else ""
    return [replace(f, figures=f"{text}; {f.figures}") for f in higher(grid, row, other, share) if text]


@of_forms
def cleaned(grid: Grid, own: str) -> Finding | None:
    """Figure 6: images outside of their class before and after selection."""
    both = [(measured(grid, cell, "outside"), measured(grid, cell, "outside_kept")) for cell in grid.of(own)]
    both = [values for values in both if not any(math.isnan(value) for value in values)]
    if not both:
        return None
    before, after = (100 * statistics.median(values) for values in zip(*both, strict=True))
    fewer = sum(kept < drawn for drawn, kept in both)
    verdict = CONFIRMED if after <= 5 else NOT_CONFIRMED
    text = f"outside of their class: {before:.1f} % before, {after:.1f} % after, real images 5 %"
    return Finding(verdict, f"{text} (medians of {len(both)} runs, fewer in {fewer})")


@of_forms
def kept_share(grid: Grid, own: str) -> Finding | None:
    """The accepted share, early and late."""
    shares = [cell.series("kept")[1] for cell in grid.of(own)]
    ends = [(values[0], statistics.fmean(values[-max(1, len(values) // 10) :])) for values in shares if len(values) > 1]
    if not ends:
        return None
    early, late = (100 * statistics.median(values) for values in zip(*ends, strict=True))
    verdict = CONFIRMED if late > 90 and early < 75 else NOT_CONFIRMED
    return Finding(
        verdict,
        f"kept {early:.0f} % at the first log line, {late:.0f} % in the last tenth (medians of {len(ends)} runs)",
    )


def remembering(number: Number, *, sign: int = 1, unit: str = "points") -> Rule:
    """META-DFKD against the replay that each of its forms builds on."""

    def rule(grid: Grid) -> list[Finding]:
        found = []
        for replay, other in (("bank", "mb-dfkd"), ("generative", "pre-dfkd")):
            meta, plain = row_of(grid, "meta-dfkd", replay=replay), row_of(grid, other)
            for finding in higher(grid, meta, plain, number, sign=sign, unit=unit):
                more = also(grid, str(meta), str(plain))
                found.append(replace(finding, figures=finding.figures + more, subject=f"{replay} replay"))
        return found

    return rule


def also(grid: Grid, first: str, second: str) -> str:
    """What else two rows differ in, beside the update of the student."""
    one, two = (grid.of(row)[0].method_settings for row in (first, second))
    shared = sorted((one.keys() & two.keys()) - {"name", "update", "bank", "memory"})
    others = [f"{key} {one[key]} against {two[key]}" for key in shared if one[key] != two[key]]
    return f"; they differ in {', '.join(others)}, too" if others else ""


def aligned(grid: Grid) -> list[Finding]:
    """The cosine between the gradients of acquiring and of retaining, mean over the second half of a run."""
    found = []
    for row in grid.rows:
        values: dict[str, list[float]] = {}
        for cell in grid.of(row):
            cosines = cell.series("gradient_cosine")[1]
            if cell.method == "meta-dfkd" and cosines:
                values.setdefault(cell.teacher, []).append(statistics.fmean(cosines[len(cosines) // 2 :]))
        if values:
            verdict, counts = judged(values, 1)
            middle = statistics.median(value for own in values.values() for value in own)
            replay = grid.of(row)[0].method_settings.get("replay")
            text = f"cosine above 0 in {counts.replace(',', ' runs,', 1)}, median {middle:+.2f}"
            found.append(Finding(verdict, text, f"{replay} replay"))
    return found


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
    Claim("Ours, where the paper speaks of small variations", "Its runs with one teacher differ least.", repeatable),
    Claim("TA-DFKD, Table 3", "DAFL fails catastrophically with some teachers, TA-DFKD never.", failing),
    Claim(
        "TA-DFKD, Figure 1",
        "DAFL, DFAD or both together fail with one good teacher and not with another.",
        splitting,
    ),
    Claim("TA-DFKD, Tables 4 and A2", "Students are better without the class prior.", without_prior),
    Claim("TA-DFKD, Tables 4 and A2", "Selection by the teacher makes them better still.", selecting),
    Claim("TA-DFKD, Table 2", "Images are more like real ones, and more diverse, without the class prior.", distance),
    Claim("TA-DFKD, Figure 2", "The more class prior, the further they are from real ones.", rising),
    Claim(
        "TA-DFKD, Figure 4",
        "Without an adversary, too, the class prior draws images outside of their class (in the paper 7 to 8 %).",
        alone,
    ),
    Claim("TA-DFKD, Figure 6", "After selection hardly any image lies outside of its class.", cleaned),
    Claim("TA-DFKD, beside Figure 6", "About 60 % of samples are kept early, more than 90 % late.", kept_share),
    Claim(
        "META-DFKD, learning evolution",
        "META-DFKD's learning curve has a higher mean than that of the replay it builds on.",
        remembering(percent("mean")),
    ),
    Claim(
        "META-DFKD, learning evolution",
        "It has a lower variance.",
        remembering(lambda cell: 1e4 * cell.number("variance"), sign=-1, unit="%²"),
    ),
    Claim("META-DFKD, learning evolution", "It has a higher peak.", remembering(percent("acc_max"))),
    Claim(
        "META-DFKD, implicit gradient matching",
        "The gradients of acquiring and retaining come to point one way.",
        aligned,
    ),
)
"""CMI, the fourth method of Table 3, is not built yet."""


INTRODUCTION = f"""# What we found of the papers' claims

Written by `benchmarks/claims.py` from the records beside this page; no figure is typed. The papers ran ResNet-34 to
ResNet-18 on CIFAR-10 and CIFAR-100 for hundreds of epochs; these are short runs of small networks on easier data. What
does not hold here may hold there, and the other way round. *Our weights* of TA-DFKD are the library's defaults, with
another balance of losses than [the paper's](../methods/ta-dfkd.md). They were chosen on training images of digits, in
dozens of runs; the rates of the other methods in one run each. That is no level field. How much each loss has to say in
these runs is measured in [what steers the generators](loss-balance.md): a loss without a share of the gradient cannot
help or hurt.

*Pairs* are runs with the same teacher and seed; there a claim is *confirmed*, or its opposite holds, where a two-sided
sign test gives p < {LEVEL} and the means of all teachers point the same way; else it is *not confirmed*. Runs share
teachers, seeds and test images, so p is no more than a measure. Of claims about most teachers more than half decide,
from {TEACHERS} teachers and {SEEDS} seeds on, among the methods of the paper's Table 3 that the library has
({", ".join(COMPARED)}; not CMI). Where a grid lacks what a claim needs, it was *not tested* there. Peaks were chosen on
test images, as in the papers; acc_last[k] is the mean of the last fifth of a run's evaluations, in the paper of the
last twentieth. Grids without a machine in the table below have not been run.
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
    found = {(claim, name): claim.rule(grid) for claim in CLAIMS for name, grid in grids}
    lines += [*unrun, "", "| claim | " + " | ".join(name for name, _ in grids) + " |", "|---|" + "---|" * len(grids)]
    for claim in CLAIMS:
        verdicts = " | ".join(in_short(found[claim, name]) for name, _ in grids)
        lines.append(f"| [{claim.words}](#{anchor(claim.words)}) | {verdicts} |")
    for claim in CLAIMS:
        lines += ["", f"## {claim.words}", "", f"{claim.place}.", ""]
        for name, _ in grids:
            for finding in found[claim, name]:
                subject = f", {finding.subject}" if finding.subject else ""
                lines.append(f"- {name}{subject}: {finding.verdict}: {finding.figures}.")
            lines += [] if found[claim, name] else [f"- {name}: not tested."]
    return "\n".join(lines) + "\n"


def in_short(findings: Sequence[Finding]) -> str:
    """The verdict of one grid on one claim; where it has several, what each is about."""
    verdicts = {finding.verdict for finding in findings}
    if len(verdicts) > 1:
        return "; ".join(f"{finding.subject}: {finding.verdict}" for finding in findings)
    return verdicts.pop() if verdicts else "not tested"


def anchor(heading: str) -> str:
    """The name that Markdown pages give a heading."""
    return "".join(sign for sign in heading.lower() if sign.isalnum() or sign in " -_").replace(" ", "-")


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
