"""Text of others, made fit to print: on one line, of a stated length, and without power over a terminal or a table."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal

LINE = 300
"""Characters of the longest line that an error is printed as."""
VALUE = 60
"""Characters that a message shows of a value, unless a caller says otherwise."""
NOTE = 600
"""Characters of the longest note that a command prints."""
WIDE = 4096
"""Characters of the longest line that is printed: one may hold a path."""
NOT_DATA_FREE = "not data-free in the strict sense"
"""What is said of a student that learned from other images than those that the teacher gave rise to."""
NOT_OF_REAL_IMAGES = "so they do not describe real ones; lenient evaluate --statistics adapted measures it with some"
"""What is said of statistics that were estimated anew on images of a method's source."""


def estimated_anew(images: int) -> str:
    """Say what a student's batch norms have stored that learned with statistics of the batch."""
    return f"batch-norm statistics estimated anew on {images:,} images of the method's source, {NOT_OF_REAL_IMAGES}"


def fallen_back(fell_back: Mapping[str, Any]) -> str:
    """Say when and why a run left the method it began with: `before`, at `step`."""
    return f"since step {fell_back['step']}, when {fell_back['before']} was likely to fail; the student began anew"


def expected(prediction: Mapping[str, Any] | None) -> str:
    """Say what is expected of a student on real images, and by what right; an empty text where nothing is."""
    if not prediction:
        return ""
    low, high, level = (f"{prediction[key]:.0%}" for key in ("low", "high", "level"))
    held = f"{prediction['runs']} runs of {prediction['teachers']} teachers on {', '.join(prediction['data'])}"
    return (
        f"agreement with the teacher on {low} to {high} of real images, judged by images that the teacher alone draws "
        f"(such intervals were right for {level} of {held}; other teachers and data may differ)"
    )


_FORMULA = tuple("=+-@＝＋－＠")  # what spreadsheets compute
_MARKDOWN = {"<": "&lt;", **{sign: f"\\{sign}" for sign in "\\|*_[`"}}
_SPACES = "\xa0\u202f"  # no-break spaces, which are as visible as any


def visible(text: object, limit: int = LINE) -> str:
    r"""Return `text` on one line of at most `limit` characters, with what cannot be seen written out (`\x1b`, `\n`).

    Control characters, marks of direction, surrogates and unassigned code points cannot be seen. What is too long
    loses its middle, so that a message keeps the flag that it begins with and the advice that it ends with.
    """
    whole = str(text)
    if len(whole) <= limit and len(seen := _written_out(whole)) <= limit:
        return seen
    end = (limit - 3) // 3
    start = limit - 3 - end
    return f"{_written_out(whole[:start])[:start]}...{_written_out(whole[-end:])[-end:]}"


def _written_out(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _SPACES else c.encode("unicode_escape").decode() for c in text)


def shown(value: Any, limit: int = VALUE) -> str:
    """Return a value of settings as a message quotes it: as Python writes it, on one line, cut to `limit`."""
    return visible(_Short(4 * limit).repr(value), limit)


class _Short(reprlib.Repr):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxstring, self.maxother = 3, 8, 8, limit, limit

    def repr_int(self, x: int, level: int) -> str:  # Python refuses to write thousands of digits
        return repr(x) if x.bit_length() < 1000 else f"{'-' * (x < 0)}2**{x.bit_length() - 1}..."


def nearest(name: str, names: Iterable[str], cutoff: float = 0.0) -> str:
    """Return which of `names` a mistyped one is most like, "" where none comes up to `cutoff` (1: the same text)."""
    return next(iter(get_close_matches(name.lower(), list(names), n=1, cutoff=cutoff)), "")


def cell(text: object, table: Literal["csv", "markdown"], limit: int = LINE) -> str:
    """Return `text` as a cell of a table that shows it as it is: no formula, no markup, no further column.

    Quotes and commas of CSV are for its writer. A text that a spreadsheet would compute gets an apostrophe in front.
    """
    seen = visible(text, limit)
    if table == "csv":
        return f"'{seen}" if seen.lstrip().startswith(_FORMULA) and not _is_number(seen) else seen
    return "".join(_MARKDOWN.get(sign, sign) for sign in seen)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == "-"  # nothing, in our tables
    return True
