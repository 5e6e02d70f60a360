"""DAFL with an adversary, for teachers whose batch norms do not say what their images look like.

Our own combination: DAFL's class prior and information entropy (arXiv 1904.01186) ask for images of which the teacher
is sure, of every class; an adversary (as TA-DFKD's, arXiv 2402.12406) for images on which the student is still wrong.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from lenient.methods._adversary import WithAdversary, WithAdversarySettings
from lenient.methods.contract import MethodSettings


class DAFLAdvSettings(WithAdversarySettings):
    """Settings of DAFL with an adversary.

    Losses read logits, so that those of a teacher that spread too far are divided: `teacher.temperature` is `auto`.
    """

    general: ClassVar[dict[str, Any]] = {**WithAdversarySettings.general, "teacher": {"temperature": "auto"}}

    name: Literal["dafl-adv"] = "dafl-adv"
    bn_weight: float = Field(0.0, ge=0, le=1e6)
    """Weight of the batch-norm statistics, for teachers that have some."""
    class_prior_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the class prior: the teacher is to be sure."""


class DAFLAdv(WithAdversary):
    """The generator hears what the teacher thinks of an image, and whether the student thinks the same."""

    settings_type: ClassVar[type[MethodSettings]] = DAFLAdvSettings
