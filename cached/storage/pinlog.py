"""The pin log: which processes have which contents open, kept where `kill -9` cannot lose it.

One line a change, appended with a single write(2): once `add` returns, the kernel has it, and a daemon killed the
next instant finds it again. What `remove` takes away is written with the next `flush`: many readers open again what
they have just closed, and then nothing is written at all. The log is never fsynced on purpose: a power cut ends the
readers too, and the boot id in the first line makes the whole log void after a reboot. Space for it is allocated
ahead, so that a full disk does not stop readers.
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
#: Pins let go that are not written down yet, at most.
_UNWRITTEN = 256


class PinLog:
    """Durable multiset of pins; every call is a few microseconds and never raises for want of space."""

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        self._boot_id = boot_id
        self._held: set[Pin] = set()
        #: What the log says and is not so any more.
        self._ended: set[Pin] = set()
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
            self.flush()
            os.close(self._fd)
            self._fd = -1

    def add(self, pin: Pin) -> None:
        """Record that `pin` holds."""
        if pin in self._held:
            return
        self._held.add(pin)
        if pin in self._ended:
            self._ended.remove(pin)
        else:
            self._append([_line("+", pin)])

    def remove(self, pin: Pin) -> None:
        """Let `flush` record that `pin` holds no more."""
        if pin in self._held:
            self._held.remove(pin)
            self._ended.add(pin)
            if len(self._ended) > _UNWRITTEN:
                self.flush()

    def flush(self) -> None:
        """Record what was removed."""
        if self._ended:
            lines = [_line("-", pin) for pin in self._ended]
            self._ended.clear()
            self._append(lines)

    def _append(self, lines: list[str]) -> None:
        data = "".join(lines).encode()
        try:
            os.pwrite(self._fd, data, self._size)
            self._size += len(data)
        except OSError as error:
            log.warning("pin.not_recorded lines=%d reason=%s", len(lines), error.strerror)
        if self._size > _COMPACT_ABOVE:
            with contextlib.suppress(OSError):
                self._compact()

    def _compact(self) -> None:
        fresh = self._path.with_suffix(".new")
        text = f"boot {self._boot_id}\n" + "".join(_line("+", pin) for pin in sorted(self._held, key=str))
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError):
            os.posix_fallocate(fd, 0, _HEADROOM + len(text))
        os.pwrite(fd, text.encode(), 0)
        os.rename(fresh, self._path)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size = fd, len(text.encode())
        self._ended.clear()


def _line(sign: str, pin: Pin) -> str:
    return f"{sign} {pin.set_id} {pin.content} {pin.process.pid} {pin.process.start_time}\n"


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
