"""Accuracy, calibration and agreement on real images."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lenient.core.errors import UsageError
from lenient.core.numbers import plain
from lenient.core.runtime import Runtime
from lenient.evaluation.order import other_order
from lenient.evaluation.running import Asked, answers, check_fits, classifier_of, in_eval_mode
from lenient.evaluation.statistics import check_statistics, even, mixed, normalising, reestimate, shown
from lenient.models.card import Network

if TYPE_CHECKING:
    from lenient.data import ImageSet

ECE_BINS = 15


@dataclass(frozen=True)
class Measures:
    """What `evaluate` found on `n` images. Shares lie in [0, 1].

    `nll` is the mean negative log-likelihood in nats; `ece` the expected calibration error over 15 equal bins of the
    top probability; `top5` is None for five classes or fewer, `agreement` without a teacher, and the entry of a class
    without images. `note` says so where the classes seem to be in another order than the network's. `statistics` says
    what the network's batch norms normalised by, `estimated_on` on how many images that was estimated anew.
    """

    n: int
    accuracy: float
    top5: float | None
    nll: float
    ece: float
    agreement: float | None
    per_class_accuracy: dict[str, float | None]
    note: str | None = None
    statistics: str = "running"
    estimated_on: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; a number that is not finite becomes None."""
        values: dict[str, Any] = plain(asdict(self))
        return values


def evaluate(
    network: Network | nn.Module,
    data: ImageSet,
    *,
    teacher: Network | nn.Module | None = None,
    batch_size: int = 512,
    device: str | torch.device = "cpu",
    precision: str = "32",
    statistics: str = "running",
    images: ImageSet | Tensor | None = None,
) -> Measures:
    """Measure a classifier, and with `teacher` the share of images on which both give the same class.

    A `Network` has its normalisation; a bare module must take pixels in [0, 1] and return logits (B, K). Both run in
    eval mode without gradients and are afterwards on the device and in the modes they came in.

    Args:
        network: what is measured.
        data: labelled images.
        teacher: normalises by what it has stored, whatever `statistics` is.
        batch_size: of the forwards; with `statistics="batch"` they are of about 256 mixed images.
        device: where.
        precision: 32 or bf16.
        statistics: running, batch, adapted or synthetic: what the network's batch norms normalise by; see
            `lenient.evaluation.statistics`.
        images: on which statistics are estimated anew (`adapted`, `synthetic`): without labels, a tensor (N, C, H, W)
            in pixel units or a set whose labels are not looked at.

    Raises:
        UsageError: no images, or images or classes that do not fit the network; statistics that it has not.
    """
    check_statistics(statistics, network, images is not None)
    runtime = Runtime(torch.device(device), precision)
    networks = [network] if teacher is None else [network, teacher]
    if len(data) == 0:
        raise UsageError(f"{data.name}: no images to measure on; choose another --data")
    tally = _Tally(len(data.classes))
    with ExitStack() as stack:
        for each in networks:
            check_fits(each, data)
        running = [stack.enter_context(in_eval_mode(classifier_of(each), runtime.device)) for each in networks]
        if images is not None:
            _estimate(network, running[0], images, runtime)
        for logits, labels in answers(running, *_asked_by(statistics, network, data, batch_size, runtime)):
            tally.add(logits[0], labels, logits[1] if teacher is not None else None)
    found = tally.measures(data.classes)
    return replace(found, statistics=statistics, estimated_on=None if images is None else len(images))


def _asked_by(
    statistics: str, network: Network | nn.Module, data: ImageSet, batch_size: int, runtime: Runtime
) -> tuple[ImageSet, int, Runtime, list[nn.Module]]:
    """Return what `answers` takes: images in order, size of batches, runtime, layers that normalise by each batch."""
    if statistics == "batch":
        return mixed(data), even(len(data)), runtime, normalising(network)
    return data, batch_size, runtime, []


def _estimate(network: Network | nn.Module, classifier: nn.Module, images: ImageSet | Tensor, runtime: Runtime) -> None:
    """Estimate the statistics anew that a network in eval mode has stored."""
    if len(images) < 2:
        raise UsageError("statistics are estimated on two images at least; give more")
    asked = Asked(classifier, runtime, whole=True)
    reestimate(normalising(network), asked.logits, shown(images, runtime.device))


def accuracy(
    network: Network | nn.Module,
    data: ImageSet,
    *,
    batch_size: int = 512,
    device: str | torch.device = "cpu",
    precision: str = "32",
    statistics: str = "running",
) -> float:
    """Return only the share of right answers, in [0, 1]; else as `evaluate`, by `running` statistics or `batch`."""
    check_statistics(statistics, network, False)
    runtime = Runtime(torch.device(device), precision)
    check_fits(network, data)
    with in_eval_mode(classifier_of(network), runtime.device) as classifier:
        found = answers([classifier], *_asked_by(statistics, network, data, batch_size, runtime))
        right = [(out[0].argmax(1) == labels).sum() for out, labels in found]
    return int(torch.stack(right).sum()) / len(data)


def agreement(a: Tensor, b: Tensor) -> float:
    """Return the share of samples, in [0, 1], on which two networks name the same class.

    `a` and `b` hold logits (N, K) or classes (N,), each on its own.
    """
    first, second = (answer.argmax(1) if answer.dim() == 2 else answer for answer in (a, b))
    if first.shape != second.shape or len(first) == 0:
        raise ValueError(f"need answers to the same samples, at least one; got {len(first)} and {len(second)}")
    return float((first == second).double().mean())


class _Tally:
    """Collects per-sample facts batch by batch, on the device, and sums them up once."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.columns: dict[str, list[Tensor]] = {}

    def add(self, logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> None:
        confidence, predicted = logits.softmax(1).max(1)
        facts = {"confidence": confidence, "right": predicted == labels, "labels": labels, "predicted": predicted}
        facts["nll"] = F.cross_entropy(logits, labels, reduction="none")
        if logits.shape[1] > 5:
            facts["top5"] = (logits.topk(5, dim=1).indices == labels[:, None]).any(1)
        if teacher_logits is not None:
            facts["agrees"] = predicted == teacher_logits.argmax(1)
        for key, value in facts.items():
            self.columns.setdefault(key, []).append(value)

    def measures(self, classes: tuple[str, ...]) -> Measures:
        from torchmetrics.functional.classification import binary_calibration_error  # slow to import

        found = {key: torch.cat(parts).cpu() for key, parts in self.columns.items()}
        mean = {key: float(value.double().mean()) for key, value in found.items()}
        per_class: dict[str, float | None] = {}
        for label, name in enumerate(classes):
            members = found["right"][found["labels"] == label]
            per_class[name] = float(members.double().mean()) if len(members) else None
        # the top probability is a binary forecast of "right": its calibration error is that of the classifier
        ece = binary_calibration_error(found["confidence"], found["right"].long(), n_bins=ECE_BINS, norm="l1")
        return Measures(
            n=len(found["labels"]),
            accuracy=mean["right"],
            top5=mean.get("top5"),
            nll=mean["nll"],
            ece=float(ece),
            agreement=mean.get("agrees"),
            per_class_accuracy=per_class,
            note=other_order(found["predicted"], found["labels"], classes),
        )
