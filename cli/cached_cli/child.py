"""Running a command as a child that answers to the same signals, and whose exit code is passed on.

Signals that arrive before the command runs are kept for it. What the terminal sends to the whole process
group reaches the command by itself and is not sent twice.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Final, NoReturn, Self

from cached.errors import CachedError

#: Passed on to the command.
FORWARDED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
#: Made by keys, for every process of the terminal's foreground group.
_FROM_KEYS: Final = frozenset({signal.SIGINT, signal.SIGQUIT})
_NOT_EXECUTABLE: Final = {
    errno.EACCES,
    errno.ENOEXEC,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EPERM,
    errno.ELIBBAD,
}

CANNOT_RUN: Final = 125
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127


class CannotRunError(CachedError):
    """The command could not be started; `exit_status` says which way, as shells do."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Clean up whatever happens: SIGTERM and SIGHUP unwind the stack; handlers are restored at the end."""
    before = {number: signal.getsignal(number) for number in (*FORWARDED, signal.SIGCHLD)}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if before[number] == signal.SIG_DFL:
            signal.signal(number, _unwind)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _unwind(number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


class Relay:
    """From its start on keeps the signals for the command that it runs; use within `undisturbed`.

    Works whichever thread the kernel gives a signal to: the handlers run in the main thread, which a pipe
    wakes. Signals that are ignored stay ignored, by the command too.
    """

    def __init__(self) -> None:
        self._arrived: list[int] = []
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup_before = -1

    def __enter__(self) -> Self:
        self._wakeup_before = signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in FORWARDED:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, _frame: self._arrived.append(number))
        return self

    def __exit__(self, *_failure: object) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._wake)
        os.close(self._woken)

    def run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run a command, found along PATH, to its end; return its exit code, or 128 + the signal's number.

        Raises `CannotRunError`.
        """
        defaults = [signal.SIGPIPE, signal.SIGXFSZ]
        try:
            child = os.posix_spawnp(arguments[0], list(arguments), environment, setsigdef=defaults)
        except (OSError, ValueError) as error:
            raise _cannot_run(arguments[0], error) from error
        while True:
            self._deliver(child)
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            select.select([self._wake], [], [])
            os.read(self._wake, 4096)

    def _deliver(self, child: int) -> None:
        while self._arrived:
            number = self._arrived.pop(0)
            if number not in _FROM_KEYS or not _in_foreground():
                os.kill(child, number)


def _in_foreground() -> bool:
    """Return whether this process group, which is the command's too, has the terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _cannot_run(command: str, error: OSError | ValueError) -> CannotRunError:
    if isinstance(error, ValueError):
        return CannotRunError(f"{command}: {error}", CANNOT_RUN)
    if error.errno == errno.ENOENT:
        return CannotRunError(f"{command}: command not found", NOT_FOUND)
    status = NOT_EXECUTABLE if error.errno in _NOT_EXECUTABLE else CANNOT_RUN
    return CannotRunError(f"{command}: {error.strerror}", status)
