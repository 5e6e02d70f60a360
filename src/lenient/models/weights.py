"""Reading weights from files without running code from them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lenient.core import files
from lenient.core.errors import TeacherError
from lenient.models.archives import Entry, array_of, opened
from lenient.models.names import one_line
from lenient.models.pickles import Thing, UnreadableError
from lenient.models.programs import GRAPH, LOADED, conversion, program_kind

METADATA_KEY = "lenient"
INDEX = ".index.json"
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".pkl")
_MAX_HEADER, _MAX_INDEX, _MAX_SHARDS = 16 * 2**20, 16 * 2**20, 1000
_MAX_DEPTH, _MAX_PARTS = 50, 1_000_000
_KINDS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
          "C64": torch.complex64}  # fmt: skip


_UNREAD = {
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor of the meta device, without its numbers",
    "torch._utils._rebuild_tensor_v2": "a tensor that pickle.dump wrote, which torch.save does otherwise",
    "numpy.core.multiarray._reconstruct": "an array of NumPy",
    "numpy._core.multiarray._reconstruct": "an array of NumPy",
    "numpy.core.numeric._frombuffer": "an array of NumPy",
    "numpy._core.numeric._frombuffer": "an array of NumPy",
}


@dataclass
class Weights:
    """What a file, or a factory, holds: all its tensors by dotted names, whatever they lie in."""

    entries: dict[str, Entry]
    metadata: dict[str, Any] | None = None
    """What `save_network` wrote beside them, if any."""
    networks: dict[str, Thing] = field(default_factory=dict)
    """Whole networks that were pickled, by name ("" where the file is one), outermost ones only."""
    unread: dict[str, str] = field(default_factory=dict)
    """What is no plain tensor, by name: of what kind it is, in words."""


# reading


@contextmanager
def open_weights(path: Path) -> Iterator[Weights]:
    """Yield what a file of weights holds, an index of shards included; tensors are read only when they are asked for.

    Raises TeacherError for a file that is damaged, of another kind, or that is a program instead of weights.
    """
    with refusals(path):
        if path.name.endswith(INDEX):
            yield _shards(path)
            return
        _refuse_programs(path)
        if _is_safetensors(path):
            yield _safetensors(path)
            return
        if path.suffix == ".safetensors":
            raise UnreadableError("it does not begin as a safetensors file")
        if path.suffix not in _PICKLES and not _may_be_pickled(path):
            kinds = f".safetensors, {', '.join(_PICKLES)}, or what torch.save wrote under any other name"
            raise TeacherError(f"{path}: not a kind of file that weights are read from ({kinds}); convert it")
        with opened(path) as content:
            yield weights_of(content, path)


def read_metadata(path: Path) -> dict[str, Any] | None:
    """Return what `save_network` wrote beside the tensors of a `.safetensors` file, or None; reads no tensor.

    Raises TeacherError where the file or that text is damaged.
    """
    with refusals(path):
        if not _is_safetensors(path):
            raise UnreadableError("it does not begin as a safetensors file")
        return _safetensors(path).metadata


def weights_of(content: object, where: object) -> Weights:
    """Return the tensors by name in what a checkpoint or a factory holds.

    Raises TeacherError where there are none.
    """
    found = Weights({})
    _Gathering(found).take(content, "", ())
    if all(name.replace(".", "").isdigit() or not name for name in found.entries):
        for name, kind in found.unread.items():
            raise unreadable(where, name, kind)
        kind = content.name if isinstance(content, Thing) else f"a {type(content).__name__}"
        if isinstance(content, Entry):
            kind = "a tensor"
        elif isinstance(content, Mapping):
            kind = f"keys {[key.name if isinstance(key, Thing) else str(key)[:40] for key in content][:5]}"
        raise TeacherError(f"{where}: holds no weights by name, but {kind}; save module.state_dict() instead")
    return found


def unreadable(where: object, name: str, kind: str) -> TeacherError:
    """Return the error for weights that are there, and are no plain tensor."""
    return TeacherError(f"{where}: {name[-60:]!r} is {kind}: save dense tensors of floating point, as those of "
                        "module.state_dict()")  # fmt: skip


class _Gathering:
    """Goes once through what a checkpoint holds and collects its tensors."""

    def __init__(self, found: Weights) -> None:
        self._found, self._left = found, _MAX_PARTS

    def take(self, value: object, name: str, above: tuple[int, ...], *, inside: bool = False) -> None:
        """Collect what is in `value`; `above` are the things it lies in, `inside` says that one is a network."""
        self._left -= 1
        if self._left < 0:
            raise UnreadableError(f"it holds more than {_MAX_PARTS:,} values")
        if isinstance(value, Entry):
            self._found.entries[name] = value
        elif isinstance(value, Tensor):
            self._found.entries[name] = Entry(tuple(value.shape), value.dtype, value.detach)
        elif isinstance(value, nn.Module):
            self.take(value.state_dict(), name, above)
        elif id(value) not in above and len(above) < _MAX_DEPTH:
            array = array_of(value) if isinstance(value, Thing) else None
            if array is not None:
                self._found.entries[name] = array
            elif isinstance(value, Thing) and value.name in _UNREAD:
                self._found.unread[name] = _UNREAD[value.name]
            network = module_parts(value) if isinstance(value, Thing) else None
            if network is not None and isinstance(value, Thing) and not inside:
                self._found.networks[name] = value
            for key, part in _parts(value) if network is None else network:
                self.take(part, f"{name}.{key}" if name else key, (*above, id(value)), inside=network is not None)


def _parts(value: object) -> Iterable[tuple[str, object]]:
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items() if isinstance(key, str | int)]
    if isinstance(value, list | tuple):
        return [(str(index), part) for index, part in enumerate(value)]
    return ()


def module_parts(thing: Thing) -> list[tuple[str, object]] | None:
    """Return parameters, buffers and parts of a pickled `nn.Module` in the order of its state dict, else None."""
    state = thing.state
    if not isinstance(state, Mapping):
        return None
    groups = [state.get(name) for name in ("_parameters", "_buffers", "_modules")]
    if not all(isinstance(group, Mapping) for group in groups):
        return None
    left_out = state.get("_non_persistent_buffers_set")
    names = left_out.items if isinstance(left_out, Thing) else []
    if isinstance(left_out, Thing) and isinstance(left_out.made_of, tuple):
        names = [*names, *(name for part in left_out.made_of if isinstance(part, list) for name in part)]
    outside = {name for name in names if isinstance(name, str)}
    return [(str(key), part) for group in groups for key, part in _parts(group) if key not in outside]


def _is_safetensors(path: Path) -> bool:
    """Return whether a file begins with the length of a header and a header; raises OSError where it is no file."""
    with files.reading(path) as file:
        start = file.read(9)
        if len(start) < 9 or start[8:] != b"{":
            if start.startswith(b"version h"):
                raise UnreadableError("it is a pointer of Git LFS, which `git lfs pull` replaces by the file")
            return False
        if int.from_bytes(start[:8], "little") > _MAX_HEADER:
            raise UnreadableError(f"its header is longer than {_MAX_HEADER >> 20} MiB")
    return True


def _may_be_pickled(path: Path) -> bool:
    """Return whether a file begins as those of `torch.save` do, of either format."""
    with files.reading(path) as file:
        return file.read(4).startswith((b"PK\x03\x04", b"\x80"))


def _safetensors(path: Path) -> Weights:
    from safetensors import safe_open

    file: Any = safe_open(path, framework="pt")
    text = (file.metadata() or {}).get(METADATA_KEY)
    try:
        metadata = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        metadata = 0
    if metadata is not None and not isinstance(metadata, dict):
        raise TeacherError(f"{path}: its description under {METADATA_KEY!r} is damaged")
    entries = {}
    for name in file.keys():  # noqa: SIM118
        part = file.get_slice(name)
        kind = _KINDS.get(part.get_dtype())
        if kind is None:
            raise TeacherError(f"{path}: its numbers are of type {part.get_dtype()}; convert them to F32 or F16")
        entries[name] = Entry(tuple(part.get_shape()), kind, partial(file.get_tensor, name))
    return Weights(entries, metadata)


def _shards(path: Path) -> Weights:
    """Read an index that says in which file beside it each tensor lies."""
    try:
        content = json.loads(files.read_text(path, _MAX_INDEX))
    except (ValueError, RecursionError) as error:
        raise UnreadableError("it is not an index in JSON") from error
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UnreadableError("it has no weight_map from tensors to files")
    names = sorted(set(places.values()))
    if len(names) > _MAX_SHARDS:
        raise UnreadableError(f"it names more than {_MAX_SHARDS} files")
    entries: dict[str, Entry] = {}
    for name in names:
        if re.search(r"[/\\:\0]", name) or name in ("", ".", ".."):
            raise TeacherError(f"{path}: names the file {name[:60]!r}, which is not beside it; mend the index")
        entries |= _whole(path.with_name(name))
    missing = next((key for key in places if key not in entries), None)
    if missing is not None:
        raise TeacherError(
            f"{path}: names {missing[:60]!r}, which is not in {places[missing]!r}; fetch its files again"
        )
    return Weights({key: entries[key] for key in places})


def _whole(path: Path) -> dict[str, Entry]:
    """Return the tensors of one shard, read into memory."""
    if path.name.endswith(INDEX):
        raise TeacherError(f"{path}: an index that names an index; mend it")
    with open_weights(path) as weights, refusals(path):
        tensors = {name: entry.read() for name, entry in weights.entries.items()}
    return {name: Entry(tuple(value.shape), value.dtype, value.clone) for name, value in tensors.items()}


@contextmanager
def refusals(path: object) -> Iterator[None]:
    """Turn all that can be wrong with a file into one line that names it."""
    from safetensors import SafetensorError

    try:
        yield
    except UnreadableError as error:
        raise TeacherError(f"{path}: damaged or not a checkpoint: {error}; make or fetch it again") from error
    except SafetensorError as error:
        raise TeacherError(f"{path}: damaged or not a safetensors file ({one_line(error, 100)})") from error
    except OSError as error:
        raise TeacherError(f"{path}: cannot be read ({error.strerror or one_line(error, 100)})") from error


def _refuse_programs(path: Path) -> None:
    """Raise TeacherError for files that hold a traced or exported program instead of weights."""
    kind = program_kind(path)
    if kind is None:
        return
    if kind == GRAPH:
        raise TeacherError(f"{path}: is {kind}, which says itself which network it is: leave --teacher-arch out")
    if command := conversion(path):
        raise TeacherError(
            f"{path}: is {kind}, which is not read here: convert it to ONNX ({command}) and give that, or "
            "give the weights and --teacher-arch"
        )
    loads = f", or --trust-code to run it as {LOADED[kind]} loads it" if kind in LOADED else ""
    raise TeacherError(
        f"{path}: is {kind}, whose layers cannot be looked into: give the weights (module.state_dict()) and "
        f"--teacher-arch{loads}"
    )
