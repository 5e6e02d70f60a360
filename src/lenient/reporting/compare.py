"""Several runs on one page: which settings differ, what came of each, and their images side by side."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lenient.core.config import flatten, load_yaml
from lenient.core.errors import UsageError
from lenient.core.files import disk_errors
from lenient.core.manifest import Manifest
from lenient.core.numbers import duration, exact, known, milliseconds, percent, plain, scaled
from lenient.core.text import visible
from lenient.reporting import write_text
from lenient.reporting.cards import AGREEMENT_KEYS
from lenient.reporting.collect import RunRecord, collect
from lenient.reporting.figures import STROKES, Series, curves, series
from lenient.reporting.page import VERDICTS, Figure
from lenient.reporting.pictures import Strip, strips
from lenient.reporting.templates import template

PAGE, NUMBERS = "report.html", "report.json"
MOST = 50
"""Runs of one page."""
CLASSES = 10
"""Classes whose images stand side by side."""
LONGEST = 80
"""Characters of a setting's value."""
NONE = "–"


@dataclass(frozen=True)
class Line:
    """One number of every run."""

    title: str
    values: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether no run has it."""
        return set(self.values) == {NONE}


def write_comparison(runs: Sequence[Path], output: Path) -> list[dict[str, Any]]:
    """Write `report.html` and `report.json` about several runs into a folder, and return what each run's own
    `report.json` would hold. Their own folders stay as they are.

    A marker in the folder names the two files; a comparison that lies there already is replaced. The same runs give the
    same bytes.

    Raises:
        UsageError: fewer than two runs or more than `MOST`, one twice, no run folder, or a folder with other files.
        DamagedError: settings or metrics of a run are damaged.
        MachineError: the disk refuses.
    """
    if not 2 <= len(runs) <= MOST:
        raise UsageError(f"{len(runs)} run(s): -o is for a page that compares 2 to {MOST}; name as many")
    twice = [place for place, times in Counter(run.resolve() for run in runs).items() if times > 1]
    if twice:
        raise UsageError(f"{twice[0]}: is named twice; leave one out")
    records = [collect(run) for run in runs]
    manifest = Manifest(output, "comparison", (PAGE, NUMBERS), {})
    with disk_errors(output):
        manifest.check()
        output.mkdir(parents=True, exist_ok=True)
        manifest.claim(PAGE, NUMBERS)
    names, differing = _names(records, runs), differences(records)
    summaries: list[dict[str, Any]] = [plain(record.summary) for record in records]
    held = {
        "runs": [{"name": name, **summary} for name, summary in zip(names, summaries, strict=True)],
        "settings": {key: plain(values) for key, values in differing.items()},
    }
    write_text(output / PAGE, _render(records, names, differing))
    write_text(output / NUMBERS, json.dumps(held, indent=2, sort_keys=True, allow_nan=False) + "\n")
    return summaries


def _names(records: Sequence[RunRecord], runs: Sequence[Path]) -> list[str]:
    """The folders' own names where these tell the runs apart, else as they were given."""
    own = [record.name for record in records]
    return own if len(set(own)) == len(own) else [visible(str(run), 200) for run in runs]


def differences(records: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Return the settings that are not the same in all runs that have any, by dotted key, each with one value a run;
    None where a run has no such setting."""
    flat = [flatten(load_yaml(record.settings, "its YAML") or {}) if record.settings else {} for record in records]
    told = [one for one in flat if one]
    keys = dict.fromkeys(key for one in told for key in one)
    differ = [key for key in keys if any(one.get(key) != told[0].get(key) for one in told)]
    return {key: [one.get(key) for one in flat] for key in differ}


def _render(records: Sequence[RunRecord], names: Sequence[str], differing: dict[str, list[Any]]) -> str:
    rows = {key: [_value(value) for value in values] for key, values in differing.items()}
    return template("compare.html.j2", Path(__file__).parent).render(
        names=names,
        verdicts=[_verdict(record) for record in records],
        lines=[line for line in _lines(records) if not line.empty],
        settings=rows,
        progress=_progress(records, names),
        classes=_images(records),
        notes=[(name, record.no_samples) for name, record in zip(names, records, strict=True) if record.no_samples],
        pixelated=[record.samples is not None and max(record.samples.images.shape[2:]) < 64 for record in records],
    )


def _value(value: Any) -> str:
    return NONE if value is None else visible(str(value), LONGEST)


def _verdict(record: RunRecord) -> dict[str, Any]:
    health = record.summary["health"]
    sign, word, meaning = VERDICTS.get(str(health["verdict"]), ("?", str(health["verdict"]), ""))
    tone = health["verdict"] if health["verdict"] in VERDICTS else "unfinished"
    reasons = [str(reason) for reason in health["reasons"] or ()] or [meaning]
    return {"tone": tone, "sign": sign, "word": word, "reasons": reasons}


def _lines(records: Sequence[RunRecord]) -> list[Line]:
    """What is told of each run in numbers; the accuracy as its headline, a mean of the last evaluations."""

    def of(title: str, show: Any, *keys: str) -> Line:
        return Line(title, tuple(_shown(_at(record.summary, *keys), show) for record in records))

    headlines = (_first(record, ("acc_last_k", "accuracy")) for record in records)
    agreements = (_last(record) for record in records)
    return [
        Line("Accuracy", tuple(_shown(value, percent) for value in headlines)),
        of("Accuracy of its teacher", percent, "teacher", "accuracy"),
        of("Agreement on the test set", percent, "student", "agreement"),
        Line("Agreement on synthetic images", tuple(_shown(value, percent) for value in agreements)),
        of("Expected agreement", percent, "prediction", "expected"),
        of("Steps", exact, "steps"),
        of("Images", exact, "images_synthesized"),
        of("Time", duration, "seconds"),
        of("Parameters", exact, "student", "params"),
        of("Size", partial(scaled, unit="B"), "student", "bytes"),
        of("One image", milliseconds, "latency", "student", "1"),
        of("64 images", milliseconds, "latency", "student", "64"),
    ]


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _first(record: RunRecord, keys: Sequence[str]) -> Any:
    values = (record.summary["student"].get(key) for key in keys)
    return next(filter(known, values), None)


def _last(record: RunRecord) -> Any:
    """The last agreement of the log, on the probe set where there is one."""
    for key in AGREEMENT_KEYS:
        values = [entry[key] for entry in record.events["log"] if known(entry.get(key))]
        if values:
            return values[-1]
    return None


def _shown(value: Any, show: Any) -> str:
    return str(show(value)) if known(value) else NONE


def _progress(records: Sequence[RunRecord], names: Sequence[str]) -> list[Figure]:
    few = f" The first {len(STROKES)} runs are drawn." if len(records) > len(STROKES) else ""
    shown = list(zip(records, names, strict=True))[: len(STROKES)]

    def draw(key: str, title: str, text: str, lines: list[Series]) -> list[Figure]:
        lines = [line for line in lines if not line.empty]
        return [Figure(title, text + few, curves(key, title, lines, fraction=True))] if lines else []

    probe = [series(name, record.events["log"], AGREEMENT_KEYS[0]) for record, name in shown]
    right = [series(name, record.events["eval"], "accuracy") for record, name in shown]
    what = "Share of a run's probe set on which student and teacher name the same class."
    return draw("agreement", "Agreement", what, probe) + draw("accuracy", "Accuracy", "On the test set.", right)


def _images(records: Sequence[RunRecord]) -> list[tuple[str, list[Strip | None]]]:
    """Class by class the pictures of each run, None where a run has none of it."""
    found = [
        {strip.name: strip for strip in strips(record.samples, record.classes)} if record.samples is not None else {}
        for record in records
    ]
    names = list(dict.fromkeys(name for run in found for name in run))[:CLASSES]
    return [(name, [run.get(name) for run in found]) for name in names]
