"""Did it work? Judged without data: counters on the device, read at log lines; a verdict from named thresholds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lenient.config import Settings
from lenient.errors import HealthError
from lenient.methods.contract import Turn

Status = Literal["ok", "warning", "failed"]
DISCLAIMER = "Agreement on synthetic images is not accuracy on real ones: only a test set can tell that."


class HealthSettings(Settings):
    """Thresholds of the verdict; shares are fractions in [0, 1]."""

    coverage: float = Field(0.8, ge=0, le=1)
    """Share of the classes that the accepted samples should reach; under half of it the run has failed."""
    class_entropy: float = Field(0.5, ge=0, le=1)
    """Entropy of the class histogram over its maximum, at least; under half of it the run has failed."""
    kept: float = Field(0.1, ge=0, le=1)
    """Share of samples the teacher should vouch for; below it, a warning."""
    bn_ratio: float = Field(0.35, gt=0)
    """Batch-norm distance at the end over that at the start, at most; above it, a warning."""
    agreement: float = Field(0.6, ge=0, le=1)
    """How far agreement on the probe set should be from chance (0) to perfect (1); under a third of it, failed."""
    duplicates: float = Field(0.5, ge=0, le=1)
    """Share of near-identical synthetic images, at most; above it, a warning."""
    nonfinite: float = Field(0.01, ge=0, le=1)
    """Share of turns skipped for non-finite numbers, at most; above it, a warning."""
    patience: int = Field(20, ge=1)
    """Turns in a row with non-finite numbers after which the run stops."""


@dataclass(frozen=True)
class Check:
    """One question of the verdict: its value, its threshold and the answer in words."""

    name: str
    value: float | None
    threshold: float
    status: Status
    text: str


class ProbeSet:
    """Synthetic images pooled evenly over the run that the student never trains on, with the teacher's labels.

    Groups are added at log lines; once `groups` of them are there every other one is dropped and the pace halves.
    """

    def __init__(self, groups: int = 64) -> None:
        self.groups, self.stride, self.offered = groups, 1, 0
        self.images: list[Tensor] = []
        self.labels: list[Tensor] = []

    def offer(self, images: Tensor, labels: Tensor) -> None:
        """Take a group of images (n, C, H, W) in pixel units, stored as 8 bit, and labels (n,), if it is its turn."""
        if self.offered % self.stride == 0:
            self.images.append((images.clamp(0, 1) * 255).round().byte())
            self.labels.append(labels)
        self.offered += 1
        if len(self.images) > self.groups:
            self.images, self.labels, self.stride = self.images[::2], self.labels[::2], self.stride * 2

    def state_dict(self) -> dict[str, Any]:
        """Return all that outlives a turn."""
        return {"stride": self.stride, "offered": self.offered, "images": self.images, "labels": self.labels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.stride, self.offered = state["stride"], state["offered"]
        self.images, self.labels = list(state["images"]), list(state["labels"])


class HealthMonitor:
    """Counts on the device what turns show, and reads it all in one go at a log line."""

    def __init__(self, num_classes: int, settings: HealthSettings, device: torch.device) -> None:
        self.num_classes, self.settings, self.device = num_classes, settings, device
        self.probe = ProbeSet()
        self.first_bn: float | None = None
        self.seen = [0.0] * num_classes
        self.latest: dict[str, float] = {}
        self.alarms: dict[str, str] = {}
        self._fingerprints: dict[str, float] = {}
        self._still: dict[str, int] = {}
        self.lines = 0
        self.streak = torch.zeros((), device=device)
        self.skipped = torch.zeros((), device=device)
        self.culprits: dict[str, Tensor] = {}
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.histogram = torch.zeros(self.num_classes, device=self.device)

    def _add(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums[name] + value.detach() if name in self.sums else value.detach().clone()
        self.counts[name] = self.counts.get(name, 0) + 1

    @torch.no_grad()
    def observe(self, player: str, turn: Turn, bad: Tensor) -> None:
        """Count one turn; `bad` is 1 where it was skipped for non-finite numbers."""
        self.streak = (self.streak + bad) * bad
        self.skipped = self.skipped + bad
        for name, value in turn.parts.items():
            wrong = (~torch.isfinite(value)).float()
            self.culprits[name] = self.culprits.get(name, torch.zeros_like(wrong)) + wrong
            self._add(f"loss/{name}", value)
        for name, value in turn.facts.items():
            self._add(f"health/{name}", value)
        if player != "student":
            self._add("health/kept_by_generator", turn.verdict.weight.mean())
            return
        self._add("health/kept", turn.verdict.weight.mean())
        self._add("health/confidence", (-turn.scores).exp().mean())
        answers = turn.record.answers["train"]
        teacher, student = (answers[name].logits.argmax(dim=1) for name in ("teacher", "student"))
        self._add("health/agreement", (teacher == student).float().mean())
        self.histogram = self.histogram + class_counts(teacher, self.num_classes)

    def line(self) -> dict[str, Any]:
        """Return the means since the last line and the class histogram; the one host sync. Starts counting anew.

        Raises:
            HealthError: too many turns in a row had non-finite numbers; the message names the term.
        """
        names = list(self.sums)
        means = [self.sums[name] / self.counts[name] for name in names]
        culprits = list(self.culprits)
        scalars = [*means, self.streak, self.skipped, *(self.culprits[name] for name in culprits)]
        packed = torch.cat([torch.stack([s.float() for s in scalars]), self.histogram]).tolist()
        values = dict(zip(names, packed, strict=False))
        streak, skipped = packed[len(names) : len(names) + 2]
        counts = packed[len(names) + 2 : len(scalars)]
        histogram = packed[len(scalars) :]
        self._reset()
        self.lines += 1
        self.seen = [old + new for old, new in zip(self.seen, histogram, strict=True)]
        values["health/coverage"], values["health/entropy"] = spread(histogram)
        values["health/nonfinite"] = skipped
        if self.first_bn is None and math.isfinite(values.get("loss/bn", math.nan)):
            self.first_bn = values["loss/bn"]
        if self.first_bn and "loss/bn" in values:
            values["health/bn_distance"] = values["loss/bn"] / self.first_bn
        self.latest.update(values)
        if streak >= self.settings.patience:
            worst = max(zip(counts, culprits, strict=True), default=(0.0, "gradient"))
            term = worst[1] if worst[0] else "gradient"
            self.alarms["non-finite"] = f"non-finite numbers in the term '{term}' for {int(streak)} turns in a row"
            raise HealthError(
                f"stopped: {self.alarms['non-finite']}; lower its weight or learning rate with -s method.…"
            )
        return {"values": values, "histogram": histogram}

    @torch.no_grad()
    def inspect(self, images: Tensor, labels: Tensor, students_word: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Offer fresh images (n, C, H, W) with the teacher's labels to the probe set; question the student on it."""
        duplicates = duplicate_rate(images)
        self.probe.offer(images[:8], labels[:8])
        pooled, truth = torch.cat(self.probe.images), torch.cat(self.probe.labels)
        agreement = (students_word(pooled.float() / 255) == truth).float().mean()
        share = class_counts(truth, self.num_classes).max() / len(truth)
        numbers = torch.stack([duplicates, agreement, share]).tolist()
        found = dict(zip(("health/duplicates", "health/probe_agreement", "health/probe_chance"), numbers, strict=True))
        self.latest.update(found)
        return found

    def moved(self, modules: Mapping[str, nn.Module]) -> None:
        """Note whether each player's weights have moved since the last line."""
        for name, module in modules.items():
            print_ = float(sum(p.detach().double().square().sum() for p in module.parameters()))
            still = self._fingerprints.get(name) == print_
            self._still[name] = self._still.get(name, 0) + 1 if still else 0
            self._fingerprints[name] = print_

    def raise_alarms(self, progress: float) -> dict[str, str]:
        """Return alarms that are new at this line; `progress` is the share of the run that is done, in [0, 1]."""
        fresh: dict[str, str] = {}
        for check in self.checks(progress):
            if check.status == "failed" and check.name not in self.alarms and progress > 0.1:
                fresh[check.name] = check.text
        self.alarms.update(fresh)
        return fresh

    def checks(self, progress: float = 1.0) -> list[Check]:
        """Return every question that can be answered so far."""
        s, now = self.settings, self.latest
        coverage, entropy = spread(self.seen) if progress >= 1 else (now["health/coverage"], now["health/entropy"])
        steps = [
            self._players(),
            _at_least("coverage", coverage, s.coverage, "{value:.0%} of the classes appear among the accepted samples"),
            _at_least(
                "class entropy",
                entropy,
                s.class_entropy,
                "the classes of accepted samples are {value:.0%} evenly spread",
            ),
        ]
        if "health/kept" in now:
            steps.append(
                _at_least(
                    "kept fraction",
                    now["health/kept"],
                    s.kept,
                    "the teacher vouches for {value:.0%} of samples",
                    floor=0,
                )
            )
        if "health/bn_distance" in now:
            text = (
                "the distance to the teacher's batch-norm statistics ends at {value:.0%} of its first value"
                "; where it does not fall, check the teacher's --mean and --std first"
            )
            steps.append(_at_most("bn distance", now["health/bn_distance"], s.bn_ratio, text))
        if "health/duplicates" in now:
            steps.append(
                _at_most(
                    "duplicates",
                    now["health/duplicates"],
                    s.duplicates,
                    "{value:.0%} of a batch are near-identical images",
                )
            )
        if "health/probe_agreement" in now:
            chance = now["health/probe_chance"]
            gain = (now["health/probe_agreement"] - chance) / max(1 - chance, 1e-9)
            agreement = f"{now['health/probe_agreement']:.0%} of probe images (chance: {chance:.0%})"
            text = f"the student agrees with the teacher on {agreement}"
            steps.append(_at_least("probe agreement", gain, s.agreement, text, floor=s.agreement / 3))
        turns = max(now.get("health/turns", 0.0), 1.0)
        steps.append(
            _at_most(
                "non-finite turns",
                now.get("health/nonfinite", 0.0) / turns,
                s.nonfinite,
                "{value:.1%} of turns were skipped for non-finite numbers",
            )
        )
        return steps

    def _players(self) -> Check:
        stuck = [name for name, lines in self._still.items() if lines >= 2]
        text = f"the weights of the {' and the '.join(stuck)} do not move" if stuck else "generator and student move"
        return Check("players move", float(bool(stuck)), 0.0, "failed" if stuck else "ok", text)

    def verdict(self, learned: bool = True) -> dict[str, Any]:
        """Return the verdict, its reasons in words, and every check."""
        checks = self.checks()
        if "non-finite" in self.alarms:
            checks.insert(0, Check("finite", 1.0, 0.0, "failed", self.alarms["non-finite"]))
        order: tuple[Status, ...] = ("ok", "warning", "failed")
        worst = max((check.status for check in checks), key=order.index)
        reasons = [check.text for check in checks if check.status != "ok"]
        return {
            "verdict": worst,
            "reasons": reasons or ["every check passed"],
            "checks": [check.__dict__ for check in checks],
            "note": DISCLAIMER,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all that outlives a turn."""
        plain = (
            "first_bn",
            "seen",
            "latest",
            "alarms",
            "_fingerprints",
            "_still",
            "lines",
            "sums",
            "counts",
            "histogram",
        )
        tensors = {"streak": self.streak, "skipped": self.skipped, "culprits": self.culprits}
        return {"probe": self.probe.state_dict(), **{name: getattr(self, name) for name in plain}, **tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        for name, value in state.items():
            if name == "probe":
                self.probe.load_state_dict(value)
            else:
                setattr(self, name, value)


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Count labels (N,) per class, (num_classes,) float32, without asking the host as `one_hot` and `bincount` do."""
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)).float().sum(dim=0)


def spread(histogram: list[float]) -> tuple[float, float]:
    """Return (share of classes that have at least a tenth of their even share, entropy over its maximum)."""
    total = sum(histogram)
    if not total:
        return 0.0, 0.0
    shares = [count / total for count in histogram]
    covered = sum(share >= 0.1 / len(shares) for share in shares) / len(shares)
    entropy = sum(-share * math.log(share) for share in shares if share > 0)
    return covered, entropy / math.log(len(shares))


def duplicate_rate(images: Tensor, tolerance: float = 0.02) -> Tensor:
    """Share of images (N, C, H, W) whose nearest neighbour in the batch is within `tolerance` (RMS per pixel)."""
    if images.shape[0] < 2:
        return torch.zeros((), device=images.device)
    small = F.adaptive_avg_pool2d(images.float(), (min(images.shape[2], 16), min(images.shape[3], 16))).flatten(1)
    distance = torch.cdist(small, small) / small.shape[1] ** 0.5
    distance = distance + torch.eye(len(small), device=small.device) * 1e9
    share: Tensor = (distance.amin(dim=1) < tolerance).float().mean()
    return share


def _at_least(name: str, value: float, threshold: float, text: str, floor: float | None = None) -> Check:
    floor = threshold / 2 if floor is None else floor
    status: Status = "ok" if value >= threshold else "warning" if value >= floor else "failed"
    return Check(name, value, threshold, status, text.format(value=value))


def _at_most(name: str, value: float, threshold: float, text: str) -> Check:
    status: Status = "ok" if value <= threshold else "warning"
    return Check(name, value, threshold, status, text.format(value=value))
