"""MB-DFKD: a memory bank of earlier synthetic images.

Binici, Pham, Mitra and Leman, "Preventing Catastrophic Forgetting and Distribution Mismatch in Knowledge Distillation
via Synthetic Data", WACV 2022, arXiv 2108.05698. No official code; figures of the re-implementation in META-DFKD's.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from lenient.methods._replay import ReplayMethodSettings, replay_algorithm
from lenient.methods.contract import Algorithm, Context, MethodSettings
from lenient.methods.generator import ReplaySettings
from lenient.replay.bank import BankSettings


class MBDFKDSettings(ReplayMethodSettings):
    """Settings of MB-DFKD."""

    name: Literal["mb-dfkd"] = "mb-dfkd"
    replay: ReplaySettings = BankSettings()
    """Old samples against forgetting: kept images."""


class MBDFKD:
    """The student learns each batch together with an eighth of images kept from earlier epochs."""

    settings_type: ClassVar[type[MethodSettings]] = MBDFKDSettings
    not_known: ClassVar[str] = (
        "weights, the student's loss, rates and schedule are not known: its authors released no code, and we have not "
        "read the paper's section on it; -c published follows a re-implementation"
    )
    """What is missing for a recipe `paper`."""
    needs_batch_norm = False

    def __init__(self, settings: MBDFKDSettings) -> None:
        self.settings = settings

    def build(self, context: Context) -> Algorithm:
        """Put terms, replay and update together."""
        return replay_algorithm(context, self.settings)
