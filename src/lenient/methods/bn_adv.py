"""Batch-norm statistics with an adversary: what is taken for a teacher with batch norm where no method is named.

Our own combination: TA-DFKD's generator (arXiv 2402.12406) without its selection, with DAFL's information entropy
(arXiv 1904.01186).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from lenient.methods._adversary import WithAdversary, WithAdversarySettings
from lenient.methods.contract import MethodSettings


class BNAdvSettings(WithAdversarySettings):
    """Settings of batch-norm statistics with an adversary; the teacher need not be sure of any image."""

    name: Literal["bn-adv"] = "bn-adv"


class BNAdv(WithAdversary):
    """The generator hears what the training images looked like, and whether the student thinks as the teacher does."""

    settings_type: ClassVar[type[MethodSettings]] = BNAdvSettings
