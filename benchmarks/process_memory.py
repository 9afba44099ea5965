"""What a command and all that it started take of the memory: the processes of the work, and Ray's own services."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ray  # noqa: F401  (brings psutil along)

if TYPE_CHECKING:
    from psutil import Process

RAYLET = "raylet/raylet"
SERVICES = ("raylet", "gcs_server", "dashboard", "log_monitor", "monitor.py", "runtime_env", "Agent", "ray::IDLE")


def memory_of(pid: int, taken: Callable[[Process, str], tuple[int, int]]) -> tuple[int, int]:
    """Bytes of a process and its children: those of the work, those of Ray's services.

    Args:
        pid: of the process.
        taken: of a process and its command line: bytes that are its own, and those that count as work whoever
            holds them.

    Returns:
        (0, 0) where it has ended.
    """
    import psutil

    work = services = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return 0, 0
    for process in processes:
        try:
            line = " ".join(process.cmdline())
            own, always_work = taken(process, line)
        except (psutil.Error, OSError):  # it has ended
            continue
        work += always_work
        if any(name in line for name in SERVICES):
            services += own
        else:
            work += own
    return work, services


def unshared(process: Process, line: str) -> tuple[int, int]:
    """Resident bytes that a process does not share; quick to read."""
    info = process.memory_info()
    return info.rss - info.shared, 0


def proportional(process: Process, line: str) -> tuple[int, int]:
    """Shared pages too, each divided by those that share it. What the raylet shares is the object store: work."""
    info = process.memory_full_info()
    store = max(info.pss - info.uss, 0) if RAYLET in line else 0
    return info.pss - store, store
