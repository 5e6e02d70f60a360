"""How networks are named on the command line: `SOURCE:NAME`, or a path. Needs no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lenient.core.errors import UsageError
from lenient.core.text import nearest, shown, visible

NETS = {
    "lenet5": "lenient.models.lenet:lenet5",
    "lenet5-half": "lenient.models.lenet:lenet5_half",
    "resnet8-half": "lenient.models.resnet:resnet8_half",
    "resnet8": "lenient.models.resnet:resnet8",
    "resnet14": "lenient.models.resnet:resnet14",
    "resnet20": "lenient.models.resnet:resnet20",
    "resnet18": "lenient.models.resnet:resnet18",
    "resnet34": "lenient.models.resnet:resnet34",
}
"""The own nets but `wrn-D-K`, name -> "module:builder"; a builder takes `(input_size, num_classes)`."""

WIDE = re.compile(r"wrn-(\d{1,4})-(\d{1,3})")
SOURCES = ("lenient", "timm", "torchvision", "hf-hub", "local-dir", "py")
LOW_BIT = re.compile(r"int([2-8])")
"""The source of a network in few bits; its name is that of the network as it is otherwise."""
COPY = "copy"
"""What stands there for the teacher itself."""


@dataclass(frozen=True)
class Spec:
    """A parsed name: `source` is one of `SOURCES`, "path" or "int2" to "int8"; `name` is what follows the colon, or the
    path."""

    source: str
    name: str

    @property
    def bits(self) -> int | None:
        """Bits of its weights and activations; None for a network at full precision."""
        found = LOW_BIT.fullmatch(self.source)
        return None if found is None else int(found[1])

    @property
    def copies(self) -> bool:
        """Whether it is the teacher itself, in few bits."""
        return self.bits is not None and self.name == COPY

    @property
    def whole(self) -> Spec:
        """The network at full precision."""
        return self if self.bits is None or self.copies else parse_spec(self.name)

    def __str__(self) -> str:
        return self.name if self.source == "path" else f"{self.source}:{self.name}"


OWN = "py:"
"""What the name of a user's own code begins with."""


def with_whole_path(name: str) -> str:
    """Return a name; of code in a file, `py:FILE.py:NAME`, with the whole path of the file, so that it means the same
    in every folder."""
    if not name.startswith(OWN):
        return name
    home, colon, own = name.removeprefix(OWN).rpartition(":")
    return f"{OWN}{Path(home).absolute()}{colon}{own}" if home.endswith(".py") else name


def parse_spec(text: str, label: str = "network") -> Spec:
    """Split `text` into source and name; a text without a known source is a path, colons or not, if it is one.

    `label` names the flag in messages. Raises UsageError where the text has a source but is not well formed.
    """
    source, colon, name = text.partition(":")
    if not text.strip():
        raise UsageError(f"{label}: empty; give a file, a folder or a name such as lenient:resnet8")
    if not colon or len(source) == 1 or not re.fullmatch(r"[A-Za-z][\w.+-]*", source):
        return Spec("path", text)
    low_bit = LOW_BIT.fullmatch(source)
    if not low_bit and source not in SOURCES and os.path.exists(text):
        return Spec("path", text)
    if not low_bit and source not in SOURCES:
        close = did_you_mean(source, SOURCES)
        raise UsageError(
            f"{label} {shown(text)}: no source {shown(source)}{close}; the sources are {', '.join(SOURCES)}, and int2: "
            "to int8: before one"
        )
    if not name.strip():
        raise UsageError(f"{label} {shown(text)}: nothing after the colon; for example lenient:resnet8, timm:resnet18")
    if low_bit:
        inner = None if name == COPY else parse_spec(name, label)
        if inner is not None and (inner.source == "path" or inner.bits is not None):
            raise UsageError(
                f"{label} {shown(text)}: give a network after {source}:, such as {source}:lenient:resnet8, or "
                f"{source}:{COPY} for the teacher in {low_bit[1]} bits"
            )
        return Spec(source, name)
    home, _, factory = name.rpartition(":")
    if source == "py" and not (home.strip() and factory.strip()):
        raise UsageError(f"{label} {shown(text)}: give py:package.module:factory or py:path/file.py:factory")
    if source in ("timm", "torchvision", "lenient") and re.search(r"[:/\\\s]", name):
        raise UsageError(f"{label} {shown(text)}: a {source} name has no colon, slash or space")
    return Spec(source, name)


def own_code(arch: str) -> str:
    """Return how one's own code is named for a file whose network is `arch`, as `--teacher-arch` takes it; "" where
    the file names a network that anybody can build."""
    few, whole = re.fullmatch(rf"({LOW_BIT.pattern}:)?(.*)", arch, re.DOTALL).group(1, 3)  # type: ignore[union-attr]
    return f"{few or ''}{OWN}FILE.py:FACTORY" if whole.startswith(OWN) else ""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return ` (did you mean 'X'?)` for the nearest of `names`, or nothing where none is near."""
    near = nearest(name, names, cutoff=0.5)
    return f" (did you mean {near!r}?)" if near else ""


def one_line(error: BaseException, limit: int = 240) -> str:
    """Return an exception as one short line: its kind and the beginning of its message."""
    short = visible(" ".join(str(error).split()), limit)
    return f"{type(error).__name__}: {short}" if short else type(error).__name__
