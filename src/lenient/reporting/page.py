"""Puts a run's record into the page: chooses what to draw and hands it to the template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from lenient.core.config import flatten
from lenient.core.numbers import exact, figures, known, number, percent
from lenient.core.text import NOT_DATA_FREE, estimated_anew, expected, fallen_back
from lenient.models.names import OWN, own_code
from lenient.reporting.cards import cards, costs, measured_on
from lenient.reporting.collect import Event, RunRecord
from lenient.reporting.figures import Series, class_bars, curves, mixture, series
from lenient.reporting.pictures import MAX_CLASSES, class_name, strips
from lenient.reporting.templates import template

VERDICTS = {  # verdict -> (sign, word, what it means when there is no reason to add)
    "ok": ("✓", "OK", "Every health check passed."),
    "warning": ("!", "Warning", "A health check warns."),
    "failed": ("✕", "Failed", "A health check failed: do not use this student."),
    "unfinished": ("…", "Unfinished", "The run has not ended."),
}
MAX_ALARMS = 50


@dataclass(frozen=True)
class Figure:
    """One figure with its caption."""

    title: str
    text: str
    svg: Markup


def render(record: RunRecord) -> str:
    """The page as HTML; the same record gives the same text."""
    health, summary = record.summary["health"], record.summary
    sign, word, meaning = VERDICTS.get(str(health["verdict"]), ("?", str(health["verdict"]), ""))
    tone = health["verdict"] if health["verdict"] in VERDICTS else "unfinished"
    alarms = record.events["alarm"]
    losses, more = _losses(record)
    return template("template.html.j2", Path(__file__).parent).render(
        name=record.name,
        facts=_facts(record),
        demo=summary.get("demo") is True,
        tone=tone,
        sign=sign,
        word=word,
        reasons=[str(reason) for reason in health["reasons"] or ()] or [meaning],
        cards=cards(record),
        progress=_progress(record),
        losses=losses,
        more=more,
        **_images(record),
        selection=_selection(record),
        checks=[_check(check) for check in health["checks"] or () if isinstance(check, dict)],
        answers=_answers(summary),
        expected=expected(summary.get("prediction")),
        costs=costs(summary),
        measured_on=measured_on(summary),
        settings=record.settings,
        environment=[(key, _listed(value)) for key, value in sorted(flatten(record.environment).items())],
        code=_code(record),
        alarms=[(exact(a.get("step")), a.get("name", ""), a.get("message", "")) for a in alarms[:MAX_ALARMS]],
        num_alarms=len(alarms),
    )


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    summary, changes = record.summary, record.events["fallback"]
    foreign, estimated = summary.get("foreign"), summary.get("estimated_on")
    norms = None if estimated is None else estimated_anew(int(estimated))
    named = (
        ("method", summary["method"]),
        ("fallback", fallen_back(changes[-1]) if changes else None),
        ("teacher", summary["teacher"]["arch"]),
        ("student", summary["student"]["arch"]),
        ("seed", summary["seed"]),
        ("images", f"of {', '.join(foreign)}: {NOT_DATA_FREE}" if foreign else None),
        ("norms", norms),
    )
    return [(name, str(value)) for name, value in named if value is not None]


def _progress(record: RunRecord) -> list[Figure]:
    """The curves that say whether the student learns: agreement, coverage, accuracy, and the classes it saw."""
    logs, evals, summary = record.events["log"], record.events["eval"], record.summary
    agreement = [series("probe set", logs, "health/probe_agreement"), series("fresh samples", logs, "health/agreement")]
    agreement.append(series("test set", evals, "agreement"))
    coverage = [series("classes seen", logs, "health/coverage"), series("evenness (entropy)", logs, "health/entropy")]
    noise = summary.get("noise_student")
    levels = [("teacher", number(summary["teacher"].get("accuracy")))]
    levels.append(("noise student", number(noise.get("accuracy") if isinstance(noise, dict) else None)))
    draw = _drawer(record, fraction=True)
    found = [
        draw("agreement", "Agreement", "Share of images on which student and teacher name the same class.", agreement),
        draw(
            "accuracy",
            "Accuracy",
            "On the test set; it was only read, nothing was chosen by it.",
            [series("student", evals, "accuracy")],
            levels=[(label, level) for label, level in levels if known(level)],
        ),
        draw("coverage", "Coverage", "Share of the classes that appear, and how evenly.", coverage),
        _class_totals(record),
    ]
    return [figure for figure in found if figure]


def _class_totals(record: RunRecord) -> Figure | None:
    rows = [event["histogram"] for event in record.events["classes"] if isinstance(event.get("histogram"), list)]
    rows = [row for row in rows if row and len(row) == len(rows[0])]
    if not rows:
        return None
    totals = np.nansum([[number(count) for count in row] for row in rows], axis=0)
    names = [record.classes[label] if label < len(record.classes) else str(label) for label in range(len(totals))]
    title = "Classes learned from"
    return Figure(title, "Accepted samples per class over the whole run.", class_bars("classes", title, totals, names))


def _losses(record: RunRecord) -> tuple[list[Figure], list[Figure]]:
    """One small figure per loss, each with its own scale; then one per remaining measure, for the curious."""
    logs = record.events["log"]
    keys = sorted({key for log in logs for key in log})
    drawn = {f"health/{name}" for name in ("probe_agreement", "agreement", "coverage", "entropy", "kept")}
    rest = [key for key in keys if key.startswith(("health/", "lr/")) and key not in drawn]
    draw = _drawer(record)

    def small(prefix: str, chosen: list[str]) -> list[Figure]:
        found = (
            draw(f"{prefix}-{position}", _words(key), "", [series(_words(key), logs, key)], height=1.6)
            for position, key in enumerate(chosen)
        )
        return [figure for figure in found if figure]

    return small("loss", [key for key in keys if key.startswith("loss/")]), small("more", [*rest, "images_per_second"])


def _selection(record: RunRecord) -> list[Figure]:
    """What the teacher vouched for: its mixture early and late, and the share of samples it accepted."""
    if not record.selects:
        return []
    fits = [event for event in record.events["mixture"] if _drawable(event)]
    chosen = [("Early", fits[0]), ("Late", fits[-1])] if len(fits) > 1 else [("Mixture", fit) for fit in fits]
    widths = [fit["edges"][-1] - fit["edges"][0] for _, fit in chosen]
    edges = [edge for _, fit in chosen for edge in fit["edges"]]
    # One axis for both, so that they can be compared, unless one of them would be a mere spike on it.
    span = (min(edges), max(edges)) if widths and max(widths) < 10 * min(widths) else None
    found: list[Figure | None] = []
    for word, fit in chosen:
        title = f"{word}, step {exact(fit.get('step'))}"
        text = f"{percent(fit.get('kept'))} accepted."
        if fit.get("separable") is False:
            text += " The two components could not be separated."
        svg = mixture(f"mixture-{word.lower()}", title, fit, span=span)
        found.append(Figure(title, text, svg))
    kept = [series("kept", record.events["log"], "health/kept")]
    draw = _drawer(record, fraction=True)
    found.append(draw("kept", "Kept over time", "Share of the samples that were accepted.", kept))
    return [figure for figure in found if figure]


def _drawer(record: RunRecord, *, fraction: bool = False) -> Callable[..., Figure | None]:
    """A function that draws a figure of lines with the run's alarms in it, or nothing when no line has a point."""
    alarms = [step for step in (number(alarm.get("step")) for alarm in record.events["alarm"]) if known(step)]

    def draw(name: str, title: str, text: str, lines: list[Series], **options: Any) -> Figure | None:
        lines = [line for line in lines if not line.empty]
        if not lines:
            return None
        return Figure(title, text, curves(name, title, lines, fraction=fraction, alarms=alarms, **options))

    return draw


def _drawable(event: Event) -> bool:
    edges, counts = event.get("edges"), event.get("counts")
    if not isinstance(edges, list) or not isinstance(counts, list) or len(edges) != len(counts) + 1 or not counts:
        return False
    return all(known(value) for value in [*edges, *counts]) and all(low < high for low, high in pairwise(edges))


def _images(record: RunRecord) -> dict[str, Any]:
    """The rows of synthetic images, and what to say about them."""
    if record.samples is None:
        return {"strips": [], "images_note": record.no_samples, "pixelated": False}
    seen = np.unique(record.samples.labels)
    total = len(record.classes) or number(record.summary.get("num_classes"))
    note = ""
    if len(seen) > MAX_CLASSES:
        note = f"The first {MAX_CLASSES} of {len(seen)} classes are shown."
    elif record.classes and len(seen) < len(record.classes):
        missing = [class_name(label, record.classes) for label in range(len(record.classes)) if label not in seen]
        names = ", ".join(missing[:10]) + (" …" if len(missing) > 10 else "")
        note = f"No stored image for {len(missing)} of {len(record.classes)} classes: {names}."
    elif known(total) and len(seen) < total:
        note = f"No stored image for {exact(total - len(seen))} of {exact(total)} classes."
    pixelated = max(record.samples.images.shape[2:]) < 64
    return {"strips": strips(record.samples, record.classes), "images_note": note, "pixelated": pixelated}


def _check(check: dict[str, Any]) -> dict[str, str]:
    status = str(check.get("status", ""))
    sign, word, _ = VERDICTS.get(status, ("?", status or "unknown", ""))
    values = {key: _cell(check.get(key)) for key in ("value", "threshold")}
    tone = status if status in VERDICTS else "unfinished"
    name, text = str(check.get("name", "")), str(check.get("text") or "")
    return {"name": _words(name), "text": text, "sign": sign, "word": word, "tone": tone} | values


def _answers(summary: dict[str, Any]) -> list[dict[str, str]]:
    """How student and teacher agree on each kind of images, in the order of the summary."""
    return [
        {"kind": kind, "images": exact(found["images"])} | {key: percent(found[key]) for key in ("agreement", "chance")}
        for kind, found in (summary.get("answers") or {}).items()
    ]


def _cell(value: Any) -> str:
    return "n/a" if value is None else figures(value) if known(value) else str(value)


def _words(key: str) -> str:
    """A field's name as words: `health/bn_distance` reads `bn distance`."""
    return key.removeprefix("health/").removeprefix("loss/").replace("_", " ").replace("lr/", "learning rate, ")


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _code(record: RunRecord) -> dict[str, str] | None:
    """What to fill in to the lines that load the student; None where the run has none."""
    folder = record.path / "student"
    if not (folder / "model.safetensors").is_file():
        return None
    code = own_code(str(record.summary.get("student", {}).get("arch") or OWN))
    own = f', arch="{code}"' if code else ""
    alone = "yes" if (folder / "student.pt2").is_file() else ""
    shape = ", ".join(map(str, record.input_size)) if record.input_size else "C, H, W"
    classes = record.summary.get("num_classes") or len(record.classes)
    return {"shape": shape, "classes": str(classes) if classes else "classes", "alone": alone, "arch": own}
