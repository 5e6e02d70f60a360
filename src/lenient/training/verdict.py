"""Did it work? Named thresholds turn what was counted into checks, and checks into a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from lenient.core.config import Settings
from lenient.core.keyed import Keyed
from lenient.training.metrics import spread
from lenient.training.prediction import Prediction

Status = Literal["ok", "warning", "failed"]
Verdict = Status | Literal["unfinished"]

FEW = 5
"""Images a class, on average, below which the histogram of one log line says little."""

DISCLAIMER = "Agreement on synthetic images is not accuracy on real ones: only a test set can measure that."


class HealthSettings(Settings):
    """Thresholds of the verdict; shares are fractions in [0, 1]."""

    coverage: float = Field(0.95, ge=0, le=1)
    """Share of the classes that the accepted samples should reach; under half of it the run has failed."""
    class_entropy: float = Field(0.5, ge=0, le=1)
    """Entropy of the class histogram over its maximum, at least; under half of it the run has failed."""
    kept: float = Field(0.1, ge=0, le=1)
    """Share of samples the teacher should vouch for; below it, a warning."""
    bn_shift: float = Field(0.15, gt=0, le=1e6)
    """How far the teacher sees synthetic images from its training data, see `bn_shift`; above it, a warning, up to
    three times of it only where little is expected of the student, or nothing known (`expected`)."""
    agreement: float = Field(0.6, ge=0, le=1)
    """How far agreement on the probe set should be from chance (0) to perfect (1); under a third of it, failed."""
    excess: float = Field(0.2, ge=0, le=1e6)
    """Mean distance of pixels from the range [0, 1], at most."""
    contrast: float = Field(0.7, ge=0, le=1)
    """How much of the range from black (0) to white (1) the middle nine tenths of a channel's pixels should span, at
    least, in the channel that spans most."""
    overshoot: float = Field(0.35, ge=0, le=1e6)
    """How far beyond black or white the middle nine tenths of a channel's pixels may reach."""
    expected: float = Field(0.5, ge=0, le=1)
    """Share of real images on which the student should answer as its teacher, at the lower end of what is expected;
    below it, a warning."""
    duplicates: float = Field(0.5, ge=0, le=1)
    """Share of near-identical synthetic images, at most; above it, a warning."""
    nonfinite: float = Field(0.01, ge=0, le=1)
    """Share of updates skipped for non-finite numbers, at most; above it, a warning."""
    patience: int = Field(20, ge=1, le=10**6)
    """Updates in a row with non-finite numbers after which the run stops."""


@dataclass(frozen=True)
class Check:
    """One question of the verdict: its value, its threshold and the answer in words."""

    name: str
    value: float | None
    threshold: float
    status: Status
    text: str


@dataclass(frozen=True)
class Evidence:
    """What a run has shown so far."""

    latest: Mapping[str, float]
    """The newest value of each number of the log."""
    accepted: Sequence[float]
    """Accepted samples of each class, over the run."""
    still: Sequence[str] = ()
    """Networks whose weights do not move."""


def checks(evidence: Evidence, settings: HealthSettings, progress: float = 1.0) -> list[Check]:
    """Return every question that can be answered when a share `progress`, in [0, 1], of all updates is done."""
    s, now = settings, evidence.latest
    found = [_movement(evidence.still), *_classes(evidence, settings, progress)]
    if "health/kept" in now:
        found.append(
            _at_least(
                "kept fraction",
                now["health/kept"],
                s.kept,
                "the teacher vouches for {value:.0%} of samples",
                floor=0,
            )
        )
    if "health/bn_shift" in now:
        text = (
            "batch-norm statistics of the images lie {value:.2f} standard deviations away from the training data's"
            "; if that does not fall, check the teacher's --mean and --std first"
        )
        found.append(_at_most(SHIFT, now["health/bn_shift"], s.bn_shift, text))
    elif "health/probe_agreement" in now:
        text = "the teacher has no batch norm, so the images cannot be compared with its training data"
        found.append(Check(SHIFT, None, s.bn_shift, "warning", text))
    if "health/excess" in now:
        text = (
            "synthetic pixels lie {value:.2f} beyond black or white on average"
            "; if that is much, check the teacher's --mean and --std first"
        )
        found.append(_at_most("pixel range", now["health/excess"], s.excess, text))
    if "health/contrast" in now:
        found += _constants(settings, now["health/dark"], now["health/bright"], now["health/contrast"])
    if "health/duplicates" in now:
        found.append(
            _at_most(
                "duplicates",
                now["health/duplicates"],
                s.duplicates,
                "{value:.0%} of a batch are near-identical images",
            )
        )
    if "health/probe_agreement" in now and any(evidence.accepted):  # before its first step a student agrees by chance
        chance = now["health/probe_chance"]
        gain = (now["health/probe_agreement"] - chance) / max(1 - chance, 1e-9)
        agreement = f"{now['health/probe_agreement']:.0%} of probe images (chance: {chance:.0%})"
        text = f"the student agrees with the teacher on {agreement}"
        if chance > 1 - 1e-6:
            text = "all probe images are of one class, so they say nothing about the student"
        found.append(_at_least(AGREEMENT, gain, s.agreement, text, floor=s.agreement / 3))
    updates = max(now.get("health/updates", 0.0), 1.0)
    found.append(
        _at_most(
            "non-finite updates",
            now.get("health/nonfinite", 0.0) / updates,
            s.nonfinite,
            "{value:.1%} of updates were skipped for non-finite numbers",
        )
    )
    return found


def _constants(settings: HealthSettings, dark: float, bright: float, contrast: float) -> list[Check]:
    """Images that fit the teacher lie between black and white and use what is there, unless --mean or --std is
    wrong: then the student copies the teacher where no real image lies."""
    beyond = max(-dark, bright - 1, 0.0)
    checks = [
        _at_least(CONSTANTS[0], contrast, settings.contrast, "", floor=-math.inf),
        _at_most(CONSTANTS[1], beyond, settings.overshoot, ""),
    ]
    cures = ("check --mean and --std, unless the training images have as little contrast", "check --mean and --std")
    text = f"synthetic pixels span {dark:.2f} to {bright:.2f} (black is 0, white is 1)"
    return [
        replace(check, text=text if check.status == "ok" else f"{text}: {cure}")
        for check, cure in zip(checks, cures, strict=True)
    ]


def _classes(evidence: Evidence, settings: HealthSettings, progress: float) -> list[Check]:
    """Spread over the classes since the last line; at the end over the run, its last line worth a warning."""
    s, latest = settings, evidence.latest
    asked = (
        ("coverage", s.coverage, "{value:.0%} of the classes appear among the accepted samples"),
        ("class entropy", s.class_entropy, "the accepted samples are spread {value:.0%} evenly over the classes"),
    )
    if not any(evidence.accepted):  # the student has made no step yet
        return []
    run = spread(evidence.accepted)
    now = (latest.get("health/coverage", run[0]), latest.get("health/entropy", run[1]))
    found = []
    for (name, threshold, text), last, pooled in zip(asked, now, run, strict=True):
        check = _at_least(name, last, threshold, text)
        if progress >= 1:
            late, check = check, _at_least(name, pooled, threshold, text)
            few = latest.get("health/window", math.inf) < FEW * len(evidence.accepted)
            if check.status == "ok" and late.status == "failed" and not few:
                check = replace(late, status="warning", text=f"at the end of the run {late.text}")
        found.append(check)
    return found


def _movement(stuck: Sequence[str]) -> Check:
    text = f"the weights of the {' and the '.join(stuck)} do not move" if stuck else "all networks move"
    return Check("networks move", float(bool(stuck)), 0.0, "failed" if stuck else "ok", text)


@dataclass(frozen=True)
class Health(Keyed):
    """Did the run work, as far as can be told without real data?"""

    verdict: Verdict
    """`unfinished` in the report of a run that has not ended."""
    reasons: list[str]
    """Why it is not `ok`, in words."""
    checks: list[Check]
    note: str = DISCLAIMER
    """What a verdict cannot say."""


AGREEMENT = "probe agreement"
"""The check that asks about the student on images of the run."""
EXPECTED = "expected agreement"
"""The check of what is expected of the student on real images."""
FORECAST = "forecast"
"""The alarm of what is expected of the student in the midst of its run."""
CONSTANTS = ("contrast", "overshoot")
"""The checks of the pixels, which tell of a wrong mean or std."""
SHIFT = "batch-norm shift"
RELAXED = 3.0
"""Times its threshold up to which a shift warns no more where enough is expected of the student: of runs that had
learned nine tenths of their teacher, all lay below (`results/prediction.md`)."""


def of_images(health: Health) -> Health:
    """Return the verdict about the images alone, among whose checks the batch-norm shift warns again."""
    return judged(
        [
            replace(check, status="warning") if check.name == SHIFT and not _within(check) else check
            for check in health.checks
            if check.name not in (AGREEMENT, EXPECTED)
        ]
    )


def _within(check: Check, times: float = 1.0) -> bool:
    return check.value is not None and check.value <= times * check.threshold


def shift_of(health: Health) -> float | None:
    """Return the batch-norm shift of the run's images, None where there is none."""
    return next((check.value for check in health.checks if check.name == SHIFT), None)


def informed(health: Health, prediction: Prediction | None, settings: HealthSettings) -> Health:
    """Return the verdict by what is expected of the student on real images, where that is known.

    Where enough is expected, a batch-norm shift that is not far beyond its threshold warns no more: students have
    learned much from images rather far from the training data, and little from near ones. What is expected warns, and
    fails no run, for it rests on few kinds of teachers.
    """
    if prediction is None:
        return health
    low, high = prediction.low, prediction.high
    text = f"the student is expected to agree with the teacher on {low:.0%} to {high:.0%} of real images"
    check = _at_least(EXPECTED, low, settings.expected, text, floor=0)
    enough = check.status == "ok"
    others = [
        replace(other, status="ok") if enough and other.name == SHIFT and _within(other, RELAXED) else other
        for other in health.checks
    ]
    return judged([*others, check])


def foreseen(told: Mapping[str, float], settings: HealthSettings) -> str:
    """Return the alarm of what is expected of a student in the midst of its run, in words; nothing where it is enough.

    Of a student on its way less is expected than it will have learned, so the middle of the interval is asked, and not
    its lower end as of a finished one (`results/forecast.md`).
    """
    if told["expected"] >= settings.expected:
        return ""
    return (
        f"the run is likely to fail: so far the teacher's answer is expected of the student on {told['low']:.0%} to "
        f"{told['high']:.0%} of real images; stop it, check --mean and --std, and try more --steps or another --method"
    )


def judged(checks: Sequence[Check]) -> Health:
    """Return the verdict of some checks and its reasons in words."""
    order: tuple[Status, ...] = ("ok", "warning", "failed")
    worst = max((check.status for check in checks), key=order.index)
    reasons = [check.text for check in checks if check.status != "ok"]
    return Health(worst, reasons or ["every check passed"], list(checks))


def _at_least(name: str, value: float, threshold: float, text: str, floor: float | None = None) -> Check:
    floor = threshold / 2 if floor is None else floor
    status: Status = "ok" if value >= threshold else "warning" if value >= floor else "failed"
    return Check(name, value, threshold, status, text.format(value=value))


def _at_most(name: str, value: float, threshold: float, text: str) -> Check:
    status: Status = "ok" if value <= threshold else "warning"
    return Check(name, value, threshold, status, text.format(value=value))
