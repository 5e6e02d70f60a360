"""Reading weights from files without running code from them, and putting them into a module."""

from __future__ import annotations

import argparse
import json
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lenient.errors import TeacherError
from lenient.models.names import one_line
from lenient.models.programs import LOADED, program_kind

METADATA_KEY = "lenient"
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".pkl")


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return the tensors of a file by name, and the metadata that `save_network` wrote there, if any.

    Raises TeacherError for a file that is damaged, of another kind, or that could only be read by running code from it.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    _refuse_programs(path)
    if path.suffix not in _PICKLES:
        kinds = f".safetensors, {', '.join(_PICKLES)}"
        raise TeacherError(f"{path}: not a kind of file that weights are read from ({kinds}); convert it, or use py:")
    return state_of(_unpickle(path), path), None


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return tensors and our metadata (None where there is none) of a `.safetensors` file.

    Raises TeacherError where either is damaged.
    """
    from safetensors import SafetensorError, safe_open

    metadata = read_metadata(path)
    try:
        with safe_open(path, framework="pt") as file:
            return _strip({name: file.get_tensor(name) for name in file.keys()}), metadata  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise TeacherError(f"{path}: damaged or not a safetensors file ({one_line(error)})") from error


def read_metadata(path: Path) -> dict[str, Any] | None:
    """Return what `save_network` wrote beside the tensors of a `.safetensors` file, or None; reads no tensor.

    Raises TeacherError where the file or that text is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
        metadata = None if text is None else json.loads(text)
    except (SafetensorError, ValueError, OSError) as error:
        raise TeacherError(f"{path}: damaged or not a safetensors file ({one_line(error)})") from error
    if metadata is not None and not isinstance(metadata, dict):
        raise TeacherError(f"{path}: its description under {METADATA_KEY!r} is damaged")
    return metadata


def state_of(content: object, where: object) -> dict[str, Tensor]:
    """Return the tensors by name in what a checkpoint holds, unwrapped and without the prefixes of wrappers.

    Raises TeacherError where there are none.
    """
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors: dict[str, Tensor] = {}
    if isinstance(content, Mapping):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        held = (
            f"keys {sorted(map(str, content))[:5]}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        )
        raise TeacherError(f"{where}: holds no weights by name, but {held}; save module.state_dict() instead")
    return _strip(tensors)


def align(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Return `state` under the names that `module` uses: without a first name that all keys share, such as "model."."""
    own = module.state_dict().keys()
    heads = {key.partition(".")[0] for key in state}
    if len(heads) == 1 and not own & state.keys():
        shorter = {key.partition(".")[2]: value for key, value in state.items()}
        if own & shorter.keys():
            return align(shorter, module)
    known_auxiliary = any(key.startswith(_AUXILIARY) for key in own)
    return {key: value for key, value in state.items() if known_auxiliary or not key.startswith(_AUXILIARY)}


def put_weights(module: nn.Module, state: Mapping[str, Tensor], where: object, arch: str) -> None:
    """Copy aligned weights into `module`.

    Raises TeacherError with the first missing, unknown and differently shaped names where they do not fit.
    """
    own = module.state_dict()
    other = [key for key in state if key in own and own[key].shape != state[key].shape]
    problems = [
        f"{key!r} is {list(state[key].shape)} in the file, {list(own[key].shape)} in {arch}" for key in other[:3]
    ]
    fitting = {key: value for key, value in state.items() if key not in other}
    missing, unknown = module.load_state_dict(fitting, strict=False)
    missing = [key for key in missing if key not in other]
    problems += [f"{len(keys)} {kind} (first {keys[0]!r})" for kind, keys in
                 (("missing from the file", missing), ("not in the network", unknown)) if keys]  # fmt: skip
    if problems:
        flags = "--teacher-arch, --num-classes or --input-size"
        raise TeacherError(f"{where}: does not fit {arch}: {'; '.join(problems)}; correct {flags}")


def _strip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop what DataParallel and torch.compile put before each name."""
    for prefix in _PREFIXES * 2:
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return {key.replace("._orig_mod.", "."): value for key, value in tensors.items()}


def _refuse_programs(path: Path) -> None:
    """Raise TeacherError for files that hold a traced or exported program instead of weights."""
    kind = program_kind(path)
    if kind is None:
        return
    loads = f", or --trust-code to run it as {LOADED[kind]} loads it" if kind in LOADED else ""
    raise TeacherError(
        f"{path}: is {kind}, whose layers cannot be looked into: give the weights (module.state_dict()) and "
        f"--teacher-arch{loads}"
    )


def _unpickle(path: Path) -> object:
    try:
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # refused below if it matters
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)|reduce for unrecognized function <?\w* ?([\w.]+)", str(error))
        if found is None and not zipfile.is_zipfile(path) and not _names_code(path):
            raise TeacherError(f"{path}: damaged or not a checkpoint that torch wrote") from error
        name = next((group for group in found.groups() if group), None) if found else None
        raise TeacherError(_refusal(path, name)) from error
    except PermissionError as error:
        raise TeacherError(f"{path}: cannot be read ({one_line(error)})") from error
    except Exception as error:
        raise TeacherError(f"{path}: damaged or not a checkpoint that torch wrote ({one_line(error, 120)})") from error


def _harmless() -> list[Any]:
    """Return the constructors beyond tensors that training scripts leave in checkpoints: they only hold data."""
    scalar = np.float64(0).__reduce__()[0]
    old_names = [(scalar, f"numpy.{home}.multiarray.scalar") for home in ("core", "_core")]
    kinds = {type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")}
    return [argparse.Namespace, PosixPath, np.dtype, *old_names, *kinds]


def _names_code(path: Path) -> bool:
    """Return whether a file is a pickle that calls something; it is only read, not loaded."""
    try:
        with open(path, "rb") as file:
            return "REDUCE" in {operation.name for operation, _, _ in pickletools.genops(file)}
    except ValueError:
        return False


def _refusal(path: Path, name: str | None) -> str:
    what = f"({name}) " if name else ""
    return (
        f"{path}: holds more than tensors {what}and loading it would run code from it; if you trust it, use "
        f"py:load_it.py:build with this load_it.py:\n"
        f"    import torch\n\n"
        f"    def build():\n"
        f"        return torch.load({str(path)!r}, map_location='cpu', weights_only=False)"
    )
