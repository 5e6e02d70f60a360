"""What signals ask of a run: to stop with a checkpoint, or to write one and go on. Needs no torch."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C, the end of a job, the end of a connection."""
WARNINGS = ("SIGUSR1", "SIGUSR2")
"""What schedulers send ahead of a job's end: Slurm as told, submitit the second."""


def end_on_signals() -> None:
    """Let this process end by SIGTERM and SIGHUP as by Ctrl-C, and outlive warnings; its children do so, too.

    A signal that was ignored at the start (`nohup`), or that somebody has a use for, stays as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _present(STOPS):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)
    outlive_warnings()


def outlive_warnings() -> None:
    """Let this process and its children outlive warnings, unless somebody has a use for them."""
    for number in _present(WARNINGS):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)


def end_plainly() -> None:
    """Undo `end_on_signals` for what ends a process: nothing catches an interrupt while Python winds itself up."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _present(STOPS):
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)


def interrupted() -> bool:
    """Whether a signal has ended what this process did, as `end_on_signals` lets it."""
    return bool(_INTERRUPTS)


_INTERRUPTS: list[int] = []
"""Signals that have come to `_interrupt`."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    _INTERRUPTS.append(number)
    raise KeyboardInterrupt


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a request to stop soon; a second one acts at once."""
    event = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.signal(number, old[number])

    numbers = [n for n in _present(STOPS) if n != getattr(signal, "SIGHUP", None) or not _ignored(n)]
    with _handled(numbers, handle) as old:
        yield event


@contextmanager
def save_on_signals() -> Iterator[threading.Event]:
    """Turn SIGUSR1 and SIGUSR2 into a request to write a checkpoint and go on; whoever does so clears the event.

    A handler that somebody else has for one of them stays.
    """
    event = threading.Event()
    default = (signal.SIG_DFL, signal.SIG_IGN)
    numbers = [number for number in _present(WARNINGS) if signal.getsignal(number) in default]
    with _handled(numbers, lambda number, frame: event.set()):
        yield event


@contextmanager
def passed_on(processes: Callable[[], list[int]]) -> Iterator[None]:
    """Send SIGUSR1 and SIGUSR2 on to processes (their ids) as they come."""

    def send(number: int, frame: FrameType | None) -> None:
        for process in processes():
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue

    with _handled(_present(WARNINGS), send):
        yield


@contextmanager
def _handled(numbers: list[int], handle: Callable[[int, FrameType | None], None]) -> Iterator[dict[int, Any]]:
    """Handle signals for a while, in the main thread only: elsewhere Python cannot."""
    main = threading.current_thread() is threading.main_thread()
    old: dict[int, Any] = {number: signal.getsignal(number) for number in numbers} if main else {}
    for number in old:
        signal.signal(number, handle)
    try:
        yield old
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _present(names: tuple[str, ...]) -> list[int]:
    return [int(getattr(signal, name)) for name in names if hasattr(signal, name)]


def _ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN
