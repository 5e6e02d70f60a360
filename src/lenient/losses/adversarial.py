"""Terms that drive the generator to where teacher and student disagree; smaller is more disagreement."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from lenient.core.reductions import batch_mean
from lenient.losses.distances import Distance, coded_js, js_divergence, kl_divergence, logit_l1, swapped_kl
from lenient.losses.objective import Needs
from lenient.teacher.batch import Batch

AdversarialForm = Literal["js", "js-coded", "js-coded-mean", "kl", "kl-agreeing", "kl-swapped-agreeing", "l1", "l1-log"]
"""Exact Jensen-Shannon; what released codes compute under that name, divided by batch and classes (PRE-, MB-, META-,
TA-DFKD) or by the batch alone (DeepInversion, CuDFKD); KL; KL where both networks name the same class; the same of the
student from the teacher (CPNet's released code); mean absolute logit difference; its logarithm."""


class _Adversary:
    def __init__(self, *, view: str = "train", detach_teacher: bool = False) -> None:
        self.view, self.detach_teacher = view, detach_teacher
        self.needs = Needs(view, student=True)

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        teacher = batch.logits(self.view, "teacher")
        return teacher.detach() if self.detach_teacher else teacher, batch.logits(self.view, "student")


class JensenShannon(_Adversary):
    """E[1 - JSD] over the accepted samples (TA-DFKD, equation of l_adv), in [1 - ln 2, 1]: minimising maximises JSD.

    Mean over the batch weighted by the batch's weights; independent of batch size and number of classes. Gradients
    flow through both networks, or with `detach_teacher` through the student alone (PRE-, MB- and META-DFKD).
    """

    label = "JS"

    def __init__(self, temperature: float = 3.0, *, view: str = "train", detach_teacher: bool = False) -> None:
        super().__init__(view=view, detach_teacher=detach_teacher)
        self.temperature = temperature

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        return batch_mean(1 - js_divergence(*self.logits(batch), self.temperature), batch.weight)


class CodedJensenShannon(_Adversary):
    """1 - clamp(v, 0, 1) with v as the released codes compute it: coded JS, divided by the number of classes too.

    Where v leaves [0, 1] the clamp makes the gradient exactly zero. The term fades as 1/C with more classes, unless
    `over_classes` is off (DeepInversion, CuDFKD).
    """

    label = "JS, coded"

    def __init__(
        self,
        temperature: float = 3.0,
        *,
        over_classes: bool = True,
        view: str = "train",
        detach_teacher: bool = False,
    ) -> None:
        super().__init__(view=view, detach_teacher=detach_teacher)
        self.temperature, self.over_classes = temperature, over_classes

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        teacher, student = self.logits(batch)
        value = batch_mean(coded_js(teacher, student, self.temperature), batch.weight)
        return 1 - (value / teacher.shape[1] if self.over_classes else value).clamp(0, 1)


class Disagreement(_Adversary):
    """Minus a distance between the networks, mean over the accepted samples; not bounded below unless `bound` is given.

    DFAD: `logit_l1`, or with `log` minus log(1 + mean), whose gradient fades as the distance grows. ZSKT, MAD:
    `kl_divergence`. MAD: `bound` caps the reward of each image alone. CuDFKD, CMI: `agreeing` counts only images that
    both networks put into one class, but divides by all.
    """

    def __init__(
        self,
        distance: Distance,
        label: str,
        *,
        bound: float | None = None,
        agreeing: bool = False,
        log: bool = False,
        view: str = "train",
        detach_teacher: bool = False,
    ) -> None:
        super().__init__(view=view, detach_teacher=detach_teacher)
        self.distance, self.label = distance, label
        self.bound, self.agreeing, self.log = bound, agreeing, log

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term."""
        teacher, student = self.logits(batch)
        reward = self.distance(teacher, student)
        if self.bound is not None:
            reward = reward.clamp_max(self.bound)
        if self.agreeing:
            reward = reward * (teacher.argmax(dim=1) == student.argmax(dim=1))
        mean = batch_mean(reward, batch.weight)
        return -torch.log1p(mean) if self.log else -mean


def adversary(
    form: AdversarialForm, temperature: float, *, bound: float | None = None, detach_teacher: bool = False
) -> JensenShannon | CodedJensenShannon | Disagreement:
    """Return the adversarial term of a form; the L1 forms have no temperature, the JS forms are bounded already.

    Example:
        >>> adversary("kl-agreeing", temperature=4.0).label
        'KL, agreeing'
    """
    if form == "js":
        return JensenShannon(temperature, detach_teacher=detach_teacher)
    if form in ("js-coded", "js-coded-mean"):
        return CodedJensenShannon(temperature, over_classes=form == "js-coded", detach_teacher=detach_teacher)
    if form in ("kl", "kl-agreeing", "kl-swapped-agreeing"):
        divergence = swapped_kl if form == "kl-swapped-agreeing" else kl_divergence
        softened = partial(divergence, temperature=temperature)
        label, agreeing = ("KL", False) if form == "kl" else ("KL, agreeing", True)
        return Disagreement(softened, label, bound=bound, agreeing=agreeing, detach_teacher=detach_teacher)
    label, log = ("L1", False) if form == "l1" else ("L1, log", True)
    return Disagreement(logit_l1, label, bound=bound, log=log, detach_teacher=detach_teacher)
