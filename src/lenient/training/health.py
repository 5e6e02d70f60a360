"""Watches a run without data: counts on the device, looks at fresh images at log lines, judges by what it has seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lenient.core import ranks
from lenient.core.errors import HealthError
from lenient.losses.prior import confidence_score
from lenient.methods.contract import STUDENT, StepOutput
from lenient.teacher.batch import Response
from lenient.teacher.probes import BatchNorms
from lenient.training.metrics import STATISTICS, class_counts, spread
from lenient.training.probe import ProbeSet, bn_shift, duplicate_rate, pixel_span
from lenient.training.verdict import (
    AGREEMENT,
    CONSTANTS,
    FORECAST,
    Check,
    Evidence,
    Health,
    HealthSettings,
    checks,
    foreseen,
    judged,
)

SETTLED = 0.25
"""Share of the updates after which pixels and the student's agreement say what will come of a run, and no sooner
(`results/forecast.md`)."""


class HealthMonitor:
    """Counts on the device what updates show, and reads it all in one go at a log line."""

    def __init__(self, num_classes: int, settings: HealthSettings, device: torch.device) -> None:
        self.num_classes, self.settings, self.device = num_classes, settings, device
        self.probe = ProbeSet()
        self.first_bn = torch.full((), math.nan, device=device)
        self.seen = [0.0] * num_classes
        self.latest: dict[str, float] = {}
        self.alarms: dict[str, str] = {}
        self._fingerprints: dict[str, list[float]] = {}
        self._still: dict[str, int] = {}
        self._updated: dict[str, int] = {}
        self.streak = torch.zeros((), device=device)
        self.skipped = torch.zeros((), device=device)
        self.culprits: dict[tuple[str, ...], Tensor] = {}
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[tuple[str, ...], Tensor] = {}
        self.counts: dict[tuple[str, ...], Tensor] = {}
        self.histogram = torch.zeros(self.num_classes, device=self.device)

    @torch.no_grad()
    def observe(self, name: str, output: StepOutput, bad: Tensor) -> None:
        """Count one update of a network; `bad` is 1 where it was skipped for non-finite numbers."""
        self._updated[name] = self._updated.get(name, 0) + 1
        self.streak = (self.streak + bad) * bad
        self.skipped = self.skipped + bad
        seen = {f"loss/{term}": value for term, value in output.losses.items()}
        seen |= {f"health/{fact}": value for fact, value in output.facts.items()}
        if name == STUDENT:
            teacher, student = (output.batch.logits("train", network) for network in ("teacher", "student"))
            classes = teacher.argmax(dim=1)
            scores = confidence_score(teacher) if output.selected is None else output.selected.scores
            seen["health/confidence"] = (-scores).exp().mean()
            seen["health/agreement"] = (classes == student.argmax(dim=1)).float().mean()
            self.histogram = self.histogram + class_counts(classes, self.num_classes)
        if output.selected is not None:
            kept = "health/kept" if name == STUDENT else f"health/kept_by_{name}"
            seen[kept] = output.selected.weight.mean()
        if STATISTICS in seen:
            self.first_bn = torch.where(torch.isfinite(self.first_bn), self.first_bn, seen[STATISTICS].float())
        values = torch.stack([value.detach().float() for value in seen.values()])
        finite = torch.isfinite(values)
        names = tuple(seen)  # one tensor for each kind of update, under all its names
        for totals, numbers in (
            (self.culprits, (~finite).float()),
            (self.sums, torch.where(finite, values, 0.0)),
            (self.counts, finite.float()),
        ):
            totals[names] = totals[names] + numbers if names in totals else numbers

    def line(self) -> dict[str, Any]:
        """Return the means since the last line and the class histogram; the one host sync. Starts counting anew.

        Raises:
            HealthError: too many updates in a row had non-finite numbers; the message names the term.
        """
        names = [name for key in self.sums for name in key]
        means = [self.sums[key] / self.counts[key] for key in self.sums]  # NaN where no update had a number
        suspects = [name for key in self.culprits for name in key]
        rest = torch.stack([self.streak, self.skipped, self.first_bn])
        sums = torch.cat([*means, *self.culprits.values(), rest, self.histogram * ranks.count()])
        packed = iter(ranks.averaged([sums])[0].tolist())
        values = {name: next(packed) for name in names}
        culprits = {name: next(packed) for name in suspects}
        streak, skipped, first_bn = (next(packed) for _ in range(3))
        histogram = list(packed)
        self._reset()
        self.seen = [old + new for old, new in zip(self.seen, histogram, strict=True)]
        if any(histogram):  # the student made a step
            values["health/coverage"], values["health/entropy"] = spread(histogram)
            self.latest["health/window"] = sum(histogram)
        values["health/nonfinite"] = skipped
        if STATISTICS in values:
            values["health/bn_distance"] = values.pop(STATISTICS) / max(first_bn, 1e-12)
        self.latest.update({name: value for name, value in values.items() if math.isfinite(value)})
        if not streak:
            self.culprits = {}
        if streak >= self.settings.patience:
            worst = max(culprits, key=lambda name: culprits[name], default="")
            term = worst.removeprefix("loss/") if culprits.get(worst) else "gradient"
            self.alarms["non-finite"] = f"non-finite numbers in the term '{term}' for {int(streak)} updates in a row"
            raise HealthError(
                f"stopped: {self.alarms['non-finite']}; lower its weight or learning rate with -s method.…"
            )
        return {"values": values, "histogram": histogram}

    @torch.no_grad()
    def inspect(self, images: Tensor, answer: Response, predict: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Offer fresh images (n, C, H, W) with the teacher's answer to the probe set; question the student on it."""
        self.probe.offer(images[:8], answer.logits[:8].argmax(dim=1))
        excess = (images - images.clamp(0, 1)).abs().mean()
        dark, bright = pixel_span(images)
        facts = {"health/duplicates": duplicate_rate(images), "health/excess": excess}
        facts |= {"health/dark": dark.amin(), "health/bright": bright.amax(), "health/contrast": (bright - dark).amax()}
        if BatchNorms in answer.probed:
            facts["health/bn_shift"] = bn_shift(answer.of(BatchNorms))
        return self.question(predict, facts)

    @torch.no_grad()
    def question(
        self, predict: Callable[[Tensor], Tensor], more: Mapping[str, Tensor] | None = None
    ) -> dict[str, float]:
        """Ask for the student's labels of the probe set; returns agreement, and chance: the commonest class's share."""
        images, truth = self.probe.pooled()
        agreement = (predict(images) == truth).float().mean()
        share = class_counts(truth, self.num_classes).max() / len(truth)
        asked = {**(more or {}), "health/probe_agreement": agreement, "health/probe_chance": share}
        found = dict(zip(asked, torch.stack(list(asked.values())).tolist(), strict=True))
        self.latest.update(found)
        return found

    @torch.no_grad()
    def moved(self, modules: Mapping[str, nn.Module]) -> None:
        """Note whether the weights of these networks have moved since the last line, of those that had an update."""
        modules = {name: module for name, module in modules.items() if name in self._updated}
        self._updated = {}
        if not modules:
            return
        sizes = [torch.stack(torch._foreach_norm(list(module.parameters()))) for module in modules.values()]
        packed = torch.cat(sizes).tolist()
        for name, size in zip(modules, sizes, strict=True):
            norms, packed = packed[: len(size)], packed[len(size) :]
            still = self._fingerprints.get(name) == norms
            self._still[name] = self._still.get(name, 0) + 1 if still else 0
            self._fingerprints[name] = norms

    def raise_alarms(self, progress: float) -> dict[str, str]:
        """Return alarms that are new at this line; `progress` is the share of all updates that is done, in [0, 1].

        What fails is an alarm, and so is a warning of the pixels: where --mean or --std are wrong, all else looks well.
        """
        fresh: dict[str, str] = {}
        for check in self.checks(progress):
            bad = check.status == "failed" or (check.status == "warning" and check.name in CONSTANTS)
            late = progress >= SETTLED if check.name in (*CONSTANTS, AGREEMENT) else progress > 0.1
            if bad and late and check.name not in self.alarms:
                fresh[check.name] = check.text
        self.alarms.update(fresh)
        return fresh

    @property
    def forecasted(self) -> bool:
        """Whether it was told what is expected of the student."""
        return "forecast/expected" in self.latest

    def foresee(self, told: Mapping[str, float]) -> dict[str, str]:
        """Note what is expected of the student in the midst of its run; returns the alarm where that is too little."""
        self.latest |= {f"forecast/{name}": told[name] for name in ("expected", "low", "high")}
        message = foreseen(told, self.settings)
        fresh = {FORECAST: message} if message else {}
        self.alarms.update(fresh)
        return fresh

    def checks(self, progress: float = 1.0) -> list[Check]:
        """Return every question that can be answered when a share `progress` of all updates is done."""
        still = [name for name, lines in self._still.items() if lines >= 2]
        return checks(Evidence(self.latest, self.seen, still), self.settings, progress)

    def verdict(self) -> Health:
        """Return the verdict, its reasons in words, and every check."""
        found = self.checks()
        if "non-finite" in self.alarms:
            found.insert(0, Check("finite", 1.0, 0.0, "failed", self.alarms["non-finite"]))
        return judged(found)

    def state_dict(self) -> dict[str, Any]:
        """Return all that outlives an update."""
        plain = (
            "first_bn",
            "seen",
            "latest",
            "alarms",
            "_fingerprints",
            "_still",
            "_updated",
            "sums",
            "counts",
            "histogram",
        )
        tensors = {"streak": self.streak, "skipped": self.skipped, "culprits": self.culprits}
        return {"probe": self.probe.state_dict(), **{name: getattr(self, name) for name in plain}, **tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; raises ValueError where numbers or tensors are none."""
        for name in ("sums", "counts", "culprits"):
            for key, value in state[name].items():
                if not isinstance(key, tuple) or not isinstance(value, Tensor) or value.shape != (len(key),):
                    raise ValueError(f"health.{name}: one number for each name is expected")
        if not all(isinstance(value, (int, float)) for value in state["latest"].values()):
            raise ValueError("health.latest: numbers are expected")
        for name, value in state.items():
            if name == "probe":
                self.probe.load_state_dict(value)
            else:
                setattr(self, name, value)
