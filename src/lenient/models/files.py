"""Writing a network to a `.safetensors` file that knows its own architecture, and reading its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lenient.core import files
from lenient.core.errors import MachineError, TeacherError
from lenient.models.card import Card, Network
from lenient.models.inside import Constants, undone
from lenient.models.weights import METADATA_KEY, read_metadata

UNDONE = "undone"
"""Mean and std that a network applies itself, where they are undone before it, else null; old files do not say it."""


def save_network(path: str | Path, network: Network) -> None:
    """Write weights and card to `path`: safetensors with the card as JSON under the metadata key "lenient".

    The file appears complete or not at all, equal networks give equal bytes, and reading back is bit-identical.
    A network whose `card.arch` is None can be read again with `--teacher-arch` only.
    Raises MachineError where the disk refuses.
    """
    from safetensors.torch import save

    path = Path(path)
    state = {name: value for name, value in network.module.state_dict().items() if isinstance(value, torch.Tensor)}
    tensors = {name: value.detach().to("cpu").contiguous().clone() for name, value in state.items()}
    content = save(tensors, {METADATA_KEY: json.dumps(described(network) | {"format": 1}, sort_keys=True)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"{path}: its folder cannot be made ({error.strerror or error})") from error
    try:
        files.write(path, content)
    except OSError as error:
        raise MachineError(f"{path}: cannot be written ({error.strerror or error})") from error


def described(network: Network) -> dict[str, Any]:
    """Return what a file says of a network, ready for JSON: its card, and the constants of its own that are undone."""
    return network.card.to_dict() | {UNDONE: undone(network.module)}


def read_card(path: str | Path) -> Card | None:
    """Return the card in a `.safetensors` file, or None where the file was not written by `save_network`.

    Raises TeacherError where the file or its description is damaged.
    """
    return card_of(read_metadata(Path(path)), path)


def card_of(metadata: dict[str, Any] | None, where: object) -> Card | None:
    """Return the card in our metadata; raises TeacherError naming `where` if it is damaged."""
    if metadata is None:
        return None
    try:
        return Card.from_dict(metadata)
    except TeacherError as error:
        raise TeacherError(f"{where}: {error}") from error


def undone_of(metadata: Mapping[str, Any], channels: int, where: object) -> Constants | None:
    """Return what our metadata says under `UNDONE`; raises TeacherError naming `where` if it is damaged."""
    said = metadata[UNDONE]
    if said is None:
        return None
    try:
        mean, std = (tuple(float(value) for value in values) for values in said)
    except (TypeError, ValueError, OverflowError):
        mean = std = ()
    if not len(mean) == len(std) == channels:
        raise TeacherError(f"{where}: the description of the network is damaged ({UNDONE}); save it again")
    return mean, std
