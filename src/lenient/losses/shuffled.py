"""Images on which a teacher in disorder still says the same: what ABD takes for triggers of a backdoor."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lenient.core.reductions import batch_sum, full
from lenient.losses.distances import kl_divergence
from lenient.losses.objective import Needs
from lenient.teacher.batch import Batch


def suspicious(teacher: Tensor, shuffled: Tensor) -> Tensor:
    """Return 1 where both logits (N, C) name the same class, else 0: (N,), in the type of the logits.

    Example:
        >>> suspicious(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([1., 0.])
    """
    return (teacher.argmax(dim=1) == shuffled.argmax(dim=1)).to(teacher.dtype)


def departure(teacher: Tensor, shuffled: Tensor, over_classes: bool = True) -> Tensor:
    """Return KL(P_teacher || P_shuffled) of each row of logits (N, C) in nats, (N,); `over_classes` divides it by C.

    Example:
        >>> departure(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log())  # ln(4 / 3) / 4
        tensor([0.0719])
    """
    divergence = kl_divergence(teacher, shuffled)
    return divergence / teacher.shape[1] if over_classes else divergence


class ShuffledTeacherPenalty:
    """Minus the mean departure of the shuffled teacher from the teacher over suspicious images (ABD's L_SV).

    0 where no image is suspicious. At most 0 and not bounded below; minimising drives suspicious images to where a
    shortcut no longer carries them. Mean over the suspicious images of the batch; falls as 1/C with `over_classes`, as
    released. Gradients reach the images through the teacher and, unless `detach_shuffled`, through `shuffled`, which
    turns normalised images into logits.
    """

    label = "shuffled teacher"

    def __init__(
        self,
        shuffled: Callable[[Tensor], Tensor],
        *,
        over_classes: bool = True,
        detach_shuffled: bool = False,
        view: str = "clean",
    ) -> None:
        self.shuffled, self.over_classes, self.detach_shuffled = shuffled, over_classes, detach_shuffled
        self.view, self.needs = view, Needs(view)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        teacher, inputs = batch.logits(self.view, "teacher"), batch.inputs[self.view]
        shuffled = full(self.shuffled(inputs.detach() if self.detach_shuffled else inputs))
        mask = suspicious(teacher, shuffled)
        total = batch_sum(mask * departure(teacher, shuffled, self.over_classes))
        return -total / batch_sum(mask).clamp_min(1.0)
