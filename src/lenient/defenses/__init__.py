"""What protects a student from its teacher: each maps an algorithm, of whatever method, to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from lenient.core.config import Part, resolve_dotted

if TYPE_CHECKING:
    from lenient.methods.contract import Algorithm, Context

DEFENSES: dict[str, str] = {
    "none": "lenient.defenses.none:NoDefense",
    "abd": "lenient.defenses.abd:ABD",
}


class Defense(Protocol):
    """Maps the algorithm of a method to one that is on its guard."""

    settings_type: ClassVar[type[Part]]

    def __init__(self, settings: Any) -> None: ...

    @property
    def needs_gradient(self) -> bool:
        """Whether it differentiates through the teacher, whatever the method does."""
        ...

    def defend(self, algorithm: Algorithm, context: Context) -> Algorithm:
        """Return the algorithm that stands in for a method's; all randomness comes from the context's streams."""
        ...


def defense_of(settings: Part) -> Defense:
    """Return the defence that settings are of, its class imported now."""
    kind: type[Defense] = resolve_dotted(DEFENSES[settings.name])
    return kind(settings)
