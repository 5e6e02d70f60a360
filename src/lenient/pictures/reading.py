"""One picture file as 8-bit pixels: what is read, how large it may be, and how each mode comes to grey or RGB.

Grey, RGB, palette, CMYK and YCbCr come to the channels wanted as Pillow converts them; of several frames the first
counts. Transparency and an orientation noted by a camera are passed over, as torchvision and timm do, so that a
network sees what it was trained on. Grey of 16 bits is divided by 257, grey in floating point in [0, 1] multiplied by
255.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lenient.core.errors import UsageError
from lenient.core.files import read_bytes
from lenient.models.names import one_line

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow knows more, among them some that start other programs."""
SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
PIXELS, BYTES = 2**26, 2**28
"""The most that a picture may have, and its file: decoded and converted it takes less than a gibibyte."""
LARGE = 2**24
"""Pixels or bytes from which pictures are read one at a time."""
TILE_WIDTH, TILE_LENGTH = 322, 323
"""Tags of a TIFF file: a whole tile is decoded, however small the picture."""

_one_large = threading.RLock()
# ours is the lower limit, and an error
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)


def read_picture(path: Path, input_size: tuple[int, int, int]) -> Tensor:
    """Read a picture file as uint8 (C, H, W): scaled until it just covers height x width and cropped at the centre.

    Raises:
        UsageError: it cannot be read, is too large, or no regular file; the message names it.
    """
    channels, height, width = input_size
    with readable(path), ExitStack() as stack:
        if path.stat().st_size > LARGE:
            stack.enter_context(_one_large)
        with opened(read_bytes(path, BYTES)) as picture:
            if picture.width * picture.height > LARGE:
                stack.enter_context(_one_large)
            return to_tensor(cover(converted(picture, channels), height, width))


@contextmanager
def readable(name: object) -> Iterator[None]:
    """Turn whatever a decoder stumbles over into one line with the name of the picture."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # of a dozen kinds, by format and damage
        raise UsageError(f"{name}: not a readable image ({_why(error)}); remove or replace it") from error


def _why(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"its content is none of {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {PIXELS:,} pixels"
    return (isinstance(error, OSError) and error.strerror) or one_line(error)


@contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """Yield the picture that a file holds, not decoded yet; raises OSError where it would be too large."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
        tags = getattr(picture, "tag_v2", {})
        tile = tags.get(TILE_WIDTH, 1) * tags.get(TILE_LENGTH, 1)
        if max(picture.width * picture.height, tile) > PIXELS:
            raise OSError(f"it has {picture.width} x {picture.height} pixels, more than {PIXELS:,}")
        yield picture


def converted(picture: Image.Image, channels: int) -> Image.Image:
    """Return a picture of any mode as 8-bit grey (1 channel) or RGB (3)."""
    picture.load()
    picture.info.pop("transparency", None)  # it would change the way that Pillow converts
    if picture.mode in ("La", "RGBa"):  # multiplied by the transparency
        picture = picture.convert(picture.mode.upper())
    return eight_bit(picture).convert("RGB" if channels == 3 else "L")


def eight_bit(picture: Image.Image) -> Image.Image:
    """Return a picture of 16 bits or in floating point with 8; Pillow's own conversion makes all above 255 white."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture)
    low, high = values.min(), values.max()
    if picture.mode == "F" and low >= 0 and high <= 1:
        return Image.fromarray((values * 255 + 0.5).astype(np.uint8))
    if picture.mode == "F" or low < 0 or high >= 2**16:
        raise OSError("its pixels are neither of 8 nor of 16 bits, nor in [0, 1]")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def cover(image: Image.Image, height: int, width: int) -> Image.Image:
    """Scale an image until it just covers height x width, then crop the centre."""
    if image.size == (width, height):
        return image
    scale = max(width / image.width, height / image.height)
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if size[0] * size[1] > PIXELS:  # long and thin: the same without the whole in between
        across, down = width / scale, height / scale
        left, top = (image.width - across) / 2, (image.height - down) / 2
        box = (left, top, left + across, top + down)
        return image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    scaled = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return scaled.crop((left, top, left + width, top + height))


def to_tensor(image: Image.Image) -> Tensor:
    """Copy a grey or RGB image into uint8 (C, H, W)."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.permute(2, 0, 1).contiguous() if pixels.ndim == 3 else pixels[None]
