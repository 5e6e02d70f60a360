"""PRE-DFKD: generative pseudo replay.

Binici, Aggarwal, Pham, Leman and Mitra, "Robust and Resource-Efficient Data-Free Knowledge Distillation by Generative
Pseudo Replay", AAAI 2022, arXiv 2201.03019. A small variational autoencoder learns the stream and recalls it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from lenient.methods._replay import ReplayMethodSettings, replay_algorithm
from lenient.methods.contract import Algorithm, Context, MethodSettings
from lenient.methods.generator import ReplaySettings
from lenient.replay.generative import MemorySettings


class PREDFKDSettings(ReplayMethodSettings):
    """Settings of PRE-DFKD."""

    name: Literal["pre-dfkd"] = "pre-dfkd"
    replay: ReplaySettings = MemorySettings()
    """Old samples against forgetting: a memory generator."""


class PREDFKD:
    """The student learns each batch together with an eighth of images that the memory generator recalls."""

    settings_type: ClassVar[type[MethodSettings]] = PREDFKDSettings
    needs_batch_norm = False

    def __init__(self, settings: PREDFKDSettings) -> None:
        self.settings = settings

    def build(self, context: Context) -> Algorithm:
        """Put terms, replay and update together."""
        return replay_algorithm(context, self.settings)
