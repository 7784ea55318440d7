"""Which threads go first: those that are waited for in milliseconds, before those that copy and hash for seconds.

Linux's scheduler (EEVDF) lets a thread that runs finish its slice, some 3 ms, before one that wakes up takes its place,
unless the one that wakes has a shorter slice; a lower priority alone changes nothing about that. So those that answer
have short slices, and so have those that copy, lest whoever else wakes up should wait for them. Slices of one's own
exist since Linux 6.12 (sched_setattr(2), `sched_runtime`); earlier kernels ignore them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import threading
from typing import Final

#: Of threads that copy what a user waits for: a tenth of a processor's time where others want all of it.
BULK: Final = 10
#: Of threads whose work nobody waits for.
IDLE: Final = 19

#: The shortest slice that there is, in nanoseconds.
_SHORT: Final = 100_000
_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
_RESET_ON_FORK: Final = 0x01


class _Attributes(ctypes.Structure):
    """`struct sched_attr`, as its first version has it."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def step_back(nice: int) -> None:
    """Lower the priority of this thread, and of those that it starts, to that nice value; never raise it.

    Whoever wakes up need not wait until its slice is over.
    """
    with contextlib.suppress(OSError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(nice, os.getpriority(os.PRIO_PROCESS, thread)))
    _take_short_slices(0)


def answer_at_once() -> None:
    """Let this thread, and none that it starts, take the place of one that computes as soon as it wakes up."""
    _take_short_slices(_RESET_ON_FORK)


def _take_short_slices(flags: int) -> None:
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return
    thread = threading.get_native_id()
    wanted = _Attributes(
        size=ctypes.sizeof(_Attributes),
        policy=os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK,
        flags=flags,
        nice=os.getpriority(os.PRIO_PROCESS, thread),
        runtime=_SHORT,
    )
    ctypes.CDLL(None).syscall(
        number, thread, ctypes.byref(wanted), 0
    )  # where it is refused all goes on as usual
