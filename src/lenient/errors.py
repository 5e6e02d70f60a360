"""The errors that the public functions raise; each has the exit code of its command as `exit_code`."""

from __future__ import annotations

from lenient.core.errors import DamagedError, HealthError, LenientError, MachineError, TeacherError, UsageError

__all__ = ["DamagedError", "HealthError", "LenientError", "MachineError", "TeacherError", "UsageError"]
