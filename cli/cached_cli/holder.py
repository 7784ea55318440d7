"""The background process that keeps a set open for the shell or job that asked for its path.

It is forked twice, so that nobody waits for it; it opens the set itself, because a pin belongs to the process
that holds it; and it ends when the process that it was started for ends.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

from cached.errors import CachedError, DaemonUnreachable

#: How far up the processes a subshell is looked for.
_MAX_CLIMB: Final = 32
#: Seconds between two looks at a process, where it must be polled.
_POLL_EVERY: Final = 1.0


class Held(Protocol):
    """An open directory of a set, with its pin."""

    fd: int


@dataclass(frozen=True, kw_only=True)
class Process:
    """What tells a process from a fork of it."""

    pid: int
    parent: int
    session: int
    #: Arguments as the kernel knows them; a subshell has those of the shell it was forked from.
    command: bytes
    executable: str
    #: Clock ticks since boot; with the number it names a process for good.
    started: int


def look(pid: int) -> Process | None:
    """Read one process from /proc; None when it is gone or not ours to look at."""
    place = Path("/proc", str(pid))
    try:
        fields = (place / "stat").read_bytes().rpartition(b")")[2].split()
        return Process(
            pid=pid,
            parent=int(fields[1]),
            session=int(fields[3]),
            command=(place / "cmdline").read_bytes(),
            executable=os.readlink(place / "exe"),
            started=int(fields[19]),
        )
    except OSError:
        return None


def caller(pid: int, look: Callable[[int], Process | None] = look) -> int:
    """Return the process whose life counts for a path asked for by a child of `pid`.

    `$(cached path nr)` may run in a subshell that ends at once; the shell that it was forked from is meant.
    """
    for _ in range(_MAX_CLIMB):
        here = look(pid)
        above = look(here.parent) if here else None
        if here is None or above is None or not _forked_from(here, above):
            break
        pid = above.pid
    return pid


def _forked_from(child: Process, parent: Process) -> bool:
    alike = child.command == parent.command and child.executable == parent.executable
    return alike and child.session == parent.session


class Life:
    """The life of a process, to be waited for; by polling where the kernel cannot tell of its end."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._process = look(pid)
        self.descriptors: list[int] = []
        try:
            self.descriptors.append(os.pidfd_open(pid))
        except OSError as error:
            if error.errno != errno.ENOSYS or self._process is None:
                raise CachedError("the process that asked for the path has ended") from error

    def wait(self) -> None:
        """Return when the process has ended."""
        if self.descriptors:
            select.select(self.descriptors, [], [])
            return
        while self._is_alive():
            time.sleep(_POLL_EVERY)

    def _is_alive(self) -> bool:
        now = look(self._pid)
        return now is not None and self._process is not None and now.started == self._process.started

    def close(self) -> None:
        """Close what was opened."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def hold(open_set: Callable[[], Held], owner: int) -> tuple[int, int]:
    """Keep what `open_set` opens until the process `owner` ends; return the holder's pid and the descriptor.

    `open_set` is called in the holder. Raises what it raised.
    """
    life = Life(owner)
    reader, writer = os.pipe()
    first = os.fork()
    if first == 0:
        _become_holder(open_set, life, writer)
    life.close()
    os.close(writer)
    os.waitpid(first, 0)
    with os.fdopen(reader, "rb") as told:
        answer = told.read()
    if not answer:
        raise DaemonUnreachable(
            "the process that was to hold the set ended at once", hint="see cached status"
        )
    return _unpack(json.loads(answer))


def _unpack(answer: dict[str, Any]) -> tuple[int, int]:
    if "error" in answer:
        raise CachedError.from_wire(answer)
    return int(answer["pid"]), int(answer["fd"])


def _become_holder(open_set: Callable[[], Held], life: Life, report: int) -> NoReturn:
    """In the first child: fork once more, let go of everything inherited, open the set, and stay."""
    code = 1
    try:
        os.setsid()
        if os.fork() == 0:
            _let_go(keep={*life.descriptors, report})
            code = _serve(open_set, life, report)
        else:
            code = 0
    finally:
        os._exit(code)


def _let_go(keep: set[int]) -> None:
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    low = 3
    for kept in sorted(keep):
        os.closerange(low, kept)
        low = kept + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def _serve(open_set: Callable[[], Held], life: Life, report: int) -> int:
    try:
        held = open_set()
    except CachedError as error:
        os.write(report, json.dumps(error.to_wire(), default=str).encode())
        return 1
    os.write(report, json.dumps({"pid": os.getpid(), "fd": held.fd}).encode())
    os.close(report)
    life.wait()
    return 0
