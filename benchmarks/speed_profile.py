"""Where the time of an iteration goes, by torch's own profiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

ROWS = 15


def profiled(iterate: Callable[[], Any]) -> list[dict[str, Any]]:
    """Return the operators that an iteration spends most time in on the host: share of it, and calls."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        iterate()
    events = seen.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    longest = sorted(events, key=lambda event: -event.self_cpu_time_total)[:ROWS]
    return [{"operator": e.key, "share": e.self_cpu_time_total / total, "calls": e.count} for e in longest]
