"""Samples as files: the space is counted first, and nothing that is there is replaced."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lenient.core.errors import UsageError
from lenient.runs.formats import Shape, check_space
from lenient.runs.formats.pictures import write_pictures


@pytest.mark.parametrize(
    ("size", "needed"), [((1, 8, 8), 4096), ((3, 8, 8), 4096), ((5, 8, 8), 5 * 4096), ((3, 64, 64), 3 * 4096)]
)
def test_the_space_is_counted_before_the_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int, int], needed: int
) -> None:
    free = 7 * (needed + 10 * 4)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
    shape = Shape(size, ("0", "1", "2", "3"))
    check_space("png", 7, shape, tmp_path / "a" / "b")
    with pytest.raises(UsageError, match=r"^-n 8: up to .* GiB left$"):
        check_space("png", 8, shape, tmp_path / "a" / "b")


@pytest.mark.parametrize(("channels", "names"), [(1, ["0.png"]), (3, ["0.png"]), (2, ["0-0.png", "0-1.png"])])
def test_no_picture_takes_the_place_of_another_file(tmp_path: Path, channels: int, names: list[str]) -> None:
    image = np.zeros((channels, 2, 2), np.uint8)
    write_pictures(image, tmp_path / "0.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    with pytest.raises(FileExistsError):
        write_pictures(image, tmp_path / "0.png")
