"""Errors that a user can act on: one line that names the flag to change, and the exit code that goes with it."""

from __future__ import annotations


class LenientError(Exception):
    """Base of all errors whose message is meant for the user; the commands print it without a traceback."""

    exit_code = 1


class UsageError(LenientError):
    """A flag or setting cannot be used as given."""

    exit_code = 2


class TeacherError(LenientError):
    """The teacher cannot be used: not found, not loadable, or not a classifier of the stated shape."""

    exit_code = 3


class HealthError(LenientError):
    """The run is not worth continuing, or its result not worth using."""

    exit_code = 4


class MachineError(LenientError):
    """The machine gave out: memory, disk, permissions."""

    exit_code = 5


class DamagedError(MachineError):
    """What was written cannot be read any more: there is nothing to go on with."""
