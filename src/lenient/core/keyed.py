"""Values that are read by attribute and, as the JSON that holds them, by key."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lenient.core.numbers import plain


class Keyed:
    """Base of dataclasses that scripts may also read as what `to_dict` returns: `found.notes`, `found["notes"]`."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values: dict[str, Any] = plain(asdict(self))  # type: ignore[call-overload]
        return values

    def __getitem__(self, key: str) -> Any:
        """Return a value of `to_dict`; raises KeyError where it has none of that name."""
        return self.to_dict()[key]
