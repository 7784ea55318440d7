"""Many files and directories synced at once, so that what one commit of the journal makes durable is waited for once.

`fsync` one after the other has ext4 flush the device for each file, though the commit that the first one waited for
covers them all, and commit again for each directory while others write. Linux's own asynchronous I/O has all of them
under way at the same time, without a thread of this process (io_submit(2), `IOCB_CMD_FSYNC` since Linux 4.18). Where
the kernel, a filter of system calls, or the machine's limit on such requests (`fs.aio-max-nr`) refuses that, they are
synced one by one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections import deque
from collections.abc import Sequence
from typing import Final

#: Numbers of `io_setup`, `io_submit` and `io_getevents`; on other machines files are synced one by one.
_CALLS: Final = {"x86_64": (206, 209, 208), "aarch64": (0, 2, 4)}
#: linux/aio_abi.h
_FSYNC: Final = 2
#: What is refused with these will be refused again.
_NEVER: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL})
#: Requests that are under way in one queue, at most.
MOST: Final = 64


class _Request(ctypes.Structure):
    """`struct iocb`, as machines with the low byte first have it."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("descriptor", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event_descriptor", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """`struct io_event`."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


def sync_all(descriptors: Sequence[int]) -> None:
    """Bring open files and directories to their device. Raises the `OSError` of the first one that cannot be."""
    left = list(descriptors)
    while len(left) > 1 and (queue := _Queues.take()) is not None:
        begun, code = queue.sync(left[:MOST])
        _Queues.give_back(queue)
        if code:
            raise OSError(code, os.strerror(code))
        if not begun:
            break
        del left[:begun]
    for descriptor in left:
        os.fsync(descriptor)


class _Queue:
    """A context of the kernel for asynchronous I/O; one thread at a time uses it."""

    def __init__(self) -> None:
        """Raises `OSError` where there is none to be had, or nothing would be heard of it."""
        setup, self._submit, self._events = _CALLS[platform.machine()]
        self._context = ctypes.c_ulong(0)
        _call(setup, ctypes.c_uint(MOST), ctypes.byref(self._context))
        at_once = (ctypes.c_long * 2)()
        _call(self._events, self._context, ctypes.c_long(0), ctypes.c_long(1), (_Event * 1)(), at_once)

    def sync(self, descriptors: Sequence[int]) -> tuple[int, int]:
        """Sync some of these, from the first on; return how many, and the number of the first error of them, or 0."""
        count = len(descriptors)
        requests, places = (_Request * count)(), (ctypes.c_void_p * count)()
        for number, descriptor in enumerate(descriptors):
            requests[number].data, requests[number].opcode = number, _FSYNC
            requests[number].descriptor = descriptor
            places[number] = ctypes.addressof(requests[number])
        try:
            begun = _call(self._submit, self._context, ctypes.c_long(count), places)
        except OSError:  # of the first: `fsync` says what it is
            return 0, 0
        codes = self._awaited(begun)
        return begun, next(filter(None, codes), 0)

    def _awaited(self, count: int) -> list[int]:
        """Wait for so many; return the error number of each, in the order in which they were asked for."""
        codes, left, events = [0] * count, count, (_Event * count)()
        while left:
            try:
                got = _call(self._events, self._context, ctypes.c_long(1), ctypes.c_long(left), events, None)
            except InterruptedError:
                continue
            for event in events[:got]:
                codes[event.data] = max(0, -event.result)
            left -= got
        return codes


class _Queues:
    """Queues that nobody uses: as many as threads have synced at the same time."""

    _free: Final[deque[_Queue]] = deque()
    _refused = platform.machine() not in _CALLS or sys.maxsize < 1 << 32  # that says what the kernel is

    @classmethod
    def take(cls) -> _Queue | None:
        """Return a queue for the caller alone; None where there is none."""
        try:
            return cls._free.pop()
        except IndexError:
            pass
        if cls._refused:
            return None
        try:
            return _Queue()
        except OSError as error:
            cls._refused = error.errno in _NEVER  # else others have all there are, just now
            return None

    @classmethod
    def give_back(cls, queue: _Queue) -> None:
        """Let others use it."""
        cls._free.append(queue)

    @classmethod
    def forget(cls) -> None:
        """In a process that was just forked: the kernel has not taken them along."""
        cls._free.clear()


os.register_at_fork(after_in_child=_Queues.forget)
_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    answer = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer
