"""Leaves out of a run what takes longer than few steps, where BARE is in the environment: figures, most of the images
that the report chooses from, and the traced file, which BARE=figures leaves in.

The names are replaced where this is imported: by the server of `commands`, and by the fixture `bare`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from markupsafe import Markup
from matplotlib.figure import Figure

from lenient.models.card import Network
from lenient.reporting import compare, page, svg
from lenient.reporting.templates import template
from lenient.runs import export, job
from lenient.runs.job import Job
from lenient.training.trainer import Distillation

EMPTY = '<svg viewBox="0 0 450 200"></svg>'


def asked(what: str = "figures") -> bool:
    return os.environ.get("BARE") in ("1", what)


def replace(module: Any, name: str, make: Callable[..., Callable[..., Any]]) -> None:
    own = getattr(module, name)
    setattr(module, name, wraps(own)(make(own)))


def drawing(own: Callable[[Figure], str]) -> Callable[[Figure], str]:
    return lambda figure: EMPTY if asked() else own(figure)


def figure(own: Callable[..., Markup]) -> Callable[..., Markup]:
    return lambda *given, **named: Markup(EMPTY) if asked() else own(*given, **named)


def program(own: Callable[[Network, Path], None]) -> Callable[[Network, Path], None]:
    def write(network: Network, path: Path) -> None:
        """Of a run, nothing; elsewhere somebody has asked for this very file."""
        if not asked("program") or (path.parent.name, path.name) != ("student", "student.pt2"):
            own(network, path)

    return write


def fewer(own: Callable[[Job, Distillation], Any]) -> Callable[[Job, Distillation], Any]:
    def samples(of: Job, run: Distillation) -> Any:
        with patch.object(job, "SAMPLES", 64 if asked() else job.SAMPLES):
            return own(of, run)

    return samples


replace(job.Job, "_samples", fewer)
replace(svg, "draw", drawing)
replace(export, "export_pt2", program)
for each in ("curves", "mixture", "class_bars"):
    replace(page, each, figure)
replace(compare, "curves", figure)
template("template.html.j2", Path(page.__file__).parent)  # once for all that the server forks
