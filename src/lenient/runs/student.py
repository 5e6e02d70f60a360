"""A student as an object: a module of pixels that also names the classes of pictures, and that a folder brings back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lenient.core.errors import UsageError
from lenient.core.modes import mode
from lenient.core.packages import needs
from lenient.core.progress import for_function, working
from lenient.core.text import VALUE, visible
from lenient.models import check_classifier, load_network
from lenient.models.card import Network, PixelClassifier
from lenient.models.names import one_line
from lenient.models.trust import Trusted
from lenient.pictures.folders import LeftOut, images_below
from lenient.pictures.reading import converted, cover, read_picture, readable, to_tensor
from lenient.runs.export import save_hub

if TYPE_CHECKING:
    from PIL.Image import Image

Place: TypeAlias = str | os.PathLike[str]
BATCH = 64
"""Images of a forward pass."""
LOW, HIGH = -0.5, 1.5
"""Values beyond are no pixels in [0, 1], however they were resampled."""


@dataclass(frozen=True)
class Predicted:
    """What a classifier says of one image."""

    label: int
    """The class that it is surest of, counted from 0."""
    probability: float
    """How sure, in [0, 1]."""
    probabilities: tuple[float, ...]
    """Of each class, in order; they sum to 1."""
    classes: tuple[str, ...]
    """The classes' names; their numbers where the card has none."""
    source: str | None = None
    """The file that the image was read from."""

    @property
    def name(self) -> str:
        """Return the name of the class that it is surest of."""
        return self.classes[self.label]

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Return the names of the `count` classes that it is surest of, with their probabilities, the surest first."""
        order = sorted(range(len(self.classes)), key=lambda label: -self.probabilities[label])
        return [(self.classes[label], self.probabilities[label]) for label in order[:count]]


class Student(PixelClassifier):
    """A classifier that takes images in pixel units (N, C, H, W) and returns logits (N, K), as any module does; in eval
    mode when it is loaded. `card` says what it takes, and `module` is the network itself, without its normalisation.

    Example:
        >>> import torch
        >>> student = lenient.load("runs/mine")
        >>> found = student.predict(torch.zeros(1, 8, 8))
        >>> found.name in student.card.classes, round(sum(found.probabilities), 3)
        (True, 1.0)
    """

    @overload
    def predict(self, images: list[Any] | tuple[Any, ...], *, progress: bool | str = "auto") -> list[Predicted]: ...

    @overload
    def predict(self, images: Image, *, progress: bool | str = "auto") -> Predicted: ...

    @overload
    def predict(
        self, images: Place | NDArray[Any] | Tensor, *, progress: bool | str = "auto"
    ) -> Predicted | list[Predicted]: ...

    def predict(
        self,
        images: list[Any] | tuple[Any, ...] | Image | Place | NDArray[Any] | Tensor,
        *,
        progress: bool | str = "auto",
    ) -> Predicted | list[Predicted]:
        """Say what class an image is of: one answer for one image, a list for several.

        Args:
            images: what is scaled until it just covers the height and width that the student takes, cropped at the
                centre and normalised by the student's card:

                - a picture file, or an image of Pillow: grey or RGB as the student takes it;
                - an array (H, W), (H, W, C) or, for several, (N, H, W, C): uint8, or floating point in [0, 1];
                - a tensor (C, H, W) or, for several, (N, C, H, W), of the same values;
                - several of these in a list;
                - a folder: all pictures below it, by the order of their names.
            progress: how many of several are done: auto, rich, plain or none, as `lenient.distill` has it.

        Raises:
            UsageError: a file is not there or no picture, a folder holds none, or an array or a tensor has another
                number of channels or other values; the message names it.
        """
        return _answers(self, images, progress)

    def save_pretrained(self, folder: Place, *, overwrite: bool = False) -> None:
        """Write a folder for a model hub, as `lenient export --format hub` does: `model.safetensors`, `config.json`,
        `student.pt2` where torch can trace the network, and a `README.md` that is the model card.

        Nothing is sent anywhere: `hf upload ORG/NAME FOLDER` does that, as whoever is logged in there.

        Args:
            folder: new or empty.
            overwrite: replace its files of these names.

        Raises:
            UsageError: the folder holds files.
            MachineError: the disk refuses.

        Example:
            >>> lenient.load("runs/mine").save_pretrained("my-student")
            >>> lenient.Student.from_pretrained("my-student").card.num_classes
            10
        """
        save_hub(Network(self.module, self.card), Path(folder), overwrite=overwrite)

    @classmethod
    def from_pretrained(
        cls,
        name: Place,
        *,
        arch: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: Place | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        trust_code: Trusted = False,
    ) -> Student:
        """Load what `save_pretrained` wrote: from a folder, else from a repository of the Hugging Face Hub.

        Args:
            name: a folder, which needs none of what is said below of a repository; or ORG/NAME, which is one.
            arch: SPEC of the architecture, for a student of your own code.
            revision: branch, tag or commit of the repository; by default its main branch.
            token: who asks for the repository; by default, or True, whoever `hf auth login` or HF_TOKEN says, and with
                False nobody.
            cache_dir: where it is kept; by default the Hub's own cache.
            force_download: fetch it again, whatever is kept.
            local_files_only: take what is kept, and ask no host.
            trust_code: run code and visit places that the files name.

        Raises:
            UsageError: the library of the Hub is missing, `name` is neither, or no host is reached and no copy kept.
            TeacherError: what is there is no classifier that can be loaded.
        """
        folder = os.fspath(name)
        if not os.path.isdir(folder):
            folder = _fetched(
                folder,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
            )
        elif revision is not None:
            raise UsageError(f"revision {visible(revision, VALUE)}: is of a repository, and {folder} is a folder")
        return cls.of(load_network(folder, arch=arch, trust_code=trust_code))

    @classmethod
    def of(cls, network: Network) -> Student:
        """Return the student of a network, in eval mode, once it is checked: logits are read where they are made.

        Raises TeacherError where it is not the classifier that its card describes.
        """
        checked = check_classifier(network)
        return cls(checked.module, checked.card).eval()


def _fetched(name: str, **options: Any) -> str:
    """Return the folder of the Hub's cache in which a repository's files lie; `options` are those of its library."""
    if name.count("/") != 1 or name.startswith((".", "~", "/")):
        raise UsageError(f"{visible(name, VALUE)}: there is no such folder, and a repository is called ORG/NAME")
    if find_spec("huggingface_hub") is None:
        raise UsageError(f"{visible(name, VALUE)}: {needs('huggingface_hub')}")
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(name, allow_patterns=["config.json", "model.safetensors"], **options))
    except Exception as error:  # of the network, of names, of rights: a dozen kinds
        raise UsageError(f"{visible(name, VALUE)}: no such folder, and {_refusal(error, options)}") from error


def _refusal(error: Exception, options: Mapping[str, Any]) -> str:
    """Say why there is no repository; the library's own words are of several lines where no host was asked."""
    if type(error).__name__ != "LocalEntryNotFoundError":  # its place in the library depends on the version
        return f"the Hub does not give it ({one_line(error)}); check the name, the network and `hf auth login`"
    if options["local_files_only"]:
        return "no copy of such a repository is kept; leave local_files_only out to fetch it"
    return "the Hub was not reached, nor is a copy kept; check the network, and that HF_HUB_OFFLINE is not set"


def _answers(student: Student, images: Any, progress: bool | str) -> Predicted | list[Predicted]:
    several = isinstance(images, list | tuple)
    several |= isinstance(images, np.ndarray | Tensor) and images.ndim == 4
    if isinstance(images, str | os.PathLike) and os.path.isdir(images):
        left_out = LeftOut()
        several, folder = True, Path(images)
        images = sorted(images_below(folder, left_out))
        if not images:
            raise UsageError(f"{folder}: holds no pictures")
    kind = for_function(progress)
    if not several:
        return next(_said(student, iter([images])))
    found: list[Predicted] = []
    with working("looking at images", kind, total=len(images)) as count:
        for answer in _said(student, iter(images)):
            found.append(answer)
            count(len(found))
    return found


@torch.no_grad()
def _said(student: Student, images: Iterator[Any]) -> Iterator[Predicted]:
    card, place = student.card, student.mean
    names = card.classes or tuple(map(str, range(card.num_classes)))
    with mode(student, "eval"):
        while batch := list(islice(images, BATCH)):
            pixels = torch.stack([_pixels(image, card.input_size) for image in batch])
            logits = student(pixels.to(place.device))
            rows = logits.double().softmax(dim=1).cpu()
            for image, row in zip(batch, rows, strict=True):
                source = os.fspath(image) if isinstance(image, str | os.PathLike) else None
                label = int(row.argmax())
                yield Predicted(label, float(row[label]), tuple(row.tolist()), names, source)


def _pixels(image: Any, size: tuple[int, int, int]) -> Tensor:
    """Return an image as float32 in [0, 1], (C, H, W) of `size`."""
    channels, height, width = size
    if isinstance(image, np.ndarray):
        planes = image[:, :, None] if image.ndim == 2 else image
        return _resized(torch.from_numpy(np.moveaxis(planes, -1, 0).copy()), size, "an array (H, W, C)")
    if isinstance(image, Tensor):
        return _resized(image.detach().cpu(), size, "a tensor (C, H, W)")
    if channels not in (1, 3):
        raise UsageError(f"pictures have 1 or 3 channels, this student takes {channels}: give tensors (C, H, W)")
    if isinstance(image, str | os.PathLike):
        return read_picture(Path(image), size).float() / 255
    if not hasattr(image, "convert"):
        raise UsageError(f"{type(image).__name__}: is no image; give a path, an image of Pillow, an array or a tensor")
    with readable("image of Pillow"):
        return to_tensor(cover(converted(image.copy(), channels), height, width)).float() / 255


def _resized(image: Tensor, size: tuple[int, int, int], kind: str) -> Tensor:
    """Return pixels (C, h, w) as `cover` does a picture, without rounding them to 8 bits."""
    channels, height, width = size
    if image.ndim != 3 or image.shape[0] != channels or not image.numel():
        shape = _order(image, kind)
        turned = len(shape) == 3 and channels in (shape[0], shape[-1])
        hint = "; channels come last in an array and first in a tensor" if turned else ""
        raise UsageError(f"{kind} of shape {shape}: this student takes {channels} channel(s){hint}")
    if image.dtype == torch.uint8:
        pixels = image.float() / 255
    elif image.is_floating_point():
        pixels = image.float()
    else:
        raise UsageError(
            f"{kind} of {str(image.dtype).removeprefix('torch.')}: give uint8, or floating point in [0, 1]"
        )
    low, high = float(pixels.amin()), float(pixels.amax())
    if not (low >= LOW and high <= HIGH):
        raise UsageError(
            f"{kind} with values from {low:.3g} to {high:.3g}: give pixels in [0, 1], not normalised; divide 0..255 by "
            "255"
        )
    scale = max(height / pixels.shape[1], width / pixels.shape[2])
    if pixels.shape[1:] != (height, width):
        whole = (max(height, round(pixels.shape[1] * scale)), max(width, round(pixels.shape[2] * scale)))
        pixels = F.interpolate(pixels[None], whole, mode="bilinear", antialias=True)[0]
        top, left = (whole[0] - height) // 2, (whole[1] - width) // 2
        pixels = pixels[:, top : top + height, left : left + width]
    return pixels


def _order(image: Tensor, kind: str) -> tuple[int, ...]:
    """The shape in the order in which it was given."""
    shape = tuple(image.shape)
    return (*shape[1:], shape[0]) if "array" in kind and len(shape) > 1 else shape
