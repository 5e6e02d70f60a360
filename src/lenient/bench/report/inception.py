"""The Frechet distance of papers: in the features of the Inception network of 2015, from the extra `inception`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from lenient.bench.report.measures import Floats
from lenient.core.errors import UsageError
from lenient.core.packages import needs

DOWNLOAD = "download"
SHA256 = "6726825d"
"""How the hash of the published weights begins; their file's name says so, too."""
WIDTH = 2048

Extractor = Callable[[Iterable[Tensor]], Floats]


def inception(weights: str, device: str) -> Extractor:
    """Return what turns batches of images, pixels (N, C, H, W) in [0, 1], into features (N, 2048) of the last pooling.

    `weights` is the file `weights-inception-2015-12-05-6726825d.pth`, or `download`. Grey images count as coloured
    ones, and pixels are rounded to 256 levels, as if the images had been stored.

    Raises:
        UsageError: torch-fidelity is not installed, or the weights are not there or others.
    """
    try:
        from torch_fidelity import FeatureExtractorInceptionV3
    except ImportError as error:
        raise UsageError(f"--inception: {needs('torch_fidelity')}") from error
    path = None if weights == DOWNLOAD else _checked(Path(weights))
    try:
        network = FeatureExtractorInceptionV3("inception", [str(WIDTH)], path, verbose=False).to(device)
    except OSError as error:
        raise UsageError(f"--inception {weights}: {error}; get the file elsewhere and name it") from error

    @torch.no_grad()
    def features(batches: Iterable[Tensor]) -> Floats:
        found = []
        for images in batches:
            levels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
            coloured = levels.expand(-1, 3, -1, -1) if levels.shape[1] == 1 else levels
            found += [network(part.to(device))[0].double().cpu() for part in coloured.split(64)]
        values: Floats = torch.cat(found).numpy()
        return values

    return features


def _checked(path: Path) -> str:
    """The path, if the weights at it are the published ones; they are unpickled, so others are not touched."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"--inception {path}: {error.strerror}; give the weights' file, or {DOWNLOAD}") from error
    if not found.startswith(SHA256):
        raise UsageError(f"--inception {path}: not the published weights (SHA-256 {found[:8]}..., not {SHA256}...)")
    return str(path)
