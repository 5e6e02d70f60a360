"""The files that `torch.save` writes, of either format, `numpy.savez` and `pickle.dump`: what they hold, and where in
them tensors lie."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from lenient.core import files
from lenient.models.pickles import MAX_BYTES, Named, Reader, Stream, Thing, UnreadableError, text

_EXPANDED = 2**20  # elements that a tensor may have where its storage holds fewer
_LARGEST = 2**48
_MAGIC = 0x1950A86A20F9469CFC6C
_ORDER = "its numbers are in another byte order; save it anew on a machine like this one"
_DICTIONARIES = ("collections.OrderedDict", "collections.Counter", "collections.defaultdict")
_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QInt32Storage": torch.int32,
}
_ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_NUMBERS = {"f2": torch.float16, "f4": torch.float32, "f8": torch.float64, "i1": torch.int8, "i2": torch.int16,
            "i4": torch.int32, "i8": torch.int64, "u1": torch.uint8, "b1": torch.bool}  # fmt: skip
_MOST_AXES = 16
_FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
"""How protocol 5 of pickles has the same."""
_ARRAY = ".npy"
_MAX_HEADER = 2**16
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""What reads the description of an array, by the version of the format: plain values, of limited length."""
_FLIPPED = {"neg": torch.neg, "conj": torch.conj}
"""What a tensor's description says of its numbers, and what then remains to be done with those that are stored."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A tensor in a file: its shape and type are known before a byte of it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    """Raises UnreadableError where it is damaged."""


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str
    elements: int
    start: int = 0
    """In elements: more than 0 for a view of a part of it."""


@contextmanager
def opened(path: Path) -> Iterator[object]:
    """Yield what a checkpoint holds; its entries can be read until the block ends.

    Lists, dictionaries, numbers and texts are what they were, tensors are `Entry`, other objects `Thing`.

    Raises:
        UnreadableError: it is damaged or of another kind.
        OSError: it cannot be read, or is not a regular file.
    """
    with files.reading(path) as file:
        try:
            zipped = file.read(4) == b"PK\x03\x04"
            content = _zipped(file) if zipped else _legacy(file)
        except (RecursionError, MemoryError, OverflowError, EOFError, struct.error) as error:
            raise UnreadableError("its description makes no sense") from error
        yield content


def _zipped(file: IO[bytes]) -> object:
    archive = _Archive(file, "data/")
    try:
        members = zipfile.ZipFile(file).infolist()
    except (ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise UnreadableError("its table of contents cannot be read") from error
    of_numpy = bool(members) and all(info.filename.endswith(_ARRAY) for info in members)
    for info in members:
        name = info.filename if of_numpy else info.filename.partition("/")[2]
        if not of_numpy and name not in ("data.pkl", "byteorder") and not name.startswith("data/"):
            continue
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise UnreadableError("it is compressed or encrypted, as those of torch.save and numpy.savez are not")
        archive.places[name] = (_start(file, info.header_offset), info.file_size)
        archive.sums[name] = info.CRC
    if of_numpy:
        return {name.removesuffix(_ARRAY): archive.array(name) for name in archive.places}
    if "data.pkl" not in archive.places:
        raise UnreadableError("it holds no data.pkl")
    if "byteorder" in archive.places and archive.whole("byteorder", 16) != b"little":
        raise UnreadableError(_ORDER)
    return Reader(Stream(io.BytesIO(archive.whole("data.pkl", MAX_BYTES))), archive.made, archive.stored).load()


def _start(file: IO[bytes], header: int) -> int:
    """Return where the content of a member begins, which only the header before it says."""
    file.seek(header)
    fields = file.read(30)
    if len(fields) < 30 or fields[:4] != b"PK\x03\x04":
        raise UnreadableError("its members are not where its table of contents says")
    name, extra = struct.unpack("<HH", fields[26:])
    return header + 30 + int(name) + int(extra)


def _legacy(file: IO[bytes]) -> object:
    """Read the format before torch 1.6: five pickles, then the storages one after another; or a single pickle."""
    file.seek(0)
    stream, archive = Stream(file), _Archive(file, "")

    def next_pickle() -> Any:
        return Reader(stream, archive.made, archive.stored).load()

    if file.read(1) != b"\x80":
        raise UnreadableError("it does not begin as one")
    file.seek(0)
    first = next_pickle()
    if first != _MAGIC:
        return first
    next_pickle()  # the version of the format, always 1001
    system = next_pickle()
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise UnreadableError(_ORDER)
    content, keys = next_pickle(), next_pickle()
    if not isinstance(keys, list) or {text(key) for key in keys} != archive.kinds.keys():
        raise UnreadableError("its list of storages does not fit its tensors")
    at, end = file.tell(), file.seek(0, 2)
    for key in map(text, keys):
        file.seek(at)
        size = struct.unpack("<q", file.read(8))[0] * archive.kinds[key].itemsize
        if not 0 <= size <= end - at - 8:
            raise UnreadableError("it ends before its last tensor")
        archive.places[key] = (at + 8, size)
        at += 8 + size
    return content


@dataclass(eq=False)
class _Archive:
    """The storages of one file, and what its pickle makes of them."""

    file: IO[bytes]
    folder: str
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Name -> first byte, number of bytes."""
    sums: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, torch.dtype] = field(default_factory=dict)

    def whole(self, name: str, limit: int) -> bytearray:
        """Return all bytes of a member."""
        size = self.places[name][1]
        if size > limit:
            raise UnreadableError(f"its {name} is larger than {limit} bytes")
        return self.part(name, 0, size)

    def part(self, name: str, start: int, count: int) -> bytearray:
        """Return some bytes of a member; its checksum is compared where they are all."""
        if name not in self.places:
            raise UnreadableError("a tensor is missing")
        first, size = self.places[name]
        self.file.seek(first + start)
        available = self.file.seek(0, 2) - first - start
        if start + count > size or count > available:
            raise UnreadableError("it ends before its last tensor")
        self.file.seek(first + start)
        content = bytearray(self.file.read(count))
        wanted = self.sums.get(name, 0)  # 0 where torch.save was told to leave it out
        if wanted and count == size and zlib.crc32(content) != wanted:
            raise UnreadableError("a checksum does not fit")
        return content

    def stored(self, identity: tuple[Any, ...]) -> Any:
        """Return the storage that a persistent id names."""
        if len(identity) < 5 or text(identity[0]) != "storage" or not isinstance(identity[1], Named):
            return Thing("persistent id", identity)
        kind = _TYPES[identity[1].name.rpartition(".")[2]]
        key, elements, start = text(identity[2]), identity[4], 0
        self.kinds.setdefault(key, kind)
        if len(identity) > 5 and identity[5] is not None:
            _, start, elements = identity[5]
        if not _sizes((elements, start)):
            raise ValueError("the size of a storage")
        return _Storage(kind, key, elements, start)

    def made(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Return what stands for the call of a name: dictionaries and tensors, else a `Thing`."""
        if name in _DICTIONARIES:
            pairs = next((pairs for pairs in arguments if isinstance(pairs, list)), [])
            return {text(key): value for key, value in pairs}
        if name == "torch.Size" and len(arguments) == 1:
            return arguments[0]
        if name == "torch._tensor._rebuild_from_type_v2":  # a tensor with attributes, or of a class of its own
            return self.made(arguments[0].name, arguments[2])
        if name.startswith("torch._utils._rebuild_parameter") and isinstance(arguments[0], Entry | Thing):
            return arguments[0]
        if name == "_codecs.encode" and len(arguments) == 2 and isinstance(arguments[0], str):  # bytes, by protocol 2
            return arguments[0].encode("latin-1")
        stored = bool(arguments) and isinstance(arguments[0], _Storage)
        if stored and name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            return self._tensor(arguments, None, *arguments[6:7])
        if stored and name == "torch._utils._rebuild_tensor_v3":
            kind = getattr(torch, arguments[6].name.removeprefix("torch."))
            return self._tensor(arguments, kind, *arguments[7:8])
        return Thing(name, arguments)

    def _tensor(self, arguments: tuple[Any, ...], dtype: torch.dtype | None, facts: Any = None) -> Entry:
        storage, offset, size, stride = arguments[:4]
        kind = dtype or storage.dtype
        if not isinstance(kind, torch.dtype) or not _sizes((offset, *size, *stride)) or len(size) != len(stride):
            raise ValueError("the shape of a tensor")
        shape, steps, elements = tuple(size), tuple(stride), math.prod(size)
        extent = 1 + sum((n - 1) * step for n, step in zip(shape, steps, strict=True)) if elements else 0
        held = storage.elements * storage.dtype.itemsize // kind.itemsize
        if offset + extent > held or elements > max(held, _EXPANDED):
            raise UnreadableError("a tensor is larger than its storage")
        start = storage.start * storage.dtype.itemsize + offset * kind.itemsize
        flips = [_FLIPPED[fact] for fact, holds in (facts or {}).items() if fact in _FLIPPED and holds]

        def read() -> Tensor:
            if not elements:
                return torch.empty(shape, dtype=kind)
            content = self.part(self.folder + storage.key, start, extent * kind.itemsize)
            found = torch.frombuffer(content, dtype=kind).as_strided(shape, steps)
            for flip in flips:
                found = flip(found)
            return found

        return Entry(shape, kind, read)

    def array(self, name: str) -> Any:
        """Return the array of a member, a `Thing` where it has numbers of another kind or is none of numbers."""
        size = self.places[name][1]
        head = io.BytesIO(self.part(name, 0, min(size, _MAX_HEADER)))
        try:
            shape, fortran, kind = _HEADERS[np.lib.format.read_magic(head)](head)
        except Exception as error:  # whatever the bytes lead NumPy to
            raise UnreadableError("an array does not say what it holds") from error
        start, code = head.tell(), f"{kind.kind}{kind.itemsize}"
        if code not in _NUMBERS or len(shape) > _MOST_AXES or not _sizes(shape):
            return Thing(_ARRAYS[0])
        return _array(shape, code, kind, fortran, size - start, lambda: self.part(name, 0, size)[start:])


def array_of(thing: Thing) -> Entry | None:
    """Return the numbers of a pickled array of NumPy; None for other things, and for arrays of other kinds of numbers.

    Nothing of NumPy's is called that the file names: its bytes are read as what its description says.
    """
    given = thing.state if thing.name in _ARRAYS else None
    if thing.name in _FROM_BUFFER and isinstance(thing.made_of, tuple) and len(thing.made_of) == 4:
        buffer, kind, shape, order = thing.made_of
        given = (1, shape, kind, order == "F", buffer)
    if not isinstance(given, tuple) or len(given) != 5:
        return None
    _, shape, kind, fortran, content = given
    about = (kind.made_of, kind.state) if isinstance(kind, Thing) and kind.name == "numpy.dtype" else None
    if not about or not all(isinstance(part, tuple) and len(part) > 1 for part in about):
        return None
    code, order = about[0][0], about[1][1]  # type: ignore[index]
    known = isinstance(code, str) and code in _NUMBERS and order in ("<", ">", "|")
    if not known or not isinstance(shape, tuple) or len(shape) > _MOST_AXES or not _sizes(shape):
        return None
    held = len(content) if isinstance(content, bytes | bytearray) else -1
    return _array(shape, code, np.dtype(f"{order}{code}"), bool(fortran), held, lambda: content)


def _array(
    shape: tuple[int, ...],
    code: str,
    stored: np.dtype[Any],
    fortran: bool,
    held: int,
    content: Callable[[], bytes | bytearray],
) -> Entry:
    """Return an array of numbers that lie in so many bytes."""
    elements = math.prod(shape)
    if elements and held != elements * stored.itemsize:
        raise UnreadableError("an array is not as long as its shape says")

    def read() -> Tensor:
        if not elements:
            return torch.empty(shape, dtype=_NUMBERS[code])
        found = np.frombuffer(content(), stored).reshape(shape, order="F" if fortran else "C")
        return torch.from_numpy(found.astype(stored.newbyteorder("=")))

    return Entry(shape, _NUMBERS[code], read)


def _sizes(numbers: tuple[Any, ...]) -> bool:
    return all(type(number) is int and 0 <= number < _LARGEST for number in numbers)
