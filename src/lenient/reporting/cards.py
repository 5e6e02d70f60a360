"""The headline figures of a run as cards: a large number, what it is compared with, and a line of explanation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lenient.core.numbers import (
    THIN,
    UNKNOWN,
    duration,
    exact,
    figures,
    known,
    milliseconds,
    number,
    percent,
    ratio,
    scaled,
)
from lenient.reporting.collect import RunRecord

NOT_ACCURACY = "Agreement on synthetic images is not accuracy: without a test set, accuracy is unknown."
NO_TEST_SET = (
    "No test set was given, so it was not measured.",
    "Measure it on labelled real images: lenient evaluate, or --eval-data for the next run.",
)
AGREEMENT_KEYS = ("health/probe_agreement", "health/agreement")


@dataclass(frozen=True)
class Bar:
    """One of the compared values: who has it, the value in words, and its length as a share of the longest."""

    label: str
    text: str
    share: float


@dataclass(frozen=True)
class Card:
    """A headline figure."""

    title: str
    value: str
    unit: str = ""
    bars: tuple[Bar, ...] = ()
    notes: tuple[str, ...] = ()
    wide: bool = False


def cards(record: RunRecord) -> list[Card]:
    """The cards of a run in reading order; what is not known has no card, except accuracy, whose absence is said."""
    summary = record.summary
    found = [_size(summary), _latency(summary), _agreement(record), _accuracy(summary), _work(summary)]
    return [card for card in found if card]


def _bars(values: list[tuple[str, Any]], show: Any, longest: float | None = None) -> tuple[Bar, ...]:
    present = [(label, value) for label, value in values if known(value)]
    top = longest or max((float(value) for _, value in present), default=0.0)
    return tuple(Bar(label, show(value), max(0.0, min(1.0, value / top)) if top else 0.0) for label, value in present)


def _size(summary: dict[str, Any]) -> Card | None:
    teacher, student = summary["teacher"], summary["student"]
    if not known(student["params"]):
        return None
    bars = _bars([("student", student["params"]), ("teacher", teacher["params"])], scaled)
    files = ""
    if known(student.get("bytes")) and known(teacher.get("bytes")):
        files = f"{scaled(student['bytes'], unit='B')} on disk instead of {scaled(teacher['bytes'], unit='B')}"
    times = ratio(teacher["params"], student["params"], ("smaller than the teacher", "larger than the teacher"))
    return Card("Size", scaled(student["params"]), "parameters", bars, _present((times, files)))


def _latency(summary: dict[str, Any]) -> Card | None:
    latency = _mapping(summary.get("latency"))
    teacher, student = _mapping(latency.get("teacher")), _mapping(latency.get("student"))
    sizes = [size for size in ("1", "64") if known(student.get(size))]
    if not sizes:
        return None
    first = sizes[0]
    bars = _bars([("student", student[first]), ("teacher", teacher.get(first))], milliseconds)
    notes = [ratio(teacher.get(first), student[first], ("faster than the teacher", "slower than the teacher"))]
    for size in sizes[1:]:
        beside = f", teacher {milliseconds(teacher[size])}" if known(teacher.get(size)) else ""
        notes.append(f"batch of {size}: {milliseconds(student[size])}{beside}")
    where = measured_on(summary)
    notes.append(f"measured on {where}" if where else "")
    unit = "for one image" if first == "1" else f"for a batch of {first}"
    return Card("Latency", milliseconds(student[first]), unit, bars, _present(notes))


def measured_on(summary: dict[str, Any]) -> str:
    """Where the latency was measured, in words; empty where nobody says."""
    latency = _mapping(summary.get("latency"))
    threads = latency.get("threads")
    where = [str(latency["device"])] if latency.get("device") else []
    where += [f"{exact(threads)} thread{'s' if threads != 1 else ''}"] if known(threads) else []
    return ", ".join(where)


def costs(summary: dict[str, Any]) -> list[dict[str, str]]:
    """What teacher and student cost, side by side: parameters, megabytes, milliseconds by number of images; a row where
    the student's is known."""
    latency, networks = _mapping(summary.get("latency")), ("teacher", "student")

    def megabytes(value: Any) -> str:
        return f"{figures(number(value) / 1e6)}{THIN}MB"

    asked: list[tuple[str, Callable[[Any], str], list[Any]]] = [
        ("Parameters", exact, [summary[name].get("params") for name in networks]),
        ("Size in memory", megabytes, [summary[name].get("bytes") for name in networks]),
        *(
            (title, milliseconds, [_mapping(latency.get(name)).get(size) for name in networks])
            for title, size in (("One image", "1"), ("64 images", "64"))
        ),
    ]
    return [
        {
            "name": title,
            "teacher": show(teacher) if known(teacher) else UNKNOWN,
            "student": show(student),
            "share": percent(student / teacher) if known(teacher) and teacher > 0 else "",
        }
        for title, show, (teacher, student) in asked
        if known(student)
    ]


def _agreement(record: RunRecord) -> Card:
    logs = record.events["log"]
    for key in AGREEMENT_KEYS:
        values = [log[key] for log in logs if known(log.get(key))]
        if values:
            unit = "of the probe set" if "probe" in key else "of fresh samples"
            bars = _bars([("last", values[-1]), ("first", values[0])], percent, 1.0) if len(values) > 1 else ()
            return Card("Agreement with the teacher", percent(values[-1]), unit, bars, (NOT_ACCURACY,))
    return Card("Agreement with the teacher", "unknown", "", (), ("No agreement was logged.", NOT_ACCURACY))


def _accuracy(summary: dict[str, Any]) -> Card:
    teacher, student = summary["teacher"], summary["student"]
    last_k, k, last = student.get("acc_last_k"), student.get("k"), student.get("accuracy")
    headline = last_k if known(last_k) else last
    if not known(headline):
        return Card(
            "Accuracy",
            "unknown",
            "",
            (),
            NO_TEST_SET,
            True,
        )
    noise = _mapping(summary.get("noise_student")).get("accuracy")
    bars = _bars([("student", headline), ("teacher", teacher.get("accuracy")), ("noise student", noise)], percent, 1.0)
    notes = []
    if known(last_k) and known(k) and k > 1:
        beside = f"; the last one {percent(last)}" if known(last) else ""
        notes.append(f"mean of the last {exact(k)} evaluations{beside}")
    if known(student.get("acc_max")):
        notes.append(f"best of all evaluations {percent(student['acc_max'])}: an oracle, chosen on the test set")
    if known(student.get("agreement")):
        notes.append(f"names the teacher's class on {percent(student['agreement'])} of the test set")
    transductive = _mapping(student.get("transductive")).get("accuracy")
    if known(transductive):
        notes.append(
            f"{percent(transductive)} with batch-norm statistics of the test batch: transductive, since each answer "
            "depends on the other test images"
        )
    if known(noise):
        notes.append("the noise student saw only noise images, for as many steps: the method is worth what it adds")
    return Card("Accuracy", percent(headline), "of the test set", bars, tuple(notes), True)


def _work(summary: dict[str, Any]) -> Card:
    """What the run took: time, steps, images, forwards of the teacher."""
    seconds, steps = number(summary["seconds"]), number(summary["steps"])
    pace = f", {milliseconds(1000 * seconds / steps)} each" if steps > 0 and seconds > 0 else ""
    notes = [f"{exact(steps)} student steps{pace}" if known(steps) else ""]
    images, forwards = summary["images_synthesized"], summary.get("teacher_forwards")
    notes.append(f"{exact(images)} images synthesised" if known(images) else "")
    notes.append(f"{exact(forwards)} teacher forwards" if known(forwards) else "")
    return Card("Time", duration(seconds), "", (), _present(notes))


def _present(notes: Any) -> tuple[str, ...]:
    return tuple(note for note in notes if note)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
