"""Numbers as people like to read them, `77.6 k`, `1.2 ms`, `97.8 %`, and as JSON can hold them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

THIN = "\u202f"  # narrow no-break space: between digits in groups of three, and before a unit
UNKNOWN = "unknown"


def number(value: Any) -> float:
    """The value as a float; NaN for whatever is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return math.nan
    return float(value)


def known(value: Any) -> bool:
    """Whether the value is a finite number."""
    return not math.isnan(number(value))


def finite(value: float) -> float | None:
    """The value; None for NaN and infinities, which JSON does not know."""
    return value if math.isfinite(value) else None


def significant(value: float) -> float:
    """The value to six significant digits: as many as matter, and a small file."""
    return float(f"{value:.6g}")


def plain(value: Any, fraction: Callable[[float], float | None] = finite) -> Any:
    """The value with mappings and lists as JSON has them, and `fraction` of each floating-point number."""
    if isinstance(value, Mapping):
        return {str(key): plain(item, fraction) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, fraction) for item in value]
    return fraction(value) if isinstance(value, float) else value


def figures(value: Any, digits: int = 3) -> str:
    """A number to some significant digits, without trailing zeros: `0.0123`, `1.5`, `1 200`."""
    if not known(value):
        return UNKNOWN
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size > 14:
        return f"{value:.{digits - 1}e}"
    text = f"{value:,.{max(0, digits - 1 - size)}f}".replace(",", THIN)
    return text.rstrip("0").rstrip(".") if "." in text else text


def scaled(value: Any, *, base: int = 1000, unit: str = "") -> str:
    """A count with a prefix: `77.6 k`, `11.2 M`; below the base as it is."""
    if not known(value):
        return UNKNOWN
    prefixes = ("", "k", "M", "G", "T")
    size, step = float(value), 0
    while abs(size) >= base * 0.9995 and step < len(prefixes) - 1:
        size, step = size / base, step + 1
    return f"{figures(size)}{THIN}{prefixes[step]}{unit}".rstrip(THIN)


def exact(value: Any) -> str:
    """A count in full, digits in groups of three: `12 800`; from ten million on with a prefix."""
    if not known(value):
        return UNKNOWN
    return scaled(value) if abs(value) >= 1e7 else f"{round(value):,}".replace(",", THIN)


def percent(value: Any) -> str:
    """A fraction as a percentage with one decimal: `97.8 %`."""
    if not known(value):
        return UNKNOWN
    text = f"{100 * value:.1f}"
    return f"{'100' if value == 1 else '0' if value == 0 else text}{THIN}%"


def milliseconds(value: Any) -> str:
    """A duration given in milliseconds: `1.2 ms`, `1.53 s`."""
    if not known(value):
        return UNKNOWN
    return f"{figures(value / 1000)}{THIN}s" if value >= 1000 else f"{figures(value, 2 if value < 100 else 3)}{THIN}ms"


def duration(seconds: Any, space: str = THIN) -> str:
    """A duration given in seconds, in its two largest units: `42 s`, `1 min 42 s`, `2 h 5 min`; `space` before each."""
    if not known(seconds):
        return UNKNOWN
    if seconds < 60:
        return f"{figures(seconds, 2)}{space}s"
    whole = round(seconds)
    for name, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length}{space}{name}" + (f" {rest}{space}{smaller}" if rest else "")
    raise AssertionError("60 seconds and more are at least a minute")


def ratio(large: Any, small: Any, words: tuple[str, str]) -> str:
    """How many times `small` goes into `large`, in words: `3.5× smaller`; empty when either is unknown or zero.

    `words` are those for when it went the hoped-for way, and for when it did not: `("smaller", "larger")`.
    """
    if not (known(large) and known(small)) or large <= 0 or small <= 0:
        return ""
    factor = large / small
    word = words[0] if factor >= 1 else words[1]
    return f"{figures(max(factor, 1 / factor), 2 if 0.01 < factor < 100 else 3)}× {word}"
