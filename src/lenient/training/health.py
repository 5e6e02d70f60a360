"""Did it work? Judged without data: counters on the device, read at log lines; a verdict from named thresholds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lenient.core import ranks
from lenient.core.config import Settings
from lenient.core.errors import HealthError
from lenient.losses.prior import confidence_score
from lenient.methods.contract import STUDENT, StepOutput
from lenient.teacher.batch import LayerStatistics, Response

Status = Literal["ok", "warning", "failed"]
STATISTICS = "health/statistics"
"""What a turn says of its distance from the teacher's batch-norm statistics, whatever its term is called."""
FEW = 5
"""Images a class, on average, below which the histogram of one log line says little."""
DISCLAIMER = "Agreement on synthetic images is not accuracy on real ones: only a test set can tell that."


class HealthSettings(Settings):
    """Thresholds of the verdict; shares are fractions in [0, 1]."""

    coverage: float = Field(0.95, ge=0, le=1)
    """Share of the classes that the accepted samples should reach; under half of it the run has failed."""
    class_entropy: float = Field(0.5, ge=0, le=1)
    """Entropy of the class histogram over its maximum, at least; under half of it the run has failed."""
    kept: float = Field(0.1, ge=0, le=1)
    """Share of samples the teacher should vouch for; below it, a warning."""
    bn_shift: float = Field(0.15, gt=0, le=1e6)
    """How far the teacher sees synthetic images from its training data, see `bn_shift`; above it, a warning."""
    agreement: float = Field(0.6, ge=0, le=1)
    """How far agreement on the probe set should be from chance (0) to perfect (1); under a third of it, failed."""
    excess: float = Field(0.2, ge=0, le=1e6)
    """Mean distance of pixels from the range [0, 1], at most."""
    contrast: float = Field(0.6, ge=0, le=1)
    """How much of the range from black (0) to white (1) the middle nine tenths of a channel's pixels should span, at
    least, in the channel that spans most."""
    overshoot: float = Field(0.4, ge=0, le=1e6)
    """How far beyond black or white the middle nine tenths of a channel's pixels may reach."""
    duplicates: float = Field(0.5, ge=0, le=1)
    """Share of near-identical synthetic images, at most; above it, a warning."""
    nonfinite: float = Field(0.01, ge=0, le=1)
    """Share of turns skipped for non-finite numbers, at most; above it, a warning."""
    patience: int = Field(20, ge=1, le=10**6)
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
        self.ranges: list[Tensor] = []
        self.labels: list[Tensor] = []

    def offer(self, images: Tensor, labels: Tensor) -> None:
        """Take a group of images (n, C, H, W) in pixel units and labels (n,), if it is its turn.

        Stored as 8 bit over the group's own range: generators that draw in normalised space leave [0, 1].
        """
        if self.offered % self.stride == 0:
            low, high = images.amin(), images.amax()
            step = (high - low).clamp_min(1e-8) / 255
            self.images.append(((images - low) / step).round().byte())
            self.ranges.append(torch.stack([low, step]).float())
            self.labels.append(labels)
        self.offered += 1
        if len(self.images) > self.groups:
            self.images, self.ranges, self.labels = self.images[::2], self.ranges[::2], self.labels[::2]
            self.stride *= 2

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Return all images in pixel units and their labels."""
        groups = [image.float() * step + low for image, (low, step) in zip(self.images, self.ranges, strict=True)]
        return torch.cat(groups), torch.cat(self.labels)

    def state_dict(self) -> dict[str, Any]:
        """Return all that outlives a turn."""
        kept = {"images": self.images, "ranges": self.ranges, "labels": self.labels}
        return {"stride": self.stride, "offered": self.offered, **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.stride, self.offered = state["stride"], state["offered"]
        self.images, self.ranges, self.labels = (list(state[name]) for name in ("images", "ranges", "labels"))
        groups = [(len(image), len(label)) for image, label in zip(self.images, self.labels, strict=True)]
        if len(self.ranges) != len(groups) or any(images != labels for images, labels in groups) or self.stride < 1:
            raise ValueError("the probe set has images without labels, or no pace")


class HealthMonitor:
    """Counts on the device what turns show, and reads it all in one go at a log line."""

    def __init__(self, num_classes: int, settings: HealthSettings, device: torch.device) -> None:
        self.num_classes, self.settings, self.device = num_classes, settings, device
        self.probe = ProbeSet()
        self.first_bn = torch.full((), math.nan, device=device)
        self.seen = [0.0] * num_classes
        self.latest: dict[str, float] = {}
        self.alarms: dict[str, str] = {}
        self._fingerprints: dict[str, list[float]] = {}
        self._still: dict[str, int] = {}
        self._played: dict[str, int] = {}
        self.lines = 0
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
        self._played[name] = self._played.get(name, 0) + 1
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
        names = tuple(seen)  # one tensor for each kind of turn, under all its names
        for totals, numbers in (
            (self.culprits, (~finite).float()),
            (self.sums, torch.where(finite, values, 0.0)),
            (self.counts, finite.float()),
        ):
            totals[names] = totals[names] + numbers if names in totals else numbers

    def line(self) -> dict[str, Any]:
        """Return the means since the last line and the class histogram; the one host sync. Starts counting anew.

        Raises:
            HealthError: too many turns in a row had non-finite numbers; the message names the term.
        """
        names = [name for key in self.sums for name in key]
        means = [self.sums[key] / self.counts[key] for key in self.sums]  # NaN where no turn had a number
        suspects = [name for key in self.culprits for name in key]
        rest = torch.stack([self.streak, self.skipped, self.first_bn])
        sums = torch.cat([*means, *self.culprits.values(), rest, self.histogram * ranks.count()])
        packed = iter(ranks.averaged([sums])[0].tolist())
        values = {name: next(packed) for name in names}
        culprits = {name: next(packed) for name in suspects}
        streak, skipped, first_bn = (next(packed) for _ in range(3))
        histogram = list(packed)
        self._reset()
        self.lines += 1
        self.seen = [old + new for old, new in zip(self.seen, histogram, strict=True)]
        if any(histogram):  # the student had a turn
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
            self.alarms["non-finite"] = f"non-finite numbers in the term '{term}' for {int(streak)} turns in a row"
            raise HealthError(
                f"stopped: {self.alarms['non-finite']}; lower its weight or learning rate with -s method.…"
            )
        return {"values": values, "histogram": histogram}

    @torch.no_grad()
    def inspect(
        self, images: Tensor, teachers_word: Response, students_word: Callable[[Tensor], Tensor]
    ) -> dict[str, float]:
        """Offer fresh images (n, C, H, W) with the teacher's answer to the probe set; question the student on it."""
        self.probe.offer(images[:8], teachers_word.logits[:8].argmax(dim=1))
        excess = (images - images.clamp(0, 1)).abs().mean()
        dark, bright = pixel_span(images)
        facts = {"health/duplicates": duplicate_rate(images), "health/excess": excess}
        facts |= {"health/dark": dark.amin(), "health/bright": bright.amax(), "health/contrast": (bright - dark).amax()}
        if teachers_word.statistics:
            facts["health/bn_shift"] = bn_shift(teachers_word.statistics)
        return self.question(students_word, facts)

    @torch.no_grad()
    def question(
        self, students_word: Callable[[Tensor], Tensor], more: Mapping[str, Tensor] | None = None
    ) -> dict[str, float]:
        """Ask for the student's labels of the probe set; returns agreement, and chance: the commonest class's share."""
        images, truth = self.probe.pooled()
        agreement = (students_word(images) == truth).float().mean()
        share = class_counts(truth, self.num_classes).max() / len(truth)
        asked = {**(more or {}), "health/probe_agreement": agreement, "health/probe_chance": share}
        found = dict(zip(asked, torch.stack(list(asked.values())).tolist(), strict=True))
        self.latest.update(found)
        return found

    @torch.no_grad()
    def moved(self, modules: Mapping[str, nn.Module]) -> None:
        """Note whether the weights of these players have moved since the last line, of those that had a turn."""
        modules = {name: module for name, module in modules.items() if name in self._played}
        self._played = {}
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
        """Return alarms that are new at this line; `progress` is the share of all turns that is done, in [0, 1]."""
        fresh: dict[str, str] = {}
        for check in self.checks(progress):
            if check.status == "failed" and check.name not in self.alarms and progress > 0.1:
                fresh[check.name] = check.text
        self.alarms.update(fresh)
        return fresh

    def checks(self, progress: float = 1.0) -> list[Check]:
        """Return every question that can be answered so far."""
        s, now = self.settings, self.latest
        steps = [self._players(), *self._classes(progress)]
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
        if "health/bn_shift" in now:
            text = (
                "the teacher sees the images {value:.2f} standard deviations away from its training data"
                "; where that does not fall, check the teacher's --mean and --std first"
            )
            steps.append(_at_most("batch-norm shift", now["health/bn_shift"], s.bn_shift, text))
        elif "health/probe_agreement" in now:
            text = "the teacher has no batch norm, so nothing tells whether the images are like its training data"
            steps.append(Check("batch-norm shift", None, s.bn_shift, "warning", text))
        if "health/excess" in now:
            text = (
                "synthetic pixels lie {value:.2f} outside of black and white on average"
                "; where that is much, check the teacher's --mean and --std first"
            )
            steps.append(_at_most("pixel range", now["health/excess"], s.excess, text))
        if "health/contrast" in now:
            steps += self._constants(now["health/dark"], now["health/bright"], now["health/contrast"])
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
            if chance > 1 - 1e-6:
                text = "all probe images are of one class, so they say nothing about the student"
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

    def _constants(self, dark: float, bright: float, contrast: float) -> list[Check]:
        """Images that fit the teacher lie between black and white and use what is there, unless --mean or --std is
        wrong: then the student copies the teacher where no real image lies."""
        beyond = max(-dark, bright - 1, 0.0)
        checks = [
            _at_least("contrast", contrast, self.settings.contrast, "", floor=-math.inf),
            _at_most("overshoot", beyond, self.settings.overshoot, ""),
        ]
        cures = ("unless the training images had as little contrast, check --mean and --std", "check --mean and --std")
        text = f"synthetic pixels span {dark:.2f} to {bright:.2f} (black is 0, white is 1)"
        return [
            replace(check, text=text if check.status == "ok" else f"{text}: {cure}")
            for check, cure in zip(checks, cures, strict=True)
        ]

    def _classes(self, progress: float) -> list[Check]:
        """Spread over the classes since the last line; at the end over the run, its last line worth a warning."""
        s = self.settings
        asked = (
            ("coverage", s.coverage, "{value:.0%} of the classes appear among the accepted samples"),
            ("class entropy", s.class_entropy, "the classes of accepted samples are {value:.0%} evenly spread"),
        )
        if not any(self.seen):  # the student has had no turn yet
            return []
        run = spread(self.seen)
        now = (self.latest.get("health/coverage", run[0]), self.latest.get("health/entropy", run[1]))
        found = []
        for (name, threshold, text), last, pooled in zip(asked, now, run, strict=True):
            check = _at_least(name, last, threshold, text)
            if progress >= 1:
                late, check = check, _at_least(name, pooled, threshold, text)
                few = self.latest.get("health/window", math.inf) < FEW * self.num_classes
                if check.status == "ok" and late.status == "failed" and not few:
                    check = replace(late, status="warning", text=f"at the end of the run {late.text}")
            found.append(check)
        return found

    def _players(self) -> Check:
        stuck = [name for name, lines in self._still.items() if lines >= 2]
        text = f"the weights of the {' and the '.join(stuck)} do not move" if stuck else "generator and student move"
        return Check("players move", float(bool(stuck)), 0.0, "failed" if stuck else "ok", text)

    def verdict(self) -> dict[str, Any]:
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
            "_played",
            "lines",
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


def bn_shift(layers: Sequence[LayerStatistics]) -> Tensor:
    """How far a batch is from what a network's batch norms have seen in training: per layer the root mean square over
    channels of the difference of means, in standard deviations of the training data; mean over layers.

    It needs no generator to start from, so it compares methods: real images of the same data come to about 0.05 to 0.1.
    """
    shifts = [
        ((layer.mean - layer.running_mean).square() / layer.running_variance.clamp_min(1e-8)).mean().sqrt()
        for layer in layers
    ]
    return torch.stack(shifts).mean()


def pixel_span(images: Tensor) -> Tensor:
    """Return the 5th and the 95th percentile of each channel of images (N, C, H, W), (2, C), of 100,000 pixels each at
    most."""
    pixels = images.float().transpose(0, 1).flatten(1)
    quantiles = torch.tensor([0.05, 0.95], device=images.device)
    span: Tensor = pixels[:, :: -(-pixels.shape[1] // 100_000)].quantile(quantiles, dim=1)
    return span


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
