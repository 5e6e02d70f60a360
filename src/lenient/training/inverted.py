"""Images that a teacher alone draws: noise that becomes what its batch norms saw in training (as in DeepInversion, Yin
et al., CVPR 2020). No student has learned from them, whatever its method, so how it answers them says more of how it
answers real images than its answers to images of its own run."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from lenient.core.runtime import Runtime
from lenient.core.seeding import Streams
from lenient.losses.objective import Objective
from lenient.losses.prior import LabelPrior
from lenient.losses.representation import BatchNormStatistics, ImageNorm, differences
from lenient.synthesis.pixels import balanced
from lenient.synthesis.views import rolled
from lenient.teacher.batch import Batch
from lenient.teacher.frozen import FrozenTeacher

IMAGES, STEPS, RATE, JITTER = 128, 50, 0.1, 2
BATCH_NORM, VARIATION = 10.0, 1.25e-5
"""Weights of the statistics and of total variation beside the class (DeepInversion: 10 and 2.5e-5 over 256 images)."""


@torch.enable_grad()
def inverted(teacher: FrozenTeacher, runtime: Runtime, streams: Streams, count: int, steps: int = STEPS) -> Tensor:
    """Return images (count, C, H, W) in pixel units, each class as often as can be, after so many steps on them."""
    draw = partial(streams.normal, "answers/inverted", 0)
    pixels = nn.Parameter(runtime.images(draw((count, *teacher.card.input_size)).to(runtime.dtype)))
    labels = balanced(count, teacher.card.num_classes, 0).to(pixels.device)
    objective = Objective(
        {
            "class_prior": (1.0, LabelPrior()),
            "bn": (BATCH_NORM, BatchNormStatistics()),
            "tv": (VARIATION, ImageNorm(differences, "TV", view="clean")),
        }
    )
    probes = [probe for need in objective.needs() for probe in need.probes]
    optimizer = torch.optim.Adam([pixels], RATE)
    for step in range(steps):
        view = runtime.images(rolled(pixels, JITTER, streams, "answers/jitter", step))
        batch = Batch(view.detach(), torch.ones(count, device=view.device), {"clean": view}, labels=labels)
        batch.answers = {"clean": {"teacher": teacher.respond(view, probes)}}
        (pixels.grad,) = torch.autograd.grad(objective(batch)[0], [pixels])
        optimizer.step()
    return teacher.denormalize(pixels.detach())
