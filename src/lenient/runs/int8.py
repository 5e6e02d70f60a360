"""Integers after training: a network's ONNX file in 8 bits, by onnxruntime's static quantisation, without real data.

Ranges of activations are those of synthetic images, which a run has kept. A student that was trained in few bits has
its own (`runs/low_bit.py`).
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lenient.core import files
from lenient.core.errors import UsageError
from lenient.evaluation import accuracy
from lenient.evaluation.running import check_fits, named_by
from lenient.models.card import Network, Size
from lenient.models.names import one_line
from lenient.pictures.folders import images_below
from lenient.pictures.reading import read_picture

SAMPLES = Path("samples") / "images.safetensors"
"""Where a run keeps images of its source."""
MOST = 1024
"""Images that are looked at; ranges hardly move after some hundreds."""
BATCH = 32


class Calibration(NamedTuple):
    """Images that ranges are taken from."""

    images: Tensor
    """(N, C, H, W), uint8, N up to `MOST`."""
    of: int
    """How many there were to take from."""

    def told(self) -> str:
        """Say how many of how many they are."""
        count = len(self.images)
        return f"ranges of {count:,} images" if count == self.of else f"ranges of {count:,} of {self.of:,} images"


def calibration_images(source: Path, given: Path | None, size: Size) -> Calibration:
    """Return images to take ranges from: of a file, of a folder, or those that a run has kept; where there are more
    than `MOST`, some from everywhere in their order.

    Raises:
        UsageError: there are none, or they have another size.
    """
    place = given or source / SAMPLES
    if place.is_dir() and not (place / "images.safetensors").is_file():
        return _pictures(place, size)
    file = place / "images.safetensors" if place.is_dir() else place
    if not file.is_file():
        raise UsageError(
            f"--int8: {source} keeps no images (samples/images.safetensors); give --calibrate DIR with pictures, or a "
            "file that `lenient` wrote of a run's images"
            if given is None
            else f"--calibrate {given}: no such file or folder"
        )
    try:
        with safe_open(str(file), framework="pt") as held:
            images: Tensor = held.get_tensor("images")
    except (SafetensorError, OSError) as error:
        raise UsageError(f"--calibrate {file}: holds no images of ours ({one_line(error, 100)})") from error
    if images.dtype != torch.uint8 or images.shape[1:] != size or not len(images):
        shape = "x".join(map(str, images.shape[1:]))
        raise UsageError(f"--calibrate {file}: {len(images)} images of {shape}, and the network takes "
                         f"{'x'.join(map(str, size))} (channels x height x width)")  # fmt: skip
    return Calibration(images[spread(len(images))], len(images))


def _pictures(folder: Path, size: Size) -> Calibration:
    paths = sorted(images_below(folder, Counter()))
    if not paths:
        raise UsageError(f"--calibrate {folder}: holds no pictures and no images.safetensors")
    return Calibration(torch.stack([read_picture(paths[place], size) for place in spread(len(paths))]), len(paths))


def spread(count: int) -> list[int]:
    """Return up to `MOST` places in a list of `count`, in order and always the same: one of each of equal stretches.

    Which one of a stretch is drawn, for at equal distances a list whose classes take turns could give one class alone.
    """
    if count <= MOST:
        return list(range(count))
    drawn = torch.rand(MOST, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tolist()
    bounds = [stretch * count // MOST for stretch in range(MOST + 1)]
    return [low + int(part * (high - low)) for (low, high), part in zip(pairwise(bounds), drawn, strict=True)]


def write_int8(program: Path, images: Tensor, path: Path) -> None:
    """Write an ONNX file's network in 8 bits: QuantizeLinear and DequantizeLinear around layers, weights per channel.

    Args:
        program: the network in float, whose input `images` takes pixels in [0, 1].
        images: (N, C, H, W), uint8, that ranges of activations are taken from, as they are and with full contrast.
        path: where to write.

    Raises:
        UsageError: onnxruntime refuses the network.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="int8.") as beside, _quietly():
        joined, written = Path(beside) / "joined.onnx", Path(beside) / "int8.onnx"
        try:
            quant_pre_process(str(program), str(joined), skip_symbolic_shape=True)  # batch norms into their layers
            quantize_static(
                str(joined),
                str(written),
                _reader(images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:
            raise UsageError(f"--int8: onnxruntime cannot write this network so ({one_line(error, 120)})") from error
        files.write(path, _with_properties_of(program, written))


def _with_properties_of(program: Path, written: Path) -> bytes:
    """Return an ONNX file with what another one says of itself, which onnxruntime leaves out."""
    import onnx

    model, said = onnx.load(str(written)), onnx.load(str(program), load_external_data=False)
    onnx.helper.set_model_props(
        model, {entry.key: entry.value for entry in (*said.metadata_props, *model.metadata_props)}
    )
    content: bytes = model.SerializeToString()
    return content


def agreement(network: nn.Module, other: nn.Module, images: Tensor) -> float:
    """Return the share of images (N, C, H, W), uint8, that two networks put into the same class."""
    alike = 0
    with torch.no_grad():
        for part in images.split(BATCH):
            pixels = part.float() / 255
            alike += int((network(pixels).argmax(dim=1) == other(pixels).argmax(dim=1)).sum())
    return alike / len(images)


def accuracies(network: Network, other: nn.Module, data: str, root: str | Path | None) -> tuple[float, float]:
    """Return the shares of the test images of `data` that a network and an `other` of pixels get right."""
    from lenient.data import load_data

    with named_by("--eval-data"):
        found = load_data(data, split="test", root=root, input_size=network.card.input_size)
        check_fits(network, found)
    return accuracy(network, found), accuracy(other, found)


def full_contrast(images: Tensor) -> Tensor:
    """Return images (N, C, H, W), uint8, with the darkest value of each at 0 and its brightest at 255.

    A generator's need not use the room between black and white that real ones use, and what is beyond a range is cut.
    """
    values = images.float().flatten(1)
    low, high = values.amin(dim=1, keepdim=True), values.amax(dim=1, keepdim=True)
    return ((values - low) * 255 / (high - low).clamp_min(1)).round().byte().view(images.shape)


def _reader(images: Tensor) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[Tensor] = chain(images.split(BATCH), full_contrast(images).split(BATCH))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self._batches, None)
            return None if part is None else {"images": (part.float() / 255).numpy()}

    return Reader()


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the library's advice on how to use it to itself, for that is followed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
