"""The pin log: which processes have which contents open, kept where `kill -9` cannot lose it.

One line a change, appended with a single write(2): once the call returns, the kernel has it, and a daemon killed
the next instant finds it again. It is never fsynced on purpose: a power cut ends the readers too, and the boot id
in the first line makes the whole log void after a reboot. Space for it is allocated ahead, so that a full disk does
not stop readers.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from cached.leases.pin import Pin, Process

log = logging.getLogger(__name__)

_HEADROOM = 256 * 1024
_COMPACT_ABOVE = 128 * 1024


class PinLog:
    """Durable multiset of pins; every call is a few microseconds and never raises for want of space."""

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        self._boot_id = boot_id
        self._held: set[Pin] = set()
        self._size = 0
        self._fd = -1

    def open(self) -> frozenset[Pin]:
        """Read what an earlier daemon of this boot left behind, start a fresh log with it, and return it."""
        self._held = _read(self._path, self._boot_id)
        self._compact()
        return frozenset(self._held)

    def close(self) -> None:
        """Close the log; what it says stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def add(self, pin: Pin) -> None:
        """Record that `pin` holds."""
        if pin not in self._held:
            self._held.add(pin)
            self._append("+", pin)

    def remove(self, pin: Pin) -> None:
        """Record that `pin` holds no more."""
        if pin in self._held:
            self._held.discard(pin)
            self._append("-", pin)

    def _append(self, sign: str, pin: Pin) -> None:
        line = f"{sign} {pin.set_id} {pin.content} {pin.process.pid} {pin.process.start_time}\n".encode()
        try:
            os.pwrite(self._fd, line, self._size)
            self._size += len(line)
        except OSError as error:
            log.warning("pin.not_recorded pid=%d reason=%s", pin.process.pid, error.strerror)
        if self._size > _COMPACT_ABOVE:
            with contextlib.suppress(OSError):
                self._compact()

    def _compact(self) -> None:
        fresh = self._path.with_suffix(".new")
        text = f"boot {self._boot_id}\n" + "".join(
            f"+ {pin.set_id} {pin.content} {pin.process.pid} {pin.process.start_time}\n"
            for pin in sorted(self._held, key=str)
        )
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError):
            os.posix_fallocate(fd, 0, _HEADROOM + len(text))
        os.pwrite(fd, text.encode(), 0)
        os.rename(fresh, self._path)
        self.close()
        self._fd, self._size = fd, len(text.encode())


def _read(path: Path, boot_id: str) -> set[Pin]:
    try:
        lines = path.read_bytes().rstrip(b"\0").decode("ascii", "replace").splitlines()
    except FileNotFoundError:
        return set()
    held: set[Pin] = set()
    if not lines or lines[0] != f"boot {boot_id}":
        return held
    for line in lines[1:]:
        words = line.split()
        if len(words) != 5 or not (words[3].isdigit() and words[4].isdigit()):
            continue
        pin = Pin(words[1], words[2], Process(int(words[3]), int(words[4])))
        (held.add if words[0] == "+" else held.discard)(pin)
    return held
