"""Following a pickle without running anything: what it names is never imported, and what it calls is never called.

Lists, dictionaries, numbers and texts come out as such; every other object as an inert `Thing`, unless the caller knows
how to make data of it.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

MAX_BYTES = 64 * 2**20
"""Of the description of a checkpoint, which lies beside the bytes of its tensors."""
MAX_OPERATIONS = 5_000_000


class UnreadableError(Exception):
    """The file is damaged or of another kind; the message says so in words that follow a colon."""


@dataclass(frozen=True)
class Named:
    """A class or function that a pickle names, as "package.module.name"."""

    name: str


@dataclass(eq=False, repr=False)
class Thing:
    """What stands for an object: by what name it was made, of what, and what was put into it."""

    name: str
    made_of: object = None
    state: object = None
    items: list[Any] = field(default_factory=list)


Made = Callable[[str, tuple[Any, ...]], Any]
Stored = Callable[[tuple[Any, ...]], Any]


class Stream:
    """A file that hands out so much and no more, and makes no room for what is not there."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, MAX_BYTES

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes, or fewer at the end; raises UnreadableError beyond the limit."""
        if not 0 <= count <= self._left:
            raise UnreadableError(
                f"a part of it is longer than the file, or than {MAX_BYTES >> 20} MiB, as arrays in a pickle may be: "
                "save it as safetensors"
            )
        self._left -= count
        return self._file.read(count)

    def readline(self) -> bytes:
        """Return the next line, or the first 64 KiB of it."""
        line = self._file.readline(min(self._left, 2**16))
        self._left -= len(line)
        return line


_MARK = object()


class Reader:
    """Reads one pickle; `made` is asked for what a name and its arguments stand for, `stored` for a persistent id."""

    def __init__(self, stream: Stream, made: Made, stored: Stored) -> None:
        self._stream, self._made, self._stored = stream, made, stored
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Return what the pickle describes; raises UnreadableError."""
        try:
            for count, (operation, argument, _) in enumerate(pickletools.genops(self._stream)):  # type: ignore[arg-type]
                if count > MAX_OPERATIONS:
                    raise UnreadableError(f"it describes more than {MAX_OPERATIONS:,} values")
                if operation.name == "STOP":
                    return self._pop()
                step = _STEPS.get(operation.name)
                if step is None:
                    self._stack.append(_CONSTANTS.get(operation.name, argument))
                else:
                    step(self, argument)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
            raise UnreadableError("its description makes no sense") from error
        raise UnreadableError("its description breaks off")

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a mark instead of a value")
        return value

    def _above_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    # names and calls

    def _name(self, argument: str) -> None:
        self._stack.append(Named(argument.replace(" ", ".", 1)))

    def _name_on_stack(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self._stack.append(Named(f"{text(module)}.{text(name)}"))

    def _call(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        self._stack.append(self._result(function, arguments))

    def _call_with_keywords(self, _: Any) -> None:
        self._pop()
        self._call(None)

    def _instance(self, argument: str) -> None:
        self._stack.append(self._result(Named(argument.replace(" ", ".", 1)), tuple(self._above_mark())))

    def _object(self, _: Any) -> None:
        function, *arguments = self._above_mark()
        self._stack.append(self._result(function, tuple(arguments)))

    def _result(self, function: object, arguments: object) -> Any:
        if isinstance(function, Named) and isinstance(arguments, tuple):
            return self._made(function.name, arguments)
        return Thing(getattr(function, "name", "an object"), arguments)

    def _identity(self, _: Any) -> None:
        identity = self._pop()
        found = self._stored(identity) if isinstance(identity, tuple) else Thing("persistent id", identity)
        self._stack.append(found)

    def _identity_in_text(self, argument: str) -> None:
        self._stack.append(Thing("persistent id", argument))

    def _extension(self, argument: int) -> None:
        self._stack.append(Named(f"extension {argument}"))

    # what is filled

    def _build(self, _: Any) -> None:
        state = self._pop()
        if isinstance(self._stack[-1], Thing):
            self._stack[-1].state = state

    def _append(self, _: Any) -> None:
        self._extend([self._pop()])

    def _extend_by_marked(self, _: Any) -> None:
        self._extend(self._above_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        (target.items if isinstance(target, Thing) else target).extend(items)

    def _set(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._fill([key, value])

    def _set_marked(self, _: Any) -> None:
        self._fill(self._above_mark())

    def _fill(self, items: list[Any]) -> None:
        target = self._stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(target, Thing):
                target.items.append((key, value))
            else:
                target[_key(key)] = value

    # the stack and the memo

    def _marked(self, kind: type) -> None:
        items = self._above_mark()
        self._stack.append(kind(items))

    def _dictionary(self, _: Any) -> None:
        items = self._above_mark()
        self._stack.append({})
        self._fill(items)

    def _tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def _remember(self, argument: int) -> None:
        self._memo[argument] = self._stack[-1]

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _recall(self, argument: int) -> None:
        self._stack.append(self._memo[argument])


def text(value: object) -> str:
    """Return a text of a pickle, which is bytes where Python 2 wrote it; raises ValueError for another thing."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str | int):
        raise ValueError("not a text")
    return str(value)


def _key(value: object) -> object:
    """Return a key that is quick to look up; what could be slow stands for itself alone."""
    if isinstance(value, bytes):
        return text(value)
    if value is None or isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 2**60):
        return value
    return Thing("key", value)


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_STEPS: dict[str, Callable[[Reader, Any], object]] = {
    "PROTO": lambda reader, _: None,
    "FRAME": lambda reader, _: None,
    "POP": lambda reader, _: reader._stack.pop(),
    "POP_MARK": lambda reader, _: reader._above_mark(),
    "DUP": lambda reader, _: reader._stack.append(reader._stack[-1]),
    "EMPTY_LIST": lambda reader, _: reader._stack.append([]),
    "EMPTY_DICT": lambda reader, _: reader._stack.append({}),
    "EMPTY_SET": lambda reader, _: reader._stack.append(Thing("set")),
    "ADDITEMS": Reader._extend_by_marked,
    "FROZENSET": lambda reader, _: reader._stack.append(Thing("frozenset", reader._above_mark())),
    "LIST": lambda reader, _: reader._marked(list),
    "TUPLE": lambda reader, _: reader._marked(tuple),
    "DICT": Reader._dictionary,
    "TUPLE1": lambda reader, _: reader._tuple(1),
    "TUPLE2": lambda reader, _: reader._tuple(2),
    "TUPLE3": lambda reader, _: reader._tuple(3),
    "APPEND": Reader._append,
    "APPENDS": Reader._extend_by_marked,
    "SETITEM": Reader._set,
    "SETITEMS": Reader._set_marked,
    "BUILD": Reader._build,
    "GLOBAL": Reader._name,
    "STACK_GLOBAL": Reader._name_on_stack,
    "REDUCE": Reader._call,
    "NEWOBJ": Reader._call,
    "NEWOBJ_EX": Reader._call_with_keywords,
    "INST": Reader._instance,
    "OBJ": Reader._object,
    "EXT1": Reader._extension,
    "EXT2": Reader._extension,
    "EXT4": Reader._extension,
    "PERSID": Reader._identity_in_text,
    "BINPERSID": Reader._identity,
    "NEXT_BUFFER": lambda reader, _: reader._stack.append(Thing("buffer")),
    "READONLY_BUFFER": lambda reader, _: None,
    "GET": Reader._recall,
    "BINGET": Reader._recall,
    "LONG_BINGET": Reader._recall,
    "PUT": Reader._remember,
    "BINPUT": Reader._remember,
    "LONG_BINPUT": Reader._remember,
    "MEMOIZE": Reader._memoize,
}
