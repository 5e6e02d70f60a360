"""No defence: the teacher is trusted."""

from __future__ import annotations

from typing import ClassVar

from lenient.core.config import Nothing, Part
from lenient.methods.contract import Algorithm, Context


class NoDefense:
    """The neutral defence."""

    settings_type: ClassVar[type[Part]] = Nothing
    needs_gradient = False

    def __init__(self, settings: Nothing) -> None:
        self.settings = settings

    def defend(self, algorithm: Algorithm, context: Context) -> Algorithm:
        """Return the algorithm itself."""
        return algorithm
