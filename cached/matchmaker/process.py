"""The parent's end of the child process: start it, talk to it, notice how it died.

Blocking, for one thread at a time. The child inherits two pipes and a shared page, no socket and next to no
environment.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import msgspec

from cached.matchmaker.protocol import CPU_LIMIT, IDLE, LENGTH, MAX_FRAME, PROGRESS, Reply, Request

#: Seconds without any progress after which the child is killed. It limits its CPU time itself; this is for a
#: child that is stopped or starved.
PATIENCE: Final = 10.0
#: Ads that the child keeps parsed.
MAX_KNOWN: Final = 8192


class Died(NamedTuple):
    """How the child ended, and what it was doing."""

    #: Position in the request, and one of the stages of `protocol`.
    position: int
    stage: int
    #: In words: "took longer than 0.5 s".
    how: str
    #: Whether the work is to blame, rather than the circumstances.
    guilty: bool


class Process:
    """One child, from its start to its end; each piece of work may take `cpu_seconds` of its CPU time."""

    def __init__(self, cpu_seconds: float = CPU_LIMIT) -> None:
        self._cpu_seconds = cpu_seconds
        descriptor = os.memfd_create("cached-matchmaker")
        try:
            os.ftruncate(descriptor, PROGRESS.size)
            self._page = mmap.mmap(descriptor, PROGRESS.size)
            command = [
                sys.executable,
                "-P",
                "-m",
                "cached.matchmaker.child",
                str(descriptor),
                str(cpu_seconds),
            ]
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=[descriptor],
                env=_environment(),
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        self._stdin, self._stdout = _pipe(self._child.stdin), _pipe(self._child.stdout)
        os.set_blocking(self._stdin, False)
        #: Digests of the ads that went with the last request, in order.
        self.learned: list[bytes] = []
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Reply)
        self._numbers: dict[bytes, int] = {}
        self._stale: list[int] = []
        self._next = 0

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._child.pid

    def match(self, pairs: list[tuple[bytes, bytes]], ads: Mapping[bytes, dict[str, Any]]) -> Reply | Died:
        """Match pairs of digests of `ads`; those that the child does not know yet are sent along."""
        forget = self._stale + self._make_room(len(ads))
        self._stale = []
        self.learned = [digest for digest in ads if digest not in self._numbers]
        learn = []
        for digest in self.learned:
            self._numbers[digest] = self._next
            learn.append((self._next, ads[digest]))
            self._next += 1
        numbered = [(self._numbers[left], self._numbers[right]) for left, right in pairs]
        return self._ask(Request(forget, learn, numbered))

    def forget(self, digests: Iterable[bytes]) -> None:
        """Let the child drop ads with the next request."""
        self._stale += [self._numbers.pop(digest) for digest in digests]

    def check(self, expression: str) -> Reply | Died:
        """Have an expression parsed."""
        return self._ask(Request([], [], [], expression))

    def _make_room(self, coming: int) -> list[int]:
        """Forget every ad when too many are known; those still wanted are cheap to send again."""
        if len(self._numbers) + coming <= MAX_KNOWN:
            return []
        forgotten = list(self._numbers.values())
        self._numbers.clear()
        return forgotten

    def _ask(self, request: Request) -> Reply | Died:
        PROGRESS.pack_into(self._page, 0, 0, IDLE)
        frame = self._encoder.encode(request)
        watch = _Watch(self._page)
        try:
            _write(self._stdin, LENGTH.pack(len(frame)) + frame, watch)
            length = LENGTH.unpack(_read(self._stdout, LENGTH.size, watch))[0]
            return self._decoder.decode(_read(self._stdout, min(length, MAX_FRAME), watch))
        except (EOFError, BrokenPipeError):
            return self._post_mortem("")
        except TimeoutError:
            return self._post_mortem(f"made no progress for {PATIENCE:g} s")

    def _post_mortem(self, stuck: str) -> Died:
        if stuck:
            self._child.kill()
        code = self._child.wait()
        position, stage = PROGRESS.unpack_from(self._page)
        if stuck:
            return Died(position, stage, stuck, guilty=False)
        if code == -signal.SIGPROF:
            return Died(position, stage, f"took longer than {self._cpu_seconds:g} s", guilty=True)
        how = f"made the evaluator fail ({_ending(code)}): too much memory or too deep"
        return Died(position, stage, how, guilty=stage != IDLE and code not in _FROM_OUTSIDE)

    def end(self) -> None:
        """End the child; whoever asks it hears that it has died. Safe to call twice and from another thread."""
        self._child.kill()
        self._child.wait()

    def close(self) -> None:
        """End the child and give everything back: nobody asks it any more. Safe to call twice."""
        self.end()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


#: Exit codes of a child that somebody else killed.
_FROM_OUTSIDE = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP})


def _pipe(stream: IO[bytes] | None) -> int:
    assert stream is not None
    return stream.fileno()


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _environment() -> dict[str, str]:
    """Return what the child needs to find Python's packages, and nothing of the daemon's secrets."""
    keep = {
        name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV") if name in os.environ
    }
    here = str(Path(__file__).parents[2])
    return {**keep, "LC_ALL": "C.UTF-8", "PYTHONPATH": here, "PYTHONDONTWRITEBYTECODE": "1"}


class _Watch:
    """Waits for a pipe as long as the child gets on with its work."""

    def __init__(self, page: mmap.mmap) -> None:
        self._page = page
        self._seen = page[:]
        self._deadline = time.monotonic() + PATIENCE

    def wait(self, descriptor: int, event: int) -> None:
        """Return when `descriptor` is ready; raise `TimeoutError` after `PATIENCE` without progress."""
        poll = select.poll()
        poll.register(descriptor, event)
        while not poll.poll(250):
            if self._page[:] != self._seen:
                self._seen = self._page[:]
                self._deadline = time.monotonic() + PATIENCE
            elif time.monotonic() > self._deadline:
                raise TimeoutError


def _write(descriptor: int, data: bytes, watch: _Watch) -> None:
    rest = memoryview(data)
    while rest:
        watch.wait(descriptor, select.POLLOUT)
        with contextlib.suppress(BlockingIOError):
            rest = rest[os.write(descriptor, rest) :]


def _read(descriptor: int, size: int, watch: _Watch) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        watch.wait(descriptor, select.POLLIN)
        part = os.read(descriptor, size - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
