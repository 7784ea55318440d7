"""The child process that evaluates ClassAds: it may be killed at any moment, by the kernel or by its parent.

It holds two pipes and a shared page, nothing else. A timer that counts its CPU time is armed before each
piece of work: an expression that takes too long ends the process by SIGPROF, one that takes too much memory
by the address-space limit. It ends by itself when its parent is gone: the pipe closes.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

import msgspec

from cached.errors import UsageError
from cached.matching.match import check_expression, match_parsed
from cached.matching.parsed import Parsed, Side
from cached.matching.verdict import AGREED
from cached.matchmaker.protocol import (
    CPU_LIMIT,
    LENGTH,
    MEMORY_LIMIT,
    NODE_SIDE,
    PARSING,
    PROGRESS,
    SET_SIDE,
    Reply,
    Request,
)

_Outcome = tuple[bool, bool, list[str]] | None


class Child:
    """Answers requests, one at a time."""

    def __init__(self, page: mmap.mmap, cpu_seconds: float) -> None:
        self._page = page
        self._cpu_seconds = cpu_seconds
        self._ads: dict[int, Parsed | str] = {}
        self._at = 0

    def answer(self, request: Request) -> Reply:
        """Do what a request asks for."""
        for number in request.forget:
            self._ads.pop(number, None)
        for position, (number, ad) in enumerate(request.learn):
            self._begin(position, PARSING)
            self._ads[number] = _parse(ad)
        if request.expression is not None:
            self._begin(0, PARSING)
            return Reply([], _check(request.expression))
        return Reply([self._match(position, pair) for position, pair in enumerate(request.pairs)])

    def _match(self, position: int, pair: tuple[int, int]) -> _Outcome:
        cache_set, node = self._ads[pair[0]], self._ads[pair[1]]
        if isinstance(cache_set, str) or isinstance(node, str):
            return _malformed(cache_set, node)
        self._begin(position, SET_SIDE)
        verdict = match_parsed(cache_set, node, self._entering)
        if verdict is AGREED:
            return None
        return verdict.set_side, verdict.node_side, list(verdict.reasons)

    def _begin(self, position: int, what: int) -> None:
        """Note on the shared page what comes next, and give it its share of CPU time."""
        self._at = position
        PROGRESS.pack_into(self._page, 0, position, what)
        signal.setitimer(signal.ITIMER_PROF, self._cpu_seconds)

    def _entering(self, side: Side) -> None:
        PROGRESS.pack_into(self._page, 0, self._at, SET_SIDE if side == "set" else NODE_SIDE)


def _parse(ad: Mapping[str, Any]) -> Parsed | str:
    try:
        return Parsed(ad)
    except UsageError as error:
        return error.message


def _malformed(cache_set: Parsed | str, node: Parsed | str) -> _Outcome:
    sides = (("set", cache_set), ("node", node))
    reasons = [f"{side} side: the ad is broken: {ad}" for side, ad in sides if isinstance(ad, str)]
    return not isinstance(cache_set, str), not isinstance(node, str), reasons


def _check(text: str) -> tuple[str, str] | None:
    try:
        check_expression(text, ("*", "[]"))
    except UsageError as error:
        return error.message, error.hint
    return None


def _confine() -> None:
    """Give up what evaluation does not need: memory, core files, interactive signals."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_LIMIT, mapped + MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read(stream: BinaryIO) -> bytes:
    """Return the next frame; empty when the parent is gone."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return b""
    length = LENGTH.unpack(head)[0]
    frame = stream.read(length)
    return frame if len(frame) == length else b""


def main(page_descriptor: int, cpu_seconds: float = CPU_LIMIT) -> None:
    """Serve requests from stdin until it closes; each piece of work may take `cpu_seconds`."""
    page = mmap.mmap(page_descriptor, PROGRESS.size)
    os.close(page_descriptor)
    _confine()
    child = Child(page, cpu_seconds)
    decoder, encoder = msgspec.msgpack.Decoder(Request), msgspec.msgpack.Encoder()
    while frame := _read(sys.stdin.buffer):
        reply = encoder.encode(child.answer(decoder.decode(frame)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(LENGTH.pack(len(reply)) + reply)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(float, sys.argv[2:3]))
