"""What drivers of damaged input share: a command in this process, bytes that are spoilt, values that nobody expects."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import pytest

from lenient.cli import main
from lenient.core.text import LINE

CODES = (0, 2, 3, 4, 5, 130)
"""Exit codes that a user can act on: 1 is a fault of ours."""
SECONDS = 60
"""Most CPU time of a command on small networks: it takes a second of it, however many others are at work."""
STOP = 20
"""Seconds of CPU time after which a command is interrupted: a run may have been damaged into a much longer one."""
IDLE = 1200
"""Seconds by the clock after which one is interrupted that waits for something."""
GIB = 2**30

HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 2, 10**9, 10**30, 0.5, -1e308, float("nan"), float("inf"), "", "x", "x" * 30_000, "\x1b[31m"),
    *("a\nb", "a\0b",
      "../../precious", "/dev/zero", "2020-01-01", "é\u202e", [], {}, [[[]]], [1, "a"], {"a": 1}, {"": None}),
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a command came to its end."""

    words: tuple[object, ...]
    code: int
    printed: str
    said: str
    seconds: float
    """CPU time."""

    def check(self, *names: str) -> None:
        """It ended as users may expect: in time, by a known code, errors in one line with one of `names`."""
        assert self.code in CODES, self
        assert self.seconds < SECONDS, self
        assert "Traceback" not in self.said, self
        ours = [line for line in self.said.splitlines() if line.startswith("lenient: ")]
        assert len(ours) == (self.code in (2, 3, 5, 130)), self
        assert all(len(line) <= LINE for line in ours), self
        if self.code in (2, 3, 5):
            assert self.said.rstrip().endswith(ours[0]), self
            assert not names or any(name in ours[0] for name in names), (self, names)


def command(*words: object) -> Ended:
    """Run `lenient WORDS` in this process, with an interrupt after `STOP` seconds and another one at the limit."""
    printed, said, began, ended = io.StringIO(), io.StringIO(), time.process_time(), threading.Event()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(said):
        patch.setattr(sys, "argv", ["lenient", *map(str, words)])
        old = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs
        watch = threading.Thread(target=_interrupt, args=(began, ended))
        watch.start()
        try:
            main()
            code: Any = 0
        except SystemExit as end:
            code = end.code
        except Exception:
            traceback.print_exc(file=said)
            code = 1
        finally:
            ended.set()
            watch.join()
            signal.signal(signal.SIGINT, old)
    return Ended(words, code, printed.getvalue(), said.getvalue(), time.process_time() - began)


def _interrupt(began: float, ended: threading.Event) -> None:
    """Send this process an interrupt at each limit, until it has ended what it began at a CPU time."""
    for limit in (STOP, SECONDS):
        late = time.monotonic() + IDLE
        while time.process_time() - began < limit and time.monotonic() < late:
            if ended.wait(0.1):
                return
        os.kill(os.getpid(), signal.SIGINT)


@contextmanager
def bounded_memory(more: int = 4 * GIB) -> Iterator[None]:
    """Let this process have so much more memory: what asks for all there is must not end all tests; where there is no
    /proc, limits of memory are none either."""
    if not os.path.exists("/proc/self/statm"):
        yield
        return
    import resource

    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def spoilt_bytes(content: bytes, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield what disks, transfers and editors make of a file, each with a name."""
    for share in (0.001, 0.05, 0.3, 0.5, 0.9, 0.999):
        yield f"cut at {share}", content[: int(len(content) * share)]
    for count in (1, 1, 1, 8, 8, 64):
        data = bytearray(content)
        for _ in range(count if content else 0):
            data[chance.randrange(min(len(data), chance.choice((200, 4000, len(data)))))] ^= 1 << chance.randrange(8)
        yield f"{count} bits flipped", bytes(data)
    at = chance.randrange(len(content) + 1)
    yield "zeros inside", content[:at] + b"\0" * 512 + content[at + 512 :]
    yield "twice", content * 2


OTHERS: Mapping[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "a number": b"5",
    "a list": b"[1]",
    "a text": b'"x"',
    "an empty object": b"{}",
    "deep lists": b"[" * 50_000,
    "deep objects": b'{"a":' * 50_000,
    "a huge number": b'{"step": ' + b"9" * 5000 + b"}",
    "not a number": b'{"step": NaN}',
    "infinity": b"steps: .inf\n",
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "a tag": b"steps: !!python/object/apply:os.system [true]\n",
    "a pickle": b"cos\nsystem\n(S'true'\ntR.",
    "an archive": b"PK\x03\x04" + b"\0" * 60,
}
"""Contents of another kind."""


def spoilt_values(values: Any, chance: random.Random, hostile: tuple[Any, ...] = HOSTILE) -> Any:
    """Return a copy of nested values in which one, at random, is another one, missing, or under another name."""
    if not isinstance(values, (dict, list)) or not values or chance.random() < 0.1:
        return chance.choice(hostile)
    copy: Any = dict(values) if isinstance(values, dict) else list(values)
    key = chance.choice(list(values) if isinstance(values, dict) else range(len(values)))
    way = chance.random()
    if way < 0.1:
        del copy[key]
    elif way < 0.2 and isinstance(copy, dict):
        copy[f"{key}x"] = copy.pop(key)
    else:
        copy[key] = spoilt_values(values[key], chance, hostile)
    return copy


def spoilt_safetensors(content: bytes, chance: random.Random) -> bytes:
    """Return a safetensors file whose header says something else."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(spoilt_values(json.loads(content[8 : 8 + size]), chance)).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


Spoil = Callable[[bytes, random.Random], bytes]
