"""What a format has to know before the first image, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lenient.runs.parts import About, Part


@dataclass(frozen=True)
class Shape:
    """What all images of a data set have in common."""

    input_size: tuple[int, int, int]
    """Channels, height and width in pixels."""
    classes: tuple[str, ...]
    crops: int = 0
    """Of each image."""

    @property
    def label_bytes(self) -> int:
        """Bytes of an image's labels: its own, and its crops'."""
        return 8 + 4 * len(self.classes) + self.crops * (17 + 2 * len(self.classes))

    @property
    def pixel_bytes(self) -> int:
        """Bytes of an image's pixels."""
        channels, height, width = self.input_size
        return channels * height * width


Write = Callable[[Path, Iterator[Part], Shape, Callable[[], About]], None]
"""Takes an empty folder, all parts, what they have in common, and what is said of them once all have been taken."""
