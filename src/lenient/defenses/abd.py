"""ABD: anti-backdoor data-free distillation, around any method.

Hong, Zeng, Yu, Lyu, Jia and Zhou, "Revisiting Data-Free Knowledge Distillation with Poisoned Teachers", ICML 2023,
arXiv 2306.02368. A downloaded teacher may answer a trigger, and hands that on. Images that it still knows with its late
channels in disorder look like triggers: what makes the images is driven away from them. In its last steps the student
unlearns reactions to one perturbation of all images.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor

from lenient.core.config import Part
from lenient.defenses.shuffles import ShuffleSettings, ShuffleTrials
from lenient.losses.shuffled import ShuffledTeacherPenalty
from lenient.methods.contract import STUDENT, Algorithm, Context, StepOutput, Update, both, restart
from lenient.student.unlearn import Unlearning, UnlearnSettings
from lenient.student.update import LiveStudent
from lenient.teacher.batch import Clock
from lenient.teacher.shuffled import ShuffledTeacher


class ABDSettings(Part):
    """Settings of ABD."""

    name: Literal["abd"] = "abd"
    shuffle: ShuffleSettings = ShuffleSettings()
    unlearn: UnlearnSettings = UnlearnSettings()


class ABD:
    """Adds the penalty to what makes the images, and unlearning to the last of the student's steps."""

    settings_type: ClassVar[type[Part]] = ABDSettings

    def __init__(self, settings: ABDSettings) -> None:
        self.settings = settings

    @property
    def needs_gradient(self) -> bool:
        """Whether the perturbation is the teacher's."""
        unlearn = self.settings.unlearn
        return unlearn.share > 0 and unlearn.perturbed == "teacher"

    def defend(self, algorithm: Algorithm, context: Context) -> Algorithm:
        """Return the algorithm with penalty and unlearning."""
        notes = [*algorithm.notes]
        if algorithm.objective is None:
            notes.append("defense abd: this method makes no images by an objective, so the student only unlearns")
        elif self.settings.shuffle.weight > 0 and self.settings.shuffle.layers != 0:
            algorithm = self._penalised(algorithm, context, notes)
        return replace(self._unlearning(algorithm, context), notes=tuple(notes))

    def _penalised(self, algorithm: Algorithm, context: Context, notes: list[str]) -> Algorithm:
        s, first = self.settings.shuffle, self.settings.unlearn.first
        assert algorithm.objective is not None, "asked before"
        shuffled = ShuffledTeacher(context.teacher, s.layers, s.copies, context.streams)
        if len(shuffled.unmoved) == len(shuffled.layers):
            notes.append("defense abd: the teacher has no convolution whose channels can be shuffled: no penalty")
            return algorithm
        if shuffled.unmoved:
            names = ", ".join(shuffled.unmoved)
            notes.append(f"defense abd: shuffling leaves {names} as it is: convolutions of one input channel each")
        trials = ShuffleTrials(shuffled, s, first)
        term = ShuffledTeacherPenalty(shuffled.logits, over_classes=s.over_classes, detach_shuffled=s.detach_shuffled)
        changed = algorithm.minimising(algorithm.objective.plus("shuffled", trials.weight, term), trials.after)
        return replace(changed, state={**algorithm.state, "shuffle": trials})

    def _unlearning(self, algorithm: Algorithm, context: Context) -> Algorithm:
        s = self.settings.unlearn
        if s.share == 0:
            return algorithm
        student = LiveStudent(context.student, context.runtime)
        more = partial(Unlearning, student=student, teacher=context.teacher, settings=s, streams=context.streams)
        changed = algorithm.learning(more)
        updates = {**changed.updates, STUDENT: in_two_phases(changed.updates[STUDENT], s)}
        return replace(changed, updates=updates, ending=s.share)


def in_two_phases(update: Update, settings: UnlearnSettings) -> Update:
    """Return a student's update whose optimizer starts anew at the first step that unlearns, with a rate of its own."""
    base = float(update.optimizer.param_groups[0]["lr"])

    def rate(clock: Clock) -> float:
        if clock.step < settings.first(clock):
            return update.rate(clock)
        return settings.lr / base * settings.factor(clock) if base else 0.0

    def begin(clock: Clock, output: StepOutput, bad: Tensor) -> None:
        if clock.step + 1 == settings.first(clock):
            restart(update.optimizer)

    return replace(update, rate=rate, after=both(update.after, begin))
