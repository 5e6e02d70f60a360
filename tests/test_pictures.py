"""Single picture files: modes, sizes, damage."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from commands import python
from lenient.core.errors import UsageError
from lenient.pictures import reading
from lenient.pictures.reading import cover, read_picture

SIDE = 2**15  # its square is 2**30


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def flat(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (6, 6), colour)  # type: ignore[arg-type]


def palette() -> Image.Image:
    image = flat("P", 1)
    image.putpalette([9, 9, 9, 200, 100, 50])
    return image


def frames() -> bytes:
    other = Image.new("RGB", (6, 6), (1, 2, 3))
    return saved(flat("RGB", (200, 100, 50)), "WEBP", save_all=True, append_images=[other], lossless=True)


def deep(value: int, kind: str) -> Image.Image:
    return Image.fromarray(np.full((6, 6), value, kind))


ORANGE, ITS_GREY = [200, 100, 50], [124]
MODES: dict[str, tuple[bytes, list[int], list[int]]] = {
    "RGB": (saved(flat("RGB", (200, 100, 50))), ORANGE, ITS_GREY),
    "RGBA": (saved(flat("RGBA", (200, 100, 50, 3))), ORANGE, ITS_GREY),
    "RGB, one colour transparent": (saved(flat("RGB", (200, 100, 50)), transparency=(200, 100, 50)), ORANGE, ITS_GREY),
    "palette": (saved(palette()), ORANGE, ITS_GREY),
    "palette, transparent": (saved(palette(), transparency=1), ORANGE, ITS_GREY),
    "palette, half transparent": (saved(palette(), transparency=bytes([255, 128])), ORANGE, ITS_GREY),
    "CMYK": (saved(flat("CMYK", (55, 155, 205, 0)), "TIFF"), ORANGE, ITS_GREY),
    "YCbCr": (saved(flat("YCbCr", (124, 86, 182)), "TIFF"), ORANGE, ITS_GREY),
    "GIF": (saved(palette(), "GIF"), ORANGE, ITS_GREY),
    "frames": (frames(), ORANGE, ITS_GREY),
    "1": (saved(flat("1", 1)), [255] * 3, [255]),
    "L": (saved(flat("L", 77)), [77] * 3, [77]),
    "LA": (saved(flat("LA", (77, 5))), [77] * 3, [77]),
    "I;16": (saved(deep(257 * 77, "uint16")), [77] * 3, [77]),
    "I;16B": (saved(deep(257 * 77, ">u2"), "TIFF"), [77] * 3, [77]),
    "I": (saved(deep(257 * 77, "int32"), "TIFF"), [77] * 3, [77]),
    "F": (saved(deep(77, "float32").point(lambda value: value * (1 / 255) + 0), "TIFF"), [77] * 3, [77]),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_comes_to_rgb_and_to_grey(mode: str, tmp_path: Path) -> None:
    content, colour, grey = MODES[mode]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for channels, expected in ((3, colour), (1, grey)):
        found = read_picture(path, (channels, 4, 4))
        assert found.dtype == torch.uint8
        assert found.shape == (channels, 4, 4)
        assert (found[:, 1, 2].int() - torch.tensor(expected)).abs().max() <= 1, mode
        assert torch.equal(found, found[:, :1, :1].expand_as(found))


def test_the_orientation_that_a_camera_notes_is_passed_over(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6))
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "turned.png", exif=turned)
    assert torch.equal(*(read_picture(tmp_path / f"{name}.png", (1, 6, 6)) for name in ("plain", "turned")))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_head(*chunks: bytes, side: int = SIDE) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def tiff(width: int, height: int, **tags: int) -> bytes:
    numbers = {
        "width": 256,
        "height": 257,
        "bits": 258,
        "packed": 259,
        "kind": 262,
        "strip": 273,
        "rows": 278,
        "size": 279,
    }
    numbers |= {"tile_width": 322, "tile_height": 323, "tile": 324, "tile_size": 325}
    values = {"width": width, "height": height, "bits": 8, "packed": 8, "kind": 1} | tags
    entries = sorted((numbers[name], value) for name, value in values.items())
    body = b"".join(struct.pack("<HHII", number, 4, 1, value) for number, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", 0) + zlib.compress(bytes(2**20))


def long_text() -> bytes:
    bomb = zlib.compress(bytes(2**26))
    return png_head(chunk(b"zTXt", b"Comment\0\0" + bomb), side=8)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "png": png_head,
    "bmp": lambda: (
        b"BM" + struct.pack("<IHHI", 99, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 24, *[0] * 6)
    ),
    "ppm": lambda: f"P6 {SIDE} {SIDE} 255\n".encode() + bytes(99),
    "pgm": lambda: f"P2 {SIDE} {SIDE} 255\n".encode() + b"1 " * 99,
    "gif": lambda: (
        b"GIF89a"
        + struct.pack("<HHBBB", SIDE, SIDE, 0, 0, 0)
        + b","
        + struct.pack("<HHHHBB", 0, 0, SIDE, SIDE, 0, 8)
        + b"\0;"
    ),
    "tif": lambda: tiff(SIDE, SIDE, strip=200, rows=SIDE, size=1000),
    "tile.tif": lambda: tiff(32, 32, tile_width=SIDE, tile_height=SIDE, tile=200, tile_size=1000),
    "text.png": long_text,
    "cut.png": lambda: saved(flat("RGB", 0).resize((99, 99)))[:-30],
    "cut.jpg": lambda: saved(flat("RGB", 0).resize((99, 99)), "JPEG")[:-30],
    "empty.png": lambda: b"",
    "program.png": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "words.jpg": lambda: b"no picture",
    "range.tif": lambda: saved(deep(300, "float32"), "TIFF"),
    "below.tif": lambda: saved(deep(-1, "int32"), "TIFF"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_read_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(HOSTILE[name]())
    with pytest.raises(UsageError, match=f"{name}: not a readable image") as caught:
        read_picture(path, (3, 8, 8))
    assert len(str(caught.value).removeprefix(str(tmp_path))) < 300
    assert "\n" not in str(caught.value)
    assert " at 0x" not in str(caught.value)


def test_no_pipe_no_device_and_no_folder_is_a_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "zero", "none"):
        with pytest.raises(UsageError, match=rf"{name}\.png: not a readable image"):
            read_picture(tmp_path / f"{name}.png", (3, 8, 8))


def test_the_largest_file_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BYTES", 50)
    (tmp_path / "a.png").write_bytes(saved(flat("RGB", 0)))
    with pytest.raises(UsageError, match="holds more than"):
        read_picture(tmp_path / "a.png", (3, 8, 8))


def test_a_long_thin_picture_is_cut_before_it_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 400), dtype=np.uint8)
    for image in (Image.fromarray(values), Image.fromarray(values.T)):
        whole = np.asarray(cover(image, 30, 36), dtype=int)
        monkeypatch.setattr(reading, "PIXELS", 2000)
        cut = np.asarray(cover(image, 30, 36), dtype=int)
        monkeypatch.undo()
        assert cut.shape == whole.shape
        assert np.abs(cut - whole).mean() < 12  # they may lie half a pixel apart
    line = cover(Image.new("L", (2**25, 1), 9), 64, 64)
    assert np.asarray(line).tolist() == [[9] * 64] * 64


@pytest.mark.slow
def test_no_hostile_picture_takes_a_gibibyte(tmp_path: Path) -> None:
    """Of pictures that are as large as they may be, progressive and in four channels too, and of all above."""
    side = int(reading.PIXELS**0.5)
    most = Image.new("CMYK", (side, side))
    most.save(tmp_path / "most.jpg", progressive=True)
    most.convert("RGBA").save(tmp_path / "most.png")
    most.convert("P").save(tmp_path / "palette.png", transparency=bytes(256))
    for name, content in HOSTILE.items():
        (tmp_path / name).write_bytes(content())
    code = (
        "import resource, sys; from pathlib import Path; from lenient.pictures.reading import *\n"
        "from lenient.core.errors import UsageError\n"
        "def most(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = most()\n"
        "try: read_picture(Path(sys.argv[1]), (3, 224, 224))\n"
        "except UsageError: pass\n"
        "print(most() - before)"
    )
    program = tmp_path / "measure.py"
    program.write_text(code)
    names = [*HOSTILE, "most.jpg", "most.png", "palette.png"]
    taken = {name: int(python(program, tmp_path / name, cwd=tmp_path).stdout) / 2**30 for name in names}
    print({name: round(value, 3) for name, value in taken.items()})
    assert max(taken.values()) < 1


def test_text_of_usual_length_is_no_bomb(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "a" * 10_000, zip=True)
    flat("RGB", (200, 100, 50)).save(tmp_path / "a.png", pnginfo=info)
    assert read_picture(tmp_path / "a.png", (3, 6, 6))[:, 0, 0].tolist() == ORANGE
