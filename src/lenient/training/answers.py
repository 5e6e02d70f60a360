"""How a finished student answers beside its teacher on images of several kinds: the numbers from which later work can
tell a good student without real data. Nothing is decided by them here."""

from __future__ import annotations

import torch
from torch import Tensor

from lenient.losses.prior import confidence_score
from lenient.models.checking import without_gradient
from lenient.synthesis.photo import crops
from lenient.synthesis.views import augment
from lenient.training.inverted import IMAGES, STEPS, inverted
from lenient.training.metrics import class_counts, spread
from lenient.training.prediction import predicted
from lenient.training.trainer import Distillation

LEAST, MOST, SHARE = 64, 512, 20
"""Images of each kind at least and at most; between them a twentieth of those that the run made."""
PART = 4
"""Images are inverted where their steps, forward and backward, cost the teacher no more than this part of its run."""


@torch.no_grad()
def answers(run: Distillation, count: int | None = None) -> dict[str, dict[str, float]]:
    """Return for each kind of images what `compared` says of them, beside `images`, how many there were.

    The kinds: `fresh` images as the source draws them; `accepted`, those of them that the teacher vouches for, where
    the method selects; `augmented`, fresh ones cropped and flipped; `interpolated`, a fresh one mixed evenly with the
    next; `photo`, crops of two photographs; `inverted`, what the teacher alone draws, where it can (see `inverted`) and
    the run was so long that this costs it little.
    """
    count = count or min(max(run.images // SHARE, LEAST), MOST)
    source, streams = run.algorithm.source, run.streams
    fresh = source.sample(count, "answers", 0).float()
    kinds: dict[str, Tensor] = {
        "fresh": fresh,
        "augmented": augment(fresh, "crop-flip", streams, "answers/view", 0),
        "interpolated": (fresh + fresh.roll(1, dims=0)) / 2,
        "photo": crops(count, run.teacher.card.input_size, streams, "answers/photo", 0),
    }
    drawn = inverted_images(run)
    if drawn is not None:
        kinds["inverted"] = drawn
    found = {}
    for kind, images in kinds.items():
        teacher, student = run.teacher_logits(images), run.student_logits(images)
        found[kind] = compared(teacher, student)
        if kind == "fresh" and run.algorithm.selection is not None:
            kept = run.algorithm.selection(confidence_score(teacher)).weight > 0
            if bool(kept.any()):
                found["accepted"] = compared(teacher[kept], student[kept])
    return found


def forecast(run: Distillation, progress: float) -> dict[str, float] | None:
    """Return what is expected of the student as it is when a share `progress`, in (0, 1], of its steps is made:
    `expected`, `low` and `high` (see `predicted`) beside how it answers inverted images; None where nothing tells.
    """
    with torch.no_grad():
        images = inverted_images(run, progress)
        if images is None:
            return None
        found = compared(run.teacher_logits(images), run.student_logits(images))
    shift = run.health.latest.get("health/bn_shift")
    told = predicted({"inverted": found}, shift, run.teacher.card.num_classes)
    return None if told is None else {"expected": told.expected, "low": told.low, "high": told.high, **found}


def inverted_images(run: Distillation, progress: float = 1.0) -> Tensor | None:
    """Return the images that the teacher alone draws, the same whenever they are asked for; None where it cannot, or
    the run is too short for what they cost."""
    if not _invertible(run, progress):
        return None
    if run.inverted is None:
        run.algorithm.source.close()  # what it makes ahead takes threads, and other threads are other bits
        run.inverted = inverted(run.teacher.twin(), run.runtime, run.streams, IMAGES)
    return run.inverted


def _invertible(run: Distillation, progress: float) -> bool:
    teacher = run.teacher
    able = teacher.batch_norms and not without_gradient(teacher.network.behaviour)
    long = run.health.forecasted or teacher.forwards / progress >= 3 * IMAGES * STEPS * PART
    return bool(able) and long


def compared(teacher: Tensor, student: Tensor) -> dict[str, float]:
    """Compare two networks' logits (N, K) on the same images.

    Returns:
        `images`: N; `agreement`: share of images with the same class; `chance`: share of the teacher's commonest class;
        `coverage` and `entropy`: share of classes that the teacher names, and how evenly, in [0, 1]; `confidence` and
        `student_confidence`: mean largest probability; `dispersion` and `student_dispersion`: standard deviation of an
        image's logits, mean over images; `distance`: mean absolute difference of centred logits in units of the
        teacher's dispersion; `divergence`: KL of the student from the teacher, in nats, mean over images.
    """
    teacher, student = (logits.double() - logits.double().mean(dim=1, keepdim=True) for logits in (teacher, student))
    classes, num_classes = teacher.argmax(dim=1), teacher.shape[1]
    counts = class_counts(classes, num_classes)
    coverage, entropy = spread(counts.tolist())
    wide, students = (logits.std(dim=1, correction=0).mean() for logits in (teacher, student))
    log_teacher, log_student = teacher.log_softmax(dim=1), student.log_softmax(dim=1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1).mean()
    return {
        "images": float(len(teacher)),
        "agreement": float((classes == student.argmax(dim=1)).double().mean()),
        "chance": float(counts.max() / len(teacher)),
        "coverage": coverage,
        "entropy": entropy,
        "confidence": float(log_teacher.exp().amax(dim=1).mean()),
        "student_confidence": float(log_student.exp().amax(dim=1).mean()),
        "dispersion": float(wide),
        "student_dispersion": float(students),
        "distance": float((teacher - student).abs().mean() / wide.clamp_min(1e-12)),
        "divergence": float(divergence),
    }
