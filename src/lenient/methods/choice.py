"""Which methods fit a teacher, why others do not, and which one `auto` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from lenient.core.runtime import Runtime
from lenient.methods import DEFAULT, METHODS, method_class
from lenient.methods.anatomy import LAST_LAYER, needs_by_default
from lenient.models.card import Network
from lenient.models.checking import readable_batch_norms, unusable, without_gradient
from lenient.models.loading import Described
from lenient.teacher.frozen import FrozenTeacher

if TYPE_CHECKING:
    from lenient.methods.contract import Method

WITHOUT_STATISTICS = "dafl-adv"
"""Goes by answers and their gradients."""
STURDY = "stable"
"""Asks the teacher for nothing but its answers."""


CHOICES = (DEFAULT, WITHOUT_STATISTICS, STURDY)
"""What `choose` may return."""


class Choice(NamedTuple):
    """A method, and why it was taken."""

    name: str
    reason: str
    fallback: str | None = None
    """The method to go on with where the forecast says that this one fails; None where there is no forecast."""


def choose(teacher: Network) -> Choice:
    """Return the method for a checked teacher: one that needs its answers alone, where it lets no gradient through;
    else one guided by its batch norms, or, where it has none, by what it thinks of the images. The
    first one is also the fallback, where there is a forecast, which asks for batch norms."""
    if without_gradient(teacher.behaviour):
        return Choice(STURDY, "the teacher gives its images no gradient")
    if not readable_batch_norms(teacher):
        return Choice(WITHOUT_STATISTICS, "the teacher has no batch norm that stores statistics of its images")
    return Choice(DEFAULT, "the teacher's batch norms store statistics of its images", STURDY)


def obstacles(teacher: Network) -> dict[str, str]:
    """Return every method by name, baselines left out, with what keeps a checked teacher from it as its settings are;
    an empty text where nothing does."""
    kinds = {name: method_class(name) for name in METHODS}
    methods = {name: kind(kind.settings_type(name=name)) for name, kind in kinds.items()}
    headless = _headless(teacher)
    return {
        name: _obstacle(method, teacher) or ("no linear layer at its end" if headless and _reads_the_end(name) else "")
        for name, method in methods.items()
        if not getattr(method, "baseline", False)
    }


def _reads_the_end(name: str) -> bool:
    return bool(LAST_LAYER & {*needs_by_default(name)})


def _headless(teacher: Network) -> bool:
    """Whether no linear layer puts the logits of a teacher out, where it can be asked."""
    if isinstance(teacher.module, Described) or unusable(teacher.behaviour):  # known by its files alone, or of no use
        return False
    with FrozenTeacher(teacher, Runtime(torch.device("cpu"))) as frozen:
        return frozen.head is None


def _obstacle(method: Method, teacher: Network) -> str:
    if unusable(teacher.behaviour):
        return "no answers to learn from"
    if getattr(method, "needs_pictures", False):
        return "pictures by --proxy-images"
    if method.needs_batch_norm and not readable_batch_norms(teacher):
        return "no batch norm"
    if getattr(method, "needs_gradient", True) and without_gradient(teacher.behaviour):
        return "no gradient to the images"
    return ""
