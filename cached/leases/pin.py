"""Pins: a process that has a set open. While one lasts, the replica's bytes stay, whatever its lease says."""

from __future__ import annotations

import msgspec


class Process(msgspec.Struct, frozen=True, order=True):
    """A process as the kernel tells it apart: a pid alone may be reused, with its start time it may not."""

    pid: int
    #: Clock ticks since boot, field 22 of /proc/PID/stat.
    start_time: int


class Pin(msgspec.Struct, frozen=True):
    """One process's hold on one content of this node."""

    set_id: str
    content: str
    process: Process
