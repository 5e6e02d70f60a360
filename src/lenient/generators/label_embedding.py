"""A generator that is asked for a class by a fixed code, and whose variety comes from layers drawn anew (NAYER)."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from lenient.core.errors import UsageError
from lenient.core.files import read_bytes
from lenient.core.seeding import Streams
from lenient.core.text import VALUE, visible
from lenient.generators.upsampling import Space

FLAG = "-s method.embeddings"
RANDOM_LENGTH = 512
"""Length of random codes: that of the text embeddings which the paper's code comes with."""


class LabelGenerator(nn.Module):
    """Classes (N,) to images, through the standardised code of each class, a noisy layer, and a generator of latents.

    There are as many noisy layers as it takes for each class of a batch to stand once in each (the paper's K-to-1): row
    number r of a batch goes through layer r // C. What the layers hold is the noise; they are drawn from N(0, 1), with
    biases of zero, and then learn as all else does.

    Args:
        codes: (C, d), one row for each class.
        body: latents (N, length) to images.
        length: of its latents.
        images: of a batch at most; as many as `length` of their labels say, in rows of all classes.
    """

    codes: Tensor

    def __init__(self, codes: Tensor, body: nn.Module, length: int, images: int) -> None:
        super().__init__()
        classes, width = codes.shape
        self.register_buffer("codes", codes)
        self.norm = nn.BatchNorm1d(width)
        layers = math.ceil(images / classes)
        self.noise = nn.Parameter(torch.randn(layers, width, length))
        self.shift = nn.Parameter(torch.zeros(layers, 1, length))
        self.body = body
        self.space: Space = getattr(body, "space", "pixels")

    def forward(self, labels: Tensor, first: int = 0) -> Tensor:
        """Draw one image for each label; they are those of a batch from row `first` on."""
        layers, classes = len(self.noise), len(self.codes)
        rows = self.norm(self.codes[labels])
        whole = F.pad(rows, (0, 0, first, layers * classes - first - len(rows)))
        latents = torch.baddbmm(self.shift, whole.view(layers, classes, -1), self.noise)
        images: Tensor = self.body(latents.flatten(0, 1)[first : first + len(rows)])
        return images

    def layers_anew(self, streams: Streams, name: str, update: int, images: int | None = None) -> dict[str, Tensor]:
        """Return other noisy layers, by the names of their tensors in it, as many as it has or as so many images need;
        the key is that of a random stream."""
        layers = len(self.noise) if images is None else math.ceil(images / len(self.codes))
        drawn = streams.normal(name, update, (layers, *self.noise.shape[1:]))
        shift = self.shift.new_zeros(layers, 1, self.noise.shape[2])
        return {"noise": drawn.to(self.noise.dtype), "shift": shift}


def read_codes(path: Path, classes: int) -> Tensor:
    """Return the codes (C, d), float32, that a file holds: an array of numpy's, or the one tensor of a .safetensors.

    Nothing in it is run.

    Raises:
        UsageError: it cannot be read, or does not hold one row of numbers for each class, not all of them equal.
    """
    try:
        content = read_bytes(path)
        found = _tensors(path, content)
    except (OSError, SafetensorError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or visible(str(error), VALUE)
        raise UsageError(f"{FLAG}={path}: {reason}; give a .npy or .safetensors file") from None
    if len(found) != 1:
        raise UsageError(f"{FLAG}={path}: holds {len(found)} tensors; give a file with one, (classes, length)")
    codes = found[0]
    if codes.dim() != 2 or len(codes) != classes or not codes.is_floating_point():
        kind = f"{tuple(codes.shape)} of {codes.dtype}"
        raise UsageError(f"{FLAG}={path}: holds {kind}; the teacher has {classes} classes: give ({classes}, length)")
    codes = codes.float()
    if not torch.isfinite(codes).all() or bool((codes == codes[:1]).all()):
        raise UsageError(f"{FLAG}={path}: its rows are not finite, or all equal; give a code of its own to each class")
    return codes


def _tensors(path: Path, content: bytes) -> list[Tensor]:
    """Return the tensors in a file; raises ValueError and the like for what is none."""
    if path.suffix == ".safetensors":
        return list(load(content).values())
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError:
        array = None  # a pickle, or no file of numpy's
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ValueError("it holds no array of numbers")
    return [torch.from_numpy(array.astype(np.float32))]
