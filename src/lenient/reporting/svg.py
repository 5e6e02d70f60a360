"""From a matplotlib figure to an SVG that sits well in a page: its colours follow the page, its ids do not clash."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Stand-ins that are drawn with and then replaced by the page's variables, so that one figure fits light and dark.
COLOURS = {
    "ink": "#0a0b01",
    "muted": "#0a0b02",
    "rule": "#0a0b03",
    "one": "#0a0b04",
    "two": "#0a0b05",
    "three": "#0a0b06",
    "four": "#0a0b07",
    "alarm": "#0a0b08",
    "five": "#0a0b09",
    "six": "#0a0b0a",
}
TITLE, SMALL = 9.0, 6.5  # points: the words above and below a figure that is a file
WIDTH = 3.6  # inches; all figures are as wide, so that their text has one size in the page

_STYLE = {
    "svg.hashsalt": "lenient",
    "svg.fonttype": "none",
    "text.parse_math": False,  # class names may hold a dollar sign
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": COLOURS["rule"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.solid_joinstyle": "round",
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["rule"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.color": COLOURS["rule"],
    "ytick.labelcolor": COLOURS["muted"],
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0.2,
    "legend.columnspacing": 1.2,
}


@contextmanager
def canvas(height: float, width: float = WIDTH) -> Iterator[Figure]:
    """A figure in the report's style, sizes in inches, whatever the user's own matplotlib settings are."""
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def to_svg(figure: Figure, *, name: str, description: str) -> Markup:
    """The figure as inline SVG; `name` is unique in the page, `description` says in words what can be seen.

    Call it inside `canvas`: the same figure then gives the same bytes.
    """
    return inline(draw(figure), name=name, description=description)


def draw(figure: Figure) -> str:
    """The figure as matplotlib writes it, in stand-in colours; for `inline` and `standalone`. Call inside `canvas`."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)


def inline(text: str, *, name: str, description: str) -> Markup:
    """A drawing for a page whose style sheet defines the colours as variables."""
    text = _own_ids(_coloured(text, {role: f"var(--{role})" for role in COLOURS}), name)
    label = escape(description)
    opening = f'<svg {_view_box(text)} role="img" aria-label="{label}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return Markup(re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1).strip())


def standalone(text: str, palette: Mapping[str, str], *, description: str, title: str = "", footer: str = "") -> str:
    """A drawing as a file of its own, on white, its title above and a footer below it.

    `palette`: role -> colour, a role of COLOURS each; `description` says in words what can be seen.
    """
    left, top, width, height = map(float, re.findall(r"[\d.]+", _view_box(text)))
    lines, start, end = [], top, top + height
    for words in reversed(textwrap.wrap(title, int(width / (0.55 * TITLE)))):
        lines.append((start - 0.4 * TITLE, TITLE, "ink", words))
        start -= 1.3 * TITLE
    for words in textwrap.wrap(footer, int(width / (0.5 * SMALL))):
        lines.append((end + SMALL, SMALL, "muted", words))
        end += 1.3 * SMALL
    start, whole = start - 0.3 * TITLE, end - start + 0.3 * TITLE + 0.3 * SMALL
    ground = f'<rect x="{left:g}" y="{start:g}" width="{width:g}" height="{whole:g}" fill="white"/>' + "".join(
        f'<text x="{left + SMALL:g}" y="{y:g}" font-family="sans-serif" font-size="{size:g}" fill="{palette[role]}">'
        f"{escape(words)}</text>"
        for y, size, role, words in lines
    )
    opening = (
        f'<svg viewBox="{left:g} {start:g} {width:g} {whole:g}" width="{width:g}pt" height="{whole:g}pt" role="img" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" version="1.1">'
        f"<title>{escape(description)}</title>{ground}"
    )
    body = re.sub(r"<svg[^>]*>", lambda _: opening, _coloured(text, palette), count=1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body.strip()}\n'


def _coloured(text: str, palette: Mapping[str, str]) -> str:
    for role, stand_in in COLOURS.items():
        text = text.replace(stand_in, palette[role])
    return text


def _view_box(text: str) -> str:
    size = re.search(r'viewBox="[^"]*"', text)
    if size is None:
        raise AssertionError("matplotlib writes a viewBox")
    return size.group()


def _own_ids(text: str, name: str) -> str:
    """Keep only the ids that something refers to, and make them the figure's own."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))

    def rename(match: re.Match[str]) -> str:
        return f' id="{name}-{match.group(1)}"' if match.group(1) in used else ""

    text = re.sub(r' id="([^"]*)"', rename, text)
    return re.sub(r'(url\(#|href="#)', lambda match: f"{match.group(1)}{name}-", text)
