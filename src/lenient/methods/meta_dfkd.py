"""META-DFKD: learning to retain while acquiring.

Patel, Mopuri and Qiu, "Learning to Retain while Acquiring: Combating Distribution-Shift in Adversarial Data-Free
Knowledge Distillation", CVPR 2023, arXiv 2302.14290. A virtual step on the new images must keep the old ones learned.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from lenient.methods._replay import ReplayMethodSettings, replay_algorithm
from lenient.methods.contract import Algorithm, Context, MethodSettings
from lenient.methods.generator import ReplaySettings
from lenient.replay.bank import BankSettings
from lenient.student.update import RetainSettings, UpdateSettings


class METADFKDSettings(ReplayMethodSettings):
    """Settings of META-DFKD: min L_acq(theta) + L_ret(theta - alpha grad L_acq(theta)).

    The released code sends no gradient through the virtual step; this is the paper's objective.
    """

    name: Literal["meta-dfkd"] = "meta-dfkd"
    replay: ReplaySettings = BankSettings()
    """Old samples to retain: kept images (variant 1), or `generative` (variant 2)."""
    student_clip_norm: float | None = Field(5.0, gt=0, le=1e6)
    """Largest norm of the student's gradient (ours: few old images in a batch norm of their own make steep steps)."""
    update: UpdateSettings = RetainSettings()
    """How new and old join: acquire and retain through a virtual step."""


class METADFKD:
    """The student acquires the new batch and retains the old one, through a virtual step."""

    settings_type: ClassVar[type[MethodSettings]] = METADFKDSettings
    needs_batch_norm = False

    def __init__(self, settings: METADFKDSettings) -> None:
        self.settings = settings

    def build(self, context: Context) -> Algorithm:
        """Put terms, replay and update together."""
        return replay_algorithm(context, self.settings)
