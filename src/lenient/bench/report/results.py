"""What the records say: the tables of the papers, from the cells of one panel (one data set, one student)."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from lenient.bench.report.records import TRANSDUCTIVE, Cell, Grid, Wanted, run_of, unique
from lenient.bench.report.tables import FOREIGN, Column, Row, Table, Value, marked
from lenient.core.numbers import duration, exact, scaled
from lenient.core.text import NOT_DATA_FREE

REPLAY_METHODS = ("mb-dfkd", "pre-dfkd", "meta-dfkd")
ORACLE = "† acc_max is an oracle: it was chosen on the test labels."
MARKED = "Bold: best method, underlined: second best; equal as printed are marked alike, baselines never."
EXPECTED = "Expected agreement: the interval that a run gave for it, without any test image."
VERDICT = "The verdict is what a run said of itself without any test image, by the rules of its commit."
MARGIN = 0.10
CATASTROPHE = (
    "A run is a catastrophic failure where its last accuracy is below half of the highest acc_max of its row{chance}."
)


# numbers


def with_origins(grid: Grid, table: Table) -> Table:
    """Return a table of rows with those marked whose images came from elsewhere than the teacher, and from where."""
    origins = {row: grid.foreign(row) for row in grid.measured}
    names = unique(name for row in table.rows for name in origins.get(row.name, ()))
    if table.head != "row" or not names:
        return table
    rows = tuple(replace(row, foreign=bool(origins.get(row.name))) for row in table.rows)
    note = f"{FOREIGN} {NOT_DATA_FREE}: the images come from {', '.join(names)}, too, or alone."
    return replace(table, rows=rows, notes=(*table.notes, note))


def with_choices(grid: Grid, table: Table) -> Table:
    """Return a table of rows with a line for each whose method teachers chose: which ones, and whose."""
    if table.head != "row":
        return table
    found = {row.name: grid.chosen(row.name) for row in table.rows}
    told = {
        row: "; ".join(f"{method} with {', '.join(teachers)}" for method, teachers in chosen.items())
        for row, chosen in found.items()
        if chosen
    }
    return replace(table, notes=(*table.notes, *(f"What suits the teacher in {row}: {told[row]}." for row in told)))


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation of a sample (divided by n - 1); NaN where there are too few values."""
    if not values:
        return math.nan, math.nan
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def in_percent(value: float, digits: int = 2) -> str:
    """A fraction as the papers print it: 94.24."""
    text = f"{100 * value:.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")


def catastrophic(grid: Grid, row: str) -> list[Cell]:
    """The cells of a row that fail catastrophically, see CATASTROPHE."""
    cells = grid.of(row)
    limit = max((cell.number("acc_max") for cell in cells), default=0.0) / 2
    if grid.num_classes:
        limit = max(limit, 1 / grid.num_classes + MARGIN)
    return [cell for cell in cells if cell.number("last") < limit]


def last_k(grid: Grid) -> str:
    """The name of the headline accuracy: acc_last[10]; acc_last[k] where runs differ in k."""
    counts = unique(str(int(cell.number("k"))) for cell in grid.cells if not math.isnan(cell.number("k")))
    return f"acc_last[{counts[0] if len(counts) == 1 else 'k'}]"


def _converging(grid: Grid) -> str:
    """What the headline accuracy is the mean of; TA-DFKD takes the last 10 of 200 epochs on CIFAR-10."""
    known = [cell for cell in grid.cells if not math.isnan(cell.number("k"))]
    shares = unique(f"{int(cell.number('k'))} of {len(cell.series('curve')[0])}" for cell in known)
    return f"the mean of the last evaluations ({', '.join(shares) or 'how many is unknown'})"


def heading(grid: Grid, teacher: str) -> str:
    """A teacher with its accuracy."""
    accuracy = grid.teacher_accuracy(teacher)
    return teacher if math.isnan(accuracy) else f"{teacher} ({in_percent(accuracy)} %)"


def teacher_means(grid: Grid, row: str, key: str = "acc_last_k") -> dict[str, float]:
    """The mean over seeds for each teacher that has any."""
    found = {teacher: mean_std([cell.number(key) for cell in grid.of(row, teacher)])[0] for teacher in grid.teachers}
    return {teacher: value for teacher, value in found.items() if not math.isnan(value)}


def context(grid: Grid) -> dict[str, str]:
    """On what the cells were run: data, student, budget, machine, commit; all of them where cells differ.

    Where cells are missing, how many there are.
    """

    def each(words: Sequence[str]) -> str:
        return ", ".join(unique(word for word in words if word)) or "unknown"

    budgets = [f"{exact(b[0])} steps of {exact(b[1])} images" for b in (cell.budget for cell in grid.cells) if b]
    whole = len(grid.cells) == len(grid.wanted)
    return {
        "data": ", ".join(unique(cell.data_title for cell in grid.cells)) or grid.data,
        "student": each([wanted.student for wanted in grid.wanted]),
        "budget": each(budgets),
        **({} if whole else {"runs": f"{len(grid.cells)} of {len(grid.wanted)}"}),
        "machine": each([_machine(cell) for cell in grid.cells]),
        "commit": each([_commit(str(cell.raw.get("commit") or "")) for cell in grid.cells]),
    }


def _commit(text: str) -> str:
    name, dash, state = text.partition("-")
    return f"{name[:12]}{dash}{state}"


def _machine(cell: Cell) -> str:
    facts = cell.raw.get("machine")
    if not isinstance(facts, dict):
        return str(facts or "")
    name = next((facts[key] for key in ("device_name", "gpu", "cpu", "device", "platform") if facts.get(key)), "")
    threads = f", {facts['threads']} thread(s)" if facts.get("threads") else ""
    version = f", torch {facts['torch']}" if facts.get("torch") else ""
    return f"{name}{threads}{version}"


def counted(grid: Grid, row: str, teacher: str | None, text: str) -> str:
    """A value with the number of seeds behind it where some are not there; a word where none is."""
    done = len(grid.of(row, teacher))
    if done:
        return among(grid, row, teacher, text, done)
    wanted = _wanted(grid, row, teacher)
    failed = sum(f.wanted.row == run_of(row) and teacher in (None, f.wanted.teacher) for f in grid.failed)
    if not wanted:
        return "not planned"
    return "missing" if not failed else "failed" if failed == len(wanted) else "failed, missing"


def among(grid: Grid, row: str, teacher: str | None, text: str, known: int) -> str:
    """A value with the number of runs that it rests on, where that is not all that were wanted."""
    wanted = len(_wanted(grid, row, teacher))
    return text if known == wanted else f"{text} ({known}/{wanted})"


def _wanted(grid: Grid, row: str, teacher: str | None) -> list[Wanted]:
    return [wanted for wanted in grid.wanted if wanted.row == run_of(row) and teacher in (None, wanted.teacher)]


def twice(grid: Grid) -> tuple[str, ...]:
    """The note on rows that are measured twice, where there are such."""
    return (TWICE,) if len(grid.measured) > len(grid.rows) else ()


def whole(grid: Grid, row: str) -> bool:
    """Whether a row has a run with every teacher; else its mean over teachers is no equal of the others'."""
    return all(grid.of(row, teacher) for teacher in grid.teachers)


TWICE = (
    f"A row that ends in `{TRANSDUCTIVE.strip(', ')}` is the one before it, measured by statistics of the test batch: "
    "each answer depends on the other test images. The one before it is as delivered: its statistics are estimated "
    "anew on its own images."
)
COUNTED = "(2/3): 2 of 3 wanted runs finished; missing, failed: none did."


# tables


def table_3(grid: Grid, key: str) -> Table:
    """Accuracy per teacher and row, over teachers, and failures."""
    name = last_k(grid)
    columns = [
        column
        for teacher in grid.teachers
        for column in (
            Column(name, heading(grid, teacher), ("mean", "std", "runs"), "high"),
            Column("acc_max†", heading(grid, teacher), better="high"),
        )
    ]
    columns += [
        Column("mean", f"{name} over teachers", better="high"),
        Column("worst", f"{name} over teachers", ("accuracy", "teacher"), "high"),
        Column("catastrophic", "runs", ("failures", "of")),
        Column("no result", "runs", ("failed", "missing")),
    ]
    rows = []
    for row in grid.measured:
        values = [value for teacher in grid.teachers for value in _last_and_max(grid, row, teacher)]
        rows.append(Row(row, (*values, *_over_teachers(grid, row), *_failures(grid, row)), grid.is_baseline(row)))
    share = 1 / grid.num_classes if grid.num_classes else None
    chance = f", or below chance plus 10 points ({in_percent(share + MARGIN, 0)} %)" if share else ""
    notes = (
        "Accuracy in % on test images, which chose nothing: mean ± standard deviation over seeds of "
        f"{_converging(grid)}.",
        ORACLE,
        "Peaks are the highest over seeds.",
        MARKED,
        "Worst: the teacher with the lowest mean; rows that lack a teacher are not marked there.",
        CATASTROPHE.format(chance=chance),
        COUNTED,
        *twice(grid),
    )
    return marked(Table(key, "Table 3. Accuracy per teacher", tuple(columns), tuple(rows), notes, context(grid)))


def _last_and_max(grid: Grid, row: str, teacher: str) -> tuple[Value, Value]:
    cells = grid.of(row, teacher)
    if not cells:
        return (Value(counted(grid, row, teacher, "")),) * 2
    peak = max(cell.number("acc_max") for cell in cells)
    return _spread(grid, row, teacher, "acc_last_k"), replace(
        _percentage(peak), text=counted(grid, row, teacher, in_percent(peak))
    )


def _percentage(value: float) -> Value:
    return Value(in_percent(value), (100 * value,), round(100 * value, 2))


def _spread(grid: Grid, row: str, teacher: str | None, key: str) -> Value:
    """Mean and standard deviation over the cells of a row and a teacher, in %."""
    cells = grid.of(row, teacher)
    if not cells:
        return Value(counted(grid, row, teacher, ""))
    mean, std = mean_std([cell.number(key) for cell in cells])
    text = in_percent(mean) + ("" if math.isnan(std) else f" ± {in_percent(std, 1)}")
    rank = round(100 * mean, 2) if teacher is not None or whole(grid, row) else None
    return Value(counted(grid, row, teacher, text), (100 * mean, 100 * std, len(cells)), rank)


def _over_teachers(grid: Grid, row: str) -> tuple[Value, Value]:
    means = teacher_means(grid, row)
    if not means:
        return (Value(counted(grid, row, None, "")),) * 2
    mean, worst = statistics.fmean(means.values()), min(means, key=means.__getitem__)
    low = 100 * means[worst]
    ranks = (round(100 * mean, 2), round(low, 2)) if whole(grid, row) else (None, None)
    text = counted(grid, row, worst, f"{in_percent(means[worst])}, {worst}")
    return (
        Value(counted(grid, row, None, in_percent(mean)), (100 * mean,), ranks[0]),
        Value(text, (low, worst), ranks[1]),
    )


def _failures(grid: Grid, row: str) -> tuple[Value, Value]:
    bad, done = len(catastrophic(grid, row)), len(grid.of(row))
    failed = sum(failure.wanted.row == run_of(row) for failure in grid.failed)
    missing = sum(wanted.row == run_of(row) for wanted in grid.missing)
    words = [f"{count} {word}" for count, word in ((failed, "failed"), (missing, "missing")) if count]
    return Value(f"{bad} of {done}", (bad, done)), Value(", ".join(words) or "0", (failed, missing))


def margins(grid: Grid, cells: Sequence[Cell]) -> list[float]:
    """acc_last[k] of each run minus that of the best student with the same teacher and seed that was taught nothing,
    by noise images or by a frozen generator; runs without such a student are left out."""
    found = [cell.number("acc_last_k") - grid.floors.get((cell.teacher, cell.seed), math.nan) for cell in cells]
    return [value for value in found if not math.isnan(value)]


def beyond(grid: Grid, key: str) -> Table | None:
    """How far the rows are above the baselines that teach nothing; None without such baselines."""

    def middle(row: str, teacher: str | None, values: Sequence[float]) -> Value:
        if not values:
            return Value("unknown" if grid.of(row, teacher) else counted(grid, row, teacher, ""))
        points = 100 * statistics.median(values)
        text = among(grid, row, teacher, f"{points:+.2f}".replace("-", "−"), len(values))
        return Value(text, (points,), round(points, 2) if teacher is not None or whole(grid, row) else None)

    columns = [Column(heading(grid, teacher), better="high") for teacher in grid.teachers]
    columns += [Column("all runs", better="high"), Column("ahead", parts=("runs", "of"))]
    untaught, rows = [row for row in grid.rows if grid.is_untaught(row)], []
    for row in grid.rows:
        if row in untaught:
            continue
        every = margins(grid, grid.of(row))
        ahead, count = sum(value > 0 for value in every), len(every)
        values = [middle(row, teacher, margins(grid, grid.of(row, teacher))) for teacher in grid.teachers]
        values += [middle(row, None, every), Value(f"{ahead} of {count}", (ahead, count))]
        rows.append(Row(row, tuple(values), grid.is_baseline(row)))
    if not any(value.numbers for row in rows for value in row.values[:-1]):
        return None
    done, wanted = (sum(entry.row in untaught for entry in entries) for entries in (grid.cells, grid.wanted))
    so_far = f"Of the {wanted} runs of such students {done} are there: more can only lower this."
    notes = (
        f"{last_k(grid)} minus that of the best student of noise or of a frozen generator with the same teacher and "
        "seed: medians, in points of %. A method teaches only where this is clearly above 0.",
        *([so_far] if done < wanted else []),
        MARKED,
        COUNTED,
    )
    return marked(Table(key, "What the methods add to noise", tuple(columns), tuple(rows), notes, context(grid)))


def ablations(grid: Grid) -> list[tuple[str | None, str | None, str | None]]:
    """Rows of TA-DFKD that differ in class prior and selection alone: with the greatest class prior, without, with
    selection. One entry for each way to set the rest that has two of them, the paper's weights first."""
    groups: dict[str, dict[tuple[float, bool], str]] = {}
    for row in _ta_rows(grid):
        cell = grid.of(row)[0]
        rest = dict(cell.method_settings)
        rest.pop("selection", None)
        place = (float(rest.pop("class_prior_weight", 0)), cell.selects)
        key = json.dumps([not as_published(cell), rest, cell.raw.get("generator"), cell.budget], sort_keys=True)
        groups.setdefault(key, {}).setdefault(place, row)
    found = []
    for _, rows in sorted(groups.items()):
        most = max(weight for weight, _ in rows)
        trio = (rows.get((most, False)) if most else None, rows.get((0.0, False)), rows.get((0.0, True)))
        if sum(row is not None for row in trio) > 1:
            found.append(trio)
    return found


def as_published(cell: Cell) -> bool:
    """Whether a run of TA-DFKD weighs its losses as the paper does: an adversary of 1, and no entropy."""
    own = cell.method_settings
    return own.get("beta") == 1 and not own.get("entropy_weight")


def _ta_rows(grid: Grid) -> list[str]:
    return [row for row in grid.rows if not grid.is_baseline(row) and any(c.method == "ta-dfkd" for c in grid.of(row))]


def ablation(grid: Grid, key: str, rows: Sequence[str]) -> Table | None:
    """Table 4 and A2: means of the rows of the ablation, two at least, and of the baselines; None without."""
    compared = [row for trio in ablations(grid) for row in trio if row is not None]
    chosen = [row for row in (rows or unique(compared)) if row in grid.rows]
    if len(chosen) < 2:
        return None
    chosen = unique([*chosen, *filter(grid.is_baseline, grid.measured)])
    name = last_k(grid)
    columns, values = [], []
    for teacher in (*grid.teachers, None):
        group = heading(grid, teacher) if teacher else "teachers and seeds"
        for title, field in ((name, "acc_last_k"), ("acc_max†", "acc_max")):
            columns.append(Column(title, group, ("mean", "std", "runs"), "high"))
            values.append([_spread(grid, row, teacher, field) for row in chosen])
    found = [
        Row(row, tuple(column[place] for column in values), grid.is_baseline(row)) for place, row in enumerate(chosen)
    ]
    notes = (
        "Mean ± standard deviation over seeds, in the last two columns over teachers and seeds, in % on test images; "
        "peaks are means here, too: means stand beside means.",
        ORACLE,
        MARKED,
        COUNTED,
        *twice(grid),
    )
    return marked(Table(key, "Tables 4 and A2. Ablation", tuple(columns), tuple(found), notes, context(grid)))


def gap(grid: Grid, row: str, teacher: str, *, to_teacher: bool) -> float:
    """Teacher minus peak, or peak minus converging accuracy; peaks are the highest over seeds. NaN without a run."""
    cells = grid.of(row, teacher)
    if not cells:
        return math.nan
    peak = max(cell.number("acc_max") for cell in cells)
    mean = mean_std([cell.number("acc_last_k") for cell in cells])[0]
    return grid.teacher_accuracy(teacher) - peak if to_teacher else peak - mean


def gaps(grid: Grid, key: str, *, to_teacher: bool) -> Table:
    """Table A3 (teacher minus peak) or A4 (peak minus converging accuracy), from the numbers of Table 3."""

    def value(row: str, teacher: str) -> Value:
        points = gap(grid, row, teacher, to_teacher=to_teacher)
        if math.isnan(points):
            return Value("unknown" if grid.of(row, teacher) else counted(grid, row, teacher, ""))
        return Value(counted(grid, row, teacher, in_percent(points)), (100 * points,), round(100 * points, 2))

    columns = tuple(Column(heading(grid, teacher), better="low") for teacher in grid.teachers)
    rows = [Row(row, tuple(value(row, t) for t in grid.teachers), grid.is_baseline(row)) for row in grid.measured]
    what = "Teacher's accuracy minus acc_max" if to_teacher else f"acc_max minus {last_k(grid)}"
    title = f"Table {'A3' if to_teacher else 'A4'}. {what}"
    notes = ("In points of %; acc_max is the highest over seeds.", ORACLE, MARKED, COUNTED, *twice(grid))
    return marked(Table(key, title, columns, tuple(rows), notes, context(grid)))


def learning(grid: Grid, key: str) -> Table | None:
    """The table of META-DFKD: mean, variance and peak of the learning curve, at one budget, and those of the baselines;
    None without such rows."""
    replays = [cell for cell in grid.cells if cell.method in REPLAY_METHODS]
    if not replays:
        return None
    cells = [*replays, *(cell for cell in grid.cells if grid.is_baseline(cell.row) and cell not in replays)]
    budget = Counter(cell.budget for cell in replays).most_common(1)[0][0]
    same = [cell for cell in cells if cell.budget == budget]
    rows = []
    for row in grid.measured:
        every = grid.of(row) if any(cell.row == run_of(row) for cell in cells) else []
        own = [cell for cell in every if cell.budget == budget]
        if not every:
            continue
        wanted = len(_wanted(grid, row, None))
        fair = {cell.teacher for cell in own} == set(grid.teachers)
        values = [_curve_value(own, *what, fair) for what in (("mean", 100.0), ("variance", 1e4), ("acc_max", 100.0))]
        rows.append(Row(row, (*values, Value(f"{len(own)} of {wanted}", (len(own), wanted))), grid.is_baseline(row)))
    columns = (
        Column("mean (%)", better="high"),
        Column("variance (%²)", better="low"),
        Column("acc_max† (%)", better="high"),
        Column("runs", parts=("used", "wanted")),
    )
    what = "unknown" if budget is None else f"{exact(budget[0])} student steps of {exact(budget[1])} images"
    notes = [f"Of each run's curve of accuracy on test images; means over teachers and seeds. Budget: {what}."]
    if len(same) < len(cells):
        notes.append(f"{len(cells) - len(same)} runs of another budget are left out.")
    title = "META-DFKD's table. Mean, variance and peak of the learning curve"
    return marked(Table(key, title, columns, tuple(rows), (*notes, ORACLE, MARKED, *twice(grid)), context(grid)))


def _curve_value(cells: Sequence[Cell], key: str, unit: float, fair: bool) -> Value:
    """The mean over runs; ranked only where it is `fair` to, that is, where there is a run with every teacher."""
    mean = mean_std([unit * cell.number(key) for cell in cells])[0]
    if math.isnan(mean):
        return Value("unknown" if cells else "other budget")
    return Value(f"{mean:.2f}", (mean,), round(mean, 2) if fair else None)


COSTS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("seconds", "time", duration),
    ("cpu_seconds", "CPU time", duration),
    ("images", "images", exact),
    ("teacher_forwards", "teacher forwards", exact),
    ("peak_bytes", "peak memory", lambda value: scaled(value, base=1024, unit="iB" if value >= 1023.5 else "B")),
)


def cost(grid: Grid, key: str) -> Table:
    """What a run took: medians per row."""
    columns = (*(Column(title, parts=(name,)) for name, title, _ in COSTS), Column("runs"))
    rows = []
    for row in grid.rows:
        cells = grid.of(row)
        values = []
        for name, _, show in COSTS:
            known = [n for n in (cell.number(f"cost.{name}") for cell in cells) if not math.isnan(n)]
            none = Value("unknown" if cells else counted(grid, row, None, ""))
            values.append(_known(statistics.median(known), show) if known else none)
        rows.append(Row(row, (*values, Value(str(len(cells)), (len(cells),))), grid.is_baseline(row)))
    notes = (
        "Medians over the finished runs of a row. Images: drawn, from a generator, from noise or from real ones; "
        "teacher forwards: images it was asked about.",
    )
    return Table(key, "Cost of a run", columns, tuple(rows), notes, context(grid))


def runs(grid: Grid, key: str) -> Table:
    """Every run: what came of it, and what it took."""
    told = any(cell.as_expected is not None for cell in grid.cells)
    shares = (("last", "last"), ("acc_last_k", last_k(grid)), ("acc_max", "acc_max†"), ("agreement", "agreement"))
    columns = (
        *(Column(name, words=True) for name in ("row", "teacher")),
        Column("seed"),
        *(Column(f"{title} (%)") for _, title in shares),
        *((Column("expected agreement (%)", parts=("low", "high")),) if told else ()),
        Column("verdict", words=True),
        *(Column(title, parts=(name,)) for name, title, _ in COSTS),
    )
    rows = []
    for cell in grid.cells:
        values = [Value(cell.row), Value(cell.teacher), Value(str(cell.seed), (cell.seed,))]
        values += [_known(100 * cell.number(name), lambda value: f"{value:.2f}") for name, _ in shares]
        values += [_interval(cell)] if told else []
        values += [Value(str(cell.raw.get("verdict") or "unknown"))]
        values += [_known(cell.number(f"cost.{name}"), show) for name, _, show in COSTS]
        rows.append(Row(cell.wanted.id, tuple(values), grid.is_baseline(cell.row)))
    notes = (
        "Accuracies and agreement with the teacher on test images, in %.",
        VERDICT,
        *((EXPECTED,) if told else ()),
        ORACLE,
    )
    return Table(key, "Every run", columns, tuple(rows), notes, context(grid), "cell")


def _interval(cell: Cell) -> Value:
    ends = [100 * cell.number(f"prediction.{end}") for end in ("low", "high")]
    return Value("-") if any(map(math.isnan, ends)) else Value(f"{ends[0]:.0f} to {ends[1]:.0f}", tuple(ends))


def _known(value: float, show: Callable[[float], str]) -> Value:
    return Value("unknown") if math.isnan(value) else Value(show(value), (value,))


def status(grid: Grid, key: str) -> Table:
    """How many of the wanted cells came to something, and with which verdict."""
    columns = tuple(
        Column(name)
        for name in ("wanted", "finished", "failed", "missing", "verdict ok", "verdict warning", "verdict failed")
    )
    rows = []
    for row in grid.rows:
        cells = grid.of(row)
        verdicts = Counter(str(cell.raw.get("verdict")) for cell in cells)
        numbers = [sum(wanted.row == row for wanted in grid.wanted), len(cells)]
        numbers += [sum(f.wanted.row == row for f in grid.failed), sum(wanted.row == row for wanted in grid.missing)]
        numbers += [verdicts[word] for word in ("ok", "warning", "failed")]
        rows.append(Row(row, tuple(Value(str(number), (number,)) for number in numbers), grid.is_baseline(row)))
    notes = (VERDICT,)
    return Table(key, "Cells", columns, tuple(rows), notes, context(grid))


def teachers(grid: Grid, key: str) -> Table:
    """What the teachers are and how they were trained: the settings that are not the same for all stand out."""
    cells = {teacher: grid.of(teacher=teacher) for teacher in grid.teachers}
    known = {teacher: found[0].raw["teacher"] for teacher, found in cells.items() if found}
    recipes = {teacher: facts.get("recipe") or {} for teacher, facts in known.items()}
    recipes = {teacher: recipe if isinstance(recipe, dict) else {} for teacher, recipe in recipes.items()}
    names = sorted({name for recipe in recipes.values() for name in recipe})
    told = [recipe for recipe in recipes.values() if recipe]
    alike = [name for name in names if len({str(recipe.get(name)) for recipe in told}) == 1]
    columns = (
        Column("accuracy (%)", parts=("accuracy",)),
        *(Column(n, words=True) for n in ("net", "epoch", "training")),
    )
    rows = []
    for teacher in grid.teachers:
        facts, recipe = known.get(teacher, {}), recipes.get(teacher, {})
        own = ", ".join(f"{name} {recipe[name]}" for name in names if name in recipe and name not in alike)
        accuracy = grid.teacher_accuracy(teacher)
        training = own or ("as below" if recipe else "unknown")
        words = (str(facts.get("arch") or "unknown"), str(facts.get("epoch") or "unknown"), training)
        percentage = Value("unknown") if math.isnan(accuracy) else _percentage(accuracy)
        rows.append(Row(teacher, (percentage, *map(Value, words))))
    common = ", ".join(f"{name} {told[0][name]}" for name in alike)
    notes = (f"Trained alike: {common}.",) if common else () if told else ("Nothing is known of their training.",)
    return Table(key, "Teachers", columns, tuple(rows), notes, context(grid), "teacher")


def verdicts(grid: Grid, key: str) -> Table:
    """What the verdicts, which no test image helps, were worth: accuracies of the runs behind each."""
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
    for word in ("ok", "warning", "failed"):
        cells = [cell for cell in grid.cells if cell.raw.get("verdict") == word]
        known = [100 * n for n in (cell.number("agreement") for cell in cells) if not math.isnan(n)]
        taught = [cell for cell in cells if not grid.is_baseline(cell.row)]
        shares = (min(known), statistics.median(known), max(known)) if known else ()
        above = margins(grid, taught)
        below = sum(value <= 0 for value in above)
        failures = sum(cell.wanted.id in bad for cell in cells)
        untaught = len(cells) - len(taught)
        values = [Value(f"{len(taught)} + {untaught}", (len(taught), untaught))]
        values += [Value(f"{share:.2f}", (share,)) for share in shares] or [Value("-")] * 3
        values += [Value(str(failures), (failures,)), Value(f"{below} of {len(above)}", (below, len(above)))]
        if told:
            inside = [cell.as_expected for cell in cells if cell.as_expected is not None]
            values += [Value(f"{sum(inside)} of {len(inside)}", (sum(inside), len(inside)))]
        rows.append(Row(word, tuple(values)))
    notes = (
        f"{VERDICT} Agreement is measured on test images. "
        "Runs: of methods + of baselines. Not above noise: runs of methods that are not above the best student of "
        "noise or of a frozen generator.",
        *((f"{EXPECTED} As expected: runs whose agreement lies there, of those that said so.",) if told else ()),
    )
    return Table(key, "What the verdicts were worth", columns, tuple(rows), notes, context(grid), "verdict")


def absentees(grid: Grid, key: str) -> Table | None:
    """Every cell without a result, with its reason; None where there is none."""
    entries = [(failure.wanted, f"failed: {failure.reason}") for failure in grid.failed]
    entries += [(wanted, "missing: it has not been run to its end") for wanted in grid.missing]
    if not entries:
        return None
    columns = tuple(Column(name, words=True) for name in ("row", "teacher", "seed", "what happened"))
    rows = tuple(
        Row(wanted.id, tuple(map(Value, (wanted.row, wanted.teacher, str(wanted.seed), text))))
        for wanted, text in entries
    )
    return Table(key, "Cells without a result", columns, rows, (), context(grid), "cell")
